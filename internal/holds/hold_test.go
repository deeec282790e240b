package holds

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/lease"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// Held is right at the deadline of the lease though no goroutine has noticed it, and tells the loss itself.
func TestHeld_AtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		h := f.hold(t, name, nil)
		require.True(t, h.Held())
		f.lease.Suspend(1)
		require.False(t, syncutil.Closed(f.lease.Context().Done()), "nobody has looked")
		require.False(t, h.Held())
		require.True(t, syncutil.Closed(f.lease.Context().Done()))
	})
}

// A hold whose lease has ended, which the Table has not heard of, was lost. That is so at a deadline that nobody has
// noticed, in a process that was suspended for longer than the TTL and gives back the lock first of all; and in the moment
// between the end of a lease and LoseAll.
func TestEnd_LeaseHasEnded(t *testing.T) {
	for what, end := range map[string]func(*lease.Lease){
		"at the deadline":   func(l *lease.Lease) { l.Suspend(1) },
		"lost a moment ago": func(l *lease.Lease) { l.Lose(errors.New("cause")) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				h := f.hold(t, name, nil)
				end(f.lease)
				require.False(t, syncutil.Closed(h.Done()))
				require.ErrorIs(t, f.End(h), ErrLost)
				require.True(t, syncutil.Closed(h.Done()))
				require.False(t, h.Held())
				f.LoseAll(f.lease)
				require.ErrorIs(t, f.End(h), ErrLost)
				require.Nil(t, f.Find(name), "the loss was told")
				f.empty(t)
			})
		})
	}
}

// A hold that was ended by the client's end says so.
func TestEnd_WhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		h := f.hold(t, name, nil)
		f.close()
		f.EndAll()
		require.Equal(t, ErrClosed, f.End(h))
		require.Equal(t, ErrClosed, h.Cause())

		late := f.hold(t, "late", nil) // which was under way
		released := f.Counts.Released.Load()
		f.lease.Lose(ErrClosed)
		f.LoseAll(f.lease)
		require.Equal(t, ErrClosed, late.Cause())
		require.Zero(t, f.Counts.LostLease.Load(), "nothing was lost")
		require.Equal(t, released+1, f.Counts.Released.Load())
	})
}

// A hold whose lease had expired before the client's end was lost, though nobody has noticed until then.
func TestEndAll_AtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		h := f.hold(t, name, nil)
		f.lease.Suspend(1)
		contended, others := f.EndAll()
		require.Empty(t, contended)
		require.Empty(t, others, "its key may be another's")
		require.ErrorIs(t, h.Cause(), ErrLost)
	})
}

// A hold that begins while the client closes gets no listener, for the client's end would wait for that. It ends with its
// lease.
func TestBegin_WhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.reserve(t, name)
		f.close()
		h := f.Begin(f.grant(name), make(chan bool))
		_, _, quits := f.Size()
		require.Zero(t, quits)
		ended := make(chan struct{})
		go func() { f.tasks.Wait(); close(ended) }()
		synctest.Wait()
		require.True(t, syncutil.Closed(ended))
		f.LoseAll(f.lease)
		require.True(t, syncutil.Closed(h.Done()))
	})
}

// A hold is watched from the first call until it ends.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		a, b := f.hold(t, "a", nil), f.hold(t, "b", nil)
		watched := map[*Hold]bool{}
		start := func() {
			for _, h := range f.Of(f.lease) {
				f.Watch(h, func() (stop func()) {
					require.NotContains(t, watched, h, "it is watched already")
					watched[h] = true
					return func() { watched[h] = false }
				})
			}
		}
		start()
		start()
		require.Equal(t, map[*Hold]bool{a: true, b: true}, watched)
		require.NoError(t, f.End(a))
		require.Equal(t, map[*Hold]bool{a: false, b: true}, watched)
		f.Lose(b, errTest)
		require.Equal(t, map[*Hold]bool{a: false, b: false}, watched)
	})
}
