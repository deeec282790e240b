package locker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestHandOverIsOneCommit(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	a, b := calm(newClient(t, 5, 30)), calm(newClient(t, 5, 30))
	first := a.Lock(name, "a", nil)
	require.Equal(t, Success, first.Msg)
	turn := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	place, err := etcd.Get(ctx, name+waiting, clientv3.WithPrefix())
	require.NoError(t, err)
	require.Equal(t, strconv.FormatInt(place.Kvs[0].Lease, 16), strings.TrimPrefix(string(place.Kvs[0].Key), name+waiting))
	require.Equal(t, "b", string(place.Kvs[0].Value))

	require.NoError(t, a.Unlock(name, nil))
	second := gotLock(t, turn)
	require.False(t, first.Held())
	require.True(t, second.Held())
	require.Greater(t, second.Token, first.Token)

	history := changes(t, etcd, name, first.Token)
	require.Len(t, history, 3, "taken, entered, handed over")
	last := history[2]
	require.Equal(t, second.Token, last.revision)
	require.Equal(t, map[string]string{
		name:                     "put b",
		string(place.Kvs[0].Key): "delete",
	}, last.what)
	require.Equal(t, place.Kvs[0].Lease, last.lease)
}

// Wherever a hand-over stands, there is no moment at which a third client, or another goroutine, gets in.
func TestLockCannotBargeIn(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	thief := calm(newClient(t, 5, 30))
	var tries atomic.Int64
	steal := func() {
		tries.Add(1)
		if r := thief.Lock(name, "thief", nil); r.Msg != Fail || r.Err != nil {
			t.Errorf("barged in: %+v", r)
		}
	}
	a := tapped(t, machines, 30, func(ctx context.Context, req, reply any, send sender) error {
		if deletes(req, name) || puts(req, name) && deletes(req, name+waiting) { // all that may give it away
			steal()
			defer steal()
		}
		return send(ctx, reply)
	}, nil)
	stolen := make(chan struct{})
	b := tapped(t, machines, 30, nil, func(key string, resp *clientv3.WatchResponse) {
		if len(resp.Events) > 0 && strings.HasPrefix(key, name+waiting) { // ours, and we do not know it yet
			steal()
			close(stolen)
		}
	})
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	turn := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn)
	<-stolen
	require.GreaterOrEqual(t, tries.Load(), int64(3))
}

func TestLockCannotBargeInWithinAProcess(t *testing.T) {
	t.Parallel()
	ctx, name := limited(t), newName()
	sent := newGate()
	c := tapped(t, machines, 30, func(ctx context.Context, req, reply any, send sender) error {
		err := send(ctx, reply)
		if puts(req, name) && compares(req, name, pb.Compare_MOD) {
			return sent.pass(ctx, err)
		}
		return err
	}, nil)
	require.Equal(t, Success, c.Lock(name, "holder", nil).Msg)
	turn := wait(ctx, c, name, "heir")
	awaitLine(t, c, name, 1)
	released := make(chan error, 1)
	go func() { released <- c.Unlock(name, nil) }()
	sent.awaitArrival(t)
	thief := make(chan Report, 1)
	go func() { thief <- c.Lock(name, "thief", nil) }()
	select {
	case r := <-thief:
		require.Equal(t, Report{Msg: Fail, Done: over}, r)
		sent.open()
	case <-time.After(50 * time.Millisecond): // it may wait for the end of the release
		sent.open()
		require.Equal(t, Report{Msg: Fail, Done: over}, outcomeOf(t, thief))
	}
	require.Equal(t, Success, outcomeOf(t, turn).Msg)
	require.NoError(t, <-released)
}

