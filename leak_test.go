package locker

import (
	"context"
	"fmt"
	"math"
	"runtime"
	build "runtime/debug"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Goroutines are counted in the whole process: these tests run alone.

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
	c, etcd := newClient(t, 5, 1), etcdtest.Connect(t, machines)
	c.live[0].hurry()
	eventually(t, "the stream of renewals is open", func() bool { return c.live[0].idle.Load() != nil })
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
						return c.live[0].watched == len(names)
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
					return len(c.seats)+len(c.listeners)+c.live[0].watched == 0
				})
				eventually(t, "no goroutine is left", func() bool { return goroutines(oneWatch) <= before })
			})
		}
	}
}

// Watches that no member answers leave streams open in etcd's client: not one for each try.
func TestUnansweredWatchesLeaveFewStreams(t *testing.T) {
	const streams = etcdClient + ".(*watchGRPCStream).run"
	n := etcdtest.NewNetwork(t, machines)
	c, before := clientAt(t, n.Endpoints(), 5, 60), goroutines(streams)
	n.Swallow()
	for range maxStreams + 4 {
		_, err := c.open(within(maxPause+10*time.Millisecond), newName())
		require.Error(t, err)
	}
	n.Heal()
	require.LessOrEqual(t, goroutines(streams)-before, maxStreams)
	require.Greater(t, c.late.Load(), int64(maxStreams), "too few tries: this test shows nothing")
}

// stuck is a Watcher that does not close, as etcd's own may.
type stuck struct {
	clientv3.Watcher
	until chan struct{}
}

func (s stuck) Close() error {
	<-s.until
	return s.Watcher.Close()
}

func TestCloseOfAClientThatIsStuck(t *testing.T) {
	c, err := New(machines, 1, 60, context.Background())
	require.NoError(t, err)
	s := stuck{c.cli.Watcher, make(chan struct{})}
	c.cli.Watcher = s
	defer close(s.until)
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	require.ErrorContains(t, receive(t, closed, 1500*time.Millisecond), "does not end")
}

// Close says nil only when etcd has confirmed that all is given back, also where the lease runs out in the meantime.
func TestCloseThatIsNotConfirmed(t *testing.T) {
	n := etcdtest.NewNetwork(t, machines)
	c, err := New(n.Endpoints(), 4, 2, context.Background())
	require.NoError(t, err)
	s, name := c.live[0], newName()
	mustLock(t, c, name, DefaultValue, nil)
	n.Swallow()
	start := time.Now()
	require.ErrorContains(t, c.Close(), "no answer from etcd in time")
	require.Less(t, time.Since(start), 4500*time.Millisecond)
	require.ErrorContains(t, s.why(), "could not be renewed in time", "its lease has not run out: this test shows nothing")
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
			lease := c.live[0].id

			end(c, cancel)
			for _, r := range reports {
				receive(t, r.Done, soon)
			}
			require.NoError(t, receive(t, watched, soon))
			require.ErrorIs(t, receive(t, waiter, soon).Err, ErrClosed)
			eventually(t, "no goroutine is left", func() bool { return goroutines(etcdClient, grpcClient) <= before })

			etcd := etcdtest.Connect(t, machines)
			for _, name := range names {
				require.Nil(t, stored(t, etcd, name))
			}
			left, err := etcd.TimeToLive(t.Context(), lease)
			require.NoError(t, err)
			require.EqualValues(t, -1, left.TTL, "the lease is left")
		})
	}
}

// The memory that a held lock takes, stacks included. The goal is for locks that are not watched, as all but the first
// thousand are.
func TestMemoryOfHeldLocks(t *testing.T) {
	t.Parallel()
	for kind, limit := range map[string]int{"nil quit": 512, "quit": 3584} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			// Stacks begin with the average size of all in the program, but for this setting.
			out, err := child(t, "memory", kind, "GODEBUG=adaptivestackstart=0").Output()
			require.NoError(t, err)
			taken, err := strconv.Atoi(string(out))
			require.NoError(t, err)
			t.Log(taken, "bytes a lock")
			if raceDetector() {
				limit *= 2 // it has costs of its own
			}
			require.LessOrEqual(t, taken, limit)
		})
	}
}

func printMemory(kind string) {
	const locks, first = 10_000, 1_000
	c, err := New(etcdtest.EndpointsFromEnv(), 30, 120, context.Background())
	if err != nil {
		panic(err)
	}
	names, quits, numbers := make([]string, locks), make([]chan bool, locks), make([]int, locks)
	for i := range numbers {
		names[i], numbers[i] = newName(), i
		if kind == "quit" {
			quits[i] = make(chan bool)
		}
	}
	lock := func(i int) {
		if r := c.Lock(names[i], DefaultValue, quits[i]); !r.Held() {
			panic(r.Err)
		}
	}
	each(numbers[:first], lock) // and with them comes all that is needed once
	before := memory()
	each(numbers[first:], lock)
	fmt.Print((memory() - before) / (locks - first))
	runtime.KeepAlive(names)
	if _, err := c.cli.Revoke(context.Background(), c.live[0].id); err != nil {
		panic(err)
	}
}

// memory is what is in use once all is over that was under way.
func memory() uint64 {
	least := uint64(math.MaxUint64)
	for range 20 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		least = min(least, m.HeapAlloc+m.StackInuse)
		time.Sleep(20 * time.Millisecond)
	}
	return least
}

func raceDetector() bool {
	info, ok := build.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, build.BuildSetting{Key: "-race", Value: "true"})
}
