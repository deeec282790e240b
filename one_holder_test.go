package locker

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestLock_RaceForAFreeKey(t *testing.T) {
	var clients []Client
	for range 10 {
		clients = append(clients, newClient(t, 5, 5))
	}
	name := etcdtest.NewName()
	var last int64
	for range 50 {
		reports := make([]Report, len(clients))
		var running sync.WaitGroup
		for i, c := range clients {
			running.Go(func() { reports[i] = c.Lock(name, DefaultValue, nil) })
		}
		running.Wait()
		winner := -1
		for i, r := range reports {
			require.NoError(t, r.Err)
			if r.Msg == Success {
				require.Equal(t, -1, winner, "two winners")
				winner = i
			}
		}
		require.NotEqual(t, -1, winner, "no winner")
		require.Greater(t, reports[winner].Token, last)
		last = reports[winner].Token
		require.NoError(t, clients[winner].Unlock(name, nil))
	}
}

func TestLock_Exclusive(t *testing.T) {
	t.Parallel()
	a, b, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := etcdtest.NewName()
	var last int64
	for range 3 {
		r := mustLock(t, a, name, "of a", nil)
		require.Greater(t, r.Token, last)
		last = r.Token
		kv := stored(t, etcd, name)
		require.Equal(t, "of a", string(kv.Value))
		require.Equal(t, r.Token, kv.ModRevision)
		require.NotZero(t, kv.Lease)

		mustFail(t, a, name)
		mustFail(t, b, name)
		require.Equal(t, r.Token, stored(t, etcd, name).ModRevision, "a refused Lock writes nothing")
		require.True(t, r.Held())

		require.NoError(t, a.Unlock(name, nil))
		require.False(t, r.Held())
		etcdtest.ReceiveWithin(t, r.Done, 0)
		require.Nil(t, stored(t, etcd, name))
	}
	require.Greater(t, mustLock(t, b, name, "of b", nil).Token, last)
	mustFail(t, a, name)
}

func TestLock_PlainKey(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := etcdtest.NewName()
	revision := put(t, etcd, name, "")
	mustFail(t, c, name)
	require.Equal(t, revision, stored(t, etcd, name).ModRevision)
	remove(t, etcd, name)
	mustLock(t, c, name, DefaultValue, nil)
}

func TestDo_Exclusive(t *testing.T) {
	a, b := newClient(t, 5, 5), newClient(t, 5, 5)
	name := etcdtest.NewName()
	start := time.Now()
	n := 0
	var mu sync.Mutex
	var last int64
	var running sync.WaitGroup
	for _, c := range []Client{a, b} {
		for range 2 {
			running.Go(func() {
				for range 100 {
					err := c.Do(context.Background(), name, "v", func(ctx context.Context, token int64) error {
						require.True(t, mu.TryLock())
						require.Greater(t, token, last)
						last = token
						n++
						mu.Unlock()
						return nil
					})
					require.NoError(t, err)
				}
			})
		}
	}
	running.Wait()
	t.Log(n, time.Since(start))
}

// At no moment of a hand-over can a third client take the lock.
func TestLock_CannotBargeIn(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	thief := unhedged(newClient(t, 5, 30))
	var tries atomic.Int64
	steal := func() {
		tries.Add(1)
		if r := thief.Lock(name, "thief", nil); r.Msg != Fail || r.Err != nil {
			t.Errorf("barged in: %+v", r)
		}
	}
	a := tapped(t, machines, 30, func(ctx context.Context, req, reply any, send sender) error {
		if deletes(req, name) || puts(req, name) && deletes(req, name+queueInfix) { // every request that may give the lock away
			steal()
			defer steal()
		}
		return send(ctx, reply)
	}, nil)
	stolen := make(chan struct{})
	b := tapped(t, machines, 30, nil, func(key string, resp *pb.WatchResponse) {
		if len(resp.Events) > 0 && strings.HasPrefix(key, name+queueInfix) && key != name+queueInfix { // ours, and we do not know it yet
			steal()
			close(stolen)
		}
	})
	mustLock(t, a, name, "a", nil)
	turn := startLockWait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn)
	<-stolen
	require.GreaterOrEqual(t, tries.Load(), int64(3))
}

func TestLock_CannotBargeInWithinAProcess(t *testing.T) {
	t.Parallel()
	ctx, name := testCtx(t), etcdtest.NewName()
	sent := newGate()
	c := tapped(t, machines, 30, gateAfter(sent, func(req any) bool { return puts(req, name) && compares(req, name, pb.Compare_MOD) }), nil)
	mustLock(t, c, name, "holder", nil)
	turn := startLockWait(ctx, c, name, "heir")
	awaitLocalWaiters(t, c, name, 1)
	released := startUnlock(c, name)
	sent.awaitArrival(t)
	thief := make(chan Report, 1)
	go func() { thief <- c.Lock(name, "thief", nil) }()
	select {
	case r := <-thief:
		require.Equal(t, Report{Msg: Fail, Done: closed}, r)
		sent.open()
	case <-time.After(50 * time.Millisecond): // it may wait for the end of the release
		sent.open()
		require.Equal(t, Report{Msg: Fail, Done: closed}, outcomeOf(t, thief))
	}
	require.Equal(t, Success, outcomeOf(t, turn).Msg)
	require.NoError(t, <-released)
}

func TestLock_ForkExcluded(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	old := &fork{etcd, name}
	a, b := unhedged(newClient(t, 5, 60)), unhedged(newClient(t, 5, 60))

	require.True(t, old.lock(t, "old"))
	require.Equal(t, Report{Msg: Fail, Done: closed}, a.Lock(name, "a", nil))
	require.Equal(t, Fail, a.Inspect(name).Msg)
	value, err := a.Get(name)
	require.NoError(t, err)
	require.Equal(t, "old", value)
	require.ErrorIs(t, a.Unlock(name, nil), ErrNotHeld)
	turnA := startLockWait(ctx, a, name, "a")
	awaitPlaces(t, etcd, name, 1)
	turnB := startLockWait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 2)

	old.unlock(t)
	gotLock(t, turnA)
	require.False(t, old.lock(t, "old"))
	require.NoError(t, a.Unlock(name, nil))
	require.False(t, old.lock(t, "old"), "free between two of ours")
	gotLock(t, turnB)
	require.False(t, old.lock(t, "old"))
	require.NoError(t, b.Unlock(name, nil))
	require.True(t, old.lock(t, "old"))
	old.unlock(t)
}

// fork is the protocol of clients that know no queue. They read the key, put it under a lease, and delete it.
type fork struct {
	etcd *clientv3.Client
	name string
}

func (f *fork) lock(t *testing.T, value string) bool {
	t.Helper()
	ctx := t.Context()
	resp, err := f.etcd.Get(ctx, f.name)
	require.NoError(t, err)
	if len(resp.Kvs) > 0 {
		return false
	}
	lease, err := f.etcd.Grant(ctx, 60)
	require.NoError(t, err)
	_, err = f.etcd.Put(ctx, f.name, value, clientv3.WithLease(lease.ID))
	require.NoError(t, err)
	return true
}

// unlock returns the revision of the deletion.
func (f *fork) unlock(t *testing.T) int64 {
	t.Helper()
	resp, err := f.etcd.Delete(t.Context(), f.name)
	require.NoError(t, err)
	require.Equal(t, int64(1), resp.Deleted)
	return resp.Header.Revision
}
