package locker

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The tests of this file count what belongs to the whole process: they run alone.

const (
	etcdClient = "go.etcd.io/etcd/client/v3"
	grpcClient = "google.golang.org/grpc"
)

// releases are all ways to give three locks back, which were taken with this quit channel.
var releases = map[string]struct {
	quit    func() chan bool
	release func(t *testing.T, c Client, quit chan bool, names []string)
}{
	"Unlock without quit": {func() chan bool { return nil }, unlockAll},
	"Unlock":              {func() chan bool { return make(chan bool) }, unlockAll},
	"send":                {func() chan bool { return make(chan bool) }, sendToAll},
	"send into a buffer":  {func() chan bool { return make(chan bool, 3) }, sendToAll},
	"close":               {func() chan bool { return make(chan bool) }, func(_ *testing.T, _ Client, quit chan bool, _ []string) { close(quit) }},
}

func unlockAll(t *testing.T, c Client, quit chan bool, names []string) {
	for _, name := range names {
		require.NoError(t, c.Unlock(name, quit))
	}
}

func sendToAll(t *testing.T, _ Client, quit chan bool, names []string) {
	for range names {
		send(t, quit, true)
	}
}

func TestReleaseLeavesNothing(t *testing.T) {
	c, etcd := newClient(t, 5, 1), newEtcd(t, machines)
	before := goroutines(etcdClient)
	for kind, way := range releases {
		for _, long := range []bool{false, true} {
			t.Run(kind, func(t *testing.T) {
				quit := way.quit()
				names, reports := three(t, c, quit)
				if long { // held for so long that the keys are watched
					eventually(t, "they are watched", func() bool {
						c.mu.Lock()
						defer c.mu.Unlock()
						return c.current.watched == len(names)
					})
				}
				way.release(t, c, quit, names)
				for i, name := range names {
					receive(t, reports[i].Done, soon)
					eventually(t, "the key is gone", func() bool { return stored(t, etcd, name) == nil })
				}
				eventually(t, "nothing is left here", func() bool {
					c.mu.Lock()
					defer c.mu.Unlock()
					return len(c.seats)+len(c.listeners)+c.current.watched == 0
				})
				eventually(t, "no goroutine is left", func() bool { return goroutines(etcdClient) <= before })
			})
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	etcd := newEtcd(t, machines)
	before := goroutines(etcdClient, grpcClient)
	eventually(t, "its connections are at rest", func() bool {
		last := before
		before = goroutines(etcdClient, grpcClient)
		return before == last
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, end := range []func(Client){func(Client) { cancel() }, func(c Client) { c.Close() }} {
		c, err := New(machines, 5, 1, context.WithoutCancel(ctx))
		_ = end
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	_ = etcd
}

// The memory that a held lock takes, its stacks included. The goal is for locks that are not watched, as all but the
// first thousand are.
func TestMemoryOfHeldLocks(t *testing.T) {
	const locks = 10_000
	for _, test := range []struct {
		kind  string
		limit int64
		quit  func() chan bool
	}{
		{"nil quit", 512, func() chan bool { return nil }},
		{"quit", 3500, func() chan bool { return make(chan bool) }},
	} {
		t.Run(test.kind, func(t *testing.T) {
			c := newClient(t, 30, 120)
			names := make([]string, locks)
			quits := make([]chan bool, locks)
			for i := range names {
				names[i], quits[i] = newName(), test.quit()
			}
			locked(t, c, newName(), DefaultValue, nil)
			before := memory()
			var held atomic.Int64
			next := make([]int, locks)
			for i := range next {
				next[i] = i
			}
			each(next, func(i int) {
				if c.Lock(names[i], DefaultValue, quits[i]).Held() {
					held.Add(1)
				}
			})
			require.EqualValues(t, locks, held.Load())
			each := (memory() - before) / locks
			t.Log(each, "bytes a lock")
			require.LessOrEqual(t, each, test.limit)
			runtime.KeepAlive(names)
			runtime.KeepAlive(quits)
		})
	}
}

func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

var _ = clientv3.NoLease
