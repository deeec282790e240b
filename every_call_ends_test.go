package locker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/groupcommit"
)

// A LockWait returns at once when its ctx ends, whatever it is doing and whatever state the network is in.
func TestLockWait_CtxEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		when   string
		denied bool // it is known that somebody else has the lock
		start  func(t *testing.T, s *scene) <-chan ending
	}{
		{"waits behind another goroutine", true, func(t *testing.T, s *scene) <-chan ending {
			require.Equal(t, Success, s.client(t, nil, nil).Lock(s.own, "v", nil).Msg)
			s.name = s.own
			return s.waitInLine(t)
		}},
		{"waits behind another goroutine, the network is gone", true, func(t *testing.T, s *scene) <-chan ending {
			require.Equal(t, Success, s.client(t, nil, nil).Lock(s.own, "v", nil).Msg)
			s.name = s.own
			end := s.waitInLine(t)
			s.net.Hold()
			return end
		}},
		{"has a place in the queue", true, func(t *testing.T, s *scene) <-chan ending {
			s.client(t, nil, nil)
			return s.waitInPlace(t)
		}},
		{"has a place in the queue, the network is gone", true, func(t *testing.T, s *scene) <-chan ending {
			s.client(t, nil, nil)
			end := s.waitInPlace(t)
			s.net.Hold()
			return end
		}},
		{"enters the queue, the answer is lost", true, func(t *testing.T, s *scene) <-chan ending {
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				if enters(req, s.name) {
					s.once.Do(func() { s.net.Swallow(etcdtest.ToClient) })
				}
				return send(ctx, reply)
			}, nil)
			return s.waitInPlace(t)
		}},
		{"enters the queue, the request is lost", true, func(t *testing.T, s *scene) <-chan ending {
			sent := newGate()
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				if enters(req, s.name) {
					s.once.Do(func() { s.net.Swallow(etcdtest.ToServer) })
					sent.arrive()
				}
				return send(ctx, reply)
			}, nil)
			end := s.wait()
			sent.awaitArrival(t)
			return end
		}},
		{"opens the watches, the network is gone", true, func(t *testing.T, s *scene) <-chan ending {
			sent := newGate()
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				err := send(ctx, reply)
				if puts(req, s.name) {
					s.once.Do(func() { s.net.Hold() })
					sent.arrive()
				}
				return err
			}, nil)
			end := s.wait()
			sent.awaitArrival(t)
			return end
		}},
		{"asks for the first time, the network is gone", false, func(t *testing.T, s *scene) <-chan ending {
			sent := newGate()
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				if puts(req, s.name) {
					sent.arrive()
				}
				return send(ctx, reply)
			}, nil)
			s.net.Hold()
			end := s.wait()
			sent.awaitArrival(t)
			return end
		}},
		{"is handed the lock, the network is gone", false, func(t *testing.T, s *scene) <-chan ending {
			handed := newGate()
			s.client(t, nil, func(_ string, resp *pb.WatchResponse) {
				if len(resp.Events) > 0 {
					s.once.Do(func() {
						s.net.Hold()
						handed.arrive()
					})
					<-t.Context().Done() // it does not hear of the rest
				}
			})
			end := s.waitInPlace(t)
			require.NoError(t, s.holder.Unlock(s.name, nil))
			handed.awaitArrival(t)
			return end
		}},
	} {
		t.Run(c.when, func(t *testing.T) {
			t.Parallel()
			s := &scene{name: etcdtest.NewName(), own: etcdtest.NewName(), net: etcdtest.NewNetwork(t, machines), etcd: etcdtest.Connect(t, machines), holder: newClient(t, 5, 5)}
			mustLock(t, s.holder, s.name, "holder", nil)
			var cancel context.CancelCauseFunc
			s.ctx, cancel = context.WithCancelCause(testCtx(t))
			why := errors.New("reason of the caller")
			end := c.start(t, s)
			require.Empty(t, end)

			told := witness(s.ctx)
			cancel(why)
			e := etcdtest.Receive(t, end)
			require.Less(t, e.at.Sub(<-told), 100*time.Millisecond)
			require.Equal(t, Fail, e.report.Msg)
			require.False(t, e.report.Held())
			require.Zero(t, e.report.Token)
			require.ErrorIs(t, e.report.Err, s.ctx.Err())
			require.ErrorIs(t, e.report.Err, why)
			if c.denied {
				require.ErrorAs(t, e.report.Err, new(LockDenied))
				require.ErrorContains(t, e.report.Err, s.name)
			}

			// What the wait has left in etcd is removed, and the client can take the lock again.
			s.net.Heal()
			awaitPlaces(t, s.etcd, s.name, 0)
			if err := s.holder.Unlock(s.name, nil); err != nil {
				require.ErrorIs(t, err, ErrNotHeld)
			}
			if err := s.waiter.Unlock(s.name, nil); err != nil && s.name == s.own {
				require.ErrorIs(t, err, ErrLost)
			}
			again := s.waiter.LockWait(testCtx(t), s.name, "again", nil)
			require.Equal(t, Success, again.Msg, "%v", again.Err)
			require.NoError(t, s.waiter.Unlock(s.name, nil))
			nothingLeft(t, s.etcd, s.name)
		})
	}
}

