package locker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// slack is what a call may take beyond its timeout.
const slack = 500 * time.Millisecond

func TestDeadCluster(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	for name, fault := range map[string]struct {
		strike func(*etcdtest.Proxy)
		cause  string
	}{
		"closed ports": {(*etcdtest.Proxy).Close, "connection refused"},
		"silent ports": {func(p *etcdtest.Proxy) { p.Swallow() }, "no answer from etcd in time"},
	} {
		t.Run(name, func(t *testing.T) {
			n := etcdtest.NewNetwork(t, machines)
			c, err := New(n.Endpoints(), 1, 30, context.Background())
			require.NoError(t, err)
			held := newName()
			mustLock(t, c, held, DefaultValue, nil)
			free := newName()
			n.Each(fault.strike)
			for _, call := range []struct {
				name string
				f    func() error
			}{
				{"New", func() error {
					_, err := New(n.Endpoints(), 1, 5, context.Background())
					return err
				}},
				{"Lock", func() error {
					r := c.Lock(free, DefaultValue, nil)
					assert.Equal(t, Fail, r.Msg)
					return r.Err
				}},
				{"Unlock", func() error { return c.Unlock(held, nil) }},
				{"Get", func() error {
					_, err := c.Get(free)
					return err
				}},
				{"Inspect", func() error {
					r := c.Inspect(free)
					assert.Equal(t, Fail, r.Msg)
					return r.Err
				}},
				{"Watch", func() error { return c.Watch(free, make(chan string), nil) }},
				{"Close", c.Close},
			} {
				start := time.Now()
				err := call.f()
				assert.Less(t, time.Since(start), timeout+slack, call.name)
				assert.ErrorIs(t, err, context.DeadlineExceeded, call.name)
				assert.ErrorContains(t, err, fault.cause, call.name)
			}
		})
	}
}

// What etcd did, though its answer was lost, is undone: the caller was told that it had no lock.
func TestAnswerToLockSwallowed(t *testing.T) {
	t.Parallel()
	n := etcdtest.NewNetwork(t, machines)
	c, other, etcd := clientAt(t, n.Endpoints(), 1, 10), newClient(t, 5, 10), etcdtest.Connect(t, machines)
	name, kept := newName(), newName()
	session := mustLock(t, c, kept, DefaultValue, nil)

	n.Swallow(etcdtest.ToClient)
	start := time.Now()
	r := c.Lock(name, DefaultValue, nil)
	require.Less(t, time.Since(start), time.Second+slack)
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, context.DeadlineExceeded)
	require.NotNil(t, stored(t, etcd, name), "it did not reach etcd: this test shows nothing")

	freeOnceHealed(t, n, name, other)
	require.Nil(t, stored(t, etcd, name))
	require.True(t, session.Held(), "the session is to go on")
}

// freeOnceHealed ends the faults, and sees that another client can soon take the lock, which has no holder.
func freeOnceHealed(t *testing.T, n etcdtest.Network, name string, other Client) {
	t.Helper()
	n.Heal()
	healed := time.Now()
	eventually(t, "lock "+name, func() bool {
		r := other.Lock(name, DefaultValue, nil)
		require.NoError(t, r.Err)
		return r.Msg == Success
	})
	require.Less(t, time.Since(healed), 2*time.Second)
	require.NoError(t, other.Unlock(name, nil))
}

func TestUnlockSwallowed(t *testing.T) {
	t.Parallel()
	for what, dir := range map[string]etcdtest.Direction{"request": etcdtest.ToServer, "answer": etcdtest.ToClient} {
		t.Run(what, func(t *testing.T) {
			n := etcdtest.NewNetwork(t, machines)
			c, other, etcd := clientAt(t, n.Endpoints(), 1, 10), newClient(t, 5, 10), etcdtest.Connect(t, machines)
			name, kept := newName(), newName()
			session := mustLock(t, c, kept, DefaultValue, nil)
			r := mustLock(t, c, name, DefaultValue, nil)

			n.Swallow(dir)
			start := time.Now()
			err := c.Unlock(name, nil)
			require.Less(t, time.Since(start), time.Second+slack)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.False(t, r.Held())
			require.ErrorIs(t, c.Unlock(name, nil), ErrNotHeld)
			if dir == etcdtest.ToServer {
				require.NotNil(t, stored(t, etcd, name), "it was not to reach etcd")
			} else {
				eventually(t, "it reaches etcd", func() bool { return stored(t, etcd, name) == nil })
			}

			freeOnceHealed(t, n, name, other)
			require.Nil(t, stored(t, etcd, name))
			require.True(t, session.Held(), "the session is to go on")
		})
	}
}

