package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// changes collects what a Watch tells.
type changes struct {
	mu   sync.Mutex // guards told
	told []string
}

func watch(t *testing.T, c locker.Client, name string) *changes {
	t.Helper()
	w := &changes{}
	values, quit, result := make(chan string), make(chan bool), make(chan error, 1)
	go func() { result <- c.Watch(name, values, quit) }()
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case v := <-values:
				w.mu.Lock()
				w.told = append(w.told, v)
				w.mu.Unlock()
			case err := <-result:
				assert.NoError(t, err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(quit)
		receive(t, collected, soon)
	})
	w.until(t, "")
	return w
}

// until waits until a value was told last.
func (w *changes) until(t *testing.T, value string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q is told", value), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.told) > 0 && w.told[len(w.told)-1] == value
	})
}

// inOrder fails if a value was told twice, or before another that came earlier.
func (w *changes) inOrder(t *testing.T, values []string) {
	t.Helper()
	next := 0
	for _, v := range w.told {
		if v == "" {
			continue
		}
		i := slices.Index(values[next:], v)
		require.GreaterOrEqual(t, i, 0, "%q is told twice, or out of order: %q", v, w.told)
		next += i + 1
	}
}

const (
	handOvers = 100
	perCut    = 10
)

// All connections are cut again and again, while a lock is handed from client to client: Watch tells that in order, and
// nothing twice.
func TestWatchMovesAmongHandOvers(t *testing.T) { eachRoundTrip(t, testMoveAmongHandOvers) }

func testMoveAmongHandOvers(t *testing.T, n far) {
	near := []locker.Client{newClient(t, machines, 5, 60), newClient(t, machines, 5, 60)}
	name := newName(t)
	w := watch(t, newClient(t, n.Endpoints(), 5, 60), name)
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()

	etcd := etcdtest.Connect(t, machines)
	var values []string
	for i := range handOvers {
		values = append(values, fmt.Sprint("value ", i))
	}
	require.NoError(t, near[0].LockWait(ctx, name, values[0], nil).Err)
	for i := range handOvers {
		if i%perCut == perCut/2 {
			n.Cut() // the changes before it were told, or are on their way
		}
		reports := make(chan locker.Report, 1)
		if i+1 < handOvers {
			go func() { reports <- near[(i+1)%2].LockWait(ctx, name, values[i+1], nil) }()
			awaitWaiters(t, etcd, name, 1)
		}
		require.NoError(t, near[i%2].Unlock(name, nil))
		if i+1 < handOvers {
			require.NoError(t, receive(t, reports, soon).Err)
		}
		if i%perCut == perCut-1 && i+1 < handOvers {
			w.until(t, values[i+1])
		}
	}
	w.until(t, "")
	w.inOrder(t, values)
	require.Equal(t, 2, count(w.told, ""), "it was free at the beginning and at the end: %q", w.told)
	t.Logf("%d of %d values were told", len(w.told)-2, handOvers)
}

// The same where the lock is free in between: that is told, every time that a value is.
func TestWatchMovesAmongReleases(t *testing.T) { eachRoundTrip(t, testMoveAmongReleases) }

func testMoveAmongReleases(t *testing.T, n far) {
	near, name := newClient(t, machines, 5, 60), newName(t)
	w := watch(t, newClient(t, n.Endpoints(), 5, 60), name)
	var values []string
	for i := range handOvers {
		values = append(values, fmt.Sprint("value ", i))
	}
	for i, value := range values {
		if i%perCut == perCut/2 {
			n.Cut()
		}
		r := near.Lock(name, value, nil)
		require.NoError(t, r.Err)
		require.Equal(t, locker.Success, r.Msg)
		if i%perCut == perCut-1 {
			w.until(t, value)
		}
		require.NoError(t, near.Unlock(name, nil))
	}
	w.until(t, "")
	w.inOrder(t, values)
	for i, v := range w.told {
		require.Equal(t, i%2 == 0, v == "", "free and taken in turn: %q", w.told)
	}
	t.Logf("%d of %d values were told", len(w.told)/2, handOvers)
}

// What happens while the watch moves is compacted before the next stream can ask for it: that the lock was free is told all
// the same, and so is the newest value.
func TestWatchMovesAcrossACompaction(t *testing.T) { eachRoundTrip(t, testMoveAcrossACompaction) }

func testMoveAcrossACompaction(t *testing.T, n far) {
	const moves = 3
	var streams watchStreams
	etcd, near, name := etcdtest.Connect(t, machines), newClient(t, machines, 5, 60), newName(t)
	w := watch(t, fromClient(t, connect(t, configs["New"](n.Endpoints()), streams.option()), 60), name)
	values := []string{"value 0"}
	require.NoError(t, near.Lock(name, values[0], nil).Err)
	w.until(t, values[0])
	defer n.Heal()
	for i := range moves {
		value := fmt.Sprint("value ", i+1)
		values = append(values, value)
		n.Swallow() // no stream can be opened before the compaction
		require.NoError(t, near.Unlock(name, nil))
		r := near.Lock(name, value, nil)
		require.NoError(t, r.Err)
		_, err := etcd.Compact(t.Context(), r.Token, clientv3.WithCompactPhysical())
		if !errors.Is(err, rpctypes.ErrCompacted) { // another test of these has gone further
			require.NoError(t, err)
		}
		n.Cut() // also if nothing was lost yet
		n.Heal()
		w.until(t, value)
	}
	require.NoError(t, near.Unlock(name, nil))
	w.until(t, "")
	w.inOrder(t, values)
	require.Len(t, w.told, 2*len(values)+1, "free and taken in turn: %q", w.told)
	require.GreaterOrEqual(t, streams.moved(), moves)
}

func count(values []string, value string) (n int) {
	for _, v := range values {
		if v == value {
			n++
		}
	}
	return n
}