// The holder has read who is next, and that waiter leaves before the lock is sent its way.
func TestHandOverToOneWhoHasLeft(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	handing := newGate()
	a := tapped(t, machines, 60, func(ctx context.Context, req, reply any, send sender) error {
		if puts(req, name) && deletes(req, name+waiting) && compares(req, name, pb.Compare_MOD) {
			if err := handing.pass(ctx, nil); err != nil {
				return err
			}
		}
		return send(ctx, reply)
	}, nil)
	b, c := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	leaving, leave := context.WithCancel(ctx)
	gone := wait(leaving, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	turn := wait(ctx, c, name, "c")
	awaitPlaces(t, etcd, name, 2)

	released := make(chan error, 1)
	go func() { released <- a.Unlock(name, nil) }()
	handing.awaitArrival(t)
	leave()
	require.ErrorIs(t, outcomeOf(t, gone).Err, context.Canceled)
	awaitPlaces(t, etcd, name, 1)
	handing.open()
	require.NoError(t, <-released)
	gotLock(t, turn)
	require.NoError(t, c.Unlock(name, nil))
	nothingLeft(t, etcd, name)
}

// The lock is sent to a waiter that gives up before it hears of it.
func TestHandedLockIsPassedOn(t *testing.T) {
	t.Parallel()
	for _, next := range []string{"another client", "another goroutine", "nobody"} {
		t.Run(next, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			event := newGate()
			a, c := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
			b := tapped(t, machines, 60, nil, func(key string, resp *clientv3.WatchResponse) {
				if len(resp.Events) > 0 && strings.HasPrefix(key, name+waiting) {
					event.pass(ctx, nil)
				}
			})
			require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
			leaving, leave := context.WithCancel(ctx)
			gone := wait(leaving, b, name, "b")
			awaitPlaces(t, etcd, name, 1)
			var turn <-chan Report
			switch next {
			case "another client":
				turn = wait(ctx, c, name, "c")
				awaitPlaces(t, etcd, name, 2)
			case "another goroutine":
				turn = wait(ctx, b, name, "b2")
				awaitLine(t, b, name, 1)
			}
			require.NoError(t, a.Unlock(name, nil))
			event.awaitArrival(t)
			value, err := a.Get(name)
			require.NoError(t, err)
			require.Equal(t, "b", value, "not handed over")
			leave()
			r := outcomeOf(t, gone)
			require.Equal(t, Fail, r.Msg)
			require.ErrorIs(t, r.Err, context.Canceled)
			if turn != nil { // the TTL is a minute, and the watches are stuck
				gotLock(t, turn)
			} else {
				nothingLeft(t, etcd, name)
			}
			event.open()
		})
	}
}

// The same within a process: the release has put the lock for the heir, who gives up before the answer is here.
func TestInheritedLockIsPassedOn(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	sent := newGate()
	c := tapped(t, machines, 60, func(ctx context.Context, req, reply any, send sender) error {
		err := send(ctx, reply)
		if puts(req, name) && compares(req, name, pb.Compare_MOD) {
			return sent.pass(ctx, err)
		}
		return err
	}, nil)
	require.Equal(t, Success, c.Lock(name, "holder", nil).Msg)
	leaving, leave := context.WithCancel(ctx)
	gone := wait(leaving, c, name, "heir")
	awaitLine(t, c, name, 1)
	released := make(chan error, 1)
	go func() { released <- c.Unlock(name, nil) }()
	sent.awaitArrival(t)
	leave()
	require.ErrorIs(t, outcomeOf(t, gone).Err, context.Canceled)
	other := calm(newClient(t, 5, 60))
	turn := wait(ctx, other, name, "other")
	awaitPlaces(t, etcd, name, 1)
	sent.open()
	require.NoError(t, <-released)
	gotLock(t, turn)
}

