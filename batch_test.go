package locker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// crew are callers of a batch, each with a key of its own that it puts if it is absent.
type crew struct {
	*batch
	kv      *fakeKV
	running sync.WaitGroup

	mu    sync.Mutex // guards all below
	found map[string]found
	took  map[string]time.Duration
}

// work is the time that the cluster takes for a transaction: less than a second try waits for.
const work = 10 * ms

// working is that time, cut short by the end of ctx.
func working(ctx context.Context) error {
	select {
	case <-time.After(work):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newCrew starts with two operations in flight, so that the next ones gather for as long as work takes.
func newCrew(t *testing.T, kv *fakeKV) *crew {
	ctx, cancel := context.WithCancel(t.Context())
	c := &crew{kv: kv, found: map[string]found{}, took: map[string]time.Duration{}}
	c.batch = &batch{wire: kv.newWire(t), ctx: ctx, limit: maxOps}
	t.Cleanup(func() {
		cancel()
		c.batch.running.Wait()
		require.Zero(t, c.flying)
		require.Empty(t, c.waiting)
	})
	if kv.script == nil {
		kv.script = refusing(kv, func([]string) error { return nil })
	}
	for i := range lanes {
		c.call(within(time.Second), fmt.Sprint("first", i), "v")
	}
	return c
}

// refusing applies what refuse has no error for.
func refusing(kv *fakeKV, refuse func(keys []string) error) func(context.Context, int, *pb.TxnRequest) (*pb.TxnResponse, error) {
	return func(ctx context.Context, _ int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
		if err := cmp.Or(working(ctx), refuse(keysOf(req))); err != nil {
			return nil, err
		}
		return kv.apply(req), nil
	}
}

// call lets a caller come: its operation is on its way, or waits, when call returns.
func (c *crew) call(by bound, key, value string) {
	c.running.Go(func() {
		start := time.Now()
		f := c.do(by, txn{
			cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)},
			then: []clientv3.Op{clientv3.OpPut(key, value)},
			els:  []clientv3.Op{clientv3.OpGet(key)},
		})
		c.mu.Lock()
		defer c.mu.Unlock()
		c.found[key], c.took[key] = f, time.Since(start)
	})
	synctest.Wait()
}

// many lets n callers come, and returns their keys in that order.
func (c *crew) many(n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprintf("key%03d", i))
		c.call(within(5*time.Second), keys[i], "v")
	}
	return keys
}

// applied requires that what these callers asked for was done.
func (c *crew) applied(t *testing.T, keys []string) {
	t.Helper()
	for _, key := range keys {
		require.NoError(t, c.found[key].err, key)
		require.True(t, c.found[key].resp.Succeeded, key)
		require.Contains(t, c.kv.keys, key)
		require.Equal(t, c.kv.keys[key].ModRevision, c.found[key].resp.Header.Revision, key)
	}
}

func TestLoneCallersAreSentPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		c := newCrew(t, &kv)
		c.running.Wait()
		c.call(within(time.Second), "alone", "v")
		c.running.Wait()
		for _, key := range []string{"first0", "first1", "alone"} {
			require.Equal(t, work, c.took[key])
			c.applied(t, []string{key})
		}
		require.Len(t, kv.sent, 3)
		for _, req := range kv.sent {
			require.Nil(t, req.Success[0].GetRequestTxn())
			require.Len(t, req.Compare, 1)
		}
	})
}

func TestCallersGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		c := newCrew(t, &kv)
		for _, key := range []string{"key007", "key020"} {
			kv.apply(&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("of " + key)}}}}})
		}
		keys := c.many(50)
		c.running.Wait()
		require.Equal(t, [][]string{{"first0"}, {"first1"}, keys}, kv.requests(), "one transaction, in order")
		for _, key := range keys {
			require.Equal(t, 2*work, c.took[key])
			if f := c.found[key]; key == "key007" || key == "key020" { // each gets its own answer
				require.NoError(t, f.err)
				require.False(t, f.resp.Succeeded)
				require.Equal(t, "of "+key, string(kvOf(f.resp, 0).Value))
			} else {
				c.applied(t, []string{key})
			}
			require.False(t, c.found[key].resent || c.found[key].loose)
		}
	})
}

