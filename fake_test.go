package locker

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/holds"
	"github.com/PumpkinSeed/locker/internal/lease"
)

const ms = time.Millisecond

// fakeTimeout is the timeout of a client that talks to a fake.
const fakeTimeout = time.Second

// newFakeClient returns a client of this fake, and its lease, which lives for an hour. Nothing looks for the remains of
// requests that got no answer. It must be called in a bubble of synctest.
func newFakeClient(t *testing.T, kv *etcdfake.KV) (Client, *lease.Lease) {
	c := newFakeClientOf(t, kv, &etcdfake.Leases{})
	l, err := c.leases.Get(etcdfake.Within(time.Second))
	require.NoError(t, err)
	return c, l
}

// newFakeClientOf returns a client that has no lease yet.
func newFakeClientOf(t *testing.T, kv *etcdfake.KV, leases *etcdfake.Leases) Client {
	conn := kv.NewConn(t)
	c := Client{assemble(context.Background(), conn.Etcd, settings{options: options{timeout: fakeTimeout}, ttl: time.Hour})}
	c.queue.conn.KV, c.queue.conn.Watch = conn.KV, etcdfake.SilentWatch{}
	c.leases.Client = leases
	c.leases.Attend = func(*lease.Lease) {}
	c.unbind = func() bool { return true }
	t.Cleanup(func() {
		c.beginEnd(ErrClosed)
		c.finishEnd(ErrClosed)
		c.tasks.Wait()
		c.queue.closeIdle()
		c.watches.Wait()
		c.leases.Wait()
		c.commits.Wait()
	})
	return c
}

// reserve reserves a name that is free.
func reserve(t *testing.T, c Client, name string) {
	t.Helper()
	ok, _ := c.holds.TryReserve(name)
	require.True(t, ok)
}

// holdUnseen begins a hold of a lock that etcd knows nothing of.
func holdUnseen(t *testing.T, c Client, l *lease.Lease, name string, quit <-chan bool) *holds.Hold {
	t.Helper()
	reserve(t, c, name)
	return c.holds.Begin(holds.Grant{Name: name, Lease: l, Token: 1}, quit)
}

// nothingKnown requires that the client has no use for any name.
func nothingKnown(t *testing.T, c Client) {
	t.Helper()
	names, losses, quits := c.holds.Size()
	require.Zero(t, names, "names")
	require.Zero(t, losses, "losses")
	require.Zero(t, quits, "quit channels")
}
