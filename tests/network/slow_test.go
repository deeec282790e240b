package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/syncutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// halfTrip is the time that bytes take each way on a slow network.
const halfTrip = 10 * time.Millisecond

// One client waits for many names at once: that takes as long as it may, and not longer than it must.
func TestManyNamesAreWaitedForOverASlowNetwork(t *testing.T) {
	const count, timeout = 300, 2
	etcd, n := etcdtest.Connect(t, machines), etcdtest.NewNetwork(t, machines)
	near, far := newClient(t, machines, 5, 60), newClient(t, n.Endpoints(), timeout, 30)
	prefix := newName(t)
	var held []string
	for i := range count {
		held = append(held, fmt.Sprint(prefix, "/", i))
		mustLock(t, near, held[i])
	}
	n.Delay(halfTrip)
	defer n.Heal()

	ctx, cancel := context.WithTimeout(t.Context(), 3*timeout*time.Second)
	defer cancel()
	reports := waitFor(ctx, far, held)
	for range count {
		r := receive(t, reports, soon)
		require.Error(t, ctx.Err(), "a LockWait gave up early: %v", r.Err)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.True(t, errors.As(r.Err, new(locker.LockDenied)), "it does not say that the lock was held: %v", r.Err)
	}
	awaitWaiters(t, etcd, prefix, 0)

	ctx, cancel = context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	reports = waitFor(ctx, far, held)
	awaitWaiters(t, etcd, prefix, count)
	start := time.Now()
	syncutil.ForEach(held, 100, func(name string) { assert.NoError(t, near.Unlock(name, nil)) })
	for range count {
		require.NoError(t, receive(t, reports, soon).Err)
	}
	took := time.Since(start)
	t.Logf("%d hand-overs at once took %v", count, took)
	assert.Less(t, took, 2*time.Second)
	syncutil.ForEach(held, 100, func(name string) { assert.NoError(t, far.Unlock(name, nil)) })
}

// So do as many as a client may ever have: each is in the queue, and gets its lock.
func TestTenThousandNamesAreWaitedFor(t *testing.T) {
	const count, limit = 10_000, 2 * time.Minute
	etcd, n := etcdtest.Connect(t, machines), etcdtest.NewNetwork(t, machines)
	near, far := newClient(t, machines, 5, 60), newClient(t, n.Endpoints(), 5, 60)
	prefix := newName(t)
	held := make([]string, count)
	for i := range held {
		held[i] = fmt.Sprint(prefix, "/", i)
	}
	syncutil.ForEach(held, 1000, func(name string) { assert.Equal(t, locker.Success, near.Lock(name, "value", nil).Msg) })
	n.Delay(halfTrip)
	defer n.Heal()

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	reports := waitFor(ctx, far, held)
	awaitCount(t, etcd, prefix, 2*count) // a lock and a place for each
	require.Empty(t, reports, "a LockWait gave up")
	waiting := time.Since(start)
	syncutil.ForEach(held, 1000, func(name string) { assert.NoError(t, near.Unlock(name, nil)) })
	for range count {
		require.NoError(t, receive(t, reports, limit).Err)
	}
	t.Logf("%d waited after %v, and had their locks %v later", count, waiting, time.Since(start)-waiting)
	n.Heal()
	syncutil.ForEach(held, 1000, func(name string) { assert.NoError(t, far.Unlock(name, nil)) }) // Close has only 5 s for them
}

// One client watches many names at once.
func TestManyNamesAreWatchedOverASlowNetwork(t *testing.T) {
	const count = 10_000
	n := etcdtest.NewNetwork(t, machines)
	far := newClient(t, n.Endpoints(), 5, 30)
	n.Delay(halfTrip)
	defer n.Heal()
	prefix := newName(t)
	values, quit, results := make(chan string), make(chan bool), make(chan error, count)
	start := time.Now()
	var watching sync.WaitGroup
	for i := range count {
		watching.Go(func() { results <- far.Watch(fmt.Sprint(prefix, "/", i), values, quit) })
	}
	for range count {
		select {
		case v := <-values:
			require.Equal(t, "", v)
		case err := <-results:
			require.FailNow(t, "a Watch has ended", err)
		case <-time.After(soon):
			require.FailNow(t, "a Watch tells nothing")
		}
	}
	took := time.Since(start)
	t.Logf("%d watches told their first value after %v", count, took)
	assert.Less(t, took, soon/3)
	close(quit)
	watching.Wait()
	for range count {
		require.NoError(t, <-results)
	}
}
