// Package leaks counts what locker leaves behind: nothing.
package leaks

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var soakFor = flag.Duration("for", 20*time.Second, "how long TestSoak goes on")

func TestMain(m *testing.M) { etcdtest.Main(m) }

const (
	cycles  = 10_000
	clients = 4
	workers = 4 // of each client
	ttl     = 5 // seconds
	soon    = 30 * time.Second
)

// testbed is a cluster, and clients that reach it through a network that can be cut.
type testbed struct {
	net  etcdtest.Network
	etcd *clientv3.Client // past it
}

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	endpoints := etcdtest.New(t, etcdtest.Options{Members: 3}).Endpoints()
	return &testbed{etcdtest.NewNetwork(t, endpoints), etcdtest.Connect(t, endpoints)}
}

func (r *testbed) newClient(t *testing.T) locker.Client {
	t.Helper()
	c, err := locker.New(r.net.Endpoints(), 5, ttl, context.Background())
	require.NoError(t, err)
	return c
}

// keys and leases are all that there are.
func (r *testbed) keys(t *testing.T) (keys []string) {
	t.Helper()
	resp, err := r.etcd.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	require.NoError(t, err)
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

func (r *testbed) leases(t *testing.T) int {
	t.Helper()
	resp, err := r.etcd.Leases(t.Context())
	require.NoError(t, err)
	return len(resp.Leases)
}

// files are the open files of this process.
func files(t *testing.T) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", os.Getpid())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var files []string
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil { // it was not the one of this very reading
			files = append(files, target)
		}
	}
	return files
}

// cycle takes a lock in one of all the ways there are, and gives it back in one of all the ways there are, or gives up in
// between.
func cycle(c locker.Client, name string, n int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	quit := make(chan bool)
	switch n % 8 {
	case 0:
		if c.Lock(name, "value", nil).Held() {
			c.Unlock(name, nil)
		}
	case 1:
		if r := c.Lock(name, "value", quit); r.Held() {
			close(quit)
			<-r.Done
		}
	case 2:
		if r := c.Lock(name, "value", quit); r.Held() {
			quit <- true
			<-r.Done
		}
	case 3:
		if c.LockWait(ctx, name, "value", quit).Held() {
			c.Unlock(name, quit)
		}
	case 4:
		c.Do(ctx, name, "value", func(context.Context, int64) error { return nil })
	case 5: // given up before, while or after it has come
		time.AfterFunc(time.Duration(rand.Int64N(int64(5*time.Millisecond))), cancel)
		if c.LockWait(ctx, name, "value", nil).Held() {
			c.Unlock(name, nil)
		}
	case 6:
		time.AfterFunc(time.Duration(rand.Int64N(int64(5*time.Millisecond))), cancel)
		c.Do(ctx, name, "value", func(ctx context.Context, _ int64) error { return ctx.Err() })
	case 7:
		values, result := make(chan string), make(chan error, 1)
		go func() { result <- c.Watch(name, values, quit) }()
		select {
		case <-values:
			close(quit)
			<-result
		case <-result:
		}
	}
}

// run makes cycles until next says no, and returns when the last has ended.
func run(all []locker.Client, next func() (n int, more bool)) {
	var running sync.WaitGroup
	for _, c := range all {
		for range workers {
			running.Go(func() {
				for n, more := next(); more; n, more = next() {
					// Two of three are contended.
					name := fmt.Sprint("few/", rand.IntN(4))
					if n%3 == 0 {
						name = fmt.Sprint("many/", n)
					}
					cycle(c, name, n)
				}
			})
		}
	}
	running.Wait()
}

// strike does to the network what the n-th fault is.
func (r *testbed) strike(n int) {
	p := r.net[n%len(r.net)]
	switch n % 5 {
	case 0, 1:
		p.Cut()
	case 2:
		p.Swallow(etcdtest.ToClient)
	case 3:
		p.Refuse()
		p.Cut()
	case 4:
		p.Hold(etcdtest.ToServer)
	}
}

func TestNothingIsLeft(t *testing.T) {
	r := newTestbed(t)
	r.keys(t) // connects
	goroutines, open := runtime.NumGoroutine(), files(t)

	var all []locker.Client
	for range clients {
		all = append(all, r.newClient(t))
	}
	var count atomic.Int64
	var faults atomic.Int64
	run(all, func() (int, bool) {
		n := int(count.Add(1))
		if n%200 == 0 { // a fault comes, and is healed 200 cycles later
			if n/200%2 == 0 {
				r.net.Heal()
			} else {
				r.strike(int(faults.Add(1)))
			}
		}
		return n, n <= cycles
	})
	r.net.Heal()

	eventually(t, "no key is left while the clients live", func() bool { return len(r.keys(t)) == 0 }, func() any { return r.keys(t) })
	for _, c := range all { // they are as good as new
		report := c.Lock("few/0", "value", nil)
		require.NoError(t, report.Err)
		require.True(t, report.Held())
		require.NoError(t, c.Unlock("few/0", nil))
	}
	// Leases of sessions that were lost expire by themselves.
	eventually(t, "one lease for each client", func() bool { return r.leases(t) == clients }, func() any { return r.leases(t) })
	for _, c := range all {
		require.NoError(t, c.Close())
	}
	require.Empty(t, r.keys(t))
	eventually(t, "no lease is left", func() bool { return r.leases(t) == 0 }, func() any { return r.leases(t) })
	eventually(t, "no file is left open", func() bool { return len(files(t)) <= len(open) }, func() any {
		return slices.DeleteFunc(files(t), func(f string) bool { return slices.Contains(open, f) })
	})
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines }, stacks)
	t.Logf("%d cycles, %d faults; before and after: %d goroutines, %d files", cycles, faults.Load(), goroutines, len(open))
}

func stacks() any {
	var out strings.Builder
	pprof.Lookup("goroutine").WriteTo(&out, 1)
	return out.String()
}

func eventually(t *testing.T, what string, cond func() bool, is func() any) {
	t.Helper()
	for end := time.Now().Add(soon); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(t, "it never came to this: "+what, "%v", is())
		}
	}
}

// The heap is as large at the end as it was early on, however long it goes.
//
//	go test -C tests ./leaks -run Soak -v -timeout 0 -for 10m
func TestSoak(t *testing.T) {
	r := newTestbed(t)
	var all []locker.Client
	for range clients {
		all = append(all, r.newClient(t))
	}
	start := time.Now()
	var count atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(all, func() (int, bool) { return int(count.Add(1)), time.Since(start) < *soakFor })
	}()
	var heaps []uint64
	const readings = 20
	tick := time.NewTicker(*soakFor / readings)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-done:
		}
		select {
		case <-done:
		default:
			r.net.Heal()
			if n%2 == 0 {
				r.strike(n / 2)
			}
			heaps = append(heaps, heap())
			t.Logf("%8s %9d cycles %7d KiB of heap %5d goroutines", time.Since(start).Round(time.Second/10), count.Load(),
				heaps[len(heaps)-1]>>10, runtime.NumGoroutine())
			continue
		}
		break
	}
	r.net.Heal()
	for _, c := range all {
		require.NoError(t, c.Close())
	}
	require.GreaterOrEqual(t, len(heaps), readings/2)
	early, late := median(heaps[len(heaps)/4:len(heaps)/2]), median(heaps[3*len(heaps)/4:])
	t.Logf("early %d KiB, late %d KiB", early>>10, late>>10)
	require.Less(t, late, early+early/4+(1<<20))
}

// heap is what lives on it.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func median(values []uint64) uint64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
