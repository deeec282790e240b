package locker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/lease"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// The holder learns of its loss before another client can have the lock. Package tests/trials repeats this many more times,
// with a TTL of 5 s.
func TestHolderPartitioned(t *testing.T) {
	t.Parallel()
	const ttl, trials = 2, 4
	etcd, rival := etcdtest.Connect(t, machines), newClient(t, 5, 60)
	late := etcdtest.Lateness()
	leads := map[string][]lead{}
	var running sync.WaitGroup
	for kind, strike := range etcdtest.Partitions {
		all := make([]lead, trials)
		leads[kind] = all
		for i := range trials {
			n := etcdtest.NewNetwork(t, machines)
			holder := clientAt(t, n.Endpoints(), 5, ttl)
			t.Cleanup(func() { n.Heal() })
			running.Go(func() {
				var err error
				all[i], err = leadOf(t.Context(), etcd, holder, rival, func() {
					time.Sleep(ttl * time.Second * time.Duration(i) / trials) // at moments all over three renewal intervals
					strike(n, ttl*time.Second)
				})
				assert.NoError(t, err, kind)
			})
		}
	}
	running.Wait()
	busy := late() // by so much a busy machine may have reported the loss too late
	for kind, all := range leads {
		smallest := slices.MinFunc(all, func(a, b lead) int { return cmp.Compare(a.told, b.told) }).told
		byClock := slices.MinFunc(all, func(a, b lead) int { return cmp.Compare(a.byClock, b.byClock) }).byClock
		t.Logf("%s: smallest lead of %d: %v, by the clock %v; the machine was late by up to %v", kind, trials, smallest, byClock, busy)
		assert.Positive(t, smallest, kind)
		assert.GreaterOrEqual(t, smallest, 200*time.Millisecond-busy, kind)
		assert.GreaterOrEqual(t, byClock, 200*time.Millisecond, kind)
	}
}

// lead is the time until a rival has the lock: from the moment at which its holder learns of the loss, and from that at which
// Held has become false, which no machine can delay.
type lead struct{ told, byClock time.Duration }

// leadOf returns the lead of a holder. The rival takes the lock as soon as etcd lets it.
func leadOf(ctx context.Context, etcd *clientv3.Client, holder, rival Client, strike func()) (lead, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	name := etcdtest.NewName()
	held := holder.Lock(name, "holder", nil)
	if held.Msg != Success {
		return lead{}, fmt.Errorf("the holder got no lock: %w", held.Err)
	}
	told := etcdtest.FollowLoss(held.Done, held.Remaining)
	deleted := etcd.Watch(ctx, name, clientv3.WithRev(held.Token+1), clientv3.WithFilterPut())
	strike()
	if len((<-deleted).Events) == 0 {
		return lead{}, errors.New("the lock never came free")
	}
	taken := rival.Lock(name, "rival", nil)
	at := time.Now()
	switch {
	case taken.Msg != Success:
		return lead{}, fmt.Errorf("the rival got no lock: %w", taken.Err)
	case held.Held():
		return lead{}, errors.New("two owners")
	case taken.Token <= held.Token:
		return lead{}, fmt.Errorf("token %d after %d", taken.Token, held.Token)
	}
	select {
	case loss := <-told:
		return lead{at.Sub(loss.Told), at.Sub(loss.Deadline)}, rival.Unlock(name, nil)
	case <-ctx.Done():
		return lead{}, errors.New("the holder was never told")
	}
}

// interferences are what an outsider can do to a lock.
var interferences = map[string]func(t testing.TB, etcd *clientv3.Client, name string){
	"key deleted":     remove,
	"key overwritten": func(t testing.TB, etcd *clientv3.Client, name string) { put(t, etcd, name, "foreign") },
	"same value put":  func(t testing.TB, etcd *clientv3.Client, name string) { put(t, etcd, name, DefaultValue) },
	"lease revoked": func(t testing.TB, etcd *clientv3.Client, name string) {
		_, err := etcd.Revoke(context.Background(), clientv3.LeaseID(stored(t, etcd, name).Lease))
		require.NoError(t, err)
	},
}

