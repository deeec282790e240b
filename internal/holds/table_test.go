package holds

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// into brings a name from free into a state.
func (f *fixture) into(t *testing.T, s state) (h *Hold) {
	t.Helper()
	switch s {
	case reserved:
		f.reserve(t, name)
	case refused:
		f.reserve(t, name)
		f.Refused(name)
	case held:
		h = f.hold(t, name, nil)
	case cleaning:
		f.reserve(t, name)
		f.StartCleanUp(name)
	}
	got, _ := f.stateOf(name)
	require.Equal(t, s, got)
	return h
}

// All legal transitions of a name, with and without a goroutine that waits for it. A waiter that is there must get its
// turn in those transitions that pass the name on, and in no other.
func TestTable_Transitions(t *testing.T) {
	for _, c := range []struct {
		what     string
		from, to state
		passesOn bool // to a waiter, if there is one; the name is reserved then
		do       func(t *testing.T, f *fixture, h *Hold)
	}{
		{"TryReserve", free, reserved, false, func(t *testing.T, f *fixture, _ *Hold) {
			ok, pending := f.TryReserve(name)
			require.True(t, ok)
			require.Nil(t, pending)
		}},
		{"TryReserve", reserved, reserved, false, func(t *testing.T, f *fixture, _ *Hold) {
			ok, pending := f.TryReserve(name)
			require.False(t, ok)
			require.False(t, syncutil.Closed(pending.Done), "it may be had soon")
		}},
		{"TryReserve", held, held, false, func(t *testing.T, f *fixture, _ *Hold) {
			ok, pending := f.TryReserve(name)
			require.False(t, ok)
			require.Nil(t, pending, "there is nothing to wait for")
		}},
		{"TryReserve", cleaning, cleaning, false, func(t *testing.T, f *fixture, _ *Hold) {
			ok, pending := f.TryReserve(name)
			require.False(t, ok)
			require.NotNil(t, pending)
			_, again := f.TryReserve(name)
			require.Same(t, pending, again, "all wait for the same end")
			require.False(t, syncutil.Closed(pending.Done))
		}},
		{"Reserve", free, reserved, false, func(t *testing.T, f *fixture, _ *Hold) {
			h, ok := f.Reserve(t.Context(), name, "v", nil)
			require.True(t, ok)
			require.Nil(t, h)
		}},
		{"ReserveForCleanUp", free, cleaning, false, func(t *testing.T, f *fixture, _ *Hold) {
			require.True(t, f.ReserveForCleanUp(name))
		}},
		{"ReserveForCleanUp", reserved, reserved, false, func(t *testing.T, f *fixture, _ *Hold) {
			require.False(t, f.ReserveForCleanUp(name))
		}},
		{"ReserveForCleanUp", held, held, false, func(t *testing.T, f *fixture, _ *Hold) {
			require.False(t, f.ReserveForCleanUp(name))
		}},
		{"ReserveForCleanUp", cleaning, cleaning, false, func(t *testing.T, f *fixture, _ *Hold) {
			require.False(t, f.ReserveForCleanUp(name))
		}},
		{"Refused", reserved, refused, false, func(t *testing.T, f *fixture, _ *Hold) {
			_, pending := f.TryReserve(name)
			f.Refused(name)
			require.True(t, syncutil.Closed(pending.Done))
			require.True(t, pending.Refused)
		}},
		{"TryReserve", refused, refused, false, func(t *testing.T, f *fixture, _ *Hold) {
			ok, pending := f.TryReserve(name)
			require.False(t, ok)
			require.Nil(t, pending, "there is nothing to wait for")
		}},
		{"StartCleanUp", reserved, cleaning, false, func(_ *testing.T, f *fixture, _ *Hold) { f.StartCleanUp(name) }},
		{"StartCleanUp", refused, cleaning, false, func(_ *testing.T, f *fixture, _ *Hold) { f.StartCleanUp(name) }},
		{"PassOn", refused, refused, true, func(t *testing.T, f *fixture, _ *Hold) {
			require.Equal(t, f.Waiters(name) > 0, f.PassOn(name))
		}},
		{"Begin", refused, held, false, func(t *testing.T, f *fixture, _ *Hold) { f.Begin(f.grant(name), nil) }},
		{"Yield", refused, free, true, func(_ *testing.T, f *fixture, _ *Hold) { f.Yield(name, nil) }},
		{"Begin", reserved, held, false, func(t *testing.T, f *fixture, _ *Hold) {
			h := f.Begin(f.grant(name), nil)
			require.True(t, h.Held())
			require.Same(t, h, f.Find(name))
			require.Equal(t, []*Hold{h}, f.Of(f.lease))
			require.EqualValues(t, 1, f.lease.Holds.Load())
		}},
		{"Yield", reserved, free, true, func(_ *testing.T, f *fixture, _ *Hold) { f.Yield(name, nil) }},
		{"Yield", cleaning, free, true, func(t *testing.T, f *fixture, _ *Hold) {
			_, pending := f.TryReserve(name)
			f.Yield(name, nil)
			s, _ := f.stateOf(name)
			require.Equal(t, s == free, syncutil.Closed(pending.Done), "what a waiter will do with it is not known")
		}},
		{"Inherit", cleaning, held, false, func(t *testing.T, f *fixture, _ *Hold) {
			_, pending := f.TryReserve(name)
			heir := &Waiter{Value: "v", turn: make(chan *Hold, 1)}
			h, ok := f.Inherit(f.grant(name), heir)
			require.True(t, ok)
			require.Same(t, h, <-heir.turn)
			require.True(t, syncutil.Closed(pending.Done))
		}},
		{"Inherit, the heir has gone", cleaning, held, false, func(t *testing.T, f *fixture, _ *Hold) {
			heir := &Waiter{Value: "v", turn: make(chan *Hold, 1), gone: true}
			h, ok := f.Inherit(f.grant(name), heir)
			require.False(t, ok)
			require.True(t, h.Held(), "the caller must end it")
			require.Empty(t, heir.turn)
		}},
		{"End", held, cleaning, false, func(t *testing.T, f *fixture, h *Hold) {
			require.NoError(t, f.End(h))
			requireEnded(t, f, h)
			require.ErrorIs(t, f.End(h), ErrReleased, "once only")
		}},
		{"EndAll", held, cleaning, false, func(t *testing.T, f *fixture, h *Hold) {
			contended, others := f.EndAll()
			require.Empty(t, contended)
			require.Equal(t, []*Hold{h}, others)
			requireEnded(t, f, h)
			require.ErrorIs(t, h.Cause(), ErrClosed)
		}},
		{"EndAll, contended", held, cleaning, false, func(t *testing.T, f *fixture, h *Hold) {
			h.Queue = someQueue{}
			contended, others := f.EndAll()
			require.Equal(t, []*Hold{h}, contended)
			require.Empty(t, others)
		}},
		{"Lose", held, free, true, func(t *testing.T, f *fixture, h *Hold) {
			f.Lose(h, errTest)
			requireEnded(t, f, h)
			f.Lose(h, errTest) // is no second loss
			require.Same(t, h, f.Find(name), "its holder has not been told")
			require.ErrorIs(t, f.End(h), ErrLost)
			require.Nil(t, f.Find(name))
		}},
		{"LoseAll", held, free, true, func(t *testing.T, f *fixture, h *Hold) {
			f.LoseAll(f.lease)
			requireEnded(t, f, h)
			require.ErrorIs(t, f.End(h), ErrLost)
		}},
	} {
		for waiters := range 2 {
			if waiters > 0 && c.from == free {
				continue // nobody waits for what is free
			}
			t.Run(fmt.Sprintf("%d %s, %d waiting", c.from, c.what, waiters), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFixture(t)
					h := f.into(t, c.from)
					var line []*Waiter
					if waiters > 0 {
						line = f.enqueue(name, waiters)
					}
					c.do(t, f, h)
					s, known := f.stateOf(name)
					if want := c.to; c.passesOn && waiters > 0 {
						require.Equal(t, reserved, s)
						require.Len(t, line[0].turn, 1)
						require.Nil(t, <-line[0].turn, "it gets the reservation alone")
						require.Zero(t, f.Waiters(name))
					} else {
						require.Equal(t, want, s)
						require.Equal(t, waiters, f.Waiters(name))
						require.Equal(t, want != free, known, "a name that is free is forgotten")
					}
					require.Equal(t, s != free, f.InUse(name))
				})
			})
		}
	}
}

