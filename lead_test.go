package locker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/lease"
)

var errOwn = errors.New("fn's own")

// TryDo runs fn where the lock is free, and does not wait where it is not.
func TestTryDo(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
	a, b := unhedged(newClient(t, 5, 60)), newClient(t, 5, 60)
	ran, err := a.TryDo(t.Context(), name, "v", func(ctx context.Context, token int64) error {
		require.Equal(t, stored(t, etcd, name).ModRevision, token)
		for _, c := range []Client{a, b} {
			ran, err := c.TryDo(ctx, name, "v", func(context.Context, int64) error { t.Error("not locked"); return nil })
			require.NoError(t, err)
			require.False(t, ran)
		}
		return errOwn
	})
	require.True(t, ran)
	require.Equal(t, errOwn, err)
	nothingLeft(t, etcd, name)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ran, err = a.TryDo(ctx, name, "v", nil)
	require.False(t, ran)
	require.ErrorIs(t, err, context.Canceled)
	_, err = a.TryDo(t.Context(), "", "v", nil)
	require.ErrorIs(t, err, ErrInvalidName)
	_, err = Client{}.TryDo(t.Context(), name, "v", nil)
	require.ErrorIs(t, err, ErrClosed)
}

// The ctx of TryDo bounds the attempt, also where etcd is silent.
func TestTryDo_CtxEnds(t *testing.T) {
	t.Parallel()
	net := etcdtest.NewNetwork(t, machines)
	c := clientAt(t, net.Endpoints(), 5, 20)
	net.Hold()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	ran, err := c.TryDo(ctx, etcdtest.NewName(), "v", nil)
	require.False(t, ran)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), time.Second)
	net.Heal()
}

