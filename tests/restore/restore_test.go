// Package restore tests what becomes of locks when etcd goes on with other data than its clients have seen.
package restore

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

const (
	ttl = 15 * time.Second

	// told is long enough for a renewal and its answer, and shorter than what it takes for a lease to be lost by silence.
	told = ttl/3 + 3*time.Second
)

// server is a cluster of one member, whose data a test can exchange.
type server struct {
	*etcdtest.Cluster
	t    *testing.T
	data string
}

func newServer(t *testing.T) server {
	dir := t.TempDir()
	s := server{etcdtest.New(t, etcdtest.Options{Members: 1, Dir: dir}), t, ""}
	found, err := filepath.Glob(filepath.Join(dir, "*", "m0"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	s.data = found[0]
	return s
}

// backup stops the member, copies its data, and starts it again.
func (s server) backup() (dir string) {
	dir = filepath.Join(s.t.TempDir(), "backup")
	require.NoError(s.t, s.Stop(0))
	require.NoError(s.t, os.CopyFS(dir, os.DirFS(s.data)))
	require.NoError(s.t, s.Cluster.Start(0))
	return dir
}

// restore kills the member and starts it on other data.
func (s server) restore(backup string) {
	require.NoError(s.t, s.Kill(0))
	require.NoError(s.t, os.RemoveAll(s.data))
	require.NoError(s.t, os.Rename(backup, s.data))
	require.NoError(s.t, s.Cluster.Start(0))
}

// client returns a client, and the number of watch streams that it has opened.
func (s server) client() (locker.Client, *atomic.Int64) {
	var watches atomic.Int64
	config := locker.Config(s.Endpoints(), 5*time.Second)
	config.DialOptions = append(config.DialOptions, grpc.WithChainStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if method == "/etcdserverpb.Watch/Watch" {
				watches.Add(1)
			}
			return open(ctx, desc, cc, method, opts...)
		}))
	cli, err := clientv3.New(config)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { cli.Close() })
	c, err := locker.NewFromClient(context.Background(), cli, int64(ttl.Seconds()))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c, &watches
}

func lock(t *testing.T, c locker.Client, name string) (r locker.Report) {
	t.Helper()
	etcdtest.Eventually(t, "the lock is taken", func() bool {
		r = c.Lock(name, "value", nil)
		return r.Held()
	})
	return r
}

// etcd goes back to a backup that has the leases of its clients, but not the lock: the holder is told with the first
// answer, and its release does not meet the next holder, whose token may be the same.
func TestRolledBack(t *testing.T) {
	const young, watched, released = "a lock that was just taken", "a lock that is watched", "a lock that is released at once"
	for _, kind := range []string{young, watched, released} {
		t.Run(kind, func(t *testing.T) {
			s := newServer(t)
			a, watches := s.client()
			b, _ := s.client()
			backup := s.backup()
			held := lock(t, a, "name")
			if kind == watched {
				etcdtest.EventuallyWithin(t, told, "the lock is watched", func() bool { return watches.Load() > 0 })
			}
			s.restore(backup)
			restored := time.Now()
			next := lock(t, b, "name")
			t.Logf("tokens %d and %d", held.Token, next.Token)
			if kind != released {
				etcdtest.ReceiveWithin(t, held.Done, told)
				t.Logf("told after %v", time.Since(restored))
				require.False(t, held.Held())
			}
			require.ErrorIs(t, a.Unlock("name", nil), locker.ErrLost)
			require.True(t, next.Held())
			_, err := b.Get("name")
			require.NoError(t, err, "the next holder's key is there")
			require.NoError(t, b.Unlock("name", nil))
			require.NoError(t, lockOnce(a, "another"), "the client goes on")
		})
	}
}

// The first answer with a lower revision tells of all that is lost, whatever it is the answer to.
func TestRolledBack_AllIsLostAtOnce(t *testing.T) {
	s := newServer(t)
	c, _ := s.client()
	backup := s.backup()
	first, second := lock(t, c, "first"), lock(t, c, "second")
	s.restore(backup)
	require.ErrorIs(t, c.Unlock("first", nil), locker.ErrLost)
	require.False(t, first.Held())
	require.False(t, second.Held())
	etcdtest.Receive(t, second.Done)
	require.ErrorIs(t, c.Unlock("second", nil), locker.ErrLost)
}

func lockOnce(c locker.Client, name string) error {
	r := c.Lock(name, "value", nil)
	return r.Err
}

// Another cluster answers at the addresses of the one that the lock was taken in.
func TestAnotherCluster(t *testing.T) {
	s, another := newServer(t), newServer(t)
	c, watches := s.client()
	held := lock(t, c, "name")
	etcdtest.EventuallyWithin(t, told, "the lock is watched", func() bool { return watches.Load() > 0 })
	s.restore(another.backup())
	restored := time.Now()
	etcdtest.ReceiveWithin(t, held.Done, told)
	t.Logf("told after %v", time.Since(restored))
	require.ErrorIs(t, c.Unlock("name", nil), locker.ErrLost)
	require.ErrorContains(t, lockOnce(c, "name"), "different etcd clusters")
}
