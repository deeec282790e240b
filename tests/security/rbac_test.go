package security

import (
	"context"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const exactName = "exact"

func TestRoles(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t)
	root := enableAuth(t, cluster, map[string]role{
		"exact": {key: exactName}, "prefix": prefix("team/"), "nothing": {},
	})
	other := newLocker(t, root, 30)
	user := func(t *testing.T, name string) locker.Client { return newLocker(t, as(t, cluster, name), ttl) }

	t.Run("root", func(t *testing.T) {
		useAll(t, other, user(t, "root"), newName("name"))
		require.Empty(t, keys(t, root))
	})

	t.Run("prefix", func(t *testing.T) {
		useAll(t, user(t, "prefix"), user(t, "prefix"), newName("team/"))
		require.Empty(t, keys(t, root))
	})

	t.Run("exact key", func(t *testing.T) {
		c := user(t, "exact")
		watched := watch(c, exactName)
		require.Equal(t, "", watched.next(t))
		mustLock(t, c, exactName)
		require.Equal(t, []string{exactName}, keys(t, root))
		require.Equal(t, "value", watched.next(t))
		got, err := c.Get(exactName)
		require.NoError(t, err)
		require.Equal(t, "value", got)
		require.Equal(t, locker.Report{Msg: locker.Fail, Done: c.Inspect(exactName).Done}, c.Inspect(exactName))
		require.Equal(t, locker.Fail, other.Lock(exactName, "value", nil).Msg)
		require.NoError(t, c.Unlock(exactName, nil))
		require.Equal(t, "", watched.next(t))
		require.Empty(t, keys(t, root))

		// Free, it needs no line.
		r := c.LockWait(t.Context(), exactName, "value", nil)
		require.NoError(t, r.Err)
		taken := time.Now()
		etcdtest.EventuallyWithin(t, soon, "it is older than its TTL", func() bool { return time.Since(taken) > (ttl+1)*time.Second })
		require.True(t, r.Held())
		require.NoError(t, c.Unlock(exactName, nil))
		require.Equal(t, "value", watched.next(t))
		require.Equal(t, "", watched.next(t))
		watched.end(t)

		// Those who have the right to stand in the line are woken up by one who has not.
		mustLock(t, c, exactName)
		waiter := make(chan locker.Report, 1)
		go func() { waiter <- other.LockWait(t.Context(), exactName, "value", nil) }()
		etcdtest.EventuallyWithin(t, soon, "it waits", func() bool { return len(keys(t, root)) == 2 })
		require.NoError(t, c.Unlock(exactName, nil))
		require.NoError(t, etcdtest.ReceiveWithin(t, waiter, soon).Err)

		// Contended, it can't have a place there.
		start := time.Now()
		r = c.LockWait(t.Context(), exactName, "value", nil)
		require.Equal(t, locker.Fail, r.Msg)
		require.ErrorIs(t, r.Err, rpctypes.ErrPermissionDenied)
		require.NotErrorIs(t, r.Err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), 5*time.Second, "waiting gives no right")
		require.Equal(t, []string{exactName}, keys(t, root))
		require.NoError(t, other.Unlock(exactName, nil))
		require.Empty(t, keys(t, root))
		mustLock(t, c, exactName)
		require.NoError(t, c.Unlock(exactName, nil))
	})

	t.Run("nothing", func(t *testing.T) {
		c := user(t, "nothing")
		for name, lockedBy := range map[string]*locker.Client{"free": nil, "locked": &other} {
			if lockedBy != nil {
				mustLock(t, *lockedBy, name)
			}
			before := keys(t, root)
			for what, err := range map[string]error{
				"Lock":     c.Lock(name, "value", nil).Err,
				"LockWait": c.LockWait(t.Context(), name, "value", nil).Err,
				"Do":       c.Do(t.Context(), name, "value", func(context.Context, int64) error { panic("not locked") }),
				"Inspect":  c.Inspect(name).Err,
				"Get":      errorOfGet(c, name),
				"Watch":    c.Watch(name, make(chan string), nil),
			} {
				require.ErrorIs(t, err, rpctypes.ErrPermissionDenied, "%s of a %s lock", what, name)
				require.ErrorContains(t, err, name)
			}
			require.Equal(t, locker.Fail, c.Inspect(name).Msg, "it must not fail open")
			require.ErrorIs(t, c.Unlock(name, nil), locker.ErrNotHeld)
			require.Equal(t, before, keys(t, root))
		}
		require.NoError(t, other.Unlock("locked", nil))
	})

	t.Run("no user", func(t *testing.T) {
		start := time.Now()
		_, err := locker.New(cluster.Endpoints(), 5, 5, t.Context())
		require.ErrorIs(t, err, rpctypes.ErrUserEmpty)
		require.Less(t, time.Since(start), 5*time.Second)
	})

	// It is told what will not heal, and only then.
	t.Run("a right that is withdrawn", func(t *testing.T) {
		c := user(t, "exact")
		r := mustLock(t, c, exactName)
		watched := watch(c, exactName)
		require.Equal(t, "value", watched.next(t))
		_, err := root.RoleRevokePermission(t.Context(), "exact", exactName, "")
		require.NoError(t, err)
		require.ErrorIs(t, c.Lock(exactName+"2", "value", nil).Err, rpctypes.ErrPermissionDenied)
		require.True(t, r.Held(), "the lease is as it was")
		require.ErrorIs(t, c.Unlock(exactName, nil), rpctypes.ErrPermissionDenied)
		require.False(t, r.Held())
		_, err = root.RoleGrantPermission(t.Context(), "exact", exactName, "", clientv3.PermissionType(clientv3.PermReadWrite))
		require.NoError(t, err)
		etcdtest.EventuallyWithin(t, soon, "the release is finished in the background", func() bool { return len(keys(t, root)) == 0 })
		require.NoError(t, c.Close())
		require.NoError(t, etcdtest.ReceiveWithin(t, watched.result, soon))
	})
}

func errorOfGet(c locker.Client, name string) error {
	_, err := c.Get(name)
	return err
}
