// Package trials repeats what takes long or needs luck: partitions at every moment of a lease's life, beside the same
// trials of etcd's own client, and long outages.
package trials

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

var machines []string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	flag.Set("test.parallel", "16") // tests mostly wait here
	machines = etcdtest.EndpointsFromEnv()
	if len(machines) == 0 {
		cluster, err := etcdtest.Start(context.Background(), etcdtest.Options{Members: 3})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer cluster.Close()
		machines = cluster.Endpoints()
	}
	return m.Run()
}

var names atomic.Int64

// newName is a name that no other trial uses.
func newName() string {
	return fmt.Sprintf("trial-%d-%d/%d", os.Getpid(), time.Now().UnixNano(), names.Add(1))
}

// network is a client's own way to the cluster: one proxy in front of every member.
type network []*etcdtest.Proxy

func newNetwork(t testing.TB) (n network) {
	t.Helper()
	for _, target := range machines {
		p, err := etcdtest.NewProxy(target)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		n = append(n, p)
	}
	return n
}

func (n network) endpoints() (urls []string) {
	for _, p := range n {
		urls = append(urls, p.URL())
	}
	return urls
}

// each does the same to the ways to all members.
func (n network) each(f func(*etcdtest.Proxy)) {
	for _, p := range n {
		f(p)
	}
}

func newClient(t testing.TB, endpoints []string, timeout, ttl int64) locker.Client {
	t.Helper()
	c, err := locker.New(endpoints, timeout, ttl, context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func newEtcd(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: clientv3.NewCtxClient(context.Background()).GetLogger()})
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	return cli
}
