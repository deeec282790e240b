package network

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Two clients pass a lock to and fro, and a member goes silent for both.
func TestHandOversGoOnWithoutOneMember(t *testing.T) {
	const span = 3 * time.Second
	for member := range machines {
		t.Run(fmt.Sprint("member ", member), func(t *testing.T) {
			n := etcdtest.NewNetwork(t, machines)
			clients := []locker.Client{newClient(t, n.Endpoints(), 5, 15), newClient(t, n.Endpoints(), 5, 15)}
			name := newName(t)
			turns := func() (count int) {
				ctx, cancel := context.WithTimeout(t.Context(), soon)
				defer cancel()
				last, end := -1, time.Now().Add(span)
				var passing sync.WaitGroup
				for i, c := range clients {
					passing.Go(func() {
						for time.Now().Before(end) {
							err := c.Do(ctx, name, "value", func(context.Context, int64) error {
								if last != i && time.Now().Before(end) {
									count++
								}
								last = i
								return nil
							})
							if !assert.NoError(t, err) {
								return
							}
						}
					})
				}
				passing.Wait()
				return count
			}
			well := turns()
			n[member].Swallow()
			defer n.Heal()
			silent := turns()
			ratio := float64(silent) / float64(well)
			t.Logf("%d turns with all members, %d with one silent: %.2f", well, silent, ratio)
			assert.GreaterOrEqual(t, ratio, 0.25)
		})
	}
}

// The member that serves a waiter's watches goes silent, and then the lock is handed over.
func TestHandOverIsNoticedWhenTheWatchIsSilent(t *testing.T) {
	for kind, config := range configs {
		t.Run(kind, func(t *testing.T) {
			eachRoundTrip(t, func(t *testing.T, n far) { testSilentWatchOfAWaiter(t, n, config(n.Endpoints())) })
		})
	}
}

func testSilentWatchOfAWaiter(t *testing.T, n far, config clientv3.Config) {
	var streams watchStreams
	etcd, near, name := etcdtest.Connect(t, machines), newClient(t, machines, 5, 60), newName(t)
	waiter := fromClient(t, connect(t, config, streams.option()), 60)
	mustLock(t, near, name)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	reports := waitFor(ctx, waiter, []string{name})
	awaitWaiters(t, etcd, name, 1)
	eventually(t, "a member serves the watches", func() bool { return streams.way(n.Network) != nil })
	streams.way(n.Network).Swallow()
	defer n.Heal()
	start := time.Now()
	require.NoError(t, near.Unlock(name, nil))
	require.NoError(t, receive(t, reports, soon).Err)
	took := time.Since(start)
	t.Logf("the waiter had the lock %v after its release", took)
	assert.Less(t, took, 2500*time.Millisecond)
}

// The member that serves the watch of a held key goes silent, and then somebody deletes the key.
func TestLossIsNoticedWhenTheWatchIsSilent(t *testing.T) {
	for kind, config := range configs {
		t.Run(kind, func(t *testing.T) {
			eachRoundTrip(t, func(t *testing.T, n far) { testSilentWatchOfAHolder(t, n, config(n.Endpoints())) })
		})
	}
}

func testSilentWatchOfAHolder(t *testing.T, n far, config clientv3.Config) {
	const ttl = 6
	streams, listings := watchStreams{}, calls{method: "/etcdserverpb.Lease/LeaseTimeToLive"}
	etcd, rival, name := etcdtest.Connect(t, machines), newClient(t, machines, 5, 60), newName(t)
	holder := fromClient(t, connect(t, config, streams.option(), listings.option()), ttl)
	r := mustLock(t, holder, name)
	eventually(t, "the held key is watched", func() bool { return streams.opened() > 0 })
	eventually(t, "what came before the watch is known", func() bool { return listings.Load() > 0 })
	streams.way(n.Network).Swallow()
	defer n.Heal()
	start := time.Now()
	_, err := etcd.Delete(t.Context(), name)
	require.NoError(t, err)
	mustLock(t, rival, name)
	receive(t, r.Done, soon)
	took := time.Since(start)
	t.Logf("the loss was noticed after %v", took)
	assert.Less(t, took, ttl*time.Second/6+2500*time.Millisecond)
	assert.False(t, r.Held())
	n.Heal()
	assert.ErrorIs(t, holder.Unlock(name, nil), locker.ErrLost)
}

// Many calls meet an etcd that says nothing: they end with their ctx, and what is left does not delay the next ones.
func TestManyWaitersOutliveAnOutage(t *testing.T) {
	const count, wait = 2000, 3 * time.Second
	n := etcdtest.NewNetwork(t, machines)
	c := newClient(t, n.Endpoints(), 5, 60)
	prefix := newName(t)
	n.Swallow()
	defer n.Heal()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	results, all := make(chan error, count), make(chan struct{})
	start := time.Now()
	var waiting sync.WaitGroup
	for i := range count {
		waiting.Go(func() { results <- c.LockWait(ctx, fmt.Sprint(prefix, "/", i), "value", nil).Err })
	}
	go func() { waiting.Wait(); close(all) }()
	most := 0
	for sample := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-all:
			sample.Stop()
		case <-sample.C:
			most = max(most, runtime.NumGoroutine())
			continue
		case <-time.After(soon):
			require.FailNow(t, "they do not return")
		}
		break
	}
	took := time.Since(start)
	for range count {
		require.ErrorIs(t, <-results, context.DeadlineExceeded)
	}
	n.Heal()
	healed := time.Now()
	eventually(t, "a lock is to be had", func() bool { return c.Lock(prefix, "value", nil).Msg == locker.Success })
	first := time.Since(healed)
	t.Logf("the last returned %v after its ctx; %d goroutines; first lock %v after the outage", took-wait, most, first)
	assert.Less(t, took, wait+500*time.Millisecond)
	assert.Less(t, most, 3*count)
	assert.Less(t, first, time.Second)
}
