package security

import (
	"sync"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watches that are refused two at a time must leave nothing that hangs: the streams of clientv3 end in a deadlock with that
// one time in some hundred, and its Close does not return then. The library's own stream must not.
func TestRefusedWatches(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t)
	quiet := clientv3.NewCtxClient(t.Context()).GetLogger()
	cli, err := clientv3.New(clientv3.Config{Endpoints: cluster.Endpoints(), Logger: quiet})
	require.NoError(t, err)
	c, err := locker.NewFromClient(t.Context(), cli, ttl)
	require.NoError(t, err)
	enableAuth(t, cluster, map[string]role{}) // it is nobody from now on
	for range 1500 {
		var watching sync.WaitGroup
		for range 2 {
			watching.Go(func() {
				if c.Watch("name", make(chan string), nil) == nil {
					t.Error("a watch of nobody's")
				}
			})
		}
		watching.Wait()
	}
	if err := c.Close(); err != nil { // else its lease was over by then: nobody may renew it either
		require.ErrorContains(t, err, "user name is empty")
	}
	closed := make(chan error, 1)
	go func() { closed <- cli.Close() }()
	require.NoError(t, etcdtest.ReceiveWithin(t, closed, soon))
}
