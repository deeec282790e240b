package locker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestLockIsExclusive(t *testing.T) {
	t.Parallel()
	a, b, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := newName()
	var last int64
	for range 3 {
		r := mustLock(t, a, name, "of a", nil)
		require.Greater(t, r.Token, last)
		last = r.Token
		kv := stored(t, etcd, name)
		require.Equal(t, "of a", string(kv.Value))
		require.Equal(t, r.Token, kv.ModRevision)
		require.NotZero(t, kv.Lease)

		mustFail(t, a, name)
		mustFail(t, b, name)
		require.Equal(t, r.Token, stored(t, etcd, name).ModRevision, "a refused Lock writes nothing")
		require.True(t, r.Held())

		require.NoError(t, a.Unlock(name, nil))
		require.False(t, r.Held())
		receive(t, r.Done, 0)
		require.Nil(t, stored(t, etcd, name))
	}
	require.Greater(t, mustLock(t, b, name, "of b", nil).Token, last)
	mustFail(t, a, name)
}

func TestLockOfAPlainKey(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := newName()
	revision := put(t, etcd, name, "")
	mustFail(t, c, name)
	require.Equal(t, revision, stored(t, etcd, name).ModRevision)
	remove(t, etcd, name)
	mustLock(t, c, name, DefaultValue, nil)
}

func TestGetAndInspect(t *testing.T) {
	t.Parallel()
	a, b := newClient(t, 5, 5), newClient(t, 5, 5)
	name := newName()

	free := func() {
		t.Helper()
		_, err := b.Get(name)
		var none LockNotFound
		require.True(t, errors.As(err, &none))
		require.Contains(t, none.Error(), name)
		r := b.Inspect(name)
		require.NoError(t, r.Err)
		require.Equal(t, Success, r.Msg)
		require.False(t, r.Held(), "Inspect takes nothing")
		require.Zero(t, r.Token)
		receive(t, r.Done, 0)
	}
	free()
	mustLock(t, a, name, "of a", nil)
	for _, c := range []Client{a, b} {
		value, err := c.Get(name)
		require.NoError(t, err)
		require.Equal(t, "of a", value)
		r := c.Inspect(name)
		require.NoError(t, r.Err)
		require.Equal(t, Fail, r.Msg)
	}
	require.NoError(t, a.Unlock(name, nil))
	free()
}

// What etcd says can be found in the error, and concerns the one who asked.
func TestErrorOfEtcd(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := newName()
	r := c.Lock(name, strings.Repeat("x", 1700<<10), nil) // etcd takes 1.5 MiB, and its client sends 2
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, rpctypes.ErrRequestTooLarge)
	require.Contains(t, r.Err.Error(), name)
	require.Less(t, len(r.Err.Error()), 1000, "no value in an error")
	require.Nil(t, stored(t, etcd, name))
	mustLock(t, c, name, DefaultValue, nil)
}

func TestErrorOfAWait(t *testing.T) {
	t.Parallel()
	a, b := newClient(t, 5, 5), newClient(t, 5, 5)
	name := newName()
	mustLock(t, a, name, DefaultValue, nil)
	for _, c := range []Client{a, b} { // the line of the process, and that of the cluster
		ctx, cancel := context.WithCancel(t.Context())
		reports := make(chan Report, 1)
		go func() { reports <- c.LockWait(ctx, name, DefaultValue, nil) }()
		eventually(t, "it waits", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			seat, queue := c.seats[name], c.queues[name]
			return seat != nil && len(seat.line) > 0 || queue != nil && isClosed(queue.ready)
		})
		cancel()
		r := receive(t, reports, soon)
		require.Equal(t, Fail, r.Msg)
		require.ErrorIs(t, r.Err, context.Canceled)
		require.Contains(t, r.Err.Error(), name)
	}
}

// A Lock right after a LockWait that has given up waits for its clean-up: nobody holds the lock.
func TestLockAfterALockWaitThatGaveUp(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name := newName()
	for i := range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(100+5*i)*time.Microsecond)
		waited := c.LockWait(ctx, name, DefaultValue, nil)
		cancel()
		if waited.Msg == Fail {
			mustLock(t, c, name, DefaultValue, nil)
		}
		require.NoError(t, c.Unlock(name, nil))
	}
}