// A release that comes late, after the lock was lost and taken by somebody else, must not touch it.
func TestLateReleaseLeavesTheNextHolderAlone(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"nobody waits", "somebody waits", "a goroutine waits"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			releasing := newGate()
			a := tapped(t, machines, 60, func(ctx context.Context, req, reply any, send sender) error {
				if deletes(req, name) || puts(req, name) && compares(req, name, pb.Compare_MOD) {
					if err := releasing.pass(ctx, nil); err != nil {
						return err
					}
				}
				return send(ctx, reply)
			}, nil)
			b, c := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
			require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
			if line == "a goroutine waits" {
				leaving, leave := context.WithCancel(ctx)
				heir := wait(leaving, a, name, "heir")
				awaitLine(t, a, name, 1)
				defer func() { leave(); outcomeOf(t, heir) }()
			}
			released := make(chan error, 1)
			go func() { released <- a.Unlock(name, nil) }()
			releasing.awaitArrival(t)
			_, err := etcd.Delete(ctx, name)
			require.NoError(t, err)
			held := b.Lock(name, "b", nil)
			require.Equal(t, Success, held.Msg)
			if line == "somebody waits" {
				leaving, leave := context.WithCancel(ctx)
				waits := wait(leaving, c, name, "c")
				awaitPlaces(t, etcd, name, 1)
				defer func() { leave(); outcomeOf(t, waits) }()
			}
			releasing.open()
			if err := <-released; err != nil { // nil when it was sent twice: then it may have been its own doing
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

// late is a tap that keeps the first request of that kind, for the test to deliver later.
func late(kind func(req any) bool) (deliver <-chan func() error, _ tap) {
	kept := make(chan func() error, 1)
	var once sync.Once
	return kept, func(ctx context.Context, req, reply any, send sender) error {
		lost := false
		if kind(req) {
			once.Do(func() {
				lost = true
				later := context.WithoutCancel(ctx)
				kept <- func() error { return send(later, new(pb.TxnResponse)) }
			})
		}
		if lost {
			<-ctx.Done()
			return ctx.Err()
		}
		return send(ctx, reply)
	}
}

// What a client leaves behind is removed by a request that is sent twice, and arrives the second time when the name is
// locked again, under the same lease.
func TestLateRemovalLeavesTheNextHoldAlone(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	deliver, tap := late(func(req any) bool { return deletes(req, name) })
	c := tapped(t, machines, 60, tap, nil)
	c.usual.Store(0) // it is to try again soon
	_, err := etcd.Put(ctx, name, "left", clientv3.WithLease(c.live[0].id))
	require.NoError(t, err)
	c.loose(c.live[0])
	remove := receive(t, deliver, soon)
	eventually(t, "it is removed", func() bool { return stored(t, etcd, name) == nil })
	r := c.Lock(name, "c", nil)
	require.Equal(t, Success, r.Msg)
	require.NoError(t, remove())
	require.Equal(t, r.Token, stored(t, etcd, name).GetModRevision())
	require.NoError(t, c.Unlock(name, nil))
}

// The same of the place of a waiter that gives up, and comes back.
func TestLateRemovalLeavesTheNextPlaceAlone(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	a := calm(newClient(t, 5, 60))
	deliver, tap := late(func(req any) bool { return deletes(req, name+waiting) })
	b := tapped(t, machines, 60, tap, nil)
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	leaving, leave := context.WithCancel(ctx)
	turn := wait(leaving, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	b.usual.Store(0) // it is to try again soon
	leave()
	require.ErrorIs(t, outcomeOf(t, turn).Err, context.Canceled)
	remove := receive(t, deliver, soon)
	awaitPlaces(t, etcd, name, 0)
	turn = wait(ctx, b, name, "b again")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, remove())
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn)
	require.NoError(t, b.Unlock(name, nil))
}

// A request of ours that entered the line, and got no answer, arrives when we have come and gone.
func TestLateEntryIsRemoved(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	a := newClient(t, 5, 2)
	deliver, tap := late(func(req any) bool { return enters(req, name) })
	b := tapped(t, machines, 2, tap, nil)
	b.usual.Store(0) // it is to try again soon
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	turn := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn)
	require.NoError(t, b.Unlock(name, nil))
	nothingLeft(t, etcd, name)

	require.NoError(t, (<-deliver)())
	start := time.Now()
	turn = wait(ctx, a, name, "a") // whatever it has left behind, a place or the lock, stops nobody for long
	gotLock(t, turn)
	require.NoError(t, a.Unlock(name, nil))
	require.Less(t, time.Since(start), 4*time.Second)
	nothingLeft(t, etcd, name)
}

// crash makes a client's lease go as if its process had died and the TTL had passed.
func crash(t *testing.T, etcd *clientv3.Client, c Client) {
	t.Helper()
	_, err := etcd.Revoke(context.Background(), c.live[0].id)
	require.NoError(t, err)
}

func TestHolderCrashes(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	net := etcdtest.NewNetwork(t, machines)
	a, b, c := tapped(t, net.Endpoints(), 2, nil, nil), newClient(t, 5, 2), newClient(t, 5, 2)
	held := a.Lock(name, "a", nil)
	require.Equal(t, Success, held.Msg)
	first := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	second := wait(ctx, c, name, "c")
	awaitPlaces(t, etcd, name, 2)

	net.Hold()
	start := time.Now()
	r := gotLock(t, first)
	require.Less(t, time.Since(start), 4*time.Second, "TTL + 2 s")
	require.Greater(t, r.Token, held.Token)
	require.False(t, held.Held())
	require.Empty(t, second)
	net.Heal()
	require.NoError(t, b.Unlock(name, nil))
	gotLock(t, second)
}

