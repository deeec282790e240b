package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestMain lets the demo start this test program, as it starts itself, as the process that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "holder" {
		main()
	}
	etcdtest.Main(m)
}

// start returns a cluster that is not the demo's own, and a client of it.
func start(t *testing.T) ([]string, *clientv3.Client) {
	t.Helper()
	endpoints := etcdtest.New(t, etcdtest.Options{Members: 1}).Endpoints()
	return endpoints, etcdtest.Connect(t, endpoints)
}

func TestOnAClusterThatIsThere(t *testing.T) {
	endpoints, etcd := start(t)
	require.NoError(t, run(t.Context(), endpoints))

	keys, err := etcd.Get(t.Context(), "", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, keys.Kvs)
	leases, err := etcd.Leases(t.Context())
	require.NoError(t, err)
	require.Empty(t, leases.Leases)
}

// An outsider deletes every lock as soon as it sees it: what the demo tells is not true then, and it must not say so.
func TestFailsWhenLocksDoNotHold(t *testing.T) {
	endpoints, etcd := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	puts := etcd.Watch(ctx, "locker-demo-", clientv3.WithPrefix(), clientv3.WithFilterDelete())
	go func() {
		defer close(ended)
		for resp := range puts {
			for _, e := range resp.Events {
				if !strings.Contains(string(e.Kv.Key), "/.waiting/") {
					etcd.Delete(ctx, string(e.Kv.Key))
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	require.Error(t, run(t.Context(), endpoints))
}

func TestFailsWithoutACluster(t *testing.T) {
	require.Error(t, run(t.Context(), []string{"127.0.0.1:1"}))
}
