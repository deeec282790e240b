package locker

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// machines are the members of the cluster that the tests share: LOCKER_ENDPOINTS, or three members of their own.
var machines []string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
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

// newName is a name that no other test uses.
func newName() string {
	return fmt.Sprintf("test-%d-%d/%d", os.Getpid(), time.Now().UnixNano(), names.Add(1))
}

// newClient is a client that the test closes at its end.
func newClient(t testing.TB, timeout, ttl int64) Client {
	t.Helper()
	c, err := New(machines, timeout, ttl, context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// newEtcd is an etcd client of the test's own.
func newEtcd(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: clientv3.NewCtxClient(context.Background()).GetLogger()})
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	return cli
}

func TestRaceForAFreeKey(t *testing.T) {
	var clients []Client
	for range 10 {
		clients = append(clients, newClient(t, 5, 5))
	}
	name := newName()
	var last int64
	for range 50 {
		reports := make([]Report, len(clients))
		var running sync.WaitGroup
		for i, c := range clients {
			running.Go(func() { reports[i] = c.Lock(name, DefaultValue, nil) })
		}
		running.Wait()
		winner := -1
		for i, r := range reports {
			require.NoError(t, r.Err)
			if r.Msg == Success {
				require.Equal(t, -1, winner, "two winners")
				winner = i
			}
		}
		require.NotEqual(t, -1, winner, "no winner")
		require.Greater(t, reports[winner].Token, last)
		last = reports[winner].Token
		require.NoError(t, clients[winner].Unlock(name, nil))
	}
}

func TestHandOver(t *testing.T) {
	a, b := newClient(t, 5, 5), newClient(t, 5, 5)
	name := newName()
	start := time.Now()
	n := 0
	var mu sync.Mutex
	var last int64
	var running sync.WaitGroup
	for _, c := range []Client{a, b} {
		for range 2 {
			running.Go(func() {
				for range 100 {
					err := c.Do(context.Background(), name, "v", func(ctx context.Context, token int64) error {
						require.True(t, mu.TryLock())
						require.Greater(t, token, last)
						last = token
						n++
						mu.Unlock()
						return nil
					})
					require.NoError(t, err)
				}
			})
		}
	}
	running.Wait()
	t.Log(n, time.Since(start))
}
