package locker

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// A request to enter the queue, which got no answer, arrives when the client has held the lock and given it back.
func TestLateEntry_IsRemoved(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	a := newClient(t, 5, 2)
	deliver, tap := withholdFirst(func(req any) bool { return enters(req, name) })
	b := tapped(t, machines, 2, tap, nil)
	b.queue.conn.SetLatency(0) // its next request is sent twice soon
	mustLock(t, a, name, "a", nil)
	turn := startLockWait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn)
	require.NoError(t, b.Unlock(name, nil))
	nothingLeft(t, etcd, name)

	require.NoError(t, (<-deliver)())
	start := time.Now()
	turn = startLockWait(ctx, a, name, "a") // whether it has left a place or the lock, that stops nobody for long
	gotLock(t, turn)
	require.NoError(t, a.Unlock(name, nil))
	require.Less(t, time.Since(start), 4*time.Second)
	nothingLeft(t, etcd, name)
}

// A request of an earlier wait to enter the queue arrives late, and writes over the place of the present wait.
func TestLateEntry_ChangesTheValue(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	a := unhedged(newClient(t, 5, 60))
	deliver, tap := withholdFirst(func(req any) bool { return enters(req, name) })
	b := tapped(t, machines, 60, tap, nil)
	b.queue.conn.SetLatency(0)
	mustLock(t, a, name, "a", nil)
	leaving, leave := context.WithCancel(ctx)
	turn := startLockWait(leaving, b, name, "old")
	awaitPlaces(t, etcd, name, 1)
	leave()
	require.Equal(t, Fail, outcomeOf(t, turn).Msg)
	awaitPlaces(t, etcd, name, 0)
	turn = startLockWait(ctx, b, name, "new")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, (<-deliver)())
	require.NoError(t, a.Unlock(name, nil))
	r := gotLock(t, turn)
	value, err := a.Get(name)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	require.Equal(t, r.Token, stored(t, etcd, name).ModRevision)
	require.NoError(t, b.Unlock(name, nil))
}

// After an outage of its watches a waiter asks a quorum, because the member that answers may lag behind.
func TestLaggingMember_AfterAnOutageOfWatches(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	old := &fork{etcd, name}
	require.True(t, old.lock(t, "old"))
	first := unhedged(newClient(t, 5, 60))
	turn := startLockWait(ctx, first, name, "first")
	awaitPlaces(t, etcd, name, 1)
	var breaking, broken atomic.Bool
	var lag, looked atomic.Int64 // the revision of the answering member, and the one that the waiter has seen
	second := tapped(t, machines, 60, func(ctx context.Context, req, reply any, send sender) error {
		txn, _ := req.(*pb.TxnRequest)
		lagging := false
		if broken.Load() && txn != nil && !writes(req) {
			for _, op := range txn.Success {
				if r := op.GetRequestRange(); r.Serializable {
					r.Revision, lagging = lag.Load(), true
				}
			}
		}
		err := send(ctx, reply)
		if err == nil && lagging {
			reply.(*pb.TxnResponse).Header.Revision = lag.Load()
		}
		if err == nil && txn != nil && !writes(req) {
			looked.Store(reply.(*pb.TxnResponse).Header.Revision)
		}
		return err
	}, func(_ string, resp *pb.WatchResponse) {
		if len(resp.Events) > 0 && breaking.Load() && !broken.Swap(true) {
			resp.Events, resp.Canceled, resp.CompactRevision = nil, true, resp.Header.Revision
		}
	})
	next := startLockWait(ctx, second, name, "second")
	awaitPlaces(t, etcd, name, 2)
	old.unlock(t) // the second waiter sees the deletion, and that the first takes the lock
	token := gotLock(t, turn).Token
	etcdtest.Eventually(t, "the second has looked", func() bool { return looked.Load() >= token })
	resp, err := etcd.Get(ctx, name)
	require.NoError(t, err)
	lag.Store(resp.Header.Revision)
	breaking.Store(true)
	require.NoError(t, first.Unlock(name, nil))
	gotLock(t, next) // without a watch, it would look again after 20 s only
	require.True(t, broken.Load())
	require.NoError(t, second.Unlock(name, nil))
}
