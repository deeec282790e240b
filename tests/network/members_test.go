package network

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// One of the endpoints is a learner, which refuses what the others take.
func TestLearnerAmongTheEndpoints(t *testing.T) {
	cluster := etcdtest.New(t, etcdtest.Options{Members: 3})
	require.NoError(t, cluster.Kill(2))
	require.NoError(t, cluster.Learner(2))
	for i := range 20 {
		c, err := locker.New(cluster.Endpoints(), 5, 15, context.Background())
		require.NoError(t, err, "New %d", i)
		assert.NoError(t, c.Close())
	}
	usePairs(t, newClient(t, cluster.Endpoints(), 5, 15))
	usePairs(t, fromClient(t, etcdtest.Connect(t, cluster.Endpoints()), 15))
}

// The code of the refusal depends on the version of etcd.
func TestRefusalByALearner(t *testing.T) {
	for _, code := range []codes.Code{codes.FailedPrecondition, codes.Unavailable} {
		t.Run(code.String(), func(t *testing.T) {
			var sent atomic.Int64
			refuse := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if sent.Add(1)%3 == 0 {
					return status.Error(code, "etcdserver: rpc not supported for learner")
				}
				return invoke(ctx, method, req, reply, cc, opts...)
			}
			etcd := connect(t, configs["NewFromClient"](machines), grpc.WithChainUnaryInterceptor(refuse))
			for i := range 20 {
				c, err := locker.NewFromClient(context.Background(), etcd, 15)
				require.NoError(t, err, "NewFromClient %d", i)
				assert.NoError(t, c.Close())
			}
			usePairs(t, fromClient(t, etcd, 15))
		})
	}
}

func usePairs(t *testing.T, c locker.Client) {
	t.Helper()
	for range 200 {
		name := newName(t)
		mustLock(t, c, name)
		require.NoError(t, c.Unlock(name, nil))
	}
}