// Under this alarm etcd refuses every put, until an operator has made room.
func TestNoSpaceAlarm(t *testing.T) {
	t.Parallel()
	const ttl = 2
	cluster := etcdtest.New(t, etcdtest.Options{Members: 1})
	etcd := etcdtest.Connect(t, cluster.Endpoints())
	c, other := clientAt(t, cluster.Endpoints(), 5, ttl), clientAt(t, cluster.Endpoints(), 5, ttl)
	var holds []Report
	var held []string
	for range 3 {
		held = append(held, newName())
		holds = append(holds, mustLock(t, c, held[len(held)-1], DefaultValue, nil))
	}
	waited := make(chan Report, 1) // one of them has a waiter in the line
	go func() { waited <- other.LockWait(t.Context(), held[0], DefaultValue, nil) }()
	eventually(t, "a waiter", func() bool { return !isFree(t, etcd, held[0]+waiting) })

	alarm(t, etcd, pb.AlarmRequest_ACTIVATE)
	time.Sleep(2 * ttl * time.Second) // how long the alarm lasts is the fault
	for _, h := range holds {
		require.True(t, h.Held())
	}
	free := newName()
	r := c.Lock(free, DefaultValue, nil)
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, rpctypes.ErrNoSpace)
	for i, name := range held {
		require.NoError(t, c.Unlock(name, nil))
		require.False(t, holds[i].Held())
		require.Nil(t, stored(t, etcd, name))
	}
	r = receive(t, waited, soon) // it can be given the lock as little as anybody else
	require.ErrorIs(t, r.Err, rpctypes.ErrNoSpace)

	alarm(t, etcd, pb.AlarmRequest_DEACTIVATE)
	for _, name := range append(held, free) {
		require.True(t, isFree(t, etcd, name), name)
		mustLock(t, other, name, DefaultValue, nil)
	}
}

// alarm raises the NOSPACE alarm, or ends it.
func alarm(t testing.TB, etcd *clientv3.Client, action pb.AlarmRequest_AlarmAction) {
	t.Helper()
	_, err := pb.NewMaintenanceClient(etcd.ActiveConnection()).Alarm(t.Context(),
		&pb.AlarmRequest{Action: action, Alarm: pb.AlarmType_NOSPACE})
	require.NoError(t, err)
}

// isFree reports whether nobody holds the lock of that name, or of one below it.
func isFree(t testing.TB, etcd *clientv3.Client, name string) bool {
	t.Helper()
	resp, err := etcd.Get(t.Context(), name, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	return resp.Count == 0
}

func TestKilledMembers(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.New(t, etcdtest.Options{Members: 3})
	t.Run("Watch survives each", func(t *testing.T) { testWatchSurvives(t, cluster) })
	t.Run("quorum lost", func(t *testing.T) { testQuorumLost(t, cluster) })
}

func testWatchSurvives(t *testing.T, cluster *etcdtest.Cluster) {
	c, other := clientAt(t, cluster.Endpoints(), 5, 10), clientAt(t, cluster.Endpoints(), 5, 10)
	name := newName()
	changes, ended := make(chan string), make(chan error, 1)
	quit := make(chan bool)
	go func() { ended <- c.Watch(name, changes, quit) }()
	require.Equal(t, "", receive(t, changes, soon))
	for member := range cluster.Endpoints() { // one of them serves the watch
		require.NoError(t, cluster.Kill(member))
		value := fmt.Sprint("without ", member)
		mustLock(t, other, name, value, nil)
		require.Equal(t, value, receive(t, changes, soon))
		require.NoError(t, other.Unlock(name, nil))
		require.Equal(t, "", receive(t, changes, soon))
		require.NoError(t, cluster.Start(member))
	}
	close(quit)
	require.NoError(t, receive(t, ended, soon))
}

// testQuorumLost is about clients that go on asking, and about one that comes back when all is over.
func testQuorumLost(t *testing.T, cluster *etcdtest.Cluster) {
	const ttl = 2
	busy, idle := clientAt(t, cluster.Endpoints(), 1, ttl), clientAt(t, cluster.Endpoints(), 1, ttl)
	held := mustLock(t, busy, newName(), DefaultValue, nil)
	mustLock(t, idle, newName(), DefaultValue, nil)

	require.NoError(t, cluster.Kill(0, 1))
	receive(t, held.Done, ttl*time.Second+slack)
	first := make(chan time.Time, 1)
	name := newName()
	go func() {
		for {
			start := time.Now()
			r := busy.Lock(name, DefaultValue, nil)
			if r.Msg == Success {
				first <- time.Now()
				return
			}
			assert.Error(t, r.Err)
			assert.Less(t, time.Since(start), time.Second+slack)
		}
	}()
	time.Sleep(3 * ttl * time.Second) // how long the outage lasts is the fault
	require.Empty(t, first)

	require.NoError(t, cluster.Start(0, 1))
	back := time.Now()
	mustLock(t, idle, newName(), DefaultValue, nil)
	assert.Less(t, time.Since(back), time.Second)
	assert.Less(t, receive(t, first, soon).Sub(back), time.Second)
}
