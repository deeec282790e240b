package holds

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// succession begins a hold with a quit channel, ends it at once, sends a value on the channel, and begins another hold with
// it, which is lost if so told: so fast that the listener of the first may still receive that value.
func (f *fixture) succession(t *testing.T, quit chan bool, lost bool) (next *Hold) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tryReserve(name)
	require.Equal(t, Ended, f.end(f.begin(f.grant(name), quit)))
	f.yield(name, nil)
	quit <- true
	for range 10 {
		runtime.Gosched() // half the time, the listener of the first receives the value, and now waits for the mutex
	}
	f.tryReserve(name)
	next = f.begin(f.grant(name), quit)
	if lost {
		f.lose(next)
	}
	return next
}

// A value on a quit channel reaches the lock that has the channel now, though the listener of an earlier lock, which
// has just been given back, may be the one that receives it. Where the later lock was lost, nothing is given back.
func TestQuit_ReachesTheLaterHold(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprint("lost: ", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				for range 500 {
					quit := make(chan bool, 1)
					next := f.succession(t, quit, lost)
					synctest.Wait()
					require.Empty(t, quit)
					require.True(t, syncutil.Closed(next.Done()), "the value ends the lock")
					if lost {
						require.Empty(t, f.released)
						require.Equal(t, WasEnded, f.End(next), "quit has ended it")
					} else {
						require.Same(t, next, <-f.released)
					}
					f.empty(t)
				}
			})
		})
	}
}

// One value ends one hold of a channel that several have, and rather one that lasts than one that was lost. The end of
// the channel ends them all.
func TestQuit_OneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		quit := make(chan bool)
		lost, a, b := f.hold(t, "lost", quit), f.hold(t, "a", quit), f.hold(t, "b", quit)
		f.Lose(lost)
		for left := 1; left >= 0; left-- {
			quit <- true
			synctest.Wait()
			require.Len(t, f.Of(f.lease), left)
			<-f.released
			require.Same(t, lost, f.Find("lost"), "its holder is not told by a value that ends another")
		}
		require.False(t, a.Held() || b.Held())
		quit <- true
		synctest.Wait()
		require.Nil(t, f.Find("lost"))
		f.empty(t)

		a, b = f.hold(t, "a", quit), f.hold(t, "b", quit)
		close(quit)
		synctest.Wait()
		require.False(t, a.Held() || b.Held())
		require.Len(t, f.released, 2)
		f.empty(t)
	})
}
