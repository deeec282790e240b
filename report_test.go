package locker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/lease"
)

// Report.Unlock gives back its own hold, and never the one that another goroutine of the client has taken since.
func TestReport_Unlock(t *testing.T) {
	t.Parallel()
	c, etcd, name := unhedged(newClient(t, 5, 30)), etcdtest.Connect(t, machines), etcdtest.NewName()
	released := mustLock(t, c, name, DefaultValue, nil)
	require.NoError(t, released.Cause())
	require.NoError(t, released.Unlock())
	require.Nil(t, stored(t, etcd, name))
	require.Equal(t, ErrReleased, released.Cause())

	lost := mustLock(t, c, name, DefaultValue, nil)
	c.holds.Lose(lost.hold, errTaken)
	remove(t, etcd, name)
	current := mustLock(t, c, name, DefaultValue, nil)
	for range 2 {
		require.ErrorIs(t, released.Unlock(), ErrNotHeld)
		require.ErrorIs(t, lost.Unlock(), ErrLost)
	}
	require.True(t, current.Held())
	require.Equal(t, current.Token, orZero(stored(t, etcd, name)).ModRevision)
	require.NoError(t, c.Close())
	require.Equal(t, ErrClosed, current.Cause())
	require.ErrorIs(t, current.Unlock(), ErrClosed)
	require.ErrorIs(t, lost.Unlock(), ErrLost)
}

// Cause says why a hold has ended, from the moment at which Held says that it has.
func TestReport_Cause(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		end    func(t *testing.T, c Client, r Report)
		is     []error
		reason string
	}{
		"given back": {func(t *testing.T, c Client, r Report) { require.NoError(t, c.Unlock(r.hold.Name, nil)) },
			[]error{ErrReleased}, ""},
		"closed": {func(t *testing.T, c Client, _ Report) { require.NoError(t, c.Close()) },
			[]error{ErrClosed}, ""},
		"key deleted": {func(t *testing.T, c Client, r Report) { remove(t, etcdtest.Connect(t, machines), r.hold.Name) },
			[]error{ErrLost}, "deleted or replaced"},
		"lease revoked": {func(t *testing.T, c Client, _ Report) { crash(t, etcdtest.Connect(t, machines), c) },
			[]error{ErrLost}, "revoked"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, 5, 2)
			r := mustLock(t, client, etcdtest.NewName(), DefaultValue, nil)
			etcdtest.Eventually(t, "the key is watched", func() bool { watches, _ := client.watches.Stats(); return watches > 0 })
			require.NoError(t, r.Cause())
			ctx, cancel := r.Context(t.Context())
			defer cancel()
			c.end(t, client, r)
			etcdtest.Receive(t, r.Done)
			require.False(t, r.Held())
			etcdtest.Receive(t, ctx.Done())
			for _, err := range []error{r.Cause(), context.Cause(ctx)} {
				for _, is := range c.is {
					require.ErrorIs(t, err, is)
				}
				require.ErrorContains(t, err, c.reason)
			}
			require.Equal(t, c.is[0] == ErrLost, errors.Is(r.Cause(), ErrLost), "a loss is told for nothing else")
		})
	}
}

// A lease that could not be renewed is a loss whose reason is what the last renewal has met. It is told though nobody has
// noticed the deadline yet.
func TestReport_CauseAtTheDeadline(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 30)
	r := mustLock(t, c, etcdtest.NewName(), DefaultValue, nil)
	c.leases.OnLost = func(*lease.Lease) {} // so nobody is told
	r.hold.Lease.Suspend(31 * time.Second)
	require.ErrorIs(t, r.Cause(), ErrLost)
	require.ErrorContains(t, r.Cause(), "could not be renewed in time")
}

// The ctx of a hold ends with its parent, and when it is cancelled, which gives nothing back.
func TestReport_Context(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 30)
	r := mustLock(t, c, etcdtest.NewName(), DefaultValue, nil)
	parent, end := context.WithCancelCause(t.Context())
	ctx, cancel := r.Context(parent)
	require.NoError(t, ctx.Err())
	why := errors.New("enough")
	end(why)
	etcdtest.Receive(t, ctx.Done())
	require.Equal(t, why, context.Cause(ctx))
	cancel()

	ctx, cancel = r.Context(t.Context())
	cancel()
	require.ErrorIs(t, ctx.Err(), context.Canceled)
	require.True(t, r.Held())
	require.NoError(t, r.Unlock())
	ctx, cancel = r.Context(t.Context())
	defer cancel()
	require.Error(t, ctx.Err(), "it has ended before")
	require.Equal(t, ErrReleased, context.Cause(ctx))
}

// A Report that took no lock has no hold, and one that was made by hand follows its Done.
func TestReport_WithoutAHold(t *testing.T) {
	t.Parallel()
	c, name := newClient(t, 5, 30), etcdtest.NewName()
	mustLock(t, c, name, DefaultValue, nil)
	for _, r := range []Report{{}, c.Lock(name, DefaultValue, nil), {Msg: Success}} {
		require.False(t, r.Held())
		require.Equal(t, ErrNotHeld, r.Cause())
		require.ErrorIs(t, r.Unlock(), ErrNotHeld)
		ctx, cancel := r.Context(t.Context())
		require.Equal(t, ErrNotHeld, context.Cause(ctx))
		cancel()
	}
	done := make(chan struct{})
	r := Report{Msg: Success, Done: done}
	require.True(t, r.Held())
	require.NoError(t, r.Cause())
	require.NoError(t, r.Unlock())
	ctx, cancel := r.Context(t.Context())
	defer cancel()
	close(done)
	etcdtest.Receive(t, ctx.Done())
	require.ErrorIs(t, context.Cause(ctx), ErrLost)
	require.False(t, r.Held())
	require.ErrorIs(t, r.Unlock(), ErrLost)
}
