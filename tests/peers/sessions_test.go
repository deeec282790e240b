package peers

import (
	"context"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// What a caller does under a lock has a ctx that ends with the session.
func TestCtxEndsWithTheSession(t *testing.T) {
	t.Parallel()
	s := newSession(t, machines, 60)
	ctx, cancel := context.WithCancel(s.Ctx())
	defer cancel()
	s.Orphan()
	etcdtest.Receive(t, s.Done())
	etcdtest.Receive(t, ctx.Done())

	c, err := locker.New(machines, 5, 60, context.Background())
	require.NoError(t, err)
	r := c.Lock(etcdtest.NewName(), locker.DefaultValue, nil)
	require.Equal(t, locker.Success, r.Msg)
	ctx, cancel = r.Context(t.Context())
	defer cancel()
	require.NoError(t, c.Close())
	etcdtest.Receive(t, r.Done)
	etcdtest.Receive(t, ctx.Done())
	require.ErrorIs(t, context.Cause(ctx), locker.ErrClosed)
}

// The lease of a session has the TTL that was asked for.
func TestTTLOfASession(t *testing.T) {
	withEach(t, func(t *testing.T, _ string, newOwner func(testing.TB, []string, int) owner) {
		etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
		h, err := newOwner(t, machines, 90).lock(t.Context(), name)
		require.NoError(t, err)
		resp, err := etcd.TimeToLive(t.Context(), clientv3.LeaseID(keys(t, etcd, name)[0].Lease))
		require.NoError(t, err)
		require.EqualValues(t, 90, resp.GrantedTTL)
		require.Greater(t, resp.TTL, int64(60))
		require.NoError(t, h.unlock())
	})
}

// A session that cannot be had for want of an answer is an error within the time that the caller gives.
func TestNoSession(t *testing.T) {
	t.Parallel()
	net := etcdtest.NewNetwork(t, machines)
	net.Swallow()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := concurrency.NewSession(etcdtest.Connect(t, net.Endpoints()), concurrency.WithContext(ctx), concurrency.WithTTL(60))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	start := time.Now()
	_, err = locker.New(net.Endpoints(), 1, 60, context.Background())
	require.ErrorIs(t, err, locker.ErrNoAnswer)
	require.Less(t, time.Since(start), 1500*time.Millisecond)
}

// To end a session takes no longer than it may, also where nobody answers: the peer's TTL, our timeout.
func TestEndOfASessionIsBounded(t *testing.T) {
	t.Parallel()
	net := etcdtest.NewNetwork(t, machines)
	s := newSession(t, net.Endpoints(), 2)
	c, err := locker.New(net.Endpoints(), 1, 60, context.Background())
	require.NoError(t, err)
	net.Swallow()
	start := time.Now()
	require.Error(t, c.Close())
	require.Less(t, time.Since(start), 1500*time.Millisecond)
	start = time.Now()
	require.Error(t, s.Close())
	require.Less(t, time.Since(start), 3*time.Second)
}
