package network

import (
	"context"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The etcd client is closed before the locker on it: no call waits for an answer that cannot come any more.
func TestEtcdClientIsClosedFirst(t *testing.T) {
	const atOnce = 500 * time.Millisecond // the timeout of the client is 5 s
	etcd := connect(t, configs["NewFromClient"](machines))
	c, err := locker.NewFromClient(context.Background(), etcd, 60)
	require.NoError(t, err)
	other := newClient(t, machines, 5, 60)
	held, locked := newName(t), newName(t)
	mustLock(t, c, held)
	mustLock(t, other, locked)

	values, watching, waiting := make(chan string, 10), make(chan error, 1), make(chan error, 1)
	go func() { watching <- c.Watch(locked, values, nil) }()
	require.Equal(t, "value", receive(t, values, soon))
	go func() { waiting <- c.LockWait(t.Context(), locked, "value", nil).Err }()
	kv := etcdtest.Connect(t, machines)
	etcdtest.Eventually(t, "the client is in the queue", func() bool {
		resp, err := kv.Get(t.Context(), locked+"/.waiting/0", clientv3.WithRange(locked+"/.waiting/g"))
		return err == nil && resp.Count == 1
	})

	require.NoError(t, etcd.Close())
	for name, call := range map[string]func() error{
		"a Watch under way":  func() error { return receive(t, watching, soon) },
		"a wait under way":   func() error { return receive(t, waiting, soon) },
		"Lock":               func() error { return c.Lock(newName(t), "value", nil).Err },
		"LockWait":           func() error { return c.LockWait(t.Context(), newName(t), "value", nil).Err },
		"Watch":              func() error { return c.Watch(locked, values, nil) },
		"Get":                func() error { _, err := c.Get(locked); return err },
		"Unlock":             func() error { return c.Unlock(held, nil) },
		"a client begun now": func() error { _, err := locker.NewFromClient(context.Background(), etcd, 60); return err },
	} {
		start := time.Now()
		assert.Error(t, call(), name)
		t.Logf("%s: %v", name, time.Since(start))
		assert.Less(t, time.Since(start), atOnce, name)
	}
	start := time.Now()
	assert.Error(t, c.Close())
	assert.Less(t, time.Since(start), atOnce, "Close")
}
