package locker

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// Every hold of a name has a higher token than the one before, however the lock came to its holder and whoever had it.
// The token is the revision at which the key of the lock was written.
func TestTokensGrow(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	a, b := unhedged(newClient(t, 5, 5)), unhedged(newClient(t, 5, 5))
	var last int64
	check := func(how string, r Report) {
		t.Helper()
		require.Greater(t, r.Token, last, how)
		require.Equal(t, stored(t, etcd, name).ModRevision, r.Token, how)
		last = r.Token
	}
	waiting := func(c Client) <-chan Report {
		t.Helper()
		turn := startLockWait(ctx, c, name, "v")
		if c == a { // which holds the lock: it waits within its process
			awaitLocalWaiters(t, a, name, 1)
		} else {
			awaitPlaces(t, etcd, name, 1)
		}
		return turn
	}
	check("the first", mustLock(t, a, name, "v", nil))
	require.NoError(t, a.Unlock(name, nil))
	check("taken again", mustLock(t, a, name, "v", nil))
	require.NoError(t, a.Unlock(name, nil))
	quit := make(chan bool)
	check("by another client", mustLock(t, b, name, "v", quit))
	close(quit)
	etcdtest.Eventually(t, "it is given back by quit", func() bool { return stored(t, etcd, name) == nil })
	check("after quit", mustLock(t, a, name, "v", nil))

	turn := waiting(a)
	require.NoError(t, a.Unlock(name, nil))
	check("inherited within a process", gotLock(t, turn))
	turn = waiting(b)
	require.NoError(t, a.Unlock(name, nil))
	check("handed over", gotLock(t, turn))
	require.NoError(t, b.Unlock(name, nil))
	require.NoError(t, a.Do(ctx, name, "v", func(_ context.Context, token int64) error {
		check("by Do", Report{Token: token})
		return nil
	}))

	r := mustLock(t, a, name, "v", nil)
	check("before a crash", r)
	turn = waiting(b)
	crash(t, etcd, a)
	check("claimed after a crash", gotLock(t, turn))
	etcdtest.Receive(t, r.Done)
	put(t, etcd, name, "an outsider's")
	remove(t, etcd, name)
	check("after the key was replaced and deleted", mustLock(t, a, name, "v", nil))
	require.NoError(t, a.Close())
	check("after Close", mustLock(t, newClient(t, 5, 5), name, "v", nil))
}

// A transaction of the caller's own that depends on the Guard of a hold fails once the lock is gone.
func TestGuard(t *testing.T) {
	t.Parallel()
	c, other, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name, guarded := etcdtest.NewName(), etcdtest.NewName()
	defer remove(t, etcd, guarded)
	write := func(r Report) bool {
		t.Helper()
		resp, err := etcd.Txn(t.Context()).If(r.Guard()).Then(clientv3.OpPut(guarded, "written")).Commit()
		require.NoError(t, err)
		return resp.Succeeded
	}
	released := mustLock(t, c, name, DefaultValue, nil)
	require.True(t, write(released))
	require.False(t, write(other.Lock(name, DefaultValue, nil)), "of a Lock that was refused")
	require.NoError(t, c.Unlock(name, nil))
	require.False(t, write(released))
	held := mustLock(t, c, name, DefaultValue, nil)
	require.False(t, write(released), "of an earlier hold of the same client")
	require.True(t, write(held))
	remove(t, etcd, name)
	require.False(t, write(held), "of a lock that was taken away")
	require.False(t, write(Report{}))
	require.False(t, Report{}.Held())
}