// endHold ends a hold as the holder does that "crashes", or else "unlocks".
func endHold(t *testing.T, etcd *clientv3.Client, holder Client, name, how string) {
	t.Helper()
	if strings.HasSuffix(how, "crashes") {
		crash(t, etcd, holder)
	} else {
		require.NoError(t, holder.Unlock(name, nil))
	}
}

// What a late request of one session of a client has left strands nobody who waits with another.
func TestRemainsOfAnotherSession(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"a lock", "a lock, and Lock", "a place, and the holder crashes", "a place, and the holder unlocks"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			a, b := newClient(t, 5, 3), newClient(t, 5, 3)
			full, key := b.live[0], name
			crowd := func(n int) { b.mu.Lock(); full.holds += n; b.mu.Unlock() }
			crowd(maxHolds)
			defer crowd(-maxHolds)
			mustLock(t, b, newName(), "v", nil) // the second session is there
			if strings.HasPrefix(what, "a place") {
				mustLock(t, a, name, "a", nil)
				key = placeKey(int64(full.id), name)
			}
			_, err := etcd.Put(ctx, key, "late", clientv3.WithLease(full.id))
			require.NoError(t, err)
			if what == "a lock, and Lock" {
				mustLock(t, b, name, "b", nil)
				return
			}
			turn := wait(ctx, b, name, "b")
			if key != name {
				awaitPlaces(t, etcd, name, 2)
			}
			b.loose(full)
			if key != name {
				endHold(t, etcd, a, name, what)
			}
			gotLock(t, turn)
			require.NoError(t, b.Unlock(name, nil))
			nothingLeft(t, etcd, name)
		})
	}
}

// A key that an outsider has put into the line stands there for ever and claims nothing: under no lease, under that of a
// waiter behind it, or of a client that waits for nothing.
func TestStrayPlaceStrandsNobody(t *testing.T) {
	t.Parallel()
	for _, holder := range []string{"crashes", "unlocks"} {
		for _, lease := range []string{"none", "the waiter's", "of an idle client"} {
			t.Run("the holder "+holder+", lease "+lease, func(t *testing.T) {
				t.Parallel()
				ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
				a, b, idle := newClient(t, 5, 5), newClient(t, 5, 5), newClient(t, 5, 5)
				mustLock(t, a, name, "a", nil)
				leases := map[string]clientv3.LeaseID{"the waiter's": b.live[0].id, "of an idle client": idle.live[0].id}
				_, err := etcd.Put(ctx, name+waiting+"1", "of an outsider", clientv3.WithLease(leases[lease]))
				require.NoError(t, err)
				turn := wait(ctx, b, name, "b")
				awaitPlaces(t, etcd, name, 2)
				endHold(t, etcd, a, name, holder)
				gotLock(t, turn)
				require.NoError(t, b.Unlock(name, nil))
				nothingLeft(t, etcd, name)
			})
		}
	}
}

func TestHolderAndFirstWaiterCrash(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"together", "the waiter after the hand-over", "the waiter first", "the holder first"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			neta, netb := etcdtest.NewNetwork(t, machines), etcdtest.NewNetwork(t, machines)
			entered, entry := entering(name)
			a, b := tapped(t, neta.Endpoints(), 2, nil, nil), tapped(t, netb.Endpoints(), 2, entry, nil)
			c := newClient(t, 5, 2)
			require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
			lost := wait(ctx, b, name, "b")
			entered.awaitArrival(t)
			turn := wait(ctx, c, name, "c")
			awaitPlaces(t, etcd, name, 2)
			limit := 4 * time.Second // TTL + 2 s
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
			require.Less(t, time.Since(start), limit)
			neta.Heal()
			netb.Heal()
			r := outcomeOf(t, lost)
			require.False(t, r.Held())
			require.Equal(t, Fail, r.Msg)
			require.ErrorIs(t, r.Err, ErrLost)
		})
	}
}

