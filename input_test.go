package locker

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// calls are all that takes a name; each gives the error.
var calls = map[string]func(c Client, name, value string) error{
	"Lock": func(c Client, name, value string) error { return refused(c.Lock(name, value, nil)) },
	"LockWait": func(c Client, name, value string) error {
		return refused(c.LockWait(context.Background(), name, value, nil))
	},
	"Do": func(c Client, name, value string) error {
		return c.Do(context.Background(), name, value, func(context.Context, int64) error { panic("not locked") })
	},
	"Unlock":  func(c Client, name, _ string) error { return c.Unlock(name, nil) },
	"Get":     func(c Client, name, _ string) error { _, err := c.Get(name); return err },
	"Inspect": func(c Client, name, _ string) error { return refused(c.Inspect(name)) },
	"Watch":   func(c Client, name, _ string) error { return c.Watch(name, make(chan string), nil) },
}

// refused is the error of a report that must be one of failure, in every respect.
func refused(r Report) error {
	if r.Msg != Fail || r.Held() || r.Token != 0 || r.Done == nil {
		return nil
	}
	select {
	case <-r.Done:
		return r.Err
	default:
		return nil
	}
}

func TestBadNamesAndValues(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	prefix := newName()
	for what, call := range calls {
		for _, name := range []string{"", waiting, prefix + waiting, prefix + waiting + "1a", prefix + "/a" + waiting + "b", prefix + "/.waiting"} {
			require.ErrorIs(t, call(c, name, DefaultValue), ErrInvalidName, "%s %q", what, name)
		}
	}
	for _, what := range []string{"Lock", "LockWait", "Do"} {
		require.ErrorIs(t, calls[what](c, prefix, ""), ErrInvalidValue, what)
	}
	resp, err := etcd.Get(t.Context(), prefix, clientv3.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, resp.Kvs, "nothing is written")

	// These look like it, and are not reserved.
	for _, name := range []string{prefix + "/.waitin", prefix + ".waiting/", prefix + "/waiting/", prefix + "\x00\xff", prefix + "/"} {
		mustLock(t, c, name, "\x00", nil)
	}
}

func TestNilChannels(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name := newName()
	require.ErrorContains(t, c.Watch(name, nil, make(chan bool)), "nil channel")
	mustLock(t, c, name, DefaultValue, nil)
	require.NoError(t, c.Unlock(name, nil))
}

func TestNoClientGiven(t *testing.T) {
	t.Parallel()
	c, err := NewFromClient(t.Context(), nil, 5)
	require.Error(t, err)
	require.ErrorIs(t, c.Close(), ErrClosed)
}

func TestNumbersThatAreNotGiven(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Connect(t, machines)
	for _, n := range []int64{0, -1, -1 << 63} {
		c := newClient(t, n, n)
		require.Equal(t, 5*time.Second, c.timeout)
		lease, err := etcd.TimeToLive(t.Context(), c.live[0].id)
		require.NoError(t, err)
		require.Equal(t, max(5, int64(c.live[0].granted()/time.Second)), lease.GrantedTTL)
		mustLock(t, c, newName(), DefaultValue, nil)
	}
}

func TestUseAfterTheEnd(t *testing.T) {
	t.Parallel()
	closed, err := New(machines, 5, 5, context.Background())
	require.NoError(t, err)
	name := newName()
	r := mustLock(t, closed, name, DefaultValue, nil)
	twin := closed // copies share one state
	require.NoError(t, twin.Close())
	require.NoError(t, closed.Close(), "a second Close says what the first did")
	require.False(t, r.Held())
	receive(t, r.Done, 0)

	ctx, cancel := context.WithCancel(context.Background())
	left, err := New(machines, 5, 5, ctx)
	require.NoError(t, err)
	cancel()
	receive(t, left.ctx.Done(), soon)

	for what, call := range calls {
		for _, c := range []Client{closed, left, {}} {
			require.ErrorIs(t, call(c, name, DefaultValue), ErrClosed, what)
		}
	}
	require.NoError(t, left.Close())
	require.ErrorIs(t, Client{}.Close(), ErrClosed)
	require.Nil(t, stored(t, etcdtest.Connect(t, machines), name))
}

func TestNewAfterTheEndOfItsCtx(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := New(machines, 5, 5, ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestNumbersThatAreTooLarge(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{math.MaxInt64, 1 << 40, maxSeconds + 1} {
		require.Equal(t, maxSeconds*time.Second, seconds(n))
		require.True(t, time.Now().Add(seconds(n)).After(time.Now()))
	}
}
