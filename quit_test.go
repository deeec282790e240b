package locker

import (
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// three takes three locks with one quit channel.
func three(t *testing.T, c Client, quit <-chan bool) (names []string, reports []Report) {
	for range 3 {
		names = append(names, newName())
		reports = append(reports, mustLock(t, c, names[len(names)-1], DefaultValue, quit))
	}
	return names, reports
}

func TestCloseOfQuitReleasesAll(t *testing.T) {
	t.Parallel()
	c, other := newClient(t, 5, 5), newClient(t, 5, 5)
	quit := make(chan bool)
	names, reports := three(t, c, quit)
	close(quit)
	for i, name := range names {
		receive(t, reports[i].Done, soon)
		require.False(t, reports[i].Held())
		require.ErrorIs(t, c.Unlock(name, nil), ErrNotHeld)
		// This process waits for the end of the release, other ones see it when it is over.
		mustLock(t, c, name, DefaultValue, nil)
		mustFail(t, other, name)
	}
}

func TestSendOnQuitReleasesOne(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	for _, quit := range []chan bool{make(chan bool), make(chan bool, 3)} {
		names, reports := three(t, c, quit)
		for left := 2; left >= 0; left-- {
			send(t, quit, false) // that a value comes counts, not which
			held := 0
			eventually(t, "one is released", func() bool {
				held = 0
				for _, r := range reports {
					if r.Held() {
						held++
					}
				}
				return held <= left
			})
			require.Equal(t, left, held)
			if left == 2 { // those that count as held are held: Unlock would say so if not
				for i, r := range reports {
					if r.Held() {
						require.NoError(t, c.Unlock(names[i], nil))
						reports[i] = mustLock(t, c, names[i], DefaultValue, quit)
					}
				}
			}
		}
	}
}

func TestUnlockReleasesTheNamedOne(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	quit := make(chan bool)
	names, reports := three(t, c, quit)
	require.NoError(t, c.Unlock(names[1], quit))
	require.True(t, reports[0].Held())
	require.False(t, reports[1].Held())
	require.True(t, reports[2].Held())
	require.ErrorIs(t, c.Unlock(names[1], quit), ErrNotHeld)
	require.NoError(t, c.Unlock(names[2], quit))
	send(t, quit, true)
	receive(t, reports[0].Done, soon)
}

// A Lock right after a release by quit waits for its end, instead of being refused by it.
func TestLockAfterQuit(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name, quit := newName(), make(chan bool)
	for range 20 {
		r := mustLock(t, c, name, DefaultValue, quit)
		send(t, quit, true)
		receive(t, r.Done, soon)
	}
	r := mustLock(t, c, name, DefaultValue, quit)
	close(quit)
	receive(t, r.Done, soon)
	for range 20 { // with a channel that is closed already, a lock ends as it begins
		r := c.Lock(name, DefaultValue, quit)
		require.NoError(t, r.Err)
		require.Equal(t, Success, r.Msg)
		receive(t, r.Done, soon)
	}
}

// A value on quit reaches the lock that has it now, whatever the end of an earlier lock with it is still busy with.
func TestQuitOfConsecutiveLocks(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name := newName()
	for range 500 {
		quit := make(chan bool, 1)
		first := &hold{name: name, s: c.live[0]}
		next := &hold{name: name, s: c.live[0], lost: true}
		c.mu.Lock()
		c.listen(quit, first)
		c.unlisten(first) // as if Lock and Unlock had taken no time
		c.listen(quit, next)
		c.mu.Unlock()
		send(t, quit, true)
		eventually(t, "the value ends the lock", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return next.listener == nil
		})
	}
}

// A Lock that gets its answer while the client is being closed leaves no listener and no watch behind, which Close would
// wait for.
func TestLockThatMeetsClose(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 30)
	s := c.live[0]
	h := &hold{s: s, name: newName(), token: 1}
	c.cancel(ErrClosed)
	c.begin(h, make(chan bool))
	require.Empty(t, c.listeners)
	require.Zero(t, c.watchHeld(s))
	ended := make(chan struct{})
	go func() { c.tasks.wait(); close(ended) }() // as Close does, before it ends the session
	receive(t, ended, soon)
	require.NoError(t, c.Close())
	receive(t, h.done, soon)
}

// What Close gives back goes to no goroutine of this client, even where that has not heard of the end yet.
func TestNobodyInheritsFromClose(t *testing.T) {
	t.Parallel()
	c, name := newClient(t, 5, 30), newName()
	r := mustLock(t, c, name, DefaultValue, nil)
	w := &waiter{value: DefaultValue, quit: make(chan bool), turn: make(chan *hold, 1)}
	c.mu.Lock()
	c.seats[name].line = append(c.seats[name].line, w)
	c.mu.Unlock()
	c.cancel(ErrClosed)
	require.NoError(t, c.finish(r.hold))
	require.Nil(t, receive(t, w.turn, soon), "the seat, and not the lock")
	require.NoError(t, c.Close())
}

// A send on quit finds a receiver also when another goroutine has taken the lock that was lost.
func TestQuitOfALostLockThatIsTakenAgain(t *testing.T) {
	t.Parallel()
	c, etcd, name := newClient(t, 5, 5), etcdtest.Connect(t, machines), newName()
	quit := make(chan bool)
	r := mustLock(t, c, name, "v", quit)
	crash(t, etcd, c)
	receive(t, r.Done, soon)
	again := mustLock(t, c, name, "of another goroutine", nil)
	send(t, quit, true)
	require.True(t, again.Held())
}
