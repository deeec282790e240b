package security

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/syncutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// traffic counts what an etcd client sends: requests, and streams of watches.
type traffic struct{ requests, streams atomic.Int64 }

func (c *traffic) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			c.requests.Add(1)
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if method == "/etcdserverpb.Watch/Watch" {
				c.streams.Add(1)
			}
			return streamer(ctx, desc, cc, method, opts...)
		}),
	}
}

// manyWatches are the Watches of one client, of many names, each of which tells what it should.
type manyWatches struct {
	names    []string
	watching []watching
}

func watchMany(t *testing.T, c locker.Client, count int) (m manyWatches) {
	t.Helper()
	for range count {
		name := newName("team/many/")
		m.names = append(m.names, name)
		m.watching = append(m.watching, watch(c, name))
	}
	m.expect(t, "")
	return m
}

func (m manyWatches) expect(t *testing.T, value string) {
	t.Helper()
	for i, w := range m.watching {
		require.Equal(t, value, w.next(t), m.names[i])
	}
}

// tell changes what is watched, and expects all to tell that.
func (m manyWatches) tell(t *testing.T, root *clientv3.Client, value string) {
	t.Helper()
	syncutil.ForEach(m.names, 100, func(name string) {
		_, err := root.Put(t.Context(), name, value)
		assert.NoError(t, err)
	})
	m.expect(t, value)
}

func (m manyWatches) end(t *testing.T) {
	t.Helper()
	for _, w := range m.watching {
		w.end(t)
	}
}

const (
	open = 1000 // watches, when the stream has to be left
	more = 100  // begun then, all of which the stream refuses
)

// The stream of many watches has a token that counts no longer, or none where one is needed. It refuses new watches, and so
// all go to another one. Asking why costs a request for each that was refused, and not for those that had been open.
func testStreamIsLeft(t *testing.T, c locker.Client, root *clientv3.Client, sent *traffic, old manyWatches) {
	t.Helper()
	old.tell(t, root, "before")
	requests, streams := sent.requests.Load(), sent.streams.Load()
	fresh := watchMany(t, c, more)
	old.tell(t, root, "after")
	fresh.tell(t, root, "after")
	requests, streams = sent.requests.Load()-requests, sent.streams.Load()-streams
	t.Logf("%d requests and %d streams", requests, streams)
	assert.Less(t, requests, int64(4*more))
	assert.LessOrEqual(t, streams, int64(3))
	fresh.end(t)
	old.end(t)
}

func TestAuthIsSwitchedOnAmongManyWatches(t *testing.T) {
	t.Parallel()
	cluster, sent := startCluster(t), traffic{}
	config := account(cluster, "user")
	config.DialOptions = sent.options()
	c := newLocker(t, connect(t, config), 60)
	old := watchMany(t, c, open)
	root := enableAuth(t, cluster, map[string]role{"user": prefix("team/")})
	testStreamIsLeft(t, c, root, &sent, old)
}

func TestTokenExpiresAmongManyWatches(t *testing.T) {
	t.Parallel()
	cluster, sent := startCluster(t, jwtFlag(t)), traffic{}
	root := enableAuth(t, cluster, map[string]role{"user": prefix("team/")})
	config := account(cluster, "user")
	config.DialOptions = sent.options()
	c := newLocker(t, connect(t, config), 60)
	old := watchMany(t, c, open)
	awaitExpiry(t, cluster.Endpoints()[0])
	testStreamIsLeft(t, c, root, &sent, old)
}

// A right that is missing for one watch ends that one, and the others hardly notice.
func TestRightIsMissingForOneOfManyWatches(t *testing.T) {
	t.Parallel()
	cluster, sent := startCluster(t), traffic{}
	root := enableAuth(t, cluster, map[string]role{"user": prefix("team/")})
	config := account(cluster, "user")
	config.DialOptions = sent.options()
	c := newLocker(t, connect(t, config), 60)
	others := watchMany(t, c, more)
	for i := range 3 {
		denied := watch(c, newName("other/"))
		require.ErrorIs(t, etcdtest.ReceiveWithin(t, denied.result, soon), rpctypes.ErrPermissionDenied)
		others.tell(t, root, fmt.Sprint("value ", i))
	}
	assert.LessOrEqual(t, sent.streams.Load(), int64(2), "the stream was left")
	others.end(t)
}
