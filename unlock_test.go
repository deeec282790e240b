package locker

import (
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

func TestUnlockOfWhatIsNotHeld(t *testing.T) {
	t.Parallel()
	a, b, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	never, before, others, outsiders := newName(), newName(), newName(), newName()
	mustLock(t, a, before, DefaultValue, nil)
	require.NoError(t, a.Unlock(before, nil))
	held := mustLock(t, b, others, "of b", nil)
	mustFail(t, a, others)
	revision := put(t, etcd, outsiders, "of nobody")

	const calls = 100
	start := time.Now()
	for range calls {
		for _, name := range []string{never, before, others, outsiders} {
			err := a.Unlock(name, nil)
			require.ErrorIs(t, err, ErrNotHeld)
			require.Contains(t, err.Error(), name)
		}
	}
	require.Less(t, time.Since(start)/(4*calls), 10*time.Millisecond)

	require.Equal(t, held.Token, stored(t, etcd, others).ModRevision)
	require.Equal(t, "of b", string(stored(t, etcd, others).Value))
	require.True(t, held.Held())
	require.Equal(t, revision, stored(t, etcd, outsiders).ModRevision)
	require.NoError(t, b.Unlock(others, nil))
}

// Unlock needs no reader, nor even the channel of the Lock.
func TestUnlockWithAnyChannel(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name, quit := newName(), make(chan bool)
	for _, given := range []chan bool{nil, quit, make(chan bool)} {
		r := mustLock(t, c, name, DefaultValue, quit)
		require.NoError(t, c.Unlock(name, given))
		receive(t, r.Done, 0)
	}
}

// Of many who unlock at once, and have all found the lock held, one does it; the others are told that there was
// nothing to do.
func TestUnlockByMany(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name := newName()
	for range 10 {
		r := mustLock(t, c, name, DefaultValue, nil)
		errs := make(chan error)
		for range 4 {
			go func() { errs <- c.finish(r.hold) }()
		}
		done := 0
		for range 4 {
			if err := receive(t, errs, soon); err == nil {
				done++
			} else {
				require.ErrorIs(t, err, ErrNotHeld)
			}
		}
		require.Equal(t, 1, done)
	}
}
