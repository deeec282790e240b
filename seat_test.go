package locker

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// newLine takes a seat and lets n waiters stand in its line.
func newLine(n int) (seats, []*waiter) {
	m := seats{}
	m.take("name")
	s := m.get("name")
	for range n {
		s.line = append(s.line, &waiter{turn: make(chan *hold, 1)})
	}
	return m, append([]*waiter(nil), s.line...)
}

func TestSeatIsPassedInOrder(t *testing.T) {
	m, line := newLine(3)
	for _, w := range line {
		ok, settled := m.take("name")
		require.False(t, ok)
		require.Nil(t, settled, "nothing to wait for: it is taken in earnest")
		for _, other := range line {
			require.Empty(t, other.turn)
		}
		m.pass("name", nil)
		require.Len(t, w.turn, 1)
		require.Nil(t, <-w.turn, "the seat alone")
	}
	m.pass("name", nil)
	require.Empty(t, m, "nobody is left")
	ok, _ := m.take("name")
	require.True(t, ok)
}

// The heir leaves the line at the start of a release; what becomes of it is decided at its end.
func TestSeatIsPassedToTheHeir(t *testing.T) {
	for _, c := range []struct {
		name string
		gone bool
		next int
	}{{"waiting", false, 0}, {"gone meanwhile", true, 1}} {
		t.Run(c.name, func(t *testing.T) {
			m, line := newLine(2)
			heir := m.heir("name")
			require.Same(t, line[0], heir)
			heir.gone = c.gone
			m.pass("name", heir)
			require.Len(t, line[c.next].turn, 1)
			require.Empty(t, line[1-c.next].turn)
			require.Len(t, m.get("name").line, 1-c.next)
		})
	}
	t.Run("the only one, gone", func(t *testing.T) {
		m, _ := newLine(1)
		heir := m.heir("name")
		heir.gone = true
		require.Nil(t, m.heir("name"))
		m.pass("name", heir)
		require.Empty(t, heir.turn)
		require.Empty(t, m)
	})
}

func TestSeatIsKeptForALoss(t *testing.T) {
	m, _ := newLine(0)
	m.get("name").lost = &hold{}
	m.pass("name", nil)
	require.Len(t, m, 1, "the holder is to be told")
	ok, _ := m.take("name")
	require.True(t, ok, "others need not wait for that")
	m.pass("name", nil)
	m.get("name").lost = nil
	m.forget("name")
	require.Empty(t, m)

	m.take("name")
	m.forget("name")
	require.Len(t, m, 1, "taken")
}

// Lock fails at once where somebody holds; where only clean-up goes on, it waits for its end and no longer.
func TestLockAndTheSeat(t *testing.T) {
	settle := func(s *seat) { s.settling = true }
	for _, c := range []struct {
		name         string
		prepare      func(*seat)
		waits, taken bool
	}{
		{"held", func(*seat) {}, false, false},
		{"settling", settle, true, true},
		{"settling, with a waiter before it", func(s *seat) {
			s.settling = true
			s.line = append(s.line, &waiter{turn: make(chan *hold, 1)})
		}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, _ := newFakeCore(t, new(fakeKV))
				core.seats.take("name")
				c.prepare(core.seats.get("name"))
				const n = 3 // all wait for the same end, and one of them gets it
				var mu sync.Mutex
				ended, taken := 0, 0
				var running sync.WaitGroup
				for range n {
					running.Go(func() {
						h, err := core.lock(within(1000*ms), "name", "v", nil)
						mu.Lock()
						defer mu.Unlock()
						ended++
						if h != nil {
							taken++
						}
						require.NoError(t, err)
					})
				}
				synctest.Wait()
				mu.Lock()
				require.Equal(t, c.waits, ended == 0)
				mu.Unlock()
				core.pass("name", nil)
				running.Wait()
				require.Equal(t, c.taken, taken == 1)
			})
		})
	}
	t.Run("settling for too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			core, _ := newFakeCore(t, new(fakeKV))
			core.seats.take("name")
			core.seats.get("name").settling = true
			h, err := core.lock(within(100*ms), "name", "v", nil)
			require.Nil(t, h)
			require.ErrorContains(t, err, "no answer from etcd in time")
			core.pass("name", nil)
			require.Empty(t, core.seats)
		})
	})
}

// A waiter that gives up leaves the line.
func TestWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, _ := newFakeCore(t, new(fakeKV))
		core.seats.take("name")
		errs := make(chan error, 2)
		wait := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_, err := core.seated(ctx, "name", "v", nil)
			errs <- err
		}
		go wait(100 * ms)
		synctest.Wait()
		go wait(time.Second)
		require.ErrorAs(t, <-errs, new(LockDenied))
		core.pass("name", nil)
		require.NoError(t, <-errs)
		core.pass("name", nil)
		require.Empty(t, core.seats)
	})
}

// A seat that reaches a waiter in the moment in which it gives up is not lost.
func TestSeatReachesOneWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, _ := newFakeCore(t, new(fakeKV))
		gaveUp := 0
		for range 500 {
			core.seats.take("name")
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() { _, err := core.seated(ctx, "name", "v", nil); result <- err }()
			synctest.Wait()
			core.mu.Lock()
			cancel()
			for range 10 {
				runtime.Gosched() // it now waits for the mutex, mostly
			}
			core.seats.pass("name", nil)
			core.mu.Unlock()
			if err := <-result; err != nil {
				gaveUp++
			} else {
				core.pass("name", nil)
			}
			require.Empty(t, core.seats)
		}
		require.Positive(t, gaveUp)
	})
}