// A client that knows no line deletes the key: the first in the line is there in the next commit.
func TestPlainDeleteWakesTheLine(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	old := &fork{etcd, name}
	require.True(t, old.lock(t, "old"))
	var turns []<-chan Report
	for i := range 3 {
		turns = append(turns, wait(ctx, calm(newClient(t, 5, 60)), name, fmt.Sprint(i)))
		awaitPlaces(t, etcd, name, i+1)
	}
	start := old.unlock(t)
	r := gotLock(t, turns[0]) // the re-check comes only after 20 s
	history := changes(t, etcd, name, start)
	require.Len(t, history, 2)
	require.Equal(t, map[string]string{name: "delete"}, history[0].what)
	require.Equal(t, r.Token, history[1].revision)
	require.Equal(t, "put 0", history[1].what[name])
	require.Len(t, history[1].what, 2, "its place went in the same commit")
	require.Empty(t, turns[1])
	require.Empty(t, turns[2])
}

// While the first in the line has not heard of the deletion yet, those behind it let the lock lie.
func TestOnlyTheFirstInTheLineClaims(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	old := &fork{etcd, name}
	require.True(t, old.lock(t, "old"))
	slow, looked := newGate(), newGate()
	var claimed atomic.Bool
	b := tapped(t, machines, 60, nil, hearing(ctx, slow))
	c := tapped(t, machines, 60, func(ctx context.Context, req, reply any, send sender) error {
		if puts(req, name) && deletes(req, name+waiting) {
			claimed.Store(true)
		}
		err := send(ctx, reply)
		if _, is := req.(*pb.TxnRequest); is && !writes(req) {
			looked.arrive()
		}
		return err
	}, nil)
	first := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	second := wait(ctx, c, name, "c")
	awaitPlaces(t, etcd, name, 2)
	old.unlock(t)
	slow.awaitArrival(t)
	looked.awaitArrival(t)
	require.Nil(t, stored(t, etcd, name))
	require.False(t, claimed.Load())
	slow.open()
	gotLock(t, first)
	require.Empty(t, second)
	require.NoError(t, b.Unlock(name, nil))
	gotLock(t, second)
}

// One who comes to a line while the lock is free goes behind it all the same: the watches that are still open from the
// last time say that there may be one.
func TestNewcomerGoesBehindTheLine(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	old := &fork{etcd, name}
	slow := newGate()
	a, b := calm(newClient(t, 5, 60)), tapped(t, machines, 60, nil, hearing(ctx, slow))
	require.True(t, old.lock(t, "old"))
	turn := wait(ctx, a, name, "a")
	awaitPlaces(t, etcd, name, 1)
	old.unlock(t)
	gotLock(t, turn)
	require.NoError(t, a.Unlock(name, nil))

	require.True(t, old.lock(t, "old"))
	first := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	old.unlock(t)
	slow.awaitArrival(t)
	second := wait(ctx, a, name, "a")
	awaitPlaces(t, etcd, name, 2)
	require.Empty(t, second)
	slow.open()
	gotLock(t, first)
	require.Empty(t, second)
	require.NoError(t, b.Unlock(name, nil))
	gotLock(t, second)
}

// A place goes just before its claim of the free lock arrives: the claim is void.
func TestClaimWithoutAPlace(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	old := &fork{etcd, name}
	require.True(t, old.lock(t, "old"))
	claimAt := func(g *gate) tap {
		return func(ctx context.Context, req, reply any, send sender) error {
			if puts(req, name) && deletes(req, name+waiting) {
				if err := g.pass(ctx, nil); err != nil {
					return err
				}
			}
			return send(ctx, reply)
		}
	}
	first, second := newGate(), newGate()
	b, c := tapped(t, machines, 60, claimAt(first), nil), tapped(t, machines, 60, claimAt(second), nil)
	gone := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	turn := wait(ctx, c, name, "c")
	awaitPlaces(t, etcd, name, 2)
	old.unlock(t)
	first.awaitArrival(t)
	remove(t, etcd, placeKey(int64(b.live[0].id), name))
	first.open()
	r := outcomeOf(t, gone)
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, ErrLost)
	second.awaitArrival(t)
	require.Nil(t, stored(t, etcd, name))
	second.open()
	gotLock(t, turn)
}

