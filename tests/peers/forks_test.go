package peers

import (
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// A lock is taken, refused while it is held, and taken again after Unlock, with one quit channel for all.
func TestLockAndUnlock(t *testing.T) {
	t.Parallel()
	c, name, quit := newClient(t, machines, 5, 5), etcdtest.NewName(), make(chan bool)
	for range 2 {
		r := c.Lock(name, locker.DefaultValue, quit)
		require.NoError(t, r.Err)
		require.Equal(t, locker.Success, r.Msg)
		r = c.Lock(name, locker.DefaultValue, quit)
		require.NoError(t, r.Err)
		require.Equal(t, locker.Fail, r.Msg)
		require.NoError(t, c.Unlock(name, quit))
	}
}

// The fork's lock can be taken by another half a second after its TTL, although the holder lives: this is what its test asks
// for. Ours is kept until it is given back.
func TestAfterTheTTL(t *testing.T) {
	t.Parallel()
	c, other, name := newClient(t, machines, 3, 2), newClient(t, machines, 3, 60), etcdtest.NewName()
	r := c.Lock(name, locker.DefaultValue, nil)
	require.Equal(t, locker.Success, r.Msg)
	select {
	case <-r.Done:
		require.FailNow(t, "it was lost", "%v", r.Cause())
	case <-time.After(2500 * time.Millisecond): // the TTL, and half a second
	}
	require.Equal(t, locker.Fail, other.Lock(name, locker.DefaultValue, nil).Msg)
	require.NoError(t, r.Unlock())
	require.Equal(t, locker.Success, other.Lock(name, locker.DefaultValue, nil).Msg)
}

// Watch tells that there is no lock, then its value, and ends with quit.
func TestWatchFromTheStart(t *testing.T) {
	t.Parallel()
	c, name := newClient(t, machines, 5, 60), etcdtest.NewName()
	values, quit, ended := make(chan string), make(chan bool), make(chan error, 1)
	go func() { ended <- c.Watch(name, values, quit) }()
	require.Empty(t, etcdtest.Receive(t, values))
	require.Equal(t, locker.Success, c.Lock(name, "value", nil).Msg)
	require.Equal(t, "value", etcdtest.Receive(t, values))
	etcdtest.Send(t, quit, true)
	require.NoError(t, etcdtest.Receive(t, ended))
}

// The first has the lock, the second is told so, and has it once the first was told to quit.
func TestSecondFollowsTheFirst(t *testing.T) {
	t.Parallel()
	first, second, name := newClient(t, machines, 5, 60), newClient(t, machines, 5, 60), etcdtest.NewName()
	quit := make(chan bool)
	require.Equal(t, locker.Success, first.Lock(name, "1st-value", quit).Msg)
	require.Equal(t, locker.Fail, second.Lock(name, "2nd-value", nil).Msg)
	turn := make(chan locker.Report, 1)
	go func() { turn <- second.LockWait(t.Context(), name, "2nd-value", nil) }()
	awaitKeys(t, etcdtest.Connect(t, machines), name, 2)
	require.Empty(t, turn)
	etcdtest.Send(t, quit, true)
	require.Equal(t, locker.Success, etcdtest.Receive(t, turn).Msg)
}

// Get has the value of a lock that is held, and LockNotFound for one that is not.
func TestGet(t *testing.T) {
	t.Parallel()
	c, name := newClient(t, machines, 5, 60), etcdtest.NewName()
	value, err := c.Get(name)
	var missing locker.LockNotFound
	require.ErrorAs(t, err, &missing)
	require.Empty(t, value)
	require.Equal(t, locker.Success, c.Lock(name, "http://hostname", nil).Msg)
	value, err = c.Get(name)
	require.NoError(t, err)
	require.Equal(t, "http://hostname", value)
}
