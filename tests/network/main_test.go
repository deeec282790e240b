// Package network tests locker on networks that are slow, lose connections, or have a silent member at their end. Limits
// are generous, for machines that are busy; the tests log how long it took.
package network

import (
	"context"
	"flag"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/dial"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

var machines []string

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8") // tests mostly wait here
	etcdtest.MainWithCluster(m, &machines)
}

// soon bounds the wait for what has no time limit of its own.
const soon = 20 * time.Second

var names atomic.Int64

func newName(t *testing.T) string { return fmt.Sprintf("%s/%d", t.Name(), names.Add(1)) }

// newClient is a client that the test closes at its end.
func newClient(t *testing.T, endpoints []string, timeout, ttl int64) locker.Client {
	t.Helper()
	c, err := locker.New(endpoints, timeout, ttl, context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// fromClient is the same on the connection of an etcd client.
func fromClient(t *testing.T, etcd *clientv3.Client, ttl int64) locker.Client {
	t.Helper()
	c, err := locker.NewFromClient(context.Background(), etcd, ttl)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// configs are those of the etcd clients that a locker may be on: its own, and that of a caller.
var configs = map[string]func(endpoints []string) clientv3.Config{
	"New": func(endpoints []string) clientv3.Config { return dial.Config(endpoints, 5*time.Second) },
	"NewFromClient": func(endpoints []string) clientv3.Config {
		return clientv3.Config{Endpoints: endpoints, Logger: clientv3.NewCtxClient(context.Background()).GetLogger()}
	},
}

// connect is an etcd client with options of the test.
func connect(t *testing.T, config clientv3.Config, opts ...grpc.DialOption) *clientv3.Client {
	t.Helper()
	config.DialOptions = append(config.DialOptions, opts...)
	etcd, err := clientv3.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { etcd.Close() })
	return etcd
}

func mustLock(t *testing.T, c locker.Client, name string) locker.Report {
	t.Helper()
	r := c.Lock(name, "value", nil)
	require.NoError(t, r.Err)
	require.Equal(t, locker.Success, r.Msg)
	return r
}

func receive[T any](t *testing.T, ch <-chan T, within time.Duration) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(within):
		require.FailNow(t, "nothing came", "within %v", within)
	}
	return v
}

// eventually waits for what no channel tells.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	eventuallyWithin(t, soon, what, cond)
}

func eventuallyWithin(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(t, "it never came to this: "+what)
		}
	}
}

// awaitWaiters waits until so many clients wait in etcd for locks whose names begin like that.
func awaitWaiters(t *testing.T, etcd *clientv3.Client, prefix string, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " wait"), func() bool {
		resp, err := etcd.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		require.NoError(t, err)
		places := 0
		for _, kv := range resp.Kvs {
			if isPlace(string(kv.Key)) {
				places++
			}
		}
		return places == n
	})
}

// awaitCount waits until there are so many keys with a prefix. It asks rarely: to count many keys costs etcd something.
func awaitCount(t *testing.T, etcd *clientv3.Client, prefix string, n int) {
	t.Helper()
	eventuallyWithin(t, 4*soon, fmt.Sprint(n, " keys"), func() bool {
		time.Sleep(50 * time.Millisecond)
		resp, err := etcd.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		return resp.Count == int64(n)
	})
}
