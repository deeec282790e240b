package locker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/lease"
)

func TestCrash_Holder(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	net := etcdtest.NewNetwork(t, machines)
	a, b, c := tapped(t, net.Endpoints(), 2, nil, nil), newClient(t, 5, 2), newClient(t, 5, 2)
	held := mustLock(t, a, name, "a", nil)
	first := startLockWait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	second := startLockWait(ctx, c, name, "c")
	awaitPlaces(t, etcd, name, 2)

	late := etcdtest.Lateness()
	net.Hold()
	start := time.Now()
	r := gotLock(t, first)
	require.Less(t, time.Since(start), freeAfter(2*time.Second, late))
	require.Greater(t, r.Token, held.Token)
	require.False(t, held.Held())
	require.Empty(t, second)
	net.Heal()
	require.NoError(t, b.Unlock(name, nil))
	gotLock(t, second)
}

// freeAfter bounds the time until a lock is free whose holder has died: its TTL, and half a second in which etcd looks at its
// leases. It ends late, which tells how late the machine was meanwhile.
func freeAfter(ttl time.Duration, late func() time.Duration) time.Duration {
	return ttl + 500*time.Millisecond + 200*time.Millisecond + 4*late()
}

func TestCrash_HolderProcess(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 1), etcdtest.Connect(t, machines)
	name := etcdtest.NewName()
	holder := child(t, "hold", name)
	stdin, err := holder.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)
	token := stored(t, etcd, name).ModRevision
	mustFail(t, c, name)

	deletion := etcd.Watch(t.Context(), name, clientv3.WithRev(token+1))
	late := etcdtest.Lateness()
	require.NoError(t, holder.Process.Kill())
	start := time.Now()
	holder.Wait()
	resp := etcdtest.Receive(t, deletion)
	require.Less(t, time.Since(start), freeAfter(c.leases.All()[0].TTL(), late))
	require.Equal(t, clientv3.EventTypeDelete, resp.Events[0].Type)
	require.Greater(t, mustLock(t, c, name, DefaultValue, nil).Token, token)
}

// holdForParent holds a lock until it is killed, or its parent is gone.
func holdForParent(name string) {
	c, err := New(etcdtest.EndpointsFromEnv(), 5, 1, context.Background())
	if err != nil {
		panic(err)
	}
	if r := c.Lock(name, DefaultValue, nil); !r.Held() {
		panic(fmt.Sprint(r))
	}
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
}

// The remains of a late request under one lease of a client do not strand a goroutine that waits under another.
func TestRemains_OfAnotherLease(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"a lock", "a lock, and Lock", "a place, and the holder crashes", "a place, and the holder unlocks"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
			a, b := newClient(t, 5, 3), newClient(t, 5, 3)
			full, key := b.leases.All()[0], name
			crowd := func(n int64) { full.Holds.Add(n) }
			crowd(lease.MaxHolds)
			defer crowd(-lease.MaxHolds)
			mustLock(t, b, etcdtest.NewName(), "v", nil) // the client has its second lease now
			if strings.HasPrefix(what, "a place") {
				mustLock(t, a, name, "a", nil)
				key = placeKey(name, int64(full.ID))
			}
			putUnder(t, etcd, key, "late", full.ID)
			if what == "a lock, and Lock" {
				mustLock(t, b, name, "b", nil)
				return
			}
			turn := startLockWait(ctx, b, name, "b")
			if key != name { // which the waiter removes itself, if it is before its own
				etcdtest.Eventually(t, "it waits", func() bool {
					return stored(t, etcd, placeKey(name, int64(b.leases.All()[1].ID))) != nil
				})
			}
			full.NoteUnanswered()
			if key != name {
				endHold(t, etcd, a, name, what)
			}
			gotLock(t, turn)
			require.NoError(t, b.Unlock(name, nil))
			nothingLeft(t, etcd, name)
		})
	}
}

// A key that an outsider has put into the queue strands nobody, though nobody claims the lock for it: under no lease, under
// that of a waiter behind it, or under that of a client that does not wait.
func TestRemains_StrayPlace(t *testing.T) {
	t.Parallel()
	for _, holder := range []string{"crashes", "unlocks"} {
		for _, lease := range []string{"none", "the waiter's", "of an idle client"} {
			t.Run("the holder "+holder+", lease "+lease, func(t *testing.T) {
				t.Parallel()
				ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
				a, b, idle := newClient(t, 5, 5), newClient(t, 5, 5), newClient(t, 5, 5)
				mustLock(t, a, name, "a", nil)
				leases := map[string]clientv3.LeaseID{"the waiter's": b.leases.All()[0].ID, "of an idle client": idle.leases.All()[0].ID}
				putUnder(t, etcd, name+queueInfix+"1", "of an outsider", leases[lease])
				turn := startLockWait(ctx, b, name, "b")
				etcdtest.Eventually(t, "it waits", func() bool { return stored(t, etcd, placeKey(name, int64(b.leases.All()[0].ID))) != nil })
				endHold(t, etcd, a, name, holder)
				gotLock(t, turn)
				require.NoError(t, b.Unlock(name, nil))
				nothingLeft(t, etcd, name)
			})
		}
	}
}

