package network

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The lease of a holder ends while many clients wait: one of them is woken, and not all.
func TestCrashWakesOne(t *testing.T) {
	for _, count := range []int{1, 10, 50} {
		t.Run(fmt.Sprint(count, " waiters"), func(t *testing.T) {
			var sent calls
			etcd, shared := etcdtest.Connect(t, machines), connect(t, configs["NewFromClient"](machines), sent.option())
			holder, name := newClient(t, machines, 5, 60), newName(t)
			mustLock(t, holder, name)
			ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
			defer cancel()
			reports := make(chan locker.Report, count)
			for range count {
				c := fromClient(t, shared, 60)
				go func() { reports <- c.LockWait(ctx, name, "value", nil) }()
			}
			awaitWaiters(t, etcd, name, count)
			// Every waiter looks once a second whether it has missed anything.
			const rest = 300 * time.Millisecond
			rechecks := func(span time.Duration) int64 { return int64(2*float64(count)*span.Seconds()) + 2 }
			eventually(t, "they only wait", func() bool {
				before := sent.Load()
				time.Sleep(rest)
				return sent.Load()-before <= rechecks(rest)
			})

			lock, err := etcd.Get(ctx, name)
			require.NoError(t, err)
			before, start := sent.Load(), time.Now()
			_, err = etcd.Revoke(ctx, clientv3.LeaseID(lock.Kvs[0].Lease))
			require.NoError(t, err)
			next := receive(t, reports, soon)
			requests, took := sent.Load()-before, time.Since(start)
			require.NoError(t, next.Err)
			t.Logf("%d requests in %v until the next had the lock", requests, took)
			assert.LessOrEqual(t, requests, 12+rechecks(took))
			cancel()
			for range count - 1 {
				require.Error(t, receive(t, reports, soon).Err)
			}
		})
	}
}
