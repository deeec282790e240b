package locker

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/holds"
	"github.com/PumpkinSeed/locker/internal/lease"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// Lock fails at once where another goroutine of the client takes the lock or holds it. Where only clean-up goes on, it
// waits for the end of that and no longer.
func TestLock_NameInUse(t *testing.T) {
	use := func(t *testing.T, c Client, l *lease.Lease) { reserve(t, c, "name") }
	cleanUp := func(t *testing.T, c Client, l *lease.Lease) {
		reserve(t, c, "name")
		c.holds.StartCleanUp("name")
	}
	for _, c := range []struct {
		what         string
		prepare      func(*testing.T, Client, *lease.Lease)
		waiter       bool
		waits, taken bool
	}{
		{"reserved", use, false, false, false},
		{"cleaning", cleanUp, false, true, true},
		{"cleaning, with a waiter before it", cleanUp, true, true, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, l := newFakeClient(t, new(etcdfake.KV))
				c.prepare(t, client, l)
				var running sync.WaitGroup
				if c.waiter {
					running.Go(func() {
						h, ok := client.holds.Reserve(t.Context(), "name", "v", nil)
						require.True(t, ok)
						require.Nil(t, h)
					})
					synctest.Wait()
				}
				const n = 3 // all wait for the same end, and one of them gets the lock
				var ended, taken atomic.Int64
				for range n {
					running.Go(func() {
						r := client.Lock("name", "v", nil)
						require.NoError(t, r.Err)
						if r.Msg == Success {
							taken.Add(1)
						}
						ended.Add(1)
					})
				}
				synctest.Wait()
				require.Equal(t, c.waits, ended.Load() == 0)
				client.holds.Yield("name", nil)
				running.Wait()
				require.Equal(t, c.taken, taken.Load() == 1)
				require.LessOrEqual(t, taken.Load(), int64(1))
			})
		})
	}
	t.Run("held", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, l := newFakeClient(t, new(etcdfake.KV))
			holdUnseen(t, c, l, "name", nil)
			start := time.Now()
			mustFail(t, c, "name")
			require.Zero(t, time.Since(start))
		})
	})
	t.Run("cleaning for too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, l := newFakeClient(t, new(etcdfake.KV))
			cleanUp(t, c, l)
			start := time.Now()
			r := c.Lock("name", "v", nil)
			require.Equal(t, Fail, r.Msg)
			require.ErrorContains(t, r.Err, "no answer from etcd in time")
			require.Equal(t, fakeTimeout, time.Since(start))
			c.holds.Yield("name", nil)
			nothingKnown(t, c)
		})
	})
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

// LockWait gives up when etcd does not answer before it stands in the line: the client's timeout counts once, for all
// that is asked until then.
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
		c.etcd.Watcher = etcdfake.Watcher(func(context.Context) bool { time.Sleep(200 * ms); return true })
		start := time.Now()
		r := c.LockWait(t.Context(), "name", "v", nil)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.Equal(t, fakeTimeout, time.Since(start))
		back.Store(true)
		require.NoError(t, c.Close())
	})
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

// A client that closes gives its lease back, also if the lease is lost meanwhile. One that was lost before is left to
// expire.
func TestClose_RevokesItsLease(t *testing.T) {
	for what, c := range map[string]struct {
		before, meanwhile bool // lost
		revokes           int64
	}{
		"closed":             {false, false, 1},
		"lost while closing": {false, true, 1},
		"lost before":        {true, false, 0},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leases := &etcdfake.Leases{}
				client := newFakeClientOf(t, new(etcdfake.KV), leases)
				l, err := client.leases.Get(etcdfake.Within(time.Second))
				require.NoError(t, err)
				if c.before {
					l.Lose(rpctypes.ErrLeaseNotFound)
				}
				client.tasks.Go(func() { // Close waits for it
					<-client.open.Done()
					synctest.Wait()
					if c.meanwhile {
						l.Lose(rpctypes.ErrLeaseNotFound)
					}
				})
				require.NoError(t, client.Close())
				require.Equal(t, c.revokes, leases.Revokes.Load())
			})
		})
	}
}

// A Lock that gets its answer while the client is being closed leaves no listener and no watch behind, for which Close
// would wait.
func TestClose_MeetsALock(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 30)
	l := c.leases.All()[0]
	c.beginEnd(ErrClosed)
	h := holdUnseen(t, c, l, etcdtest.NewName(), make(chan bool))
	_, quits := c.holds.Size()
	require.Zero(t, quits)
	j := &janitor{waitQueue: c.queue, lease: l}
	require.Zero(t, j.watchHolds())
	ended := make(chan struct{})
	go func() { c.tasks.Wait(); close(ended) }() // as Close does, before it ends the lease
	etcdtest.Receive(t, ended)
	require.NoError(t, c.Close())
	etcdtest.Receive(t, h.Done())
}

// What Close gives back goes to no goroutine of its client, even where that has not heard of the end yet.
func TestClose_LetsNobodyInherit(t *testing.T) {
	t.Parallel()
	c, name := newClient(t, 5, 30), etcdtest.NewName()
	r := mustLock(t, c, name, DefaultValue, nil)
	type turn struct {
		h  *holds.Hold
		ok bool
	}
	turns := make(chan turn, 1)
	go func() {
		h, ok := c.holds.Reserve(t.Context(), name, DefaultValue, make(chan bool)) // does not hear of the client's end
		turns <- turn{h, ok}
	}()
	etcdtest.Eventually(t, "it waits", func() bool { return c.holds.Waiters(name) == 1 })
	c.beginEnd(ErrClosed)
	require.NoError(t, c.queue.end(r.hold))
	got := etcdtest.Receive(t, turns)
	require.True(t, got.ok)
	require.Nil(t, got.h, "it gets the reservation, and not the lock")
	require.NoError(t, c.Close())
}