func TestCrash_HolderAndFirstWaiter(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"together", "the waiter after the hand-over", "the waiter first", "the holder first"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
			neta, netb := etcdtest.NewNetwork(t, machines), etcdtest.NewNetwork(t, machines)
			entered, entry := entering(name)
			a, b := tapped(t, neta.Endpoints(), 2, nil, nil), tapped(t, netb.Endpoints(), 2, entry, nil)
			c := newClient(t, 5, 2)
			mustLock(t, a, name, "a", nil)
			lost := startLockWait(ctx, b, name, "b")
			entered.awaitArrival(t)
			turn := startLockWait(ctx, c, name, "c")
			awaitPlaces(t, etcd, name, 2)
			late := etcdtest.Lateness()
			start := time.Now()
			switch when {
			case "together":
				neta.Hold()
				netb.Hold()
			case "the waiter after the hand-over":
				netb.Hold()
				start = time.Now()
				require.NoError(t, a.Unlock(name, nil))
			case "the waiter first":
				crash(t, etcd, b)
				crash(t, etcd, a)
			case "the holder first":
				netb.Hold()
				crash(t, etcd, a)
			}
			gotLock(t, turn)
			require.Less(t, time.Since(start), freeAfter(2*time.Second, late))
			neta.Heal()
			netb.Heal()
			r := outcomeOf(t, lost)
			require.False(t, r.Held())
			require.Equal(t, Fail, r.Msg)
			require.ErrorIs(t, r.Err, ErrLost)
		})
	}
}

// An event that never arrives strands nobody, because a waiter looks by itself now and then.
func TestWatches_LostEvent(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"hand-over", "deletion"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
			a := newClient(t, 5, 3)
			dropped := make(chan struct{}, 10)
			b := tapped(t, machines, 3, nil, func(_ string, resp *pb.WatchResponse) {
				if len(resp.Events) > 0 {
					resp.Events = nil
					dropped <- struct{}{}
				}
			})
			b.queue.recheck = recheckInterval
			mustLock(t, a, name, "a", nil)
			turn := startLockWait(ctx, b, name, "b")
			awaitPlaces(t, etcd, name, 1)
			if what == "hand-over" {
				require.NoError(t, a.Unlock(name, nil))
			} else {
				remove(t, etcd, name)
			}
			<-dropped
			gotLock(t, turn)
			require.NoError(t, b.Unlock(name, nil))
		})
	}
}

// A watch that has ended, as after a compaction, is opened again, and the waiter reads what has happened meanwhile.
func TestWatches_Broken(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	a := unhedged(newClient(t, 5, 60))
	var broken atomic.Bool
	b := tapped(t, machines, 60, nil, func(_ string, resp *pb.WatchResponse) {
		if len(resp.Events) > 0 && !broken.Swap(true) {
			resp.Events, resp.Canceled, resp.CompactRevision = nil, true, resp.Header.Revision
		}
	})
	mustLock(t, a, name, "a", nil)
	turn := startLockWait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn) // without a watch, it would look again after 20 s only
	require.True(t, broken.Load())
}

// A late request may take the lock for a client that waits, and is not the head of the queue: nobody but that client can
// do anything with it.
func TestRemains_OfAWaiterBehindOthers(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	holder, first, second := newClient(t, 5, 60), newClient(t, 5, 60), newClient(t, 5, 60)
	mustLock(t, holder, name, "v", nil)
	turn := startLockWait(ctx, first, name, "first")
	awaitPlaces(t, etcd, name, 1)
	late := startLockWait(ctx, second, name, "second")
	awaitPlaces(t, etcd, name, 2)
	_, err := etcd.Put(ctx, name, "late", clientv3.WithLease(second.leases.All()[0].ID))
	require.NoError(t, err)
	gotLock(t, late)
	require.Empty(t, turn)
	require.NoError(t, second.Unlock(name, nil))
	gotLock(t, turn)
	require.NoError(t, first.Unlock(name, nil))
	nothingLeft(t, etcd, name)
}
