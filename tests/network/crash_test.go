package network

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/syncutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

const few = 12 // requests

// The lease of a holder ends while many clients wait: one of them is woken, and not all. What that costs is the same
// however many they are.
func TestCrashWakesOne(t *testing.T) {
	for _, count := range []int{1, 10, 100, 1000} {
		t.Run(fmt.Sprint(count, " waiters"), func(t *testing.T) {
			etcd, name := etcdtest.Connect(t, machines), newName(t)
			mustLock(t, newClient(t, machines, 5, 60), name)
			ctx, cancel := context.WithTimeout(t.Context(), 5*soon)
			defer cancel()
			var sent waiterCalls
			var streams watchStreams
			reports := manyWaiters(ctx, t, connect(t, configs["NewFromClient"](machines[:1]), sent.option(), streams.option()), name, count)
			sent.settle(t, int64(count))

			lock, err := etcd.Get(ctx, name)
			require.NoError(t, err)
			others, rechecks := sent.others.Load(), sent.rechecks.Load()
			moved, start := streams.moved(), time.Now()
			_, err = etcd.Revoke(ctx, clientv3.LeaseID(lock.Kvs[0].Lease))
			require.NoError(t, err)
			next := receive(t, reports, soon)
			took := time.Since(start)
			others, rechecks, moved = sent.others.Load()-others, sent.rechecks.Load()-rechecks, streams.moved()-moved
			require.NoError(t, next.Err)
			t.Logf("%d requests in %v until the next had the lock, and %d to see whether anything was missed; %d streams were left",
				others, took, rechecks, moved)
			assert.LessOrEqual(t, others, few+2*int64(moved), "who is behind another looks at nothing but that place")
			cancel()
			for range count - 1 {
				require.Error(t, receive(t, reports, soon).Err)
			}
		})
	}
}

// manyWaiters has clients on one connection wait for a lock. They come in groups: etcd may be too busy for all at once.
func manyWaiters(ctx context.Context, t *testing.T, etcd *clientv3.Client, name string, count int) (reports chan locker.Report) {
	t.Helper()
	var clients []locker.Client
	t.Cleanup(func() { syncutil.ForEach(clients, 10, func(c locker.Client) { assert.NoError(t, c.Close()) }) })
	for range count {
		c, err := locker.NewFromClient(context.Background(), etcd, 60)
		require.NoError(t, err)
		clients = append(clients, c)
	}
	reports = make(chan locker.Report, count)
	waiting := 0
	for group := range slices.Chunk(clients, 50) {
		for _, c := range group {
			go func() {
				r := c.LockWait(ctx, name, "value", nil)
				if r.Err != nil && ctx.Err() == nil {
					t.Error("it gave up: ", r.Err)
				}
				reports <- r
			}()
		}
		waiting += len(group)
		awaitCount(t, etcd, name, 1+waiting) // the lock and their places
	}
	return reports
}

// waiterCalls counts the requests of clients that wait. Once a second each of them reads whether it has missed anything:
// these are counted apart, when they have returned, and the others when they are sent.
type waiterCalls struct{ rechecks, others atomic.Int64 }

func (w *waiterCalls) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if isRecheck(req) {
			defer w.rechecks.Add(1)
		} else {
			w.others.Add(1)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}

// isRecheck reports whether a request reads three single keys, and does nothing else.
func isRecheck(req any) bool {
	txn, ok := req.(*pb.TxnRequest)
	return ok && len(txn.Compare) == 0 && len(txn.Success) == 3 && !slices.ContainsFunc(txn.Success, func(op *pb.RequestOp) bool {
		return op.GetRequestRange() == nil || len(op.GetRequestRange().RangeEnd) > 0
	})
}

// settle waits until the clients only wait: each has looked once more, so etcd answers, and hardly anything else was sent.
func (w *waiterCalls) settle(t *testing.T, clients int64) {
	t.Helper()
	others, rechecks := w.others.Load(), w.rechecks.Load()
	eventually(t, "they only wait", func() bool {
		if now := w.others.Load(); now > others+few {
			others, rechecks = now, w.rechecks.Load()
		}
		return w.rechecks.Load()-rechecks >= clients
	})
}
