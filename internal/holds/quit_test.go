package holds

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// succession begins a hold with a quit channel, ends it at once, sends a value on the channel, and begins another hold with
// it, which is lost if so told: so fast that the listener of the first may still receive that value.
func (f *fixture) succession(t *testing.T, quit chan bool, lost bool) (next *Hold) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tryReserve(name)
	require.NoError(t, f.end(f.begin(f.grant(name), quit), ErrReleased))
	f.yield(name, nil)
	quit <- true
	for range 10 {
		runtime.Gosched() // half the time, the listener of the first receives the value, and now waits for the mutex
	}
	f.tryReserve(name)
	next = f.begin(f.grant(name), quit)
	if lost {
		f.lose(next, ErrLost)
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
						require.ErrorIs(t, f.End(next), ErrLost)
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
		f.Lose(lost, errTest)
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

// Channels share goroutines: a value and the end of a channel end what they should, a
// channel may come and go, and nothing is left in the end.
func TestQuit_SharedGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3*groupSize + 1
		f := newFixture(t)
		holds, quits := make([]*Hold, n), make([]chan bool, n)
		for i := range n {
			quits[i] = make(chan bool)
			holds[i] = f.hold(t, fmt.Sprint(i), quits[i])
		}
		require.Equal(t, 4, f.listening())
		for i, h := range holds {
			switch i % 4 {
			case 0:
				quits[i] <- true
				require.Same(t, h, <-f.released)
			case 1:
				close(quits[i])
				require.Same(t, h, <-f.released)
			case 2:
				require.NoError(t, f.End(h))
				f.Yield(h.Name, nil)
			case 3:
				f.Lose(h, errTest)
				select {
				case quits[i] <- true: // received all the same
				case <-time.After(time.Second):
					require.FailNow(t, "a send blocks because the lock was lost")
				}
			}
			require.Error(t, h.Cause())
			another := f.hold(t, "another", make(chan bool))
			require.NoError(t, f.End(another))
			f.Yield("another", nil)
		}
		synctest.Wait()
		f.empty(t)
		require.Empty(t, f.groups)
	})
}

// listening returns how many goroutines listen to quit channels.
func (f *fixture) listening() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	groups := map[*group]bool{}
	for _, l := range f.listeners {
		groups[l.group] = true
	}
	return len(groups)
}

// The end of a channel that very many locks have ends them all, in steps.
func TestQuit_EndsVeryManyLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		quit := make(chan bool)
		const n = 3*step + 1
		f.released = make(chan *Hold, n)
		for i := range n {
			f.hold(t, fmt.Sprint(i), quit)
		}
		close(quit)
		synctest.Wait()
		require.Len(t, f.released, n)
		f.empty(t)
	})
}
