package network

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/syncutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// A key is deleted before its watch is open, so only a listing of what the client holds tells. That is larger than the
// 4 MiB that gRPC takes unless it is told to take more.
func TestLossIsFoundInALargeListing(t *testing.T) {
	t.Parallel()
	const count, length, ttl = 9000, 600, 15
	var largest atomic.Int64
	etcd := connect(t, configs["New"](machines), grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, reply, cc, opts...)
			if listing, ok := reply.(*pb.LeaseTimeToLiveResponse); ok {
				largest.Store(max(largest.Load(), int64(proto.Size(listing))))
			}
			return err
		}))
	c := fromClient(t, etcd, ttl)
	held := make([]string, count)
	for i := range held {
		held[i] = fmt.Sprintf("%s/%d/%s", newName(t), i, strings.Repeat("x", length))
	}
	syncutil.ForEach(held, 1000, func(name string) { assert.Equal(t, locker.Success, c.Lock(name, "value", nil).Msg) })
	kept, name := mustLock(t, c, newName(t)), newName(t)
	lost := mustLock(t, c, name)
	_, err := etcdtest.Connect(t, machines).Delete(t.Context(), name)
	require.NoError(t, err)
	receive(t, lost.Done, soon)
	require.Greater(t, largest.Load(), int64(4<<20))
	require.True(t, kept.Held())
	syncutil.ForEach(held, 1000, func(name string) { assert.NoError(t, c.Unlock(name, nil)) }) // Close has only 5 s for them
}
