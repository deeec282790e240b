// Package peers runs what the tests of others check, written anew, against locker, and where that is cheap against etcd's
// own concurrency.Mutex and Election in the same test. docs/peers-tests.md is the table of it.
package peers

import (
	"context"
	"flag"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

var machines []string

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "16") // tests mostly wait here
	etcdtest.MainWithCluster(m, &machines)
}

// newClient is a client of locker that the test closes at its end.
func newClient(t testing.TB, endpoints []string, timeout, ttl int64) locker.Client {
	t.Helper()
	c, err := locker.New(endpoints, timeout, ttl, context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// newSession is a session of the peer, with an etcd client of its own.
func newSession(t testing.TB, endpoints []string, ttl int) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(etcdtest.Connect(t, endpoints), concurrency.WithTTL(ttl))
	require.NoError(t, err)
	t.Cleanup(s.Orphan)
	return s
}

// keys are those of a lock and of who waits for it, as they came: the holder's is the first, until somebody hands over.
func keys(t testing.TB, etcd *clientv3.Client, name string) []*mvccpb.KeyValue {
	t.Helper()
	resp, err := etcd.Get(t.Context(), name, clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	require.NoError(t, err)
	return resp.Kvs
}

// awaitKeys waits until a lock and those who wait for it have so many keys.
func awaitKeys(t testing.TB, etcd *clientv3.Client, name string, n int) {
	t.Helper()
	etcdtest.Eventually(t, "the keys are there", func() bool { return len(keys(t, etcd, name)) == n })
}

// loseSession ends the lease of one of these keys, as if its TTL had passed.
func loseSession(t testing.TB, etcd *clientv3.Client, name string, key int) {
	t.Helper()
	_, err := etcd.Revoke(t.Context(), clientv3.LeaseID(keys(t, etcd, name)[key].Lease))
	require.NoError(t, err)
}
