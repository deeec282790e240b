package security

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// tokenLife is how long a token lasts; the locks are held with one lease for far longer.
const tokenLife = 2 * time.Second

func TestTokensExpire(t *testing.T) {
	t.Parallel()
	t.Run("simple", func(t *testing.T) {
		t.Parallel()
		testTokensExpire(t, "--auth-token-ttl=2")
	})
	t.Run("JWT", func(t *testing.T) {
		t.Parallel()
		testTokensExpire(t, jwtFlag(t))
	})
}

// jwtFlag makes etcd give out tokens whose life no use prolongs.
func jwtFlag(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	dir := t.TempDir()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	return "--auth-token=jwt,sign-method=RS256,ttl=2s" +
		",pub-key=" + writePEM(t, dir, "public.pem", "PUBLIC KEY", public) +
		",priv-key=" + writePEM(t, dir, "private.pem", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func testTokensExpire(t *testing.T, flag string) {
	cluster := startCluster(t, flag)
	root := enableAuth(t, cluster, map[string]role{"user": prefix("team/")})
	// One connection for both: the watches of both use one stream, opened with a token that will have expired.
	config := account(cluster, "user")
	var requests atomic.Int64
	config.DialOptions = []grpc.DialOption{grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
		conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := req.(*pb.TxnRequest); ok {
			requests.Add(1)
		}
		return invoke(ctx, method, req, reply, conn, opts...)
	})}
	cli := connect(t, config)
	a, b := newLocker(t, cli, 60), newLocker(t, cli, ttl) // one lease outlives all here without a renewal, the other does not
	name, contended := newName("team/"), newName("team/")

	watched := watch(b, name)
	require.Equal(t, "", watched.next(t))
	r := mustLock(t, a, name)
	require.Equal(t, "value", watched.next(t))
	short := mustLock(t, b, contended)
	waiter := make(chan locker.Report, 1)
	go func() { waiter <- a.LockWait(t.Context(), contended, "value", nil) }()
	etcdtest.EventuallyWithin(t, soon, "it waits", func() bool { return len(keys(t, root)) == 3 })

	for range 3 { // and so for more than ttl
		before, start := requests.Load(), time.Now()
		awaitExpiry(t, cluster.Endpoints()[0])
		// The waiter looks once a second, and a stream that is left costs a few requests. On a busy machine some are sent twice.
		most := 16 + 3*int64(time.Since(start)/time.Second)
		require.Less(t, requests.Load()-before, most, "a watch that is refused must not be asked for all the time")

		require.True(t, r.Held())
		require.True(t, short.Held())
		require.Equal(t, locker.Fail, b.Inspect(name).Msg)
		require.NoError(t, a.Unlock(name, nil))
		require.Equal(t, "", watched.next(t))
		r = mustLock(t, a, name)
		require.Equal(t, "value", watched.next(t))
		// New watches on old streams.
		useAll(t, a, b, newName("team/"))
	}

	require.NoError(t, b.Unlock(contended, nil))
	require.Equal(t, locker.Success, etcdtest.ReceiveWithin(t, waiter, soon).Msg)
	require.NoError(t, a.Unlock(contended, nil))
	require.NoError(t, a.Unlock(name, nil))
	require.Equal(t, "", watched.next(t))
	watched.end(t)
	require.Empty(t, keys(t, root))
}

// Every stream of renewals is opened with the password. Here that takes longer than an answer may take before another
// stream is opened beside the one that is late, and it must not cost the lease.
func TestSlowPasswords(t *testing.T) {
	t.Parallel()
	const (
		ttl   = 16
		check = ttl * time.Second / 4 // twice as long as that
	)
	cluster := startCluster(t)
	enableAuth(t, cluster, map[string]role{"user": prefix("team/")})
	config := account(cluster, "user")
	var slow atomic.Bool
	var checks atomic.Int64
	config.DialOptions = []grpc.DialOption{grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
		conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := req.(*pb.AuthenticateRequest); ok && slow.Load() {
			checks.Add(1)
			select {
			case <-time.After(check):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return invoke(ctx, method, req, reply, conn, opts...)
	})}
	c := newLocker(t, connect(t, config), ttl)
	slow.Store(true)
	r := mustLock(t, c, newName("team/"))
	select {
	case <-r.Done:
		require.FailNow(t, "the lock is lost")
	case <-time.After(ttl * time.Second): // it is not held any more without a renewal
	}
	require.True(t, r.Held())
	require.Greater(t, checks.Load(), int64(1), "no stream was late: this test shows nothing")
}

// awaitExpiry waits until a token that was given out after all others has expired. It is asked for rarely: a use
// gives a simple token a new life.
func awaitExpiry(t *testing.T, endpoint string) {
	t.Helper()
	conn := connect(t, clientv3.Config{Endpoints: []string{endpoint}}).ActiveConnection()
	auth, err := pb.NewAuthClient(conn).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "user", Password: password("user")})
	require.NoError(t, err)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", auth.Token)
	expired := false
	for end := time.Now().Add(soon); !expired && time.Now().Before(end); {
		<-time.After(2 * tokenLife)
		_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("team/")})
		expired = err != nil
	}
	require.ErrorContains(t, err, "invalid auth token")
}