// requireEnded requires that a hold is over, for its holder and for its lease.
func requireEnded(t *testing.T, f *fixture, h *Hold) {
	t.Helper()
	require.False(t, h.Held())
	require.True(t, syncutil.Closed(h.Done()))
	require.Error(t, h.Cause())
	require.Empty(t, f.Of(f.lease))
	require.Zero(t, f.lease.Holds.Load())
}

func TestYield_InOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.reserve(t, name)
		line := f.enqueue(name, 3)
		for _, w := range line {
			ok, pending := f.TryReserve(name)
			require.False(t, ok)
			require.NotNil(t, pending)
			for _, other := range line {
				require.Empty(t, other.turn)
			}
			f.Yield(name, nil)
			require.Len(t, w.turn, 1)
			require.Nil(t, <-w.turn, "it gets the reservation alone")
		}
		f.Yield(name, nil)
		f.empty(t)
		f.reserve(t, name)
	})
}

// A release takes the heir out of the line at its start. At its end it is decided whether the heir gets the name.
func TestYield_ToHeir(t *testing.T) {
	for _, c := range []struct {
		what string
		gone bool
		next int
	}{{"the heir waits", false, 0}, {"the heir has gone meanwhile", true, 1}} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.reserve(t, name)
				line := f.enqueue(name, 2)
				heir := f.FirstWaiter(name)
				require.Same(t, line[0], heir)
				heir.gone = c.gone
				f.Yield(name, heir)
				require.Len(t, line[c.next].turn, 1)
				require.Empty(t, line[1-c.next].turn)
				require.Equal(t, 1-c.next, f.Waiters(name))
			})
		})
	}
	t.Run("the only heir has gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			f.reserve(t, name)
			f.enqueue(name, 1)
			heir := f.FirstWaiter(name)
			heir.gone = true
			require.Nil(t, f.FirstWaiter(name))
			f.Yield(name, heir)
			require.Empty(t, heir.turn)
			f.empty(t)
		})
	})
}