// DoAll holds all locks while fn runs, tells the tokens in the order of the names, and gives all back.
func TestDoAll(t *testing.T) {
	t.Parallel()
	etcd, c := etcdtest.Connect(t, machines), unhedged(newClient(t, 5, 60))
	names := []string{etcdtest.NewName() + "b", etcdtest.NewName() + "a", "0" + etcdtest.NewName()}
	err := c.DoAll(t.Context(), names, "v", func(_ context.Context, tokens []int64) error {
		for i, name := range names {
			require.Equal(t, stored(t, etcd, name).ModRevision, tokens[i])
		}
		return errOwn
	})
	require.Equal(t, errOwn, err)
	for _, name := range names {
		nothingLeft(t, etcd, name)
	}

	// One is not to be had: the others are given back.
	other := newClient(t, 5, 60)
	mustLock(t, other, names[0], "v", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err = c.DoAll(ctx, names, "v", func(context.Context, []int64) error { t.Error("not locked"); return nil })
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorAs(t, err, new(LockDenied))
	require.Nil(t, stored(t, etcd, names[1]))
	require.Nil(t, stored(t, etcd, names[2]))
	require.NoError(t, other.Unlock(names[0], nil))

	for _, bad := range [][]string{nil, {"a", ""}, {"a", "b", "a"}} {
		require.ErrorIs(t, c.DoAll(t.Context(), bad, "v", nil), ErrInvalidName)
	}
	require.ErrorIs(t, c.DoAll(t.Context(), names, "", nil), ErrInvalidValue)
	require.ErrorIs(t, Client{}.DoAll(t.Context(), names, "v", nil), ErrClosed)
}

// The loss of one of the locks ends fn's ctx.
func TestDoAll_OneIsLost(t *testing.T) {
	t.Parallel()
	etcd, c := etcdtest.Connect(t, machines), newClient(t, 5, 3)
	names := []string{etcdtest.NewName() + "a", etcdtest.NewName() + "b"}
	for _, lost := range names {
		err := c.DoAll(t.Context(), names, "v", func(ctx context.Context, _ []int64) error {
			etcdtest.Eventually(t, "the keys are watched", func() bool { watches, _ := c.watches.Stats(); return watches == 2 })
			remove(t, etcd, lost)
			etcdtest.Receive(t, ctx.Done())
			require.ErrorIs(t, context.Cause(ctx), ErrLost)
			return nil
		})
		require.ErrorIs(t, err, ErrLost)
	}
}

// Calls that name the same locks in different orders do not block each other.
func TestDoAll_NoDeadlock(t *testing.T) {
	t.Parallel()
	ctx := testCtx(t)
	names := []string{etcdtest.NewName() + "a", etcdtest.NewName() + "b", etcdtest.NewName() + "c"}
	orders := [][]string{names, {names[2], names[1], names[0]}, {names[1], names[2]}, {names[2], names[0]}}
	var running sync.WaitGroup
	var inside atomic.Int64
	for _, order := range orders {
		for _, c := range []Client{newClient(t, 5, 30), newClient(t, 5, 30)} {
			running.Go(func() {
				for range 10 {
					if err := c.DoAll(ctx, order, "v", func(context.Context, []int64) error {
						defer inside.Add(-1)
						if n := inside.Add(1); n > 1 { // any two of the orders share a name
							t.Errorf("%d at once", n)
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	running.Wait()
}

// Lead runs fn again after a loss, with another token; ends with fn, and resigns at once.
func TestLead(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
	c, other := newClient(t, 5, 3), newClient(t, 5, 3)
	var tokens []int64
	next := make(chan int64, 1)
	err := c.Lead(t.Context(), name, "first", func(ctx context.Context, token int64) error {
		tokens = append(tokens, token)
		if len(tokens) > 2 {
			go other.Lead(t.Context(), name, "second", func(_ context.Context, token int64) error { next <- token; return nil })
			awaitPlaces(t, etcd, name, 1)
			return errOwn
		}
		etcdtest.Eventually(t, "the key is watched", func() bool { watches, _ := c.watches.Stats(); return watches > 0 })
		remove(t, etcd, name)
		etcdtest.Receive(t, ctx.Done())
		require.ErrorIs(t, context.Cause(ctx), ErrLost)
		return errors.New("after the loss, which does not count")
	})
	require.Equal(t, errOwn, err)
	require.Len(t, tokens, 3)
	require.IsIncreasing(t, tokens)
	require.Greater(t, etcdtest.Receive(t, next), tokens[2], "another leads at once")
}

// Lead ends with its ctx, whether it leads or waits, and with what will not heal.
func TestLead_Ends(t *testing.T) {
	t.Parallel()
	name := etcdtest.NewName()
	c, other := newClient(t, 5, 30), newClient(t, 5, 30)
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	err := c.Lead(ctx, name, "v", func(inner context.Context, _ int64) error {
		go func() {
			waits <- other.Lead(ctx, name, "v", func(context.Context, int64) error { t.Error("it leads"); return nil })
		}()
		awaitPlaces(t, etcdtest.Connect(t, machines), name, 1)
		cancel()
		etcdtest.Receive(t, inner.Done())
		etcdtest.Eventually(t, "the other one has given up", func() bool { return len(waits) == 1 })
		return inner.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, <-waits, context.Canceled)

	fn := func(context.Context, int64) error { t.Error("it leads"); return nil }
	require.ErrorIs(t, c.Lead(t.Context(), "", "v", fn), ErrInvalidName)
	require.ErrorIs(t, c.Lead(t.Context(), name, "", fn), ErrInvalidValue)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Lead(t.Context(), name, "v", fn), ErrClosed)
}

// An outage does not end Lead: it leads once etcd answers again.
func TestLead_OutlivesAnOutage(t *testing.T) {
	t.Parallel()
	net := etcdtest.NewNetwork(t, machines)
	c := clientAt(t, net.Endpoints(), 1, 2)
	net.Hold()
	led := make(chan error, 1)
	go func() {
		led <- c.Lead(t.Context(), etcdtest.NewName(), "v", func(context.Context, int64) error { return errOwn })
	}()
	etcdtest.Eventually(t, "an attempt has failed", func() bool { return c.refused.Load() > 0 })
	require.Empty(t, led)
	net.Heal()
	require.Equal(t, errOwn, etcdtest.Receive(t, led))
}

// Nor does the end of the lease while Lead waits: it enters the queue again, with another.
func TestLead_OutlivesItsLease(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
	holder, c := newClient(t, 5, 30), newClient(t, 5, 30)
	mustLock(t, holder, name, "v", nil)
	led := make(chan error, 1)
	go func() { led <- c.Lead(t.Context(), name, "v", func(context.Context, int64) error { return errOwn }) }()
	awaitPlaces(t, etcd, name, 1)
	ended := c.leases.All()[0]
	ended.Lose(rpctypes.ErrLeaseNotFound) // as a renewal is answered, before the watch tells of the place
	_, err := etcd.Revoke(t.Context(), ended.ID)
	require.NoError(t, err)
	etcdtest.Eventually(t, "there is another lease", func() bool {
		return slices.ContainsFunc(c.leases.All(), func(l *lease.Lease) bool { return l != ended })
	})
	require.NoError(t, holder.Unlock(name, nil))
	require.Equal(t, errOwn, etcdtest.Receive(t, led))
}

// Nor does etcd's want of room, which an operator can end.
func TestLead_OutlivesNoSpace(t *testing.T) {
	t.Parallel()
	name := etcdtest.NewName()
	var refused atomic.Int64
	c := tapped(t, machines, 30, func(ctx context.Context, req, reply any, send sender) error {
		if puts(req, name) && refused.Add(1) <= 3 {
			return rpctypes.ErrGRPCNoSpace
		}
		return send(ctx, reply)
	}, nil)
	require.Equal(t, errOwn, c.Lead(t.Context(), name, "v", func(context.Context, int64) error { return errOwn }))
	require.Greater(t, refused.Load(), int64(3))
}