// What one operation is refused for is answered to its own caller; the others' are done. bad tells who they are.
func TestErrorOfOneCaller(t *testing.T) {
	denied := map[string]error{"key037": rpctypes.ErrGRPCPermissionDenied}
	for _, c := range []struct {
		name  string
		bad   map[string]error
		loose bool
	}{
		{"no right", denied, false},
		{"no right, the first", map[string]error{"key000": rpctypes.ErrGRPCPermissionDenied}, false},
		{"no right, the last", map[string]error{"key099": rpctypes.ErrGRPCPermissionDenied}, false},
		{"lease gone", map[string]error{"key037": rpctypes.ErrGRPCLeaseNotFound}, false},
		{"too large", map[string]error{"key037": rpctypes.ErrGRPCRequestTooLarge}, false},
		{"no space", map[string]error{"key037": rpctypes.ErrGRPCNoSpace}, true},
		{"two of them", map[string]error{"key003": rpctypes.ErrGRPCLeaseNotFound, "key064": rpctypes.ErrGRPCPermissionDenied}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var kv fakeKV
				kv.script = refusing(&kv, func(keys []string) error {
					for _, key := range keys {
						if err := c.bad[key]; err != nil {
							return err
						}
					}
					return nil
				})
				crew := newCrew(t, &kv)
				keys := crew.many(100)
				crew.running.Wait()
				for key, err := range c.bad {
					require.ErrorIs(t, crew.found[key].err, rpctypes.Error(err))
					require.NotContains(t, kv.keys, key)
					keys = slices.DeleteFunc(keys, func(k string) bool { return k == key })
				}
				crew.applied(t, keys)
				for key, f := range crew.found {
					require.Equal(t, c.loose && key[:3] == "key", f.loose, key)
				}
				require.LessOrEqual(t, len(kv.sent), lanes+1+2*bits.Len(100)*len(c.bad), "found by halving")
				require.Equal(t, maxOps, crew.limit)
			})
		})
	}
}

// A batch that was applied and not answered is sent again, and its callers know.
func TestBatchFindsItsEarlierEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		kv.script = func(_ context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			time.Sleep(work)
			resp := kv.apply(req)
			if n == lanes+1 {
				return nil, rpctypes.ErrGRPCTimeout
			}
			return resp, nil
		}
		c := newCrew(t, &kv)
		keys := c.many(10)
		c.running.Wait()
		for _, key := range keys {
			f := c.found[key]
			require.NoError(t, f.err)
			require.False(t, f.resp.Succeeded)
			require.True(t, f.resent && f.loose)
			require.NotNil(t, kvOf(f.resp, 0))
		}
	})
}

// The server's limit is learnt, and kept to.
func TestTooManyOperations(t *testing.T) {
	for _, allowed := range []int{50, 3, 0} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var kv fakeKV
				var mu sync.Mutex
				refused := 0
				kv.script = refusing(&kv, func(keys []string) error {
					if len(keys) <= allowed || strings.HasPrefix(keys[0], "first") {
						return nil
					}
					mu.Lock()
					defer mu.Unlock()
					refused++
					return rpctypes.ErrGRPCTooManyOps
				})
				c := newCrew(t, &kv)
				keys := c.many(maxOps)
				c.running.Wait()
				if allowed == 0 {
					for _, key := range keys {
						require.ErrorIs(t, c.found[key].err, rpctypes.ErrTooManyOps)
					}
					require.Equal(t, 1, c.limit)
					return
				}
				c.applied(t, keys)
				require.LessOrEqual(t, c.limit, allowed)
				require.Greater(t, 2*c.limit, allowed/2, "no lower than need be")
				was := refused
				require.Positive(t, was)

				clear(kv.keys)
				for i := range lanes {
					c.call(within(time.Second), fmt.Sprint("first", i), "v")
				}
				keys = c.many(maxOps)
				c.running.Wait()
				c.applied(t, keys)
				require.Equal(t, was, refused, "it was known")
			})
		})
	}
}

func TestWeightOfABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		c := newCrew(t, &kv)
		value := strings.Repeat("v", 100<<10)
		for i := range 12 {
			c.call(within(time.Second), fmt.Sprint("key", i), value)
		}
		c.call(within(time.Second), "huge", strings.Repeat(value, 6))
		c.call(within(time.Second), "last", "v")
		c.running.Wait()
		require.Len(t, c.found, lanes+14)
		var sizes []int
		for _, req := range kv.sent[lanes:] {
			sizes = append(sizes, len(keysOf(req)))
		}
		require.ElementsMatch(t, []int{5, 5, 2, 1, 1}, sizes, "512 KiB, or a single one")
		for key := range c.found {
			c.applied(t, []string{key})
		}
	})
}

// A caller whose time is over leaves. What it had waiting is not sent; what is in flight goes on, and so do the
// others.
func TestCallersLeave(t *testing.T) {
	why := errors.New("why")
	for _, cancelled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			want := context.DeadlineExceeded
			leaveAfter := within
			if cancelled {
				want = why
				leaveAfter = func(d time.Duration) bound {
					ctx, cancel := context.WithCancelCause(context.Background())
					time.AfterFunc(d, func() { cancel(why) })
					return bound{ctx: ctx, until: time.Now().Add(time.Second)}
				}
			}
			var kv fakeKV
			c := newCrew(t, &kv)
			c.call(leaveAfter(work/2), "waiting", "v")
			c.call(leaveAfter(work+work/2), "flying", "v")
			keys := c.many(3)
			c.running.Wait()
			time.Sleep(time.Second)
			require.Equal(t, [][]string{{"first0"}, {"first1"}, append([]string{"flying"}, keys...)}, kv.requests())
			c.applied(t, keys)
			require.Equal(t, 2*work, c.took[keys[0]])
			for key, loose := range map[string]bool{"waiting": false, "flying": true} {
				f := c.found[key]
				require.ErrorIs(t, f.err, want, key)
				require.Equal(t, loose, f.loose, key)
				require.Equal(t, loose, kv.keys[key] != nil, key)
			}
			require.Equal(t, work/2, c.took["waiting"])
			require.Equal(t, work+work/2, c.took["flying"])
		})
	}
}

// A batch whose every sending is silent keeps one lane only; its callers end with their time.
func TestFrozenLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		kv.script = func(ctx context.Context, _ int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			if slices.Contains(keysOf(req), "frozen") {
				return never[*pb.TxnResponse](ctx)
			}
			return kv.apply(req), working(ctx)
		}
		c := newCrew(t, &kv)
		c.call(within(2*time.Second), "frozen", "v")
		c.call(within(time.Second), "beside", "v")
		time.Sleep(work + 1)
		for i := range 100 {
			c.call(within(time.Second), fmt.Sprint("later", i), "v")
			if i%7 == 0 {
				time.Sleep(work / 2)
			}
		}
		c.running.Wait()
		require.Equal(t, 2*time.Second, c.took["frozen"])
		require.Equal(t, time.Second, c.took["beside"])
		require.True(t, c.found["frozen"].loose && c.found["beside"].loose)
		for i := range 100 {
			key := fmt.Sprint("later", i)
			c.applied(t, []string{key})
			require.LessOrEqual(t, c.took[key], 2*work)
		}
	})
}

// A member that is silent delays a batch by one try.
func TestBatchIsTriedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		kv.script = func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			if n == lanes+1 {
				return never[*pb.TxnResponse](ctx)
			}
			return kv.apply(req), working(ctx)
		}
		c := newCrew(t, &kv)
		keys := c.many(10)
		c.running.Wait()
		c.applied(t, keys)
		for _, key := range keys {
			require.Equal(t, work+25*ms+work, c.took[key])
			require.True(t, c.found[key].resent && c.found[key].loose)
		}
	})
}

// countingKV is the way to a real etcd, and knows how many operations each transaction carried.
type countingKV struct {
	pb.KVClient
	mu   sync.Mutex
	sent []int // guarded by mu
}

func (k *countingKV) Txn(ctx context.Context, req *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	k.mu.Lock()
	k.sent = append(k.sent, len(keysOf(req)))
	k.mu.Unlock()
	return k.KVClient.Txn(ctx, req, opts...)
}

