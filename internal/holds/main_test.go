package holds

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/lease"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

const (
	ms   = time.Millisecond
	name = "name" // of the lock that a test is about
)

// fixture is a Table beside a lease that etcd keeps granting. Nothing that ends the lease tells the Table of it: a test
// calls LoseAll when it wants to.
type fixture struct {
	*Table
	lease    *lease.Lease
	tasks    syncutil.Group
	close    context.CancelFunc // ends Table.open, as the end of the client does
	released chan *Hold         // what the Table has asked to give back
}

// newFixture returns a fixture that is taken down at the end of the test.
func newFixture(t *testing.T) *fixture {
	open, cancel := context.WithCancel(t.Context())
	f := &fixture{close: cancel, released: make(chan *Hold, 1000)}
	f.Table = NewTable(open, &f.tasks, slog.New(slog.DiscardHandler))
	f.Release = func(ended []*Hold) {
		for _, h := range ended {
			f.Yield(h.Name, nil)
			f.released <- h
		}
	}
	leases := lease.NewPool(lease.Config{
		Conn: new(etcdfake.KV).NewConn(t), Client: &etcdfake.Leases{}, TTL: time.Hour, Timeout: time.Minute,
		Log: slog.New(slog.DiscardHandler), Open: t.Context(), Live: t.Context(),
		Attend: func(*lease.Lease) {}, OnLost: func(*lease.Lease) {},
	})
	var err error
	f.lease, err = leases.Get(etcdfake.Within(time.Minute))
	require.NoError(t, err)
	f.lease.Unreserve()
	t.Cleanup(func() { // t.Context has ended
		f.tasks.Wait()
		leases.Wait()
	})
	return f
}

func (f *fixture) grant(name string) Grant { return Grant{Name: name, Lease: f.lease, Token: 1} }

// hold reserves a name that is free and begins a hold of it.
func (f *fixture) hold(t *testing.T, name string, quit <-chan bool) *Hold {
	t.Helper()
	f.reserve(t, name)
	return f.Begin(f.grant(name), quit)
}

func (f *fixture) reserve(t *testing.T, name string) {
	t.Helper()
	ok, _ := f.TryReserve(name)
	require.True(t, ok)
}

// enqueue lets n waiters for the reservation of a name arrive, without goroutines of theirs.
func (f *fixture) enqueue(name string, n int) (waiters []*Waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		w := &Waiter{turn: make(chan *Hold, 1)}
		f.entries[name].enqueue(w)
		waiters = append(waiters, w)
	}
	return waiters
}

// stateOf returns the state of a name, and whether the Table has an entry for it.
func (f *fixture) stateOf(name string) (s state, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.entries[name]; e != nil {
		return e.state, true
	}
	return free, false
}

// empty requires that the Table knows of no name, no loss and no quit channel.
func (f *fixture) empty(t *testing.T) {
	t.Helper()
	names, losses, quits := f.Size()
	require.Zero(t, names, "names")
	require.Zero(t, losses, "losses")
	require.Zero(t, quits, "quit channels")
}

// errTest is the reason of a loss.
var errTest = errors.New("test")

// someQueue is a queue in which somebody may wait.
type someQueue struct{ Queue }
