// Package security tests locker on clusters that ask who is there: certificates, users, roles, and tokens that expire.
package security

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	flag.Parse()
	flag.Set("test.parallel", "8") // tests mostly wait here
	etcdtest.Main(m)
}

// ttl is of most leases here, in seconds. A renewal that comes with a password needs the disk of etcd, which may be busy.
const ttl = 12

// soon bounds the wait for what has no time limit of its own.
const soon = 20 * time.Second

// startCluster starts an etcd to which passwords cost next to nothing.
func startCluster(t *testing.T, flags ...string) *etcdtest.Cluster {
	t.Helper()
	flags = append([]string{"--bcrypt-cost=4"}, flags...)
	return etcdtest.New(t, etcdtest.Options{Members: 1, Flags: flags})
}

// connect is an etcd client as a user of locker configures it.
func connect(t *testing.T, config clientv3.Config) *clientv3.Client {
	t.Helper()
	config.DialTimeout = soon
	config.Logger = clientv3.NewCtxClient(t.Context()).GetLogger()
	cli, err := clientv3.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	return cli
}

// newLocker is a client that the test closes at its end.
func newLocker(t *testing.T, cli *clientv3.Client, ttl int64) locker.Client {
	t.Helper()
	c, err := locker.NewFromClient(context.Background(), cli, ttl)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// enableAuth turns authentication on and returns a client with all rights. Every user of these may read and write
// the keys of their role, and those of the empty role none.
func enableAuth(t *testing.T, cluster *etcdtest.Cluster, users map[string]role) *clientv3.Client {
	t.Helper()
	ctx := t.Context()
	cli := connect(t, clientv3.Config{Endpoints: cluster.Endpoints()})
	users["root"] = role{}
	for user, r := range users {
		_, err := cli.UserAdd(ctx, user, password(user))
		require.NoError(t, err)
		_, err = cli.RoleAdd(ctx, user)
		require.NoError(t, err)
		if r.key != "" {
			_, err = cli.RoleGrantPermission(ctx, user, r.key, r.end, clientv3.PermissionType(clientv3.PermReadWrite))
			require.NoError(t, err)
		}
		_, err = cli.UserGrantRole(ctx, user, user)
		require.NoError(t, err)
	}
	_, err := cli.AuthEnable(ctx)
	require.NoError(t, err)
	return as(t, cluster, "root")
}

// role is a key, or the keys from there up to an end.
type role struct{ key, end string }

func prefix(key string) role { return role{key, clientv3.GetPrefixRangeEnd(key)} }

func password(user string) string { return user + "'s password" }

func account(cluster *etcdtest.Cluster, user string) clientv3.Config {
	return clientv3.Config{Endpoints: cluster.Endpoints(), Username: user, Password: password(user)}
}

func as(t *testing.T, cluster *etcdtest.Cluster, user string) *clientv3.Client {
	t.Helper()
	return connect(t, account(cluster, user))
}

var names atomic.Int64

func newName(prefix string) string { return fmt.Sprint(prefix, names.Add(1)) }

// keys are all keys that there are.
func keys(t *testing.T, root *clientv3.Client) []string {
	t.Helper()
	resp, err := root.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	require.NoError(t, err)
	keys := []string{}
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// watching is a Watch under way.
type watching struct {
	values chan string
	quit   chan bool
	result chan error
}

func watch(c locker.Client, name string) watching {
	w := watching{make(chan string), make(chan bool), make(chan error, 1)}
	go func() { w.result <- c.Watch(name, w.values, w.quit) }()
	return w
}

// next is the next value that it tells.
func (w watching) next(t *testing.T) (v string) {
	t.Helper()
	select {
	case v = <-w.values:
	case err := <-w.result:
		require.FailNow(t, "Watch has ended", err)
	case <-time.After(soon):
		require.FailNow(t, "Watch tells nothing")
	}
	return v
}

// end ends it.
func (w watching) end(t *testing.T) {
	t.Helper()
	close(w.quit)
	require.NoError(t, etcdtest.ReceiveWithin(t, w.result, soon))
}

func mustLock(t *testing.T, c locker.Client, name string) locker.Report {
	t.Helper()
	r := c.Lock(name, "value", nil)
	require.NoError(t, r.Err)
	require.Equal(t, locker.Success, r.Msg)
	require.True(t, r.Held())
	return r
}

// useAll goes through all that a lock can do, with two clients, and leaves nothing.
func useAll(t *testing.T, a, b locker.Client, name string) {
	t.Helper()
	watched := watch(b, name)
	require.Equal(t, "", watched.next(t))
	require.Equal(t, locker.Success, b.Inspect(name).Msg)
	mustLock(t, a, name)
	require.Equal(t, "value", watched.next(t))
	got, err := b.Get(name)
	require.NoError(t, err)
	require.Equal(t, "value", got)
	refused := b.Lock(name, "value", nil)
	require.Equal(t, locker.Report{Msg: locker.Fail, Done: refused.Done}, refused)

	served := make(chan error, 2)
	for _, c := range []locker.Client{a, b} {
		go func() {
			served <- c.Do(t.Context(), name, "served", func(context.Context, int64) error { return nil })
		}()
	}
	require.NoError(t, a.Unlock(name, nil))
	for range 2 {
		require.NoError(t, etcdtest.ReceiveWithin(t, served, soon))
	}
	for watched.next(t) != "" {
	}
	watched.end(t)
}
