package locker

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestStats(t *testing.T) {
	t.Parallel()
	require.Zero(t, Client{}.Stats())
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	c, other := unhedged(newClient(t, 5, 3)), newClient(t, 5, 60)

	r := mustLock(t, c, name, DefaultValue, nil)
	mustFail(t, c, name)
	local := startLockWait(ctx, c, name, DefaultValue)
	awaitLocalWaiters(t, c, name, 1)
	s := c.Stats()
	require.Equal(t, 1, s.Held)
	require.Equal(t, 1, s.Waiting)
	require.EqualValues(t, 1, s.Acquired)
	require.EqualValues(t, 1, s.Refused)
	require.Equal(t, 1, s.Sessions)
	require.NoError(t, r.Unlock())
	r = gotLock(t, local)
	require.EqualValues(t, 2, c.Stats().Acquired)
	require.EqualValues(t, 1, c.Stats().Released)
	require.Positive(t, c.Stats().WaitTime)

	turn := startLockWait(ctx, other, name, DefaultValue)
	awaitPlaces(t, etcd, name, 1)
	etcdtest.Eventually(t, "the client knows of its place", func() bool { return other.Stats().Queued == 1 })
	require.Zero(t, other.Stats().Waiting)
	require.NoError(t, r.Unlock())
	require.NoError(t, gotLock(t, turn).Unlock())
	require.Zero(t, other.Stats().Queued)

	before := c.Stats()
	require.NoError(t, mustLock(t, c, name, DefaultValue, nil).Unlock())
	after := c.Stats()
	require.EqualValues(t, 2, after.Operations-before.Operations)
	require.EqualValues(t, 2, after.Transactions-before.Transactions)
	require.GreaterOrEqual(t, after.Requests-before.Requests, int64(2))
	require.LessOrEqual(t, after.Hedges, after.Requests)

	r = mustLock(t, c, name, DefaultValue, nil)
	etcdtest.Eventually(t, "the key is watched", func() bool { return c.Stats().Watches > 0 })
	etcdtest.Eventually(t, "the session is renewed", func() bool { return !c.Stats().LastRenewal.IsZero() })
	require.WithinDuration(t, time.Now(), c.Stats().LastRenewal, 3*time.Second)
	require.Positive(t, c.Stats().RenewalDelay)
	remove(t, etcd, name)
	etcdtest.Receive(t, r.Done)
	etcdtest.Eventually(t, "the loss is counted", func() bool { return c.Stats().LostKey == 1 })
	r = mustLock(t, c, name, DefaultValue, nil)
	r.hold.Lease.Lose(context.DeadlineExceeded)
	etcdtest.Receive(t, r.Done)
	etcdtest.Eventually(t, "the loss is counted", func() bool { return c.Stats().LostLease == 1 && c.Stats().Held == 0 })
}