func TestForkAndOursExcludeEachOther(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	old := &fork{etcd, name}
	a, b := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))

	require.True(t, old.lock(t, "old"))
	require.Equal(t, Report{Msg: Fail, Done: over}, a.Lock(name, "a", nil))
	require.Equal(t, Fail, a.Inspect(name).Msg)
	value, err := a.Get(name)
	require.NoError(t, err)
	require.Equal(t, "old", value)
	require.ErrorIs(t, a.Unlock(name, nil), ErrNotHeld)
	turnA := wait(ctx, a, name, "a")
	awaitPlaces(t, etcd, name, 1)
	turnB := wait(ctx, b, name, "b")
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

// fork is the protocol of clients that know no line: they look, put under a lease, and delete.
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

// An event that never arrives strands nobody: the waiter looks by itself now and then.
func TestLostEventStrandsNobody(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"hand-over", "deletion"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			a := newClient(t, 5, 3)
			dropped := make(chan struct{}, 10)
			b := tapped(t, machines, 3, nil, func(_ string, resp *clientv3.WatchResponse) {
				if len(resp.Events) > 0 {
					resp.Events = nil
					dropped <- struct{}{}
				}
			})
			require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
			turn := wait(ctx, b, name, "b")
			awaitPlaces(t, etcd, name, 1)
			if what == "hand-over" {
				require.NoError(t, a.Unlock(name, nil))
			} else {
				_, err := etcd.Delete(ctx, name)
				require.NoError(t, err)
			}
			<-dropped
			gotLock(t, turn)
			require.NoError(t, b.Unlock(name, nil))
		})
	}
}

// A watch that ends, as after a compaction, is opened anew, and what it would have told meanwhile is looked up.
func TestBrokenWatchStrandsNobody(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	a := calm(newClient(t, 5, 60))
	var broken atomic.Bool
	b := tapped(t, machines, 60, nil, func(_ string, resp *clientv3.WatchResponse) {
		if len(resp.Events) > 0 && !broken.Swap(true) {
			resp.Events, resp.CompactRevision = nil, resp.Header.Revision
		}
	})
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	turn := wait(ctx, b, name, "b")
	awaitPlaces(t, etcd, name, 1)
	require.NoError(t, a.Unlock(name, nil))
	gotLock(t, turn) // the re-check comes only after 20 s
	require.True(t, broken.Load())
}

// requests counts what a client sends.
type requests struct {
	mu   sync.Mutex
	sent []any // guarded by mu
}

func (r *requests) tap(ctx context.Context, req, reply any, send sender) error {
	r.mu.Lock()
	r.sent = append(r.sent, req)
	r.mu.Unlock()
	return send(ctx, reply)
}

// take returns what was sent since the last time.
func (r *requests) take() []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sent
	r.sent = nil
	return sent
}

func TestUncontendedLockWaitIsOneTransaction(t *testing.T) {
	t.Parallel()
	ctx, name := limited(t), newName()
	var sent requests
	c := tapped(t, machines, 60, sent.tap, nil)
	for range 3 {
		calm(c)
		sent.take()
		r := c.LockWait(ctx, name, "v", nil)
		require.Equal(t, Success, r.Msg, "%v", r.Err)
		require.Len(t, sent.take(), 1)
		require.NoError(t, c.Unlock(name, nil))
		require.Len(t, sent.take(), 1)
	}
}

// In a contended lock the release is one transaction, and the one who gets the lock writes nothing.
func TestCostOfAHandOver(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	var sent [4]requests
	var clients []Client
	for i := range sent {
		clients = append(clients, tapped(t, machines, 60, sent[i].tap, nil))
	}
	require.Equal(t, Success, clients[0].Lock(name, "v", nil).Msg)
	turns := make([]<-chan Report, len(sent))
	for i := 1; i < len(sent); i++ {
		turns[i] = wait(ctx, clients[i], name, "v")
		awaitPlaces(t, etcd, name, i)
	}
	for i := range len(sent) - 1 {
		for j := range sent {
			calm(clients[j])
			sent[j].take()
		}
		require.NoError(t, clients[i].Unlock(name, nil))
		gotLock(t, turns[i+1])
		if i > 0 { // the first holder found the line only when it released
			require.Len(t, sent[i].take(), 1, "the one who releases")
		}
		for _, req := range sent[i+1].take() {
			require.False(t, writes(req), "the one who gets: %v", req)
		}
		for j := i + 2; j < len(sent); j++ {
			require.Empty(t, sent[j].take(), "one who waits on")
		}
	}
}

