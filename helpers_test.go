package locker

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// soon bounds the wait for what has no time limit of its own.
const soon = 10 * time.Second

// eventually waits for what no channel tells.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(t, "it never came to this: "+what)
		}
	}
}

// receive is the next value of ch, or the zero value once it is closed.
func receive[T any](t testing.TB, ch <-chan T, within time.Duration) (v T) {
	t.Helper()
	select {
	case v = <-ch:
		return v
	default:
	}
	select {
	case v = <-ch:
	case <-time.After(within):
		require.FailNow(t, "nothing came", "within %v", within)
	}
	return v
}

// send sends v, which somebody must receive.
func send[T any](t testing.TB, ch chan<- T, v T) {
	t.Helper()
	select {
	case ch <- v:
	case <-time.After(soon):
		require.FailNow(t, "nobody received")
	}
}

// mustLock takes a lock that must be free.
func mustLock(t testing.TB, c Client, name, value string, quit <-chan bool) Report {
	t.Helper()
	r := c.Lock(name, value, quit)
	require.NoError(t, r.Err)
	require.Equal(t, Success, r.Msg)
	require.True(t, r.Held())
	return r
}

// mustFail tries a lock that somebody else must have.
func mustFail(t testing.TB, c Client, name string) {
	t.Helper()
	r := c.Lock(name, "of another", nil)
	require.NoError(t, r.Err)
	require.Equal(t, Fail, r.Msg)
	require.False(t, r.Held())
	require.Zero(t, r.Token)
	receive(t, r.Done, soon)
}

// stored is a key as etcd itself has it; nil if there is none.
func stored(t testing.TB, etcd *clientv3.Client, key string) *mvccpb.KeyValue {
	t.Helper()
	resp, err := etcd.Get(context.Background(), key)
	require.NoError(t, err)
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0]
}

// put writes a key as an outsider does, and deletes it at the end of the test.
func put(t testing.TB, etcd *clientv3.Client, key, value string) int64 {
	t.Helper()
	resp, err := etcd.Put(context.Background(), key, value)
	require.NoError(t, err)
	t.Cleanup(func() { remove(t, etcd, key) })
	return resp.Header.Revision
}

func remove(t testing.TB, etcd *clientv3.Client, key string) {
	t.Helper()
	_, err := etcd.Delete(context.Background(), key)
	require.NoError(t, err)
}

// newMember starts an etcd of the test's own: what it does to it, it must not do to somebody's cluster.
func newMember(t testing.TB) (endpoints []string) {
	t.Helper()
	cluster, err := etcdtest.Start(t.Context(), etcdtest.Options{Members: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	return cluster.Endpoints()
}

// goroutines counts those that run code of this package, or of one of those named.
func goroutines(packages ...string) (n int) {
	buf := make([]byte, 64<<10)
	for size := len(buf); size == len(buf); size = runtime.Stack(buf, true) {
		buf = make([]byte, 2*len(buf))
	}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		for _, p := range append(packages, "github.com/PumpkinSeed/locker.") {
			if strings.Contains(stack, "\n"+p) {
				n++
				break
			}
		}
	}
	return n
}

// children are what this binary does, in place of the tests, when a test starts it as another process. They get the
// name of a lock, and the cluster in LOCKER_ENDPOINTS.
var children = map[string]func(name string){"hold": holdForParent, "debug": useAllOfIt, "memory": printMemory}

func init() {
	if f := children[os.Getenv("LOCKER_TEST_CHILD")]; f != nil {
		f(os.Getenv("LOCKER_TEST_NAME"))
		os.Exit(0)
	}
}

func child(t testing.TB, what, name string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), env...), "LOCKER_TEST_CHILD="+what, "LOCKER_TEST_NAME="+name,
		"LOCKER_ENDPOINTS="+strings.Join(machines, ","))
	cmd.Stderr = os.Stderr
	return cmd
}
