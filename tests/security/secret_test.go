package security

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	childEnv = "LOCKER_SECURITY_CHILD" // makes this binary tellAll
	secret   = "s3cr3t-value"          // the values of locks
)

// Nothing that is secret is told: not by the debug option, not by the logger of etcd's client, and not in errors.
func TestSecretsAreKept(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t)
	root := enableAuth(t, cluster, map[string]role{"user": prefix("team/")})
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1", "LOCKER_DEBUG=1", "ETCD_CLIENT_DEBUG=debug", "LOCKER_ENDPOINTS="+cluster.Endpoints()[0])
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	output := string(out)
	for _, told := range []string{"locker: held", "team/name", "permission denied", "authentication failed", "user name is empty", "large", "invalid lock value"} {
		require.Contains(t, output, told)
	}
	for _, hidden := range []string{secret, password("user"), "wrong"} {
		require.NotContains(t, output, hidden)
	}
	require.Empty(t, keys(t, root))
}

// child meets as many errors as it can, and prints them in every way that there is.
func child() {
	ctx := context.Background()
	endpoints := etcdtest.EndpointsFromEnv()
	tell := func(vs ...any) {
		for _, v := range vs {
			fmt.Printf("%v\n%+v\n%#v\n%q\n", v, v, v, v)
		}
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Username: "user", Password: password("user")})
	if err != nil {
		panic(err)
	}
	defer cli.Close()
	a, err := locker.NewFromClient(ctx, cli, ttl)
	if err != nil {
		panic(err)
	}
	b, err := locker.NewFromClient(ctx, cli, ttl)
	if err != nil {
		panic(err)
	}
	const name = "team/name"
	use := func(c locker.Client, name, value string) {
		quit := make(chan bool)
		tell(c.Lock(name, value, quit))
		tell(c.Lock(name, value, nil).Err)
		ended, cancel := context.WithCancel(ctx)
		waited := make(chan locker.Report)
		go func() { waited <- b.LockWait(ended, name, value, nil) }()
		cancel()
		tell((<-waited).Err)
		tell(c.Inspect(name))
		tell(c.Unlock(name, quit), c.Unlock(name, nil))
		tell(c.Do(ctx, name, value, func(context.Context, int64) error {
			_, err := cli.Delete(ctx, name)
			return err
		}))
	}
	use(a, name, secret)
	use(a, "other", secret)
	use(a, "team/.waiting/", secret)
	use(a, name, strings.Repeat(secret, 200<<10))
	use(a, name, "")

	_, err = clientv3.New(clientv3.Config{Endpoints: endpoints, Username: "user", Password: "wrong-" + password("user")})
	tell(err)
	_, err = locker.New(endpoints, 2, ttl, ctx)
	tell(err)
	tell(a.Close(), b.Close())
	use(a, name, secret)
	use(locker.Client{}, name, secret)
}
