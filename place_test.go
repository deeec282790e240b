package locker

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/lease"
	"github.com/PumpkinSeed/locker/internal/watch"
)

// A place in the queue belongs to the process: a goroutine that gives up leaves it to the next one, which keeps its rank and has
// its own value. The last one takes it along.
func TestPlace_StaysWithTheProcess(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	holder, c, other := newClient(t, 5, 60), newClient(t, 5, 60), newClient(t, 5, 60)
	held := mustLock(t, holder, name, "v", nil)
	wait := func(i int) (turn <-chan Report, leave func()) {
		ctx, leave := context.WithCancel(ctx)
		return startLockWait(ctx, c, name, fmt.Sprint(i)), leave
	}
	first, leaveFirst := wait(1)
	place := placeKey(name, int64(c.leases.All()[0].ID))
	awaitPlaces(t, etcd, name, 1)
	entered := stored(t, etcd, place).CreateRevision
	second, leaveSecond := wait(2)
	awaitLocalWaiters(t, c, name, 1)
	third, leaveThird := wait(3)
	defer leaveThird()
	awaitLocalWaiters(t, c, name, 2)
	behind := startLockWait(ctx, other, name, "other")
	awaitPlaces(t, etcd, name, 2)

	for i, leave := range []func(){leaveFirst, leaveSecond} {
		leave()
		etcdtest.Eventually(t, "the next one has the place", func() bool { return string(stored(t, etcd, place).Value) == fmt.Sprint(i+2) })
		require.Equal(t, entered, stored(t, etcd, place).CreateRevision, "with its rank")
	}
	for _, turn := range []<-chan Report{first, second} {
		require.ErrorIs(t, outcomeOf(t, turn).Err, context.Canceled)
	}
	require.NoError(t, held.Unlock())
	r := gotLock(t, third)
	value, err := other.Get(name)
	require.NoError(t, err)
	require.Equal(t, "3", value)
	require.Empty(t, behind)
	require.NoError(t, r.Unlock())
	r = gotLock(t, behind)

	last, leaveLast := wait(4)
	awaitPlaces(t, etcd, name, 1)
	leaveLast()
	require.ErrorIs(t, outcomeOf(t, last).Err, context.Canceled)
	awaitPlaces(t, etcd, name, 0)
	require.NoError(t, r.Unlock())
	nothingLeft(t, etcd, name)
}

// A lock that is handed over to a place while that changes hands goes to exactly one goroutine, or on to the next client.
func TestPlace_HandedOverWhileItChangesHands(t *testing.T) {
	t.Parallel()
	ctx, etcd := testCtx(t), etcdtest.Connect(t, machines)
	holder, c := newClient(t, 5, 60), newClient(t, 5, 60)
	for i := range 100 {
		name := etcdtest.NewName()
		held := mustLock(t, holder, name, "v", nil)
		leaving, leave := context.WithCancel(ctx)
		first := startLockWait(leaving, c, name, "first")
		awaitPlaces(t, etcd, name, 1)
		second := startLockWait(ctx, c, name, []string{"first", "second"}[i%2])
		awaitLocalWaiters(t, c, name, 1)
		var both sync.WaitGroup
		both.Go(leave)
		both.Go(func() { require.NoError(t, held.Unlock()) })
		both.Wait()
		if r := outcomeOf(t, first); r.Msg == Success {
			require.Empty(t, second)
			require.NoError(t, r.Unlock())
		}
		r := gotLock(t, second)
		require.Equal(t, r.Token, stored(t, etcd, name).ModRevision)
		require.Equal(t, []string{"first", "second"}[i%2], string(stored(t, etcd, name).Value))
		require.NoError(t, r.Unlock())
		nothingLeft(t, etcd, name)
	}
}

// A watch that goes on at a member that lags tells once more what came before. That undoes nothing.
func TestPlaceWatcher_MemberThatLags(t *testing.T) {
	const ours, another = 7, 8
	at := func(revision, lease int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{ModRevision: revision, Lease: lease}
	}
	p := &placeWatcher{lease: &lease.Lease{ID: ours}, changed: make(chan struct{}, 1)}
	place, lock := p.handler(p.placeRemoved), p.handler(p.lockChanged)

	lock(watch.Event{KV: at(20, 0), Deleted: true})
	require.True(t, p.news(10, 10).freed)
	lock(watch.Event{KV: at(15, another)})
	require.True(t, p.news(10, 10).freed, "it was put before it was freed")

	place(watch.Event{KV: at(30, 0), Deleted: true})
	lock(watch.Event{KV: at(30, ours)})
	require.EqualValues(t, 30, p.news(10, 20).handed.ModRevision)
	place(watch.Event{KV: at(5, 0), Deleted: true})
	lock(watch.Event{KV: at(4, ours)})
	n := p.news(10, 20)
	require.True(t, n.gone)
	require.EqualValues(t, 30, n.handed.ModRevision)
	require.EqualValues(t, 30, n.since)
}
