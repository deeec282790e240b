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

// timeoutInDoubt is the timeout, in seconds, of the clients that ask an etcd which cannot answer.
const timeoutInDoubt = 1

// callsInDoubt makes every call to an etcd that cannot answer, with a client that holds the lock "held" by a lease that
// lasts. Each must end in time with an error, and none may be a success. It returns the errors by the name of the call.
func callsInDoubt(t *testing.T, endpoints []string, c Client, held string) map[string]error {
	t.Helper()
	free, waitedFor, wanted := etcdtest.NewName(), etcdtest.NewName(), etcdtest.NewName() // no call waits for the clean-up of another
	failed := func(r Report) error {
		assert.Equal(t, Fail, r.Msg)
		assert.False(t, r.Held())
		assert.Zero(t, r.Token)
		return r.Err
	}
	errs := map[string]error{}
	for _, call := range []struct {
		name string
		f    func() error
	}{
		{"New", func() error {
			_, err := New(endpoints, timeoutInDoubt, 5, context.Background())
			return err
		}},
		{"Lock", func() error { return failed(c.Lock(free, DefaultValue, nil)) }},
		{"LockWait", func() error { return failed(c.LockWait(context.Background(), waitedFor, DefaultValue, nil)) }},
		{"Do", func() error {
			return c.Do(context.Background(), wanted, DefaultValue, func(context.Context, int64) error {
				assert.Fail(t, "fn runs without the lock")
				return nil
			})
		}},
		{"Unlock", func() error { return c.Unlock(held, nil) }},
		{"Get", func() error {
			_, err := c.Get(free)
			assert.NotErrorAs(t, err, new(LockNotFound), "nobody knows that")
			return err
		}},
		{"Inspect", func() error { return failed(c.Inspect(free)) }},
		{"Watch", func() error { return c.Watch(free, make(chan string), nil) }},
		{"Close", c.Close},
	} {
		start := time.Now()
		errs[call.name] = call.f()
		assert.Less(t, time.Since(start), timeoutInDoubt*time.Second+slack, call.name)
		assert.Error(t, errs[call.name], call.name)
	}
	return errs
}

// Where etcd cannot say whether a lock is free, every call answers with an error in time, and none with Success.
func TestDoubtIsAnError(t *testing.T) {
	t.Parallel()
	for what, fault := range map[string]struct {
		strike func(*etcdtest.Proxy)
		cause  string
	}{
		"closed ports":     {(*etcdtest.Proxy).Close, "connection refused"},
		"silent ports":     {func(p *etcdtest.Proxy) { p.Swallow() }, "no answer from etcd in time"},
		"answers are lost": {func(p *etcdtest.Proxy) { p.Swallow(etcdtest.ToClient) }, "no answer from etcd in time"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			n := etcdtest.NewNetwork(t, machines)
			c, err := New(n.Endpoints(), timeoutInDoubt, 60, context.Background())
			require.NoError(t, err)
			held := etcdtest.NewName()
			mustLock(t, c, held, DefaultValue, nil)
			n.Each(fault.strike)
			for call, err := range callsInDoubt(t, n.Endpoints(), c, held) {
				assert.ErrorIs(t, err, context.DeadlineExceeded, call)
				assert.ErrorContains(t, err, fault.cause, call)
			}
		})
	}
	t.Run("no quorum", func(t *testing.T) {
		t.Parallel()
		cluster := etcdtest.New(t, etcdtest.Options{Members: 3})
		c, err := New(cluster.Endpoints(), timeoutInDoubt, 60, context.Background())
		require.NoError(t, err)
		held := etcdtest.NewName()
		mustLock(t, c, held, DefaultValue, nil)
		require.NoError(t, cluster.Kill(0, 1))
		callsInDoubt(t, cluster.Endpoints(), c, held)
	})
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

// Close says nil only when etcd has confirmed that all is given back.
func TestClose_NotConfirmed(t *testing.T) {
	n := etcdtest.NewNetwork(t, machines)
	c, err := New(n.Endpoints(), 4, 2, context.Background())
	require.NoError(t, err)
	mustLock(t, c, etcdtest.NewName(), DefaultValue, nil)
	n.Swallow()
	start := time.Now()
	require.ErrorContains(t, c.Close(), "no answer from etcd in time")
	require.Less(t, time.Since(start), 4500*time.Millisecond)
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