// witness reports when the end of a ctx reaches a goroutine that does nothing else than wait for it. Like LockWait, it waits
// for another ctx that the first one ends. What a busy machine takes for that is not counted as time of LockWait.
func witness(ctx context.Context) <-chan time.Time {
	inner, cancel := context.WithCancel(context.Background())
	context.AfterFunc(ctx, cancel)
	told := make(chan time.Time, 1)
	go func() {
		<-inner.Done()
		told <- time.Now()
	}()
	return told
}

// scene is a LockWait for a lock that somebody else holds, over a network that can fail.
type scene struct {
	ctx    context.Context
	name   string
	own    string // the name of a lock that the waiting client holds itself
	net    etcdtest.Network
	once   sync.Once // the network fails once
	etcd   *clientv3.Client
	holder Client
	waiter Client
}

// ending is a Report, and the moment at which it came.
type ending struct {
	report Report
	at     time.Time
}

func (s *scene) client(t *testing.T, requests tap, events watchTap) Client {
	s.waiter = tapped(t, s.net.Endpoints(), 5, requests, events)
	return s.waiter
}

func (s *scene) wait() <-chan ending {
	end := make(chan ending, 1)
	go func() {
		r := s.waiter.LockWait(s.ctx, s.name, "v", nil)
		end <- ending{r, time.Now()}
	}()
	return end
}

func (s *scene) waitInPlace(t *testing.T) <-chan ending {
	end := s.wait()
	awaitPlaces(t, s.etcd, s.name, 1)
	return end
}

func (s *scene) waitInLine(t *testing.T) <-chan ending {
	end := s.wait()
	awaitLocalWaiters(t, s.waiter, s.name, 1)
	return end
}

func TestLockWait_Deadline(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
	a, b := unhedged(newClient(t, 5, 60)), unhedged(newClient(t, 5, 60))
	mustLock(t, a, name, "a", nil)
	for _, c := range []Client{a, b} { // within the process, and in the queue in etcd
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		told := witness(ctx)
		r := c.LockWait(ctx, name, "v", nil)
		at := time.Now()
		require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded, "back too early")
		cancel()
		require.Equal(t, Fail, r.Msg)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.ErrorAs(t, r.Err, new(LockDenied))
		require.Less(t, at.Sub(<-told), 100*time.Millisecond)
		awaitPlaces(t, etcd, name, 0)
	}
}

func TestLockWait_CtxEndedBefore(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
	var sent requests
	c := tapped(t, machines, 60, sent.tap, nil)
	sent.take()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := c.LockWait(ctx, name, "v", nil)
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, context.Canceled)
	require.Empty(t, sent.take())
	nothingLeft(t, etcd, name)
}

func TestLockWait_ErrorNamesTheLock(t *testing.T) {
	t.Parallel()
	a, b := newClient(t, 5, 5), newClient(t, 5, 5)
	name := etcdtest.NewName()
	mustLock(t, a, name, DefaultValue, nil)
	for _, c := range []Client{a, b} { // within the process, and in the queue in etcd
		ctx, cancel := context.WithCancel(t.Context())
		reports := make(chan Report, 1)
		go func() { reports <- c.LockWait(ctx, name, DefaultValue, nil) }()
		etcdtest.Eventually(t, "it waits", func() bool {
			c.queue.mu.Lock()
			defer c.queue.mu.Unlock()
			w := c.queue.watchers[name]
			return c.holds.Waiters(name) > 0 || w != nil
		})
		cancel()
		r := etcdtest.Receive(t, reports)
		require.Equal(t, Fail, r.Msg)
		require.ErrorIs(t, r.Err, context.Canceled)
		require.Contains(t, r.Err.Error(), name)
	}
}

// A LockWait whose ctx ends while another goroutine of its client has the name says that the lock is denied, and those
// behind it keep their places.
func TestLockWait_CtxEndsBehindAnotherGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newFakeClient(t, new(etcdfake.KV))
		reserve(t, c, "name")
		reports := make(chan Report, 2)
		wait := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			reports <- c.LockWait(ctx, "name", "v", nil)
		}
		go wait(100 * ms)
		synctest.Wait()
		go wait(time.Second)
		r := <-reports
		require.ErrorAs(t, r.Err, new(LockDenied))
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		c.holds.Yield("name", nil)
		r = <-reports
		require.NoError(t, r.Err)
		require.NoError(t, c.queue.end(r.hold))
	})
}

