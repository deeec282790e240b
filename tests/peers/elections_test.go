package peers

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// A candidate campaigns in one election, and observes it.
type candidate interface {
	campaign(ctx context.Context, value string) (resign func() error, err error)
	observe(ctx context.Context) <-chan string // the leaders; "" is none
	stop()                                     // ends the session, with what it leads
}

// elections make candidates: those of Lead and Watch, and the peer's.
var elections = map[string]func(t testing.TB, name string) candidate{
	"Lead": func(t testing.TB, name string) candidate {
		return lead{newClient(t, machines, 5, 60), name}
	},
	"Election": func(t testing.TB, name string) candidate {
		s := newSession(t, machines, 60)
		return election{s, concurrency.NewElection(s, name), name}
	},
}

type lead struct {
	locker.Client
	name string
}

func (l lead) campaign(ctx context.Context, value string) (func() error, error) {
	elected, resigned, ended := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- l.Lead(ctx, l.name, value, func(ctx context.Context, _ int64) error {
			elected <- struct{}{}
			select {
			case <-resigned:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	select {
	case <-elected:
		return func() error { close(resigned); return <-ended }, nil
	case err := <-ended:
		return nil, err
	}
}

func (l lead) observe(ctx context.Context) <-chan string {
	leaders, quit := make(chan string), make(chan bool)
	context.AfterFunc(ctx, func() { close(quit) })
	go l.Watch(l.name, leaders, quit)
	return leaders
}

func (l lead) stop() { l.Close() }

type election struct {
	*concurrency.Session
	*concurrency.Election
	name string
}

func (e election) campaign(ctx context.Context, value string) (func() error, error) {
	return func() error { return e.Resign(e.Ctx()) }, e.Campaign(ctx, value)
}

func (e election) observe(ctx context.Context) <-chan string {
	leaders := make(chan string)
	go func() {
		for resp := range e.Observe(ctx) {
			select {
			case leaders <- string(resp.Kvs[0].Value):
			case <-ctx.Done():
			}
		}
	}()
	return leaders
}

func (e election) stop() { e.Close() }

// nextLeader is the next that an observer sees.
func nextLeader(t testing.TB, leaders <-chan string) string {
	t.Helper()
	for {
		if leader := etcdtest.Receive(t, leaders); leader != "" {
			return leader
		}
	}
}

// withElections runs a test with each kind of candidates.
func withElections(t *testing.T, test func(t *testing.T, newCandidate func(t testing.TB, name string) candidate)) {
	for kind, newCandidate := range elections {
		t.Run(kind, func(t *testing.T) { test(t, newCandidate) })
	}
}

// Three are leaders one after the other, and three observers see each of them.
func TestObserversSeeEveryLeader(t *testing.T) {
	t.Parallel()
	withElections(t, func(t *testing.T, newCandidate func(testing.TB, string) candidate) {
		type leader struct {
			value  string
			resign func() error
		}
		name, elected := etcdtest.NewName(), make(chan leader)
		var observers []<-chan string
		for range 3 {
			observers = append(observers, newCandidate(t, name).observe(t.Context()))
		}
		for i := range 3 {
			c := newCandidate(t, name)
			go func() {
				l := leader{value: fmt.Sprint("leader ", i)}
				var err error
				l.resign, err = c.campaign(t.Context(), l.value)
				assert.NoError(t, err)
				elected <- l
			}()
		}
		for range 3 {
			l := etcdtest.Receive(t, elected)
			for _, o := range observers {
				require.Equal(t, l.value, nextLeader(t, o))
			}
			require.NoError(t, l.resign())
		}
	})
}

// The session of a leader ends. The next one leads, and an observer that comes then sees it.
func TestFailover(t *testing.T) {
	t.Parallel()
	withElections(t, func(t *testing.T, newCandidate func(testing.TB, string) candidate) {
		name := etcdtest.NewName()
		first, second, third := newCandidate(t, name), newCandidate(t, name), newCandidate(t, name)
		_, err := first.campaign(t.Context(), "first")
		require.NoError(t, err)
		require.Equal(t, "first", nextLeader(t, first.observe(t.Context())))
		elected := make(chan func() error, 1)
		go func() {
			resign, err := second.campaign(t.Context(), "second")
			assert.NoError(t, err)
			elected <- resign
		}()
		awaitKeys(t, etcdtest.Connect(t, machines), name, 2)
		first.stop()
		resign := etcdtest.Receive(t, elected)
		require.Equal(t, "second", nextLeader(t, third.observe(t.Context())))
		require.NoError(t, resign())
	})
}

// An observer does not see keys beside those of the election, and sees the next leader, also when it is the same candidate.
func TestObserverSeesNothingElse(t *testing.T) {
	t.Parallel()
	withElections(t, func(t *testing.T, newCandidate func(testing.TB, string) candidate) {
		etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
		c := newCandidate(t, name)
		resign, err := c.campaign(t.Context(), "candidate 1")
		require.NoError(t, err)
		leaders := c.observe(t.Context())
		require.Equal(t, "candidate 1", nextLeader(t, leaders))
		for _, key := range []string{name + "x", name[:len(name)-1]} {
			_, err = etcd.Put(t.Context(), key, "of somebody else")
			require.NoError(t, err)
			defer etcd.Delete(context.WithoutCancel(t.Context()), key)
		}
		require.NoError(t, resign())
		resign, err = c.campaign(t.Context(), "candidate 2")
		require.NoError(t, err)
		require.Equal(t, "candidate 2", nextLeader(t, leaders))
		require.NoError(t, resign())
	})
}

// Keys that begin with the name of an election do not keep it from having a leader.
func TestNameIsThePrefixOfAKey(t *testing.T) {
	t.Parallel()
	withElections(t, func(t *testing.T, newCandidate func(testing.TB, string) candidate) {
		etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
		_, err := etcd.Put(t.Context(), name+"a", "value")
		require.NoError(t, err)
		defer etcd.Delete(context.WithoutCancel(t.Context()), name+"a")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		resign, err := newCandidate(t, name).campaign(ctx, "abc")
		require.NoError(t, err)
		require.NoError(t, resign())
	})
}

// The revision at which somebody became leader has been compacted when an observer comes. It is not parallel: a compaction
// is for the whole cluster, and the peer's waiters do not survive one.
func TestObserverAfterACompaction(t *testing.T) {
	withElections(t, func(t *testing.T, newCandidate func(testing.TB, string) candidate) {
		etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
		c := newCandidate(t, name)
		resign, err := c.campaign(t.Context(), "abc")
		require.NoError(t, err)
		resp, err := etcd.Put(t.Context(), etcdtest.NewName(), "later")
		require.NoError(t, err)
		_, err = etcd.Compact(t.Context(), resp.Header.Revision)
		require.NoError(t, err)
		require.Equal(t, "abc", nextLeader(t, c.observe(t.Context())))
		require.NoError(t, resign())
	})
}

// The peer's leader campaigns again and so changes its value. A hold of ours has one value: a second campaign of the same
// client waits for the first, and takes over from it in one commit, with a token of its own.
func TestCampaignAgain(t *testing.T) {
	t.Parallel()
	name := etcdtest.NewName()
	peer := elections["Election"](t, name)
	for _, value := range []string{"abc", "def"} {
		_, err := peer.campaign(t.Context(), value)
		require.NoError(t, err)
		require.Equal(t, value, nextLeader(t, peer.observe(t.Context())))
	}

	name = etcdtest.NewName()
	c := newClient(t, machines, 5, 60)
	first := c.Lock(name, "abc", nil)
	require.Equal(t, locker.Success, first.Msg)
	turn := make(chan locker.Report, 1)
	go func() { turn <- c.LockWait(t.Context(), name, "def", nil) }()
	etcdtest.Eventually(t, "it waits", func() bool { return c.Stats().Waiting == 1 })
	leaders := lead{c, name}.observe(t.Context())
	require.Equal(t, "abc", etcdtest.Receive(t, leaders))
	require.NoError(t, first.Unlock())
	require.Equal(t, "def", etcdtest.Receive(t, leaders), "it was never free")
	second := etcdtest.Receive(t, turn)
	require.Greater(t, second.Token, first.Token)
	require.NoError(t, second.Unlock())
}

// The peer's leader restarts and goes on with its old lease, ahead of those who wait. A client of ours takes no lease over:
// one that restarts waits behind them, and the lock of the old one goes with its own session.
func TestRestart(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Connect(t, machines)
	name := etcdtest.NewName()
	old := newSession(t, machines, 60)
	require.NoError(t, concurrency.NewElection(old, name).Campaign(t.Context(), "abc"))
	go concurrency.NewElection(newSession(t, machines, 60), name).Campaign(t.Context(), "waiter")
	awaitKeys(t, etcd, name, 2)
	again, err := concurrency.NewSession(etcdtest.Connect(t, machines), concurrency.WithLease(old.Lease()))
	require.NoError(t, err)
	defer again.Orphan()
	e := concurrency.NewElection(again, name)
	require.NoError(t, e.Campaign(t.Context(), "def"))
	require.Equal(t, "def", nextLeader(t, election{again, e, name}.observe(t.Context())))

	name = etcdtest.NewName()
	before := elections["Lead"](t, name)
	_, err = before.campaign(t.Context(), "abc")
	require.NoError(t, err)
	leaders := elections["Lead"](t, name).observe(t.Context())
	require.Equal(t, "abc", nextLeader(t, leaders))
	for i, value := range []string{"waiter", "def"} {
		c := elections["Lead"](t, name)
		go c.campaign(t.Context(), value)
		awaitKeys(t, etcd, name, 2+i)
	}
	before.stop()
	require.Equal(t, "waiter", nextLeader(t, leaders))
}

// To resign fails for want of an answer. The peer, in this version, forgets that it leads: to resign again says nil, and the
// key stays. Ours has no second attempt to make: the release is finished in the background.
func TestResignFails(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), etcdtest.NewName()
	e := concurrency.NewElection(newSession(t, machines, 60), name)
	require.NoError(t, e.Campaign(t.Context(), "abc"))
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, e.Resign(canceled), context.Canceled)
	require.NoError(t, e.Resign(t.Context()))
	require.Len(t, keys(t, etcd, name), 1)

	name = etcdtest.NewName()
	net := etcdtest.NewNetwork(t, machines)
	c := newClient(t, net.Endpoints(), 1, 60)
	r := c.Lock(name, "abc", nil)
	require.Equal(t, locker.Success, r.Msg)
	net.Swallow()
	require.ErrorIs(t, r.Unlock(), locker.ErrNoAnswer)
	require.Len(t, keys(t, etcd, name), 1)
	require.ErrorIs(t, r.Unlock(), locker.ErrNotHeld)
	net.Heal()
	awaitKeys(t, etcd, name, 0)
}
