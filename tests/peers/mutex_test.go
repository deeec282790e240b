package peers

import (
	"context"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// routes are the endpoints of the owner with that number: all at one member, or each at another.
var routes = map[string]func(i int) []string{
	"one member":   func(int) []string { return machines[:1] },
	"each another": func(i int) []string { return machines[i%len(machines):][:1] },
}

// Five wait for one lock, and get it one after the other.
func TestWaitersTakeTurns(t *testing.T) {
	withEach(t, func(t *testing.T, _ string, newOwner func(testing.TB, []string, int) owner) {
		for route, endpoints := range routes {
			name, turns := etcdtest.NewName(), make(chan outcome, 5)
			for i := range cap(turns) {
				o := newOwner(t, endpoints(i), 60)
				go func() {
					h, err := o.lock(t.Context(), name)
					turns <- outcome{h, err}
				}()
			}
			var last int64
			for range cap(turns) {
				h := etcdtest.Receive(t, turns)
				require.NoError(t, h.err, route)
				require.Empty(t, turns, "the others wait, %s", route)
				require.Greater(t, h.token, last, route)
				last = h.token
				require.NoError(t, h.unlock())
			}
		}
	})
}

// Five try to take one lock at once, and one gets it.
func TestOneOfThoseWhoTry(t *testing.T) {
	withEach(t, func(t *testing.T, _ string, newOwner func(testing.TB, []string, int) owner) {
		for route, endpoints := range routes {
			name, taken := etcdtest.NewName(), make(chan bool, 5)
			for i := range cap(taken) {
				o := newOwner(t, endpoints(i), 60)
				go func() {
					_, got, err := o.try(name)
					taken <- got && err == nil
				}()
			}
			winners := 0
			for range cap(taken) {
				if etcdtest.Receive(t, taken) {
					winners++
				}
			}
			require.Equal(t, 1, winners, route)
		}
	})
}

// Who has a lock and asks for it again does not hang. The peer has it twice then; a lock of ours is not reentrant: Lock says
// so, and LockWait waits for as long as its ctx allows.
func TestRelock(t *testing.T) {
	withEach(t, func(t *testing.T, subject string, newOwner func(testing.TB, []string, int) owner) {
		o, name := newOwner(t, machines, 60), etcdtest.NewName()
		first, err := o.lock(t.Context(), name)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		second, err := o.lock(ctx, name)
		_, taken, errOfTry := o.try(name)
		require.NoError(t, errOfTry)
		if subject == "Mutex" {
			require.NoError(t, err)
			require.True(t, taken)
			require.NoError(t, second.unlock())
			require.True(t, first.held())
			require.Empty(t, keys(t, etcdtest.Connect(t, machines), name), "the first has nothing left")
			return
		}
		var denied locker.LockDenied
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorAs(t, err, &denied)
		require.False(t, taken)
		require.NoError(t, first.unlock())
	})
}

// The waiter before the last one loses its session. The last one waits for the holder all the same, and gets the lock after
// it. The peer tells the one that lost its session no sooner than its turn comes, ours tells it at once.
func TestWaitsForTheHolder(t *testing.T) {
	withEach(t, func(t *testing.T, subject string, newOwner func(testing.TB, []string, int) owner) {
		etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
		holder, err := newOwner(t, machines, 60).lock(t.Context(), name)
		require.NoError(t, err)
		victim := startLock(t.Context(), newOwner(t, machines, 60), name)
		awaitKeys(t, etcd, name, 2)
		next := startLock(t.Context(), newOwner(t, machines, 60), name)
		awaitKeys(t, etcd, name, 3)

		loseSession(t, etcd, name, 1)
		if subject == "locker" {
			require.ErrorIs(t, etcdtest.Receive(t, victim).err, locker.ErrLost)
		}
		require.Len(t, keys(t, etcd, name), 2)
		select {
		case <-next:
			require.FailNow(t, "the holder has it")
		case <-time.After(200 * time.Millisecond):
		}
		require.Empty(t, victim)
		require.NoError(t, holder.unlock())
		h := etcdtest.Receive(t, next)
		require.NoError(t, h.err)
		require.Greater(t, h.token, holder.token)
		if subject == "Mutex" {
			require.Error(t, etcdtest.Receive(t, victim).err)
		}
		require.NoError(t, h.unlock())
	})
}

// A waiter whose session is gone gets an error and not the lock, which is free afterwards.
func TestWaiterLosesItsSession(t *testing.T) {
	withEach(t, func(t *testing.T, _ string, newOwner func(testing.TB, []string, int) owner) {
		etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
		holder, err := newOwner(t, machines, 60).lock(t.Context(), name)
		require.NoError(t, err)
		waiter := startLock(t.Context(), newOwner(t, machines, 60), name)
		awaitKeys(t, etcd, name, 2)
		loseSession(t, etcd, name, 1)
		require.NoError(t, holder.unlock())
		require.Error(t, etcdtest.Receive(t, waiter).err)
		awaitKeys(t, etcd, name, 0)
	})
}
