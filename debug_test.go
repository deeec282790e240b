package locker

import (
	"bytes"
	"context"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const secret = "secret-that-nobody-may-read"

func TestDebugOption(t *testing.T) {
	t.Parallel()
	name := newName()
	output := func(env string) string {
		t.Helper()
		cmd := child(t, "debug", name, env)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		stdout, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		require.Empty(t, stderr.String())
		return string(stdout)
	}
	for _, off := range []string{"LOCKER_DEBUG=", "LOCKER_DEBUG=0"} {
		require.Empty(t, output(off))
	}
	on := output("LOCKER_DEBUG=1")
	for _, event := range []string{"session", "held", "released", "lost", "removed what a lost request had left"} {
		require.Contains(t, on, "locker: "+event)
	}
	require.Contains(t, on, name)
	require.NotContains(t, on, secret)
}

// useAllOfIt goes through all that the debug option tells of, with secrets wherever there is room for one.
func useAllOfIt(name string) {
	must := func(ok bool, what ...any) {
		if !ok {
			panic(what)
		}
	}
	ctx := context.Background()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.EndpointsFromEnv(), Username: secret, Password: secret,
		Logger: clientv3.NewCtxClient(ctx).GetLogger()})
	must(err == nil, err)
	a, err := NewFromClient(ctx, etcd, 2)
	must(err == nil, err)
	b, err := NewFromClient(ctx, etcd, 2)
	must(err == nil, err)

	must(a.Lock(name, secret, nil).Held())
	must(!b.Lock(name, secret, nil).Held())
	served := make(chan error)
	for _, c := range []Client{a, b} {
		go func() {
			served <- c.Do(ctx, name, secret, func(context.Context, int64) error { return nil })
		}()
	}
	must(a.Unlock(name, nil) == nil)
	for range 2 {
		err := <-served
		must(err == nil, err)
	}

	r := a.Lock(name, secret, nil)
	must(r.Held())
	_, err = etcd.Put(ctx, name, secret)
	must(err == nil, err)
	<-r.Done // at the latest a renewal interval later
	_, err = etcd.Delete(ctx, name)
	must(err == nil, err)

	_, err = etcd.Put(ctx, name, secret, clientv3.WithLease(a.live[0].id))
	must(err == nil, err)
	must(a.Unlock(name, nil) != nil)
	a.loose(a.live[0])
	for kvs := int64(1); kvs > 0; {
		resp, err := etcd.Get(ctx, name)
		must(err == nil, err)
		kvs = resp.Count
	}
	must(a.Close() == nil)
	must(b.Close() == nil)
	must(etcd.Close() == nil)
}