// The holder of a lock that has been held for longer than a renewal interval learns of its loss at once. The other locks of
// the client are not touched.
func TestHeld_Interference(t *testing.T) {
	t.Parallel()
	for kind, interfere := range interferences {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c, etcd := newClient(t, 5, 6), etcdtest.Connect(t, machines)
			name, byQuit, beside, quit := etcdtest.NewName(), etcdtest.NewName(), etcdtest.NewName(), make(chan bool)
			lost := map[string]Report{
				name:   mustLock(t, c, name, DefaultValue, nil),
				byQuit: mustLock(t, c, byQuit, DefaultValue, quit),
			}
			spared := mustLock(t, c, beside, DefaultValue, nil)
			l := c.leases.All()[0]
			<-time.After(l.Interval() + 200*time.Millisecond) // the locks are watched now

			start := time.Now()
			interfere(t, etcd, name)
			if kind != "lease revoked" { // that loses all locks of the lease
				interfere(t, etcd, byQuit)
			}
			after := map[string]int64{}
			for name, r := range lost {
				etcdtest.ReceiveWithin(t, r.Done, time.Second-time.Since(start))
				require.False(t, r.Held())
				after[name] = orZero(stored(t, etcd, name)).ModRevision
			}
			require.Equal(t, kind != "lease revoked", spared.Held())

			require.ErrorIs(t, c.Unlock(name, nil), ErrLost)
			require.ErrorIs(t, c.Unlock(name, nil), ErrNotHeld, "it was told already")
			etcdtest.Send(t, quit, true)
			etcdtest.Eventually(t, "the send was the end of it", func() bool {
				_, _, quits := c.holds.Size()
				return quits == 0 && c.holds.Find(byQuit) == nil
			})
			for name, r := range lost {
				require.Equal(t, after[name], orZero(stored(t, etcd, name)).ModRevision, "a foreign key is let alone")
				remove(t, etcd, name)
				require.Greater(t, mustLock(t, c, name, DefaultValue, nil).Token, r.Token, "life goes on")
			}
		})
	}
}

// The key of a lock that was just taken is not watched yet. Unlock finds out that the lock was lost.
func TestUnlock_InterferenceAtOnce(t *testing.T) {
	t.Parallel()
	for kind, interfere := range interferences {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c, etcd := newClient(t, 5, 30), etcdtest.Connect(t, machines)
			name, byQuit, quit := etcdtest.NewName(), etcdtest.NewName(), make(chan bool)
			c.queue.conn.SetLatency(time.Minute) // no request is sent twice, so none finds its own effect
			mustLock(t, c, name, DefaultValue, nil)
			interfere(t, etcd, name)
			after := orZero(stored(t, etcd, name)).ModRevision
			require.ErrorIs(t, c.Unlock(name, nil), ErrLost)
			require.Equal(t, after, orZero(stored(t, etcd, name)).ModRevision, "a foreign key is let alone")

			r := mustLock(t, c, byQuit, DefaultValue, quit)
			interfere(t, etcd, byQuit)
			after = orZero(stored(t, etcd, byQuit)).ModRevision
			close(quit)
			etcdtest.Receive(t, r.Done)
			etcdtest.Eventually(t, "the release is over", func() bool {
				return c.holds.Find(byQuit) == nil && !c.holds.InUse(byQuit)
			})
			require.Equal(t, after, orZero(stored(t, etcd, byQuit)).ModRevision, "a foreign key is let alone")
		})
	}
}

// A leader that was frozen, replaced and resumed answers renewals though it is no leader any more. In this test the rest
// of the cluster does renew the lease, so nothing but the deadline of the client can end the lock.
func TestHeld_FormerLeader(t *testing.T) {
	t.Parallel()
	const ttl = 2
	var former atomic.Bool
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints: machines,
		Logger:    clientv3.NewCtxClient(context.Background()).GetLogger(),
		DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc,
			conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := streamer(ctx, desc, conn, method, opts...)
			return oldTerm{stream, &former}, err
		})},
	})
	require.NoError(t, err)
	defer etcd.Close()
	c, err := NewFromClient(t.Context(), etcd, ttl)
	require.NoError(t, err)
	defer c.Close()
	name := etcdtest.NewName()
	held := mustLock(t, c, name, DefaultValue, nil)
	time.Sleep(ttl * time.Second * 3 / 2) // the answers of the leader extend the deadline
	require.True(t, held.Held())
	former.Store(true)
	etcdtest.ReceiveWithin(t, held.Done, ttl*time.Second)
	require.False(t, held.Held())
	require.ErrorIs(t, c.Unlock(name, nil), ErrLost)
}

