package network

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/syncutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// far is a network with a long round trip, also after other faults.
type far struct {
	etcdtest.Network
	halfTrip time.Duration
}

func (f far) Heal() {
	f.Network.Heal()
	f.Delay(f.halfTrip)
}

// eachRoundTrip runs a test on loopback and on networks with longer round trips.
func eachRoundTrip(t *testing.T, test func(t *testing.T, n far)) {
	for _, roundTrip := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond} {
		t.Run(roundTrip.String(), func(t *testing.T) {
			t.Parallel() // they mostly wait
			n := far{etcdtest.NewNetwork(t, machines), roundTrip / 2}
			n.Heal()
			test(t, n)
		})
	}
}

// A lock goes from one client to another and back, who are both behind a network, and a third one watches it there.
func handToAndFro(t *testing.T, n etcdtest.Network, turns int) {
	etcd, name := etcdtest.Connect(t, machines), newName(t)
	clients := []locker.Client{newClient(t, n.Endpoints(), 5, 30), newClient(t, n.Endpoints(), 5, 30)}
	w := watch(t, newClient(t, n.Endpoints(), 5, 30), name)
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	require.NoError(t, clients[0].LockWait(ctx, name, "value 0", nil).Err)
	w.until(t, "value 0")
	for i := 1; i <= turns; i++ {
		reports := make(chan locker.Report, 1)
		go func() { reports <- clients[i%2].LockWait(ctx, name, fmt.Sprint("value ", i), nil) }()
		awaitWaiters(t, etcd, name, 1)
		require.NoError(t, clients[(i+1)%2].Unlock(name, nil))
		require.NoError(t, receive(t, reports, soon).Err)
		w.until(t, fmt.Sprint("value ", i))
	}
	require.NoError(t, clients[turns%2].Unlock(name, nil))
	w.until(t, "")
	require.Equal(t, 2, count(w.told, ""), "it was free at the beginning and at the end: %q", w.told)
}

func TestFarAway(t *testing.T) {
	t.Parallel()
	n := etcdtest.NewNetwork(t, machines)
	n.Delay(50 * time.Millisecond)
	handToAndFro(t, n, 2)
}

// The round trip is another one for every packet.
func TestJitter(t *testing.T) {
	t.Parallel()
	n := etcdtest.NewNetwork(t, machines)
	n.Jitter(2500*time.Microsecond, 30*time.Millisecond)
	t.Run("hand-overs", func(t *testing.T) {
		t.Parallel()
		handToAndFro(t, n, 20)
	})
	t.Run("many waiters", func(t *testing.T) {
		t.Parallel()
		const waiters = 100
		var streams watchStreams
		far, name := fromClient(t, connect(t, configs["New"](n.Endpoints()), streams.option()), 30), newName(t)
		near, etcd := newClient(t, machines, 5, 30), etcdtest.Connect(t, machines)
		var held []string
		for i := range waiters {
			held = append(held, fmt.Sprint(name, "/", i))
			mustLock(t, near, held[i])
		}
		reports := waitFor(t.Context(), far, held)
		awaitWaiters(t, etcd, name, waiters)
		syncutil.ForEach(held, waiters, func(name string) { assert.NoError(t, near.Unlock(name, nil)) })
		for range held {
			require.NoError(t, receive(t, reports, soon).Err)
		}
		assert.LessOrEqual(t, streams.moved(), 2)
	})
	t.Run("requests", func(t *testing.T) {
		t.Parallel()
		const pairs = 40
		sent := calls{method: "/etcdserverpb.KV/Txn"}
		etcd, name := connect(t, configs["New"](n.Endpoints()), sent.option()), newName(t)
		clients := make([]locker.Client, 8) // each on its own, or their operations would share requests
		for i := range clients {
			clients[i] = fromClient(t, etcd, 60)
		}
		syncutil.ForEach(clients, len(clients), func(c locker.Client) {
			for range pairs {
				name := fmt.Sprint(name, "/", names.Add(1))
				assert.Equal(t, locker.Success, c.Lock(name, "value", nil).Msg)
				assert.NoError(t, c.Unlock(name, nil))
			}
		})
		perOperation := float64(sent.Load()) / float64(2*pairs*len(clients))
		t.Logf("%.3f requests an operation", perOperation)
		assert.LessOrEqual(t, perOperation, 1.1)
	})
}

// waitFor waits for many names at once.
func waitFor(ctx context.Context, c locker.Client, names []string) (reports chan locker.Report) {
	reports = make(chan locker.Report, len(names))
	for _, name := range names {
		go func() { reports <- c.LockWait(ctx, name, "value", nil) }()
	}
	return reports
}
