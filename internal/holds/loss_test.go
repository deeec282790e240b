package holds

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The loss of a lease ends all its holds, in steps, and says why.
func TestLoseAll_InSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		const n = 3*step + 1
		for i := range n {
			f.hold(t, fmt.Sprint(i), nil)
		}
		reason := errors.New("revoked")
		f.lease.Lose(reason)
		f.LoseAll(f.lease)
		require.Empty(t, f.Of(f.lease))
		require.Empty(t, f.leases)
		require.EqualValues(t, n, f.Counts.LostLease.Load())
		require.Zero(t, f.Counts.Held.Load())
		for i := range n {
			err := f.End(f.Find(fmt.Sprint(i)))
			require.ErrorIs(t, err, ErrLost)
			require.ErrorIs(t, err, reason)
		}
		f.empty(t)
	})
}

// Losses whose holders never come are forgotten: not before MinMemory, and then as many as are more than MaxLosses.
func TestLoss_IsForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		lose := func(i int) {
			f.Lose(f.hold(t, fmt.Sprint(i), make(chan bool)), errTest)
		}
		const more = 100
		for i := range MaxLosses + more {
			lose(i)
		}
		_, losses, quits := f.Size()
		require.Equal(t, MaxLosses+more, losses, "each may still matter")
		require.Equal(t, losses, quits)
		time.Sleep(MinMemory)
		for i := range 2 * more {
			lose(MaxLosses + more + i)
		}
		_, losses, quits = f.Size()
		require.Equal(t, MaxLosses, losses)
		require.Equal(t, losses, quits)
		require.Nil(t, f.Find("0"), "Unlock says that the lock is not held")
		require.NotNil(t, f.Find(fmt.Sprint(MaxLosses)))
		f.close()
		f.EndAll()
		f.empty(t)
	})
}

// A client that loses a lock again and again, and takes it with another quit channel every time, remembers so many losses and
// no more. With the same channel it remembers one.
func TestLoss_OfTheSameName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		same := make(chan bool)
		for range 10 {
			f.Lose(f.hold(t, name, same), errTest)
		}
		_, losses, _ := f.Size()
		require.Equal(t, 1, losses)
		for range 10 {
			f.Lose(f.hold(t, name, make(chan bool)), errTest)
		}
		_, losses, quits := f.Size()
		require.Equal(t, 11, losses, "somebody may still send on each of these channels")
		require.Equal(t, 11, quits)
		f.close()
		f.EndAll()
		f.empty(t)
	})
}
