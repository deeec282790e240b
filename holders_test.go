package locker

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// Holders tells who holds what and who waits, below a prefix and below that of the client, in order, over pages, and nothing
// that is no lock.
func TestHolders(t *testing.T) {
	t.Parallel()
	etcd, ctx := etcdtest.Connect(t, machines), testCtx(t)
	below := etcdtest.NewName() + "/"
	newPrefixed := func() Client {
		c, err := NewFromClient(context.Background(), etcdtest.Connect(t, machines), 30, WithPrefix(below))
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b, plain := newPrefixed(), newPrefixed(), newClient(t, 5, 30)
	none, err := a.Holders(ctx, "")
	require.NoError(t, err)
	require.Empty(t, none)

	const n = 2*pageSize + 1
	var want []Holder
	for i := range n {
		name := fmt.Sprintf("many/%03d", i)
		r := mustLock(t, a, name, fmt.Sprint(i), nil)
		want = append(want, Holder{Name: name, Value: fmt.Sprint(i), Token: r.Token, Lease: int64(r.hold.Lease.ID)})
	}
	mustLock(t, a, "other", "v", nil)
	put(t, etcd, below+"many/data", "of the application")

	first := startLockWait(ctx, b, "many/001", "first")
	awaitPlaces(t, etcd, below+"many/001", 1)
	second := startLockWait(ctx, plain, below+"many/001", "second")
	awaitPlaces(t, etcd, below+"many/001", 2)
	resp, err := etcd.Get(ctx, below+"many/001"+queueInfix, clientv3.WithPrefix())
	require.NoError(t, err)
	for _, kv := range resp.Kvs {
		want[1].Waiters = append(want[1].Waiters, Waiter{Value: string(kv.Value), Lease: kv.Lease, Since: kv.CreateRevision})
	}
	if want[1].Waiters[0].Value != "first" {
		want[1].Waiters[0], want[1].Waiters[1] = want[1].Waiters[1], want[1].Waiters[0]
	}
	got, err := a.Holders(ctx, "many/")
	require.NoError(t, err)
	require.Equal(t, want, got)
	all, err := plain.Holders(ctx, below)
	require.NoError(t, err)
	require.Len(t, all, n+1)

	// The way to force a lock: its holder is told, and the first who waits has it.
	remove(t, etcd, below+"many/001")
	gotLock(t, first)
	require.NoError(t, b.Unlock("many/001", nil))
	gotLock(t, second)
}

func TestHolders_Ends(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Holders(ctx, "")
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, c.Close())
	_, err = c.Holders(t.Context(), "")
	require.ErrorIs(t, err, ErrClosed)
	_, err = Client{}.Holders(t.Context(), "")
	require.ErrorIs(t, err, ErrClosed)
}
