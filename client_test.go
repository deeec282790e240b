package locker

import (
	"context"
	"sync"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
)

func TestEndOfTheCtxReleasesAll(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := New(machines, 5, 60, ctx)
	require.NoError(t, err)
	other, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	names, reports := three(t, c, make(chan bool))
	values, watched := watching(c, names[0], nil)
	receive(t, values, soon)
	mustFail(t, other, names[0])
	cancel()
	for i, name := range names {
		receive(t, reports[i].Done, soon)
		require.False(t, reports[i].Held())
		eventually(t, "it is free", func() bool { return stored(t, etcd, name) == nil })
	}
	require.NoError(t, receive(t, watched, soon))
	require.NoError(t, c.Close(), "it waits for the end and says how that went")
}

// Close hands the lock on, in one commit: nobody sees it free.
func TestCloseHandsTheLockOn(t *testing.T) {
	t.Parallel()
	c, err := New(machines, 5, 60, context.Background())
	require.NoError(t, err)
	heir, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := newName()
	mustLock(t, c, name, "of c", nil)
	reports := make(chan Report, 1)
	go func() { reports <- heir.LockWait(t.Context(), name, "of the heir", nil) }()
	eventually(t, "it waits", func() bool { return stored(t, etcd, placeKey(int64(heir.live[0].id), name)) != nil })
	require.NoError(t, c.Close())
	r := receive(t, reports, soon)
	require.Equal(t, Success, r.Msg)
	kv := stored(t, etcd, name)
	require.Equal(t, "of the heir", string(kv.Value))
	require.Equal(t, r.Token, kv.ModRevision)
	require.Less(t, kv.CreateRevision, kv.ModRevision, "it was never deleted")
	require.Nil(t, stored(t, etcd, placeKey(int64(heir.live[0].id), name)))
}

// A client of the caller's own may put all keys under a prefix.
func TestClientWithANamespace(t *testing.T) {
	t.Parallel()
	etcd, shared := etcdtest.Connect(t, machines), etcdtest.Connect(t, machines)
	prefix := newName() + "/"
	shared.KV = namespace.NewKV(shared.KV, prefix)
	shared.Watcher = namespace.NewWatcher(shared.Watcher, prefix)
	shared.Lease = namespace.NewLease(shared.Lease, prefix)
	var clients []Client
	for range 2 {
		c, err := NewFromClient(context.Background(), shared, 2)
		require.NoError(t, err)
		defer c.Close()
		clients = append(clients, c)
	}
	a, b := clients[0], clients[1]

	const name = "name"
	values, _ := watching(b, name, nil)
	require.Equal(t, "", receive(t, values, soon))
	r := mustLock(t, a, name, "of a", nil)
	require.Equal(t, "of a", receive(t, values, soon))
	require.Equal(t, r.Token, stored(t, etcd, prefix+name).ModRevision)
	require.Nil(t, stored(t, etcd, name))
	mustFail(t, b, name)

	reports := make(chan Report, 1)
	go func() { reports <- b.LockWait(t.Context(), name, "of b", nil) }()
	eventually(t, "it waits", func() bool { return stored(t, etcd, prefix+placeKey(int64(b.live[0].id), name)) != nil })
	require.NoError(t, a.Unlock(name, nil))
	r = receive(t, reports, soon)
	require.Equal(t, Success, r.Msg)
	require.Equal(t, "of b", receive(t, values, soon))

	var running sync.WaitGroup
	for range 50 { // many at once, in common transactions
		running.Go(func() {
			name := newName()
			if r := a.Lock(name, DefaultValue, nil); !r.Held() || a.Unlock(name, nil) != nil {
				t.Error("not locked", r)
			}
		})
	}
	running.Wait()

	// What a lost request has left is found and removed.
	_, err := etcd.Put(t.Context(), prefix+"left", "by a", clientv3.WithLease(a.live[0].id))
	require.NoError(t, err)
	a.loose(a.live[0])
	eventually(t, "it is removed", func() bool { return stored(t, etcd, prefix+"left") == nil })

	remove(t, etcd, prefix+name)
	receive(t, r.Done, soon)
	require.ErrorIs(t, b.Unlock(name, nil), ErrLost)
}
