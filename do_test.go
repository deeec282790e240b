package locker

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestDo(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	c := calm(newClient(t, 5, 60))
	var inner context.Context
	require.NoError(t, c.Do(ctx, name, "v", func(ctx context.Context, token int64) error {
		inner = ctx
		require.NoError(t, ctx.Err())
		resp, err := etcd.Get(ctx, name)
		require.NoError(t, err)
		require.Len(t, resp.Kvs, 1)
		require.Equal(t, "v", string(resp.Kvs[0].Value))
		require.Equal(t, resp.Kvs[0].ModRevision, token)
		return nil
	}))
	require.Error(t, inner.Err(), "the ctx of fn ends with it")
	require.NotErrorIs(t, context.Cause(inner), ErrLost)
	nothingLeft(t, etcd, name)
	require.ErrorIs(t, c.Unlock(name, nil), ErrNotHeld)
}

func TestDoWaitsItsTurn(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	a, b := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
	held := a.Lock(name, "a", nil)
	require.Equal(t, Success, held.Msg)
	entered := make(chan int64, 1)
	done := make(chan error, 1)
	go func() {
		done <- b.Do(ctx, name, "b", func(_ context.Context, token int64) error {
			entered <- token
			return nil
		})
	}()
	awaitPlaces(t, etcd, name, 1)
	require.Empty(t, entered)
	require.NoError(t, a.Unlock(name, nil))
	require.NoError(t, <-done)
	require.Greater(t, <-entered, held.Token)
}

func TestDoWithoutTheLock(t *testing.T) {
	t.Parallel()
	name := newName()
	a, b := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	fn := func(context.Context, int64) error {
		t.Error("fn runs without the lock")
		return nil
	}
	ctx, cancel := context.WithTimeout(limited(t), time.Second)
	defer cancel()
	err := b.Do(ctx, name, "b", fn)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorAs(t, err, new(LockDenied))
	require.ErrorIs(t, b.Do(limited(t), "", "b", fn), ErrInvalidName)
	require.ErrorIs(t, b.Do(limited(t), name, "", fn), ErrInvalidValue)
	require.ErrorIs(t, Client{}.Do(limited(t), name, "b", fn), ErrClosed)
}

// The lock is lost while fn runs: fn is told, Do waits for it, and says so.
func TestDoTellsTheLoss(t *testing.T) {
	t.Parallel()
	for what, lose := range map[string]func(*testing.T, *clientv3.Client, etcdtest.Network, Client, string){
		"the lease is revoked": func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, c Client, _ string) { crash(t, etcd, c) },
		"the key is deleted": func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, _ Client, name string) {
			_, err := etcd.Delete(t.Context(), name)
			require.NoError(t, err)
		},
		"the key is replaced": func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, _ Client, name string) {
			_, err := etcd.Put(t.Context(), name, "outsider")
			require.NoError(t, err)
			t.Cleanup(func() { etcd.Delete(context.Background(), name) })
		},
		"the network is gone": func(_ *testing.T, _ *clientv3.Client, net etcdtest.Network, _ Client, _ string) { net.Hold() },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			net := etcdtest.NewNetwork(t, machines)
			c := tapped(t, net.Endpoints(), 2, nil, nil)
			own := errors.New("fn's own")
			entered, told, leave, done := make(chan struct{}), make(chan error, 1), make(chan struct{}), make(chan error, 1)
			go func() {
				done <- c.Do(ctx, name, "v", func(ctx context.Context, _ int64) error {
					close(entered)
					<-ctx.Done()
					told <- context.Cause(ctx)
					<-leave
					return own
				})
			}()
			<-entered
			lose(t, etcd, net, c, name)
			select {
			case cause := <-told:
				require.ErrorIs(t, cause, ErrLost)
			case <-time.After(10 * time.Second):
				t.Fatal("fn is not told")
			}
			require.NoError(t, ctx.Err())
			net.Heal()
			select {
			case err := <-done:
				t.Fatalf("Do does not wait for fn: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			close(leave)
			err := <-done
			require.ErrorIs(t, err, own)
			require.ErrorIs(t, err, ErrLost)
			require.ErrorContains(t, err, name)
		})
	}
}

// The end of the caller's ctx reaches fn, and the lock is given back all the same.
func TestDoPassesTheCtxOn(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	c := calm(newClient(t, 5, 60))
	type key struct{}
	ctx, cancel := context.WithCancelCause(context.WithValue(limited(t), key{}, "value"))
	why := errors.New("enough")
	err := c.Do(ctx, name, "v", func(ctx context.Context, _ int64) error {
		require.Equal(t, "value", ctx.Value(key{}))
		cancel(why)
		<-ctx.Done()
		require.Equal(t, why, context.Cause(ctx))
		value, err := c.Get(name)
		require.NoError(t, err)
		require.Equal(t, "v", value, "the ctx must not end the hold")
		return ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrLost)
	nothingLeft(t, etcd, name)
}

func TestDoReturnsTheErrorOfFn(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	own := errors.New("fn's own")
	c := calm(newClient(t, 5, 60))
	require.Equal(t, own, c.Do(limited(t), name, "v", func(context.Context, int64) error { return own }))
	nothingLeft(t, etcd, name)
}

// etcd does not answer at the end: the error of fn and that of the release are both told.
func TestDoJoinsErrors(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	net := etcdtest.NewNetwork(t, machines)
	own := errors.New("fn's own")
	c := clientAt(t, net.Endpoints(), 5, 20)
	start := time.Now()
	err := c.Do(limited(t), name, "v", func(context.Context, int64) error {
		net.Hold()
		start = time.Now()
		return own
	})
	require.Less(t, time.Since(start), 5500*time.Millisecond, "the timeout + 500 ms")
	require.ErrorIs(t, err, own)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, name)
	net.Heal()
	nothingLeft(t, etcd, name)
}

func TestDoReleasesWhenFnPanics(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	c := calm(newClient(t, 5, 60))
	require.PanicsWithValue(t, "fn's own", func() {
		c.Do(limited(t), name, "v", func(context.Context, int64) error { panic("fn's own") })
	})
	resp, err := etcd.Get(t.Context(), name)
	require.NoError(t, err)
	require.Empty(t, resp.Kvs, "released before the panic goes on")

	// The same for runtime.Goexit, which is how a test ends in the middle.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Do(limited(t), name, "v", func(context.Context, int64) error { runtime.Goexit(); return nil })
	}()
	<-ended
	resp, err = etcd.Get(t.Context(), name)
	require.NoError(t, err)
	require.Empty(t, resp.Kvs)
}

// fn may give the lock back itself; then there is nothing to say against it but that Do finds it not held.
func TestUnlockWithinDo(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	c := calm(newClient(t, 5, 60))
	err := c.Do(limited(t), name, "v", func(ctx context.Context, _ int64) error {
		require.NoError(t, c.Unlock(name, nil))
		<-ctx.Done()
		return nil
	})
	require.ErrorIs(t, err, ErrNotHeld)
	nothingLeft(t, etcd, name)
}