// The same with an etcd that allows few operations, and a user who may not lock one name of many.
func TestBatchOnEtcd(t *testing.T) {
	cluster, err := etcdtest.Start(t.Context(), etcdtest.Options{Members: 1, Flags: []string{"--max-txn-ops=16"}})
	require.NoError(t, err)
	t.Cleanup(func() { cluster.Close() })
	root := etcdtest.Connect(t, cluster.Endpoints())
	ctx := t.Context()
	for _, err := range []error{
		second(root.RoleAdd(ctx, "root")), second(root.UserAdd(ctx, "root", "secret")), second(root.UserGrantRole(ctx, "root", "root")),
		second(root.RoleAdd(ctx, "some")), second(root.UserAdd(ctx, "user", "secret")), second(root.UserGrantRole(ctx, "user", "some")),
		second(root.RoleGrantPermission(ctx, "some", "ok/", clientv3.GetPrefixRangeEnd("ok/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		second(root.AuthEnable(ctx)),
	} {
		require.NoError(t, err)
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: cluster.Endpoints(), Username: "user", Password: "secret",
		Logger: root.GetLogger()})
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	kv := &countingKV{KVClient: clientv3.RetryKVClient(cli)}
	cli.KV = clientv3.NewKVFromKVClient(kv, cli)
	c, err := NewFromClient(context.Background(), cli, 5)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })

	var reports map[string]Report
	wave := func(names []string) (sent []int) { // all of them wait for one lane
		kv.sent, reports = nil, map[string]Report{}
		c.batch.mu.Lock()
		c.batch.flying = lanes
		c.batch.mu.Unlock()
		var mu sync.Mutex
		var running sync.WaitGroup
		for _, name := range names {
			running.Go(func() {
				r := c.Lock(name, "v", nil)
				mu.Lock()
				defer mu.Unlock()
				reports[name] = r
			})
		}
		eventually(t, "all wait", func() bool {
			c.batch.mu.Lock()
			defer c.batch.mu.Unlock()
			return len(c.batch.waiting) == len(names)
		})
		c.batch.mu.Lock()
		c.batch.flying = 1
		c.batch.mu.Unlock()
		c.batch.running.Go(c.batch.fly)
		running.Wait()
		return kv.sent
	}
	names := []string{"denied"}
	for i := range 20 {
		names = append(names, fmt.Sprint("ok/", i))
	}
	for round, most := range []int{21, 10} {
		sent := wave(names)
		require.Equal(t, most, slices.Max(sent), "round %d: %v", round, sent)
		for name, r := range reports {
			if name == "denied" {
				require.ErrorIs(t, r.Err, rpctypes.ErrPermissionDenied)
				continue
			}
			require.NoError(t, r.Err)
			require.True(t, r.Held())
			require.NoError(t, c.Unlock(name, nil))
		}
		require.Len(t, reports, len(names))
	}
}

func second[T any](_ T, err error) error { return err }

// An answer that is too large for the caller's client: the request was carried out.
func TestAnswerTooLarge(t *testing.T) {
	t.Parallel()
	etcd, other := etcdtest.Connect(t, machines), newClient(t, 5, 60)
	cli, err := clientv3.New(clientv3.Config{Endpoints: machines, Logger: etcd.GetLogger(), MaxCallRecvMsgSize: 64 << 10})
	require.NoError(t, err)
	defer cli.Close()
	c, err := NewFromClient(t.Context(), cli, 60)
	require.NoError(t, err)
	defer c.Close()
	mine := newName()
	mustLock(t, c, mine, "v", nil)
	var big []string
	for range 10 {
		big = append(big, newName())
		mustLock(t, other, big[len(big)-1], strings.Repeat("v", 10<<10), nil)
	}
	b := c.batch
	b.mu.Lock()
	b.flying = lanes
	b.mu.Unlock()
	unlocked := make(chan error, 1)
	go func() { unlocked <- c.Unlock(mine, nil) }()
	fails := make(chan Report, len(big))
	for _, name := range big {
		go func() { fails <- c.Lock(name, "v", nil) }()
	}
	eventually(t, "all wait", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting) == 11
	})
	b.mu.Lock()
	b.flying = 1
	b.mu.Unlock()
	b.running.Go(b.fly)
	for range big {
		r := receive(t, fails, soon)
		require.NoError(t, r.Err)
		require.Equal(t, Fail, r.Msg)
	}
	require.NoError(t, receive(t, unlocked, soon))
}