// Within a process the lock changes hands in one transaction, and nobody stands in the line for it.
func TestCostOfAHandOverWithinAProcess(t *testing.T) {
	t.Parallel()
	ctx, name := limited(t), newName()
	var sent requests
	c := tapped(t, machines, 60, sent.tap, nil)
	require.Equal(t, Success, c.Lock(name, "v", nil).Msg)
	var turns []<-chan Report
	for i := range 5 {
		turns = append(turns, wait(ctx, c, name, "v"))
		awaitLine(t, c, name, i+1)
	}
	for _, turn := range turns {
		calm(c)
		sent.take()
		require.NoError(t, c.Unlock(name, nil))
		gotLock(t, turn)
		require.Len(t, sent.take(), 1)
	}
}

// A hand-over wakes the one who gets the lock, however many wait.
func TestHandOverWakesOneWaiter(t *testing.T) {
	t.Parallel()
	const waiters = 20
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	var events, watches atomic.Int64
	holder := calm(newClient(t, 5, 60))
	require.Equal(t, Success, holder.Lock(name, "v", nil).Msg)
	var clients []Client
	var turns []<-chan Report
	for i := range waiters {
		c := tapped(t, machines, 60, nil, func(_ string, resp *clientv3.WatchResponse) {
			if resp.Created {
				watches.Add(1)
			}
			events.Add(int64(len(resp.Events)))
		})
		clients = append(clients, c)
		turns = append(turns, wait(ctx, c, name, "v"))
		awaitPlaces(t, etcd, name, i+1)
	}
	require.Equal(t, int64(2*waiters), watches.Load(), "watches of each")
	require.Zero(t, events.Load())
	for i, turn := range turns {
		require.NoError(t, holder.Unlock(name, nil))
		gotLock(t, turn)
		holder = clients[i]
	}
	require.Equal(t, int64(waiters), events.Load(), "one event for each hand-over")
}

// Raft proposals of one contended cycle: two across clients (into the line, and the hand-over), one within a client.
func TestProposals(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	cluster := etcdtest.New(t, etcdtest.Options{Members: 1})
	const cycles = 30
	etcd := etcdtest.Connect(t, cluster.Endpoints())
	committed := func() float64 { // the metric of that name may lag behind an answer
		status, err := etcd.Status(ctx, cluster.Endpoints()[0])
		require.NoError(t, err)
		return float64(status.RaftIndex)
	}

	for _, n := range []int{2, 4} {
		name := newName()
		var clients []Client
		for range n {
			clients = append(clients, tapped(t, cluster.Endpoints(), 60, nil, nil))
		}
		turns := make([]<-chan Report, n)
		for i := range n {
			turns[i] = wait(ctx, clients[i], name, "v")
			eventually(t, "the first has the lock", func() bool { return stored(t, etcd, name) != nil })
			awaitPlaces(t, etcd, name, i)
		}
		var before float64
		for i := range n + cycles {
			if i == n {
				before = committed()
			}
			calm(clients[i%n])
			gotLock(t, turns[i%n])
			require.NoError(t, clients[i%n].Unlock(name, nil))
			turns[i%n] = wait(ctx, clients[i%n], name, "v")
			awaitPlaces(t, etcd, name, n-1)
		}
		each := (committed() - before) / cycles
		if each > 2 {
			t.Errorf("%d clients: %.2f proposals a cycle", n, each)
		}
		for i := range n { // the line runs dry
			k := (cycles + n + i) % n
			gotLock(t, turns[k])
			require.NoError(t, clients[k].Unlock(name, nil))
		}
	}

	name, c := newName(), tapped(t, cluster.Endpoints(), 60, nil, nil)
	require.Equal(t, Success, c.Lock(name, "v", nil).Msg)
	turn := wait(ctx, c, name, "v")
	awaitLine(t, c, name, 1)
	before := committed()
	for range cycles {
		calm(c)
		require.NoError(t, c.Unlock(name, nil))
		gotLock(t, turn)
		turn = wait(ctx, c, name, "v")
		awaitLine(t, c, name, 1)
	}
	require.InDelta(t, cycles, committed()-before, 0, "within a client")
	require.NoError(t, c.Unlock(name, nil))
	gotLock(t, turn)
}