// oldTerm is a stream on which, once it is switched on, the answers to renewals are those of a former leader.
type oldTerm struct {
	grpc.ClientStream
	on *atomic.Bool
}

func (s oldTerm) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if resp, ok := m.(*pb.LeaseKeepAliveResponse); ok && err == nil && s.on.Load() {
		resp.Header.RaftTerm--
	}
	return err
}

// The lock is lost while fn runs. The ctx of fn ends with ErrLost; Do waits for fn, and returns ErrLost too.
func TestDo_LockLost(t *testing.T) {
	t.Parallel()
	for what, lose := range map[string]func(*testing.T, *clientv3.Client, etcdtest.Network, Client, string){
		"the lease is revoked": func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, c Client, _ string) { crash(t, etcd, c) },
		"the key is deleted": func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, _ Client, name string) {
			remove(t, etcd, name)
		},
		"the key is replaced": func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, _ Client, name string) {
			put(t, etcd, name, "outsider")
		},
		"the network is gone": func(_ *testing.T, _ *clientv3.Client, net etcdtest.Network, _ Client, _ string) { net.Hold() },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
			net := etcdtest.NewNetwork(t, machines)
			c := tapped(t, net.Endpoints(), 2, nil, nil)
			own := errors.New("fn's own")
			entered, told, leave, done := make(chan struct{}), make(chan error, 1), make(chan struct{}), make(chan error, 1)
			go func() {
				done <- c.Do(ctx, name, "v", func(ctx context.Context, _ int64) error {
					close(entered)
					<-ctx.Done()
					told <- context.Cause(ctx)
					<-leave
					return own
				})
			}()
			<-entered
			lose(t, etcd, net, c, name)
			select {
			case cause := <-told:
				require.ErrorIs(t, cause, ErrLost)
			case <-time.After(10 * time.Second):
				t.Fatal("fn is not told")
			}
			require.NoError(t, ctx.Err())
			net.Heal()
			select {
			case err := <-done:
				t.Fatalf("Do does not wait for fn: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			close(leave)
			err := <-done
			require.ErrorIs(t, err, own)
			require.ErrorIs(t, err, ErrLost)
			require.ErrorContains(t, err, name)
		})
	}
}

// A process that was suspended for longer than the TTL, and gives a lock back first of all, is told of the loss. etcd is
// not asked.
func TestUnlock_AfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		c, l := newFakeClient(t, &kv)
		h := holdUnseen(t, c, l, "name", nil)
		l.Suspend(1)
		require.ErrorIs(t, c.Unlock("name", nil), ErrLost)
		require.Empty(t, kv.Sent)
		require.True(t, syncutil.Closed(h.Done()))
	})
}

// Held is false from the moment at which a lease ends; the holds of the lease are told a little later. What is given
// back between the two was lost: nothing is sent, because that could let another client have the lock at once.
func TestUnlock_LeaseLostAMomentAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		c, l := newFakeClient(t, &kv)
		told := make(chan struct{})
		c.leases.OnLost = func(l *lease.Lease) { <-told; c.holds.LoseAll(l) }
		h := holdUnseen(t, c, l, "name", nil)
		go l.Lose(rpctypes.ErrLeaseNotFound)
		synctest.Wait()
		require.False(t, h.Held())
		require.False(t, syncutil.Closed(h.Done()))
		require.ErrorIs(t, c.Unlock("name", nil), ErrLost)
		require.Empty(t, kv.Sent)
		require.True(t, syncutil.Closed(h.Done()))
		close(told)
		synctest.Wait()
		require.ErrorIs(t, c.Unlock("name", nil), ErrNotHeld)
	})
}

// A Lock before the watchdog has noticed that the machine was suspended gets a new lease.
func TestLock_AfterASuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newFakeClient(t, new(etcdfake.KV))
		time.Sleep(100 * ms)
		l.Suspend(time.Second)
		r := c.Lock("name", "v", nil)
		require.NoError(t, r.Err)
		require.True(t, r.Held())
		require.NotSame(t, l, r.hold.Lease)
	})
}
