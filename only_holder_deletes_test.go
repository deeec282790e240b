package locker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestUnlock_NotHeld(t *testing.T) {
	t.Parallel()
	a, b, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	never, before, others, outsiders := etcdtest.NewName(), etcdtest.NewName(), etcdtest.NewName(), etcdtest.NewName()
	mustLock(t, a, before, DefaultValue, nil)
	require.NoError(t, a.Unlock(before, nil))
	held := mustLock(t, b, others, "of b", nil)
	mustFail(t, a, others)
	revision := put(t, etcd, outsiders, "of nobody")

	const calls = 100
	var took []time.Duration
	for range calls {
		for _, name := range []string{never, before, others, outsiders} {
			start := time.Now()
			err := a.Unlock(name, nil)
			took = append(took, time.Since(start))
			require.ErrorIs(t, err, ErrNotHeld)
			require.Contains(t, err.Error(), name)
		}
	}
	slices.Sort(took)
	require.Less(t, took[len(took)/2], 100*time.Microsecond, "etcd is not asked")

	require.Equal(t, held.Token, stored(t, etcd, others).ModRevision)
	require.Equal(t, "of b", string(stored(t, etcd, others).Value))
	require.True(t, held.Held())
	require.Equal(t, revision, stored(t, etcd, outsiders).ModRevision)
	require.NoError(t, b.Unlock(others, nil))
}

// A release that arrives late, after the lock was lost and another client has taken it, does not touch the key.
func TestLateRelease_NextHolder(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"nobody waits", "somebody waits", "a goroutine waits"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
			releasing := newGate()
			a := tapped(t, machines, 60, gateBefore(releasing, func(req any) bool {
				return deletes(req, name) || puts(req, name) && compares(req, name, pb.Compare_MOD)
			}), nil)
			b, c := unhedged(newClient(t, 5, 60)), unhedged(newClient(t, 5, 60))
			mustLock(t, a, name, "a", nil)
			if line == "a goroutine waits" {
				leaving, leave := context.WithCancel(ctx)
				heir := startLockWait(leaving, a, name, "heir")
				awaitLocalWaiters(t, a, name, 1)
				defer func() { leave(); outcomeOf(t, heir) }()
			}
			released := startUnlock(a, name)
			releasing.awaitArrival(t)
			remove(t, etcd, name)
			held := mustLock(t, b, name, "b", nil)
			if line == "somebody waits" {
				leaving, leave := context.WithCancel(ctx)
				waits := startLockWait(leaving, c, name, "c")
				awaitPlaces(t, etcd, name, 1)
				defer func() { leave(); outcomeOf(t, waits) }()
			}
			releasing.open()
			if err := <-released; err != nil { // nil if the request was sent twice: the key may then have gone by the first
				require.ErrorIs(t, err, ErrLost)
			}
			resp, err := etcd.Get(ctx, name)
			require.NoError(t, err)
			require.Len(t, resp.Kvs, 1)
			require.Equal(t, held.Token, resp.Kvs[0].ModRevision)
			require.True(t, held.Held())
			require.NoError(t, b.Unlock(name, nil))
		})
	}
}

// The remains of a lost request are removed by a request that is sent twice. It arrives the second time when the client has
// taken the lock again, under the same lease, and does not touch the key.
func TestLateRemoval_NextHold(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
	deliver, tap := withholdFirst(func(req any) bool { return deletes(req, name) })
	c := tapped(t, machines, 60, tap, nil)
	c.queue.conn.SetLatency(0) // its next request is sent twice soon
	putUnder(t, etcd, name, "left", c.leases.All()[0].ID)
	c.leases.All()[0].NoteUnanswered()
	remove := etcdtest.Receive(t, deliver)
	etcdtest.Eventually(t, "it is removed", func() bool { return stored(t, etcd, name) == nil })
	r := mustLock(t, c, name, "c", nil)
	require.NoError(t, remove())
	require.Equal(t, r.Token, orZero(stored(t, etcd, name)).ModRevision)
	require.NoError(t, c.Unlock(name, nil))
}

// The same holds for the place of a waiter that gives up and waits again.
func TestLateRemoval_NextPlace(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	a := unhedged(newClient(t, 5, 60))
	deliver, tap := withholdFirst(func(req any) bool { return deletes(req, name+queueInfix) })
	b := tapped(t, machines, 60, tap, nil)
	mustLock(t, a, name, "a", nil)
	leaving, leave := context.WithCancel(ctx)
	turn := startLockWait(leaving, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	b.queue.conn.SetLatency(0) // its next request is sent twice soon
	leave()
	require.ErrorIs(t, outcomeOf(t, turn).Err, context.Canceled)
	remove := etcdtest.Receive(t, deliver)
	awaitPlaces(t, etcd, name, 0)
	turn = startLockWait(ctx, b, name, "b again")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, remove())
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn)
	require.NoError(t, b.Unlock(name, nil))
}
