package lease

import (
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// fakeClocks are the clocks of a machine in a bubble of synctest that can be suspended, and whose wall clock can be set.
type fakeClocks struct {
	suspended atomic.Int64 // for so long in all
	set       atomic.Int64 // by how much the wall clock was set
	asked     atomic.Int64 // how often the clock since boot was asked
	heldUp    atomic.Int64 // how long the next call of boot takes
}

// newFakeClocks replaces the clocks until the end of the test.
func newFakeClocks(t *testing.T) *fakeClocks {
	f := &fakeClocks{}
	real := clocks
	t.Cleanup(func() { clocks = real })
	clocks = &clock{
		read: func() (wall, monotonic time.Duration) {
			t := time.Now()
			return time.Duration(t.UnixNano() + f.suspended.Load() + f.set.Load()), t.Sub(epoch)
		},
		boot: func() time.Duration {
			f.asked.Add(1)
			boot := time.Since(epoch) + time.Duration(f.suspended.Load())
			time.Sleep(time.Duration(f.heldUp.Swap(0)))
			return boot
		},
	}
	return f
}

// The first look after a suspension is right, whatever happens to the wall clock. A wall clock that is set costs no lease.
func TestClock_FirstLook(t *testing.T) {
	const trusted = 54 * time.Second // of a TTL of a minute
	for _, c := range []struct {
		name           string
		suspended, set time.Duration
		lost           bool
	}{
		{"nothing happens", 0, 0, false},
		{"a short suspension", 30 * time.Second, 0, false},
		{"a long suspension", trusted, 0, true},
		{"a long suspension, and the wall clock is set forward", trusted, 2 * time.Second, true},
		{"a long suspension, and the wall clock is set back a bit", trusted, -2 * time.Second, true},
		{"a long suspension, and the wall clock is set back to before", trusted, -time.Hour, true},
		{"a short suspension, and the wall clock is set forward", time.Second, time.Hour, false},
		{"the wall clock is set forward", 0, time.Hour, false},
		{"the wall clock is set back", 0, -time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			machine := newFakeClocks(t)
			synctest.Test(t, func(t *testing.T) {
				l, _ := runLease(t, time.Minute, &etcdfake.Leases{})
				<-l.granted
				require.True(t, l.Alive(), "this look is remembered")
				machine.suspended.Add(int64(c.suspended))
				machine.set.Add(int64(c.set))
				require.Equal(t, !c.lost, l.Alive())
				time.Sleep(time.Hour)
				require.Equal(t, !c.lost, l.Alive())
			})
		})
	}
}

// What is left open: a wall clock that is set back by the length of the suspension hides it, for as long as a reading counts.
func TestClock_WallClockHidesASuspension(t *testing.T) {
	machine := newFakeClocks(t)
	synctest.Test(t, func(t *testing.T) {
		l, _ := runLease(t, time.Minute, &etcdfake.Leases{})
		<-l.granted
		require.True(t, l.Alive())
		machine.suspended.Add(int64(time.Hour))
		machine.set.Add(-int64(time.Hour))
		time.Sleep(maxAge)
		require.False(t, l.Alive())
	})
}

// A suspension at any moment of a renewal counts: between its sending and its answer, and also where it is short, but comes
// again and again.
func TestClock_SuspensionDuringARenewal(t *testing.T) {
	machine := newFakeClocks(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLease(t.Context(), nil, nil, time.Minute, slog.New(slog.DiscardHandler))
		require.NoError(t, l.extend(now(), time.Minute))
		sent := now()
		for range 54 {
			require.NoError(t, l.extend(sent, time.Minute))
			machine.suspended.Add(int64(time.Second))
		}
		require.Error(t, l.extend(sent, time.Minute))
		require.False(t, l.Alive())
		synctest.Wait()
		require.True(t, syncutil.Closed(l.ctx.Done()))
	})
}

// The clock since boot is asked once in maxAge, and where the wall clock has moved. A reading that took long is not kept: it
// would be wrong by as much.
func TestClock_AsksSeldom(t *testing.T) {
	machine := newFakeClocks(t)
	synctest.Test(t, func(t *testing.T) {
		look := func() int64 {
			before := machine.asked.Load()
			n := now()
			require.InDelta(t, machine.suspended.Load(), n.boot-n.monotonic, 0)
			return machine.asked.Load() - before
		}
		require.EqualValues(t, 1, look())
		time.Sleep(maxAge - 1)
		require.EqualValues(t, 0, look())
		time.Sleep(time.Nanosecond)
		require.EqualValues(t, 1, look())
		require.EqualValues(t, 0, look())
		machine.set.Add(-int64(maxShift))
		require.EqualValues(t, 1, look())
		machine.set.Add(int64(maxShift))
		machine.heldUp.Store(int64(maxShift))
		require.EqualValues(t, 1, look())
		require.EqualValues(t, 1, look(), "the last reading took too long")
		require.EqualValues(t, 0, look())
	})
}

// What Report.Held costs, but for one look at a flag.
func BenchmarkAlive(b *testing.B) {
	l := newLease(b.Context(), nil, nil, time.Hour, slog.New(slog.DiscardHandler))
	if err := l.extend(now(), time.Hour); err != nil {
		b.Fatal(err)
	}
	b.Run("one goroutine", func(b *testing.B) {
		for b.Loop() {
			l.Alive()
		}
	})
	b.Run("many", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				l.Alive()
			}
		})
	})
}