// LockWait gives up when etcd does not answer before it has a place in the queue. The client's timeout bounds all requests
// until then together.
func TestLockWait_LineIsNotReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		var back atomic.Bool
		c, _ := newFakeClient(t, &kv)
		kv.Keys["name"] = &mvccpb.KeyValue{Key: []byte("name"), Lease: 1, ModRevision: 1, CreateRevision: 1} // somebody else's
		kv.Script = func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			if n == 1 || back.Load() { // the first asks whether the lock is free
				return kv.Apply(req), nil
			}
			return etcdfake.Never[*pb.TxnResponse](ctx)
		}
		start := time.Now()
		r := c.LockWait(t.Context(), "name", "v", nil)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.Equal(t, fakeTimeout, time.Since(start))
		back.Store(true)
		require.NoError(t, c.Close())
	})
}

// Whether etcd did not answer in time or the time of the caller was over, the error tells apart, wherever the request was.
func TestLockWait_WhoseTimeIsOver(t *testing.T) {
	for where, ahead := range map[string]int{"under way": 0, "behind others": groupcommit.MinLanes} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var kv etcdfake.KV
				c, _ := newFakeClient(t, &kv)
				kv.Script = func(ctx context.Context, _ int, _ *pb.TxnRequest) (*pb.TxnResponse, error) {
					return etcdfake.Never[*pb.TxnResponse](ctx)
				}
				for i := range ahead {
					go c.Lock(fmt.Sprint("ahead", i), "v", nil)
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), fakeTimeout/2)
				defer cancel()
				r := c.LockWait(ctx, "name", "v", nil)
				require.ErrorIs(t, r.Err, context.DeadlineExceeded)
				require.NotErrorIs(t, r.Err, ErrNoAnswer, "there was time left")
				r = c.LockWait(t.Context(), "name", "v", nil)
				require.ErrorIs(t, r.Err, context.DeadlineExceeded)
				require.ErrorIs(t, r.Err, ErrNoAnswer)
				kv.Script = nil
				require.NoError(t, c.Close())
			})
		})
	}
}

// Watch ends at once, also while nobody receives the value that it sends.
func TestWatch_EndsWhileBlocked(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Connect(t, machines)
	name := etcdtest.NewName()
	put(t, etcd, name, "start")
	ends := map[string]func(c Client, quit chan bool, cancel func()){
		"value on quit": func(_ Client, quit chan bool, _ func()) { quit <- true },
		"quit closed":   func(_ Client, quit chan bool, _ func()) { close(quit) },
		"ctx":           func(_ Client, _ chan bool, cancel func()) { cancel() },
		"Close":         func(c Client, _ chan bool, _ func()) { go c.Close() },
	}
	for kind, end := range ends {
		var took []time.Duration
		for range 5 {
			ctx, cancel := context.WithCancel(context.Background())
			c, err := New(machines, 5, 5, ctx)
			require.NoError(t, err)
			quit := make(chan bool)
			values, result := watching(c, name, quit)
			beside, _ := watching(c, name, nil)
			etcdtest.Receive(t, values)
			etcdtest.Receive(t, beside)
			put(t, etcd, name, fmt.Sprint("nobody receives ", len(took)))
			etcdtest.Receive(t, beside)
			start := time.Now()
			end(c, quit, cancel)
			require.NoError(t, etcdtest.Receive(t, result))
			took = append(took, time.Since(start))
			cancel()
			require.NoError(t, c.Close())
		}
		slices.Sort(took)
		require.Less(t, took[2], 100*time.Millisecond, kind)
	}
}

// Watch gives up at its start when etcd has been silent for the timeout: here since it has opened the watch.
func TestWatch_NotOpened(t *testing.T) {
	t.Parallel()
	var silent atomic.Bool
	c := tapped(t, machines, 30, func(ctx context.Context, _, reply any, send sender) error {
		if silent.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		return send(ctx, reply)
	}, func(string, *pb.WatchResponse) {
		<-time.After(900 * time.Millisecond) // the fault: the answer that the watch is open is late by nearly the timeout
	})
	c.queue.acquirer.timeout = time.Second
	silent.Store(true)
	start := time.Now()
	require.ErrorIs(t, c.Watch(etcdtest.NewName(), make(chan string), nil), context.DeadlineExceeded)
	require.Less(t, time.Since(start), 2*time.Second+slack)
	silent.Store(false)
}

// A Lock that gets its answer while the client is being closed leaves no listener and no watch behind, for which Close
// would wait.
func TestClose_MeetsALock(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 30)
	l := c.leases.All()[0]
	c.beginEnd(ErrClosed)
	h := holdUnseen(t, c, l, etcdtest.NewName(), make(chan bool))
	_, _, quits := c.holds.Size()
	require.Zero(t, quits)
	(&janitor{waitQueue: c.queue, lease: l, opened: make(chan struct{}, 1)}).watchHolds()
	watches, _ := c.watches.Stats()
	require.Zero(t, watches)
	ended := make(chan struct{})
	go func() { c.tasks.Wait(); close(ended) }() // as Close does, before it ends the lease
	etcdtest.Receive(t, ended)
	require.NoError(t, c.Close())
	etcdtest.Receive(t, h.Done())
}