// While the client closes, no goroutine of it inherits a lock.
func TestHeir_WhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		h := f.hold(t, name, nil)
		line := f.enqueue(name, 1)
		f.close()
		require.NoError(t, f.End(h))
		require.Nil(t, f.FirstWaiter(name))
		f.Yield(name, nil)
		require.Nil(t, <-line[0].turn, "it gets the reservation, not the lock")
	})
}

// A loss is remembered until the holder has been told, and keeps nobody else from the name.
func TestLose_HolderNotToldYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		h := f.hold(t, name, nil)
		f.Lose(h, errTest)
		names, losses, _ := f.Size()
		require.Zero(t, names)
		require.Equal(t, 1, losses, "the holder is to be told")
		f.reserve(t, name)
		f.Yield(name, nil)
		require.Same(t, h, f.Find(name))
		require.ErrorIs(t, f.End(h), ErrLost)
		f.empty(t)

		// The end of a loss that was told does not drop the name while somebody else has reserved it.
		h = f.hold(t, name, nil)
		f.Lose(h, errTest)
		f.reserve(t, name)
		require.ErrorIs(t, f.End(h), ErrLost)
		s, known := f.stateOf(name)
		require.True(t, known)
		require.Equal(t, reserved, s)
	})
}

// A goroutine whose ctx ends leaves the line, and those behind it keep their places.
func TestReserve_CtxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.reserve(t, name)
		reserved := make(chan bool, 2)
		wait := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			h, ok := f.Reserve(ctx, name, "v", nil)
			require.Nil(t, h)
			reserved <- ok
		}
		start := time.Now()
		go wait(100 * ms)
		synctest.Wait()
		go wait(time.Second)
		require.False(t, <-reserved)
		require.Equal(t, 100*ms, time.Since(start))
		f.Yield(name, nil)
		require.True(t, <-reserved)
		f.Yield(name, nil)
		f.empty(t)
	})
}

// A reservation that reaches a goroutine at the moment at which its ctx ends is the goroutine's.
func TestReserve_TurnComesAsCtxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		gaveUp := 0
		for range 500 {
			f.reserve(t, name)
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan bool)
			go func() { _, ok := f.Reserve(ctx, name, "v", nil); result <- ok }()
			synctest.Wait()
			f.mu.Lock()
			cancel()
			for range 10 {
				runtime.Gosched() // mostly, the goroutine now waits for the mutex
			}
			f.yield(name, nil)
			f.mu.Unlock()
			if !<-result {
				gaveUp++
			} else {
				f.Yield(name, nil)
			}
			f.empty(t)
		}
		require.Less(t, gaveUp, 500)
	})
}

// A lock that a goroutine inherits at the moment at which its ctx ends is returned to that goroutine, which must end it.
func TestReserve_LockComesAsCtxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for range 500 {
			h := f.hold(t, name, nil)
			ctx, cancel := context.WithCancel(t.Context())
			type result struct {
				h  *Hold
				ok bool
			}
			results := make(chan result)
			go func() { h, ok := f.Reserve(ctx, name, "v", nil); results <- result{h, ok} }()
			synctest.Wait()
			require.NoError(t, f.End(h))
			heir := f.FirstWaiter(name)
			f.mu.Lock()
			cancel()
			for range 10 {
				runtime.Gosched() // mostly, the goroutine now waits for the mutex
			}
			next := f.begin(f.grant(name), heir.Quit)
			heir.turn <- next
			f.mu.Unlock()
			r := <-results
			require.True(t, r.ok)
			require.Same(t, next, r.h)
			require.True(t, next.Held())
			require.NoError(t, f.End(next))
			f.Yield(name, nil)
			f.empty(t)
		}
	})
}
