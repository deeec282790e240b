package locker

import (
	"context"
	"runtime"
	build "runtime/debug"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests of this file count what belongs to the whole process: they run alone.

const (
	etcdClient = "go.etcd.io/etcd/client/v3"
	grpcClient = "google.golang.org/grpc"
	oneWatch   = etcdClient + ".(*watchGRPCStream).serveSubstream" // the stream itself may stay open for the next watch
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
	for kind, way := range releases {
		for _, long := range []bool{false, true} {
			t.Run(kind, func(t *testing.T) {
				before := goroutines(oneWatch)
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
				eventually(t, "no goroutine is left", func() bool { return goroutines(oneWatch) <= before })
			})
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	for kind, end := range map[string]func(c Client, cancel func()){
		"Close": func(c Client, _ func()) { require.NoError(t, c.Close()) },
		"ctx":   func(_ Client, cancel func()) { cancel() },
	} {
		t.Run(kind, func(t *testing.T) {
			before := goroutines(etcdClient, grpcClient)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			c, err := New(machines, 5, 60, ctx)
			require.NoError(t, err)
			names, reports := three(t, c, make(chan bool))
			values, watched := watching(c, names[0], nil)
			receive(t, values, soon)
			waiter := make(chan Report, 1)
			go func() { waiter <- c.LockWait(context.Background(), names[0], DefaultValue, nil) }()
			lease := c.current.id

			end(c, cancel)
			for _, r := range reports {
				receive(t, r.Done, soon)
			}
			require.NoError(t, receive(t, watched, soon))
			require.ErrorIs(t, receive(t, waiter, soon).Err, ErrClosed)
			eventually(t, "no goroutine is left", func() bool { return goroutines(etcdClient, grpcClient) <= before })

			etcd := newEtcd(t, machines)
			for _, name := range names {
				require.Nil(t, stored(t, etcd, name))
			}
			left, err := etcd.TimeToLive(t.Context(), lease)
			require.NoError(t, err)
			require.EqualValues(t, -1, left.TTL, "the lease is left")
		})
	}
}

// The memory that a held lock takes, its stacks included. The goal is for locks that are not watched, as all but the
// first thousand are.
func TestMemoryOfHeldLocks(t *testing.T) {
	const locks = 5_000
	detector := int64(1)
	if raceDetector() {
		detector = 2 // it has costs of its own
	}
	for _, test := range []struct {
		kind  string
		limit int64
		quit  func() chan bool
	}{
		{"nil quit", 512, func() chan bool { return nil }},
		{"quit", 3584, func() chan bool { return make(chan bool) }},
	} {
		t.Run(test.kind, func(t *testing.T) {
			c, etcd := newClient(t, 30, 120), newEtcd(t, machines)
			names, quits, numbers := make([]string, locks), make([]chan bool, locks), make([]int, locks)
			for i := range numbers {
				names[i], quits[i], numbers[i] = newName(), test.quit(), i
			}
			lock := func(numbers []int) {
				var held atomic.Int64
				each(numbers, func(i int) {
					if c.Lock(names[i], DefaultValue, quits[i]).Held() {
						held.Add(1)
					}
				})
				require.EqualValues(t, len(numbers), held.Load())
			}
			lock(numbers[:locks/10]) // and with it all that is needed once
			before := memory()
			lock(numbers[locks/10:])
			var taken int64
			eventually(t, "it fits", func() bool { // once what the locking itself needed is gone
				taken = (memory() - before) / (locks - locks/10)
				return taken <= detector*test.limit
			})
			t.Log(taken, "bytes a lock")
			runtime.KeepAlive(names)

			session := c.current
			_, err := etcd.Revoke(t.Context(), session.id) // sooner done than giving each back
			require.NoError(t, err)
			eventually(t, "the client knows", func() bool { // a member may not have heard of it yet
				session.hurry()
				return isClosed(session.lost)
			})
		})
	}
}

func memory() int64 {
	for range 3 { // pools and stacks shrink from one to the next
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func raceDetector() bool {
	info, ok := build.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, build.BuildSetting{Key: "-race", Value: "true"})
}