// change is what one commit did to a lock's key and its line.
type change struct {
	revision int64
	what     map[string]string // key: "delete", or "put" and the value
	lease    int64             // of the lock's key, if that was put
}

// changes are the commits to a name since a revision.
func changes(t *testing.T, etcd *clientv3.Client, name string, since int64) (found []change) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	mark, err := etcd.Put(ctx, name+"/end", "") // old servers answer a request for progress too early
	require.NoError(t, err)
	remove(t, etcd, name+"/end")
	events := etcd.Watch(ctx, name, clientv3.WithPrefix(), clientv3.WithRev(since))
	for {
		resp, ok := <-events
		require.True(t, ok, "the watch has ended: %v", resp.Err())
		for _, e := range resp.Events {
			if e.Kv.ModRevision == mark.Header.Revision {
				return found
			}
			if n := len(found); n == 0 || found[n-1].revision != e.Kv.ModRevision {
				found = append(found, change{revision: e.Kv.ModRevision, what: map[string]string{}})
			}
			c := &found[len(found)-1]
			what := "delete"
			if e.Type == mvccpb.Event_PUT {
				what = "put " + string(e.Kv.Value)
				if string(e.Kv.Key) == name {
					c.lease = e.Kv.Lease
				}
			}
			c.what[string(e.Kv.Key)] = what
		}
	}
}

// An entry of an earlier wait arrives late and writes over the place of the present one.
func TestLateEntryChangesTheValue(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	a := calm(newClient(t, 5, 60))
	deliver, tap := late(func(req any) bool { return enters(req, name) })
	b := tapped(t, machines, 60, tap, nil)
	b.usual.Store(0)
	mustLock(t, a, name, "a", nil)
	leaving, leave := context.WithCancel(ctx)
	turn := wait(leaving, b, name, "old")
	awaitPlaces(t, etcd, name, 1)
	leave()
	require.Equal(t, Fail, outcomeOf(t, turn).Msg)
	awaitPlaces(t, etcd, name, 0)
	turn = wait(ctx, b, name, "new")
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

// After an outage of its watches a waiter asks a quorum, whatever it was told before.
func TestLaggingMemberAfterAnOutageOfWatches(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	old := &fork{etcd, name}
	require.True(t, old.lock(t, "old"))
	first := calm(newClient(t, 5, 60))
	turn := wait(ctx, first, name, "first")
	awaitPlaces(t, etcd, name, 1)
	var breaking, broken atomic.Bool
	var lag, looked atomic.Int64 // what the answering member has come to, and what the waiter has seen of it
	second := tapped(t, machines, 60, func(ctx context.Context, req, reply any, send sender) error {
		txn, _ := req.(*pb.TxnRequest)
		if broken.Load() && txn != nil && !writes(req) {
			for _, op := range txn.Success {
				if r := op.GetRequestRange(); r.Serializable {
					r.Revision = lag.Load()
				}
			}
		}
		err := send(ctx, reply)
		if err == nil && txn != nil && !writes(req) {
			looked.Store(reply.(*pb.TxnResponse).Header.Revision)
		}
		return err
	}, func(_ string, resp *clientv3.WatchResponse) {
		if len(resp.Events) > 0 && breaking.Load() && !broken.Swap(true) {
			resp.Events, resp.CompactRevision = nil, resp.Header.Revision
		}
	})
	next := wait(ctx, second, name, "second")
	awaitPlaces(t, etcd, name, 2)
	old.unlock(t) // the second sees this, and that the first takes it
	token := gotLock(t, turn).Token
	eventually(t, "the second has looked", func() bool { return looked.Load() >= token })
	resp, err := etcd.Get(ctx, name)
	require.NoError(t, err)
	lag.Store(resp.Header.Revision)
	breaking.Store(true)
	require.NoError(t, first.Unlock(name, nil))
	gotLock(t, next) // the next look without a reason is after 20 s
	require.True(t, broken.Load())
	require.NoError(t, second.Unlock(name, nil))
}
