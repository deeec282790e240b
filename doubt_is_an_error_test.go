package locker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestDeadCluster(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	for name, fault := range map[string]struct {
		strike func(*etcdtest.Proxy)
		cause  string
	}{
		"closed ports": {(*etcdtest.Proxy).Close, "connection refused"},
		"silent ports": {func(p *etcdtest.Proxy) { p.Swallow() }, "no answer from etcd in time"},
	} {
		t.Run(name, func(t *testing.T) {
			n := etcdtest.NewNetwork(t, machines)
			c, err := New(n.Endpoints(), 1, 30, context.Background())
			require.NoError(t, err)
			held := etcdtest.NewName()
			mustLock(t, c, held, DefaultValue, nil)
			free := etcdtest.NewName()
			n.Each(fault.strike)
			for _, call := range []struct {
				name string
				f    func() error
			}{
				{"New", func() error {
					_, err := New(n.Endpoints(), 1, 5, context.Background())
					return err
				}},
				{"Lock", func() error {
					r := c.Lock(free, DefaultValue, nil)
					assert.Equal(t, Fail, r.Msg)
					return r.Err
				}},
				{"Unlock", func() error { return c.Unlock(held, nil) }},
				{"Get", func() error {
					_, err := c.Get(free)
					return err
				}},
				{"Inspect", func() error {
					r := c.Inspect(free)
					assert.Equal(t, Fail, r.Msg)
					return r.Err
				}},
				{"Watch", func() error { return c.Watch(free, make(chan string), nil) }},
				{"Close", c.Close},
			} {
				start := time.Now()
				err := call.f()
				assert.Less(t, time.Since(start), timeout+slack, call.name)
				assert.ErrorIs(t, err, context.DeadlineExceeded, call.name)
				assert.ErrorContains(t, err, fault.cause, call.name)
			}
		})
	}
}

// What etcd says can be found in the error, and concerns the one who asked.
func TestLock_ErrorOfEtcd(t *testing.T) {
	t.Parallel()
	name, etcd := etcdtest.NewName(), etcdtest.Connect(t, machines)
	refused := false
	c := tapped(t, machines, 60, func(ctx context.Context, req, reply any, send sender) error {
		if puts(req, name) && !refused {
			refused = true
			return rpctypes.ErrGRPCRequestTooLarge
		}
		return send(ctx, reply)
	}, nil)
	r := c.Lock(name, strings.Repeat("x", 10<<10), nil)
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, rpctypes.ErrRequestTooLarge)
	require.Contains(t, r.Err.Error(), name)
	require.Less(t, len(r.Err.Error()), 1000, "no value in an error")
	require.Nil(t, stored(t, etcd, name))
	mustLock(t, c, name, DefaultValue, nil)
}

// Close says nil only when etcd has confirmed that all is given back, also where the lease runs out in the meantime.
func TestClose_NotConfirmed(t *testing.T) {
	n := etcdtest.NewNetwork(t, machines)
	c, err := New(n.Endpoints(), 4, 2, context.Background())
	require.NoError(t, err)
	s, name := c.leases.All()[0], etcdtest.NewName()
	mustLock(t, c, name, DefaultValue, nil)
	n.Swallow()
	start := time.Now()
	require.ErrorContains(t, c.Close(), "no answer from etcd in time")
	require.Less(t, time.Since(start), 4500*time.Millisecond)
	require.ErrorContains(t, s.Err(), "could not be renewed in time", "its lease has not run out: this test shows nothing")
}

// A wait that ends with its ctx while somebody else has the lock says so, and does not blame etcd.
func TestLockWait_CtxEndsWhileHeld(t *testing.T) {
	t.Parallel()
	a, b, name := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.NewName()
	mustLock(t, a, name, "v", nil)
	for what, c := range map[string]Client{"in the process": a, "in etcd": b} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		r := c.LockWait(ctx, name, "v", nil)
		cancel()
		require.Equal(t, Fail, r.Msg, what)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded, what)
		require.ErrorAs(t, r.Err, new(LockDenied), what)
		require.NotContains(t, r.Err.Error(), "no answer", what)
	}
}

func TestLockWait_NilCtx(t *testing.T) {
	t.Parallel()
	r := newClient(t, 5, 5).LockWait(nil, etcdtest.NewName(), "v", nil) //lint:ignore SA1012 this is what is tested
	require.Equal(t, Fail, r.Msg)
	require.ErrorContains(t, r.Err, "no ctx")
}
