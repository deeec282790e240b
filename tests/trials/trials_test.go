// Package trials repeats what takes long or needs luck: partitions at every moment of a lease's life, beside the same
// trials of etcd's own client, and long outages.
package trials

import (
	"context"
	"flag"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

var machines []string

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "16") // tests mostly wait here
	etcdtest.MainWithCluster(m, &machines)
}

func newClient(t testing.TB, endpoints []string, timeout, ttl int64) locker.Client {
	t.Helper()
	c, err := locker.New(endpoints, timeout, ttl, context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}
