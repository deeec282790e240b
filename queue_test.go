package locker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

func TestOrderAcrossClients(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	holder := calm(newClient(t, 5, 60))
	r := holder.Lock(name, "first", nil)
	require.Equal(t, Success, r.Msg)
	var clients []Client
	var turns []<-chan Report
	for i := range 8 {
		clients = append(clients, calm(newClient(t, 5, 60)))
		turns = append(turns, wait(ctx, clients[i], name, fmt.Sprint(i)))
		awaitPlaces(t, etcd, name, i+1)
	}
	for i, turn := range turns {
		require.NoError(t, holder.Unlock(name, nil))
		next := gotLock(t, turn)
		require.Greater(t, next.Token, r.Token)
		for _, later := range turns[i+1:] {
			require.Empty(t, later)
		}
		value, err := holder.Get(name)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), value)
		holder, r = clients[i], next
	}
	require.NoError(t, holder.Unlock(name, nil))
	nothingLeft(t, etcd, name)
}

func TestOrderWithinAProcess(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	c := calm(newClient(t, 5, 60))
	r := c.Lock(name, "first", nil)
	require.Equal(t, Success, r.Msg)
	var turns []<-chan Report
	for i := range 8 {
		turns = append(turns, wait(ctx, c, name, fmt.Sprint(i)))
		awaitLine(t, c, name, i+1)
	}
	for i, turn := range turns {
		require.NoError(t, c.Unlock(name, nil))
		next := gotLock(t, turn)
		require.Greater(t, next.Token, r.Token)
		require.False(t, r.Held())
		for _, later := range turns[i+1:] {
			require.Empty(t, later)
		}
		value, err := c.Get(name)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), value)
		r = next
	}
	require.NoError(t, c.Unlock(name, nil))
	nothingLeft(t, etcd, name)
}

// One who leaves the line of the process does not disturb the order of the others.
func TestOrderWithinAProcessAfterOneHasLeft(t *testing.T) {
	t.Parallel()
	ctx, name := limited(t), newName()
	c := calm(newClient(t, 5, 60))
	require.Equal(t, Success, c.Lock(name, "first", nil).Msg)
	leaving, leave := context.WithCancel(ctx)
	var turns []<-chan Report
	for i := range 3 {
		ctx := ctx
		if i == 1 {
			ctx = leaving
		}
		turns = append(turns, wait(ctx, c, name, "v"))
		awaitLine(t, c, name, i+1)
	}
	leave()
	require.ErrorIs(t, outcomeOf(t, turns[1]).Err, context.Canceled)
	for _, i := range []int{0, 2} {
		require.NoError(t, c.Unlock(name, nil))
		gotLock(t, turns[i])
	}
}

// A process is one waiter to the cluster, and goes to the end of the line after its turn.
func TestProcessTakesOnePlace(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	holder, many, few := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
	require.Equal(t, Success, holder.Lock(name, "v", nil).Msg)
	var turns []<-chan Report
	for i := range 20 { // the first of them stands in the line for all
		turns = append(turns, wait(ctx, many, name, "many"))
		if i == 0 {
			awaitPlaces(t, etcd, name, 1)
		}
		awaitLine(t, many, name, i)
	}
	require.Equal(t, 1, places(t, etcd, name))
	single := wait(ctx, few, name, "few")
	awaitPlaces(t, etcd, name, 2)

	for i := range 5 {
		require.NoError(t, holder.Unlock(name, nil))
		gotLock(t, turns[i])
		require.Empty(t, turns[i+1])
		require.Empty(t, single)
		awaitPlaces(t, etcd, name, 1) // the single one alone, behind the turn of the many

		require.NoError(t, many.Unlock(name, nil))
		gotLock(t, single)
		awaitPlaces(t, etcd, name, 1)
		require.Empty(t, turns[i+1])
		holder = few
		single = wait(ctx, few, name, "few") // goes behind the many
		awaitLine(t, few, name, 1)
		require.Equal(t, 1, places(t, etcd, name))
	}
}

// The moments at which a LockWait may be told to end, whatever the network does: it is back at once.
func TestLockWaitEndsWithItsCtx(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		when   string
		denied bool // it is known that somebody else has the lock
		start  func(t *testing.T, s *scene) <-chan ending
	}{
		{"waits for the seat", true, func(t *testing.T, s *scene) <-chan ending {
			require.Equal(t, Success, s.client(t, nil, nil).Lock(s.own, "v", nil).Msg)
			s.name = s.own
			return s.waitInLine(t)
		}},
		{"waits for the seat, the network is gone", true, func(t *testing.T, s *scene) <-chan ending {
			require.Equal(t, Success, s.client(t, nil, nil).Lock(s.own, "v", nil).Msg)
			s.name = s.own
			end := s.waitInLine(t)
			s.net.Hold()
			return end
		}},
		{"stands in the line", true, func(t *testing.T, s *scene) <-chan ending {
			s.client(t, nil, nil)
			return s.waitInPlace(t)
		}},
		{"stands in the line, the network is gone", true, func(t *testing.T, s *scene) <-chan ending {
			s.client(t, nil, nil)
			end := s.waitInPlace(t)
			s.net.Hold()
			return end
		}},
		{"enters the line, the answer is lost", true, func(t *testing.T, s *scene) <-chan ending {
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				if enters(req, s.name) {
					s.once.Do(func() { s.net.Swallow(etcdtest.ToClient) })
				}
				return send(ctx, reply)
			}, nil)
			return s.waitInPlace(t)
		}},
		{"enters the line, the request is lost", true, func(t *testing.T, s *scene) <-chan ending {
			sent := newGate()
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				if enters(req, s.name) {
					s.once.Do(func() { s.net.Swallow(etcdtest.ToServer) })
					sent.arrive()
				}
				return send(ctx, reply)
			}, nil)
			end := s.wait()
			sent.awaitArrival(t)
			return end
		}},
		{"opens the watches, the network is gone", true, func(t *testing.T, s *scene) <-chan ending {
			sent := newGate()
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				err := send(ctx, reply)
				if puts(req, s.name) {
					s.once.Do(func() { s.net.Hold() })
					sent.arrive()
				}
				return err
			}, nil)
			end := s.wait()
			sent.awaitArrival(t)
			return end
		}},
		{"asks for the first time, the network is gone", false, func(t *testing.T, s *scene) <-chan ending {
			sent := newGate()
			s.client(t, func(ctx context.Context, req, reply any, send sender) error {
				if puts(req, s.name) {
					sent.arrive()
				}
				return send(ctx, reply)
			}, nil)
			s.net.Hold()
			end := s.wait()
			sent.awaitArrival(t)
			return end
		}},
		{"is handed the lock, the network is gone", false, func(t *testing.T, s *scene) <-chan ending {
			handed := newGate()
			s.client(t, nil, func(_ string, resp *clientv3.WatchResponse) {
				if len(resp.Events) > 0 {
					s.once.Do(func() { s.net.Hold() })
					handed.arrive()
				}
			})
			end := s.waitInPlace(t)
			require.NoError(t, s.holder.Unlock(s.name, nil))
			handed.awaitArrival(t)
			return end
		}},
	} {
		t.Run(c.when, func(t *testing.T) {
			t.Parallel()
			s := &scene{name: newName(), own: newName(), net: etcdtest.NewNetwork(t, machines), etcd: etcdtest.Connect(t, machines), holder: newClient(t, 5, 5)}
			require.Equal(t, Success, s.holder.Lock(s.name, "holder", nil).Msg)
			var cancel context.CancelCauseFunc
			s.ctx, cancel = context.WithCancelCause(limited(t))
			why := errors.New("reason of the caller")
			end := c.start(t, s)
			require.Empty(t, end)

			told := witness(s.ctx)
			cancel(why)
			e := receive(t, end, soon)
			require.Less(t, e.at.Sub(<-told), 100*time.Millisecond)
			require.Equal(t, Fail, e.report.Msg)
			require.False(t, e.report.Held())
			require.Zero(t, e.report.Token)
			require.ErrorIs(t, e.report.Err, s.ctx.Err())
			require.ErrorIs(t, e.report.Err, why)
			if c.denied {
				require.ErrorAs(t, e.report.Err, new(LockDenied))
				require.ErrorContains(t, e.report.Err, s.name)
			}

			// What is left of it goes by itself, and the client is as good as new.
			s.net.Heal()
			awaitPlaces(t, s.etcd, s.name, 0)
			if err := s.holder.Unlock(s.name, nil); err != nil {
				require.ErrorIs(t, err, ErrNotHeld)
			}
			if err := s.waiter.Unlock(s.name, nil); err != nil && s.name == s.own {
				require.ErrorIs(t, err, ErrLost)
			}
			again := s.waiter.LockWait(limited(t), s.name, "again", nil)
			require.Equal(t, Success, again.Msg, "%v", again.Err)
			require.NoError(t, s.waiter.Unlock(s.name, nil))
			nothingLeft(t, s.etcd, s.name)
		})
	}
}

// witness tells when a ctx has ended for a goroutine that does nothing but wait for it, by way of another ctx as LockWait
// does: what the machine takes for that, when it is busy, is not LockWait's.
func witness(ctx context.Context) <-chan time.Time {
	inner, cancel := context.WithCancel(context.Background())
	context.AfterFunc(ctx, cancel)
	told := make(chan time.Time, 1)
	go func() {
		<-inner.Done()
		told <- time.Now()
	}()
	return told
}

// scene is a LockWait for a lock that somebody else holds, over a network that can fail.
type scene struct {
	ctx    context.Context
	name   string
	own    string // the name of a lock that the waiting client holds itself
	net    etcdtest.Network
	once   sync.Once // the network fails once
	etcd   *clientv3.Client
	holder Client
	waiter Client
}

// ending is a Report, and when it came.
type ending struct {
	report Report
	at     time.Time
}

func (s *scene) client(t *testing.T, requests tap, events watchTap) Client {
	s.waiter = tapped(t, s.net.Endpoints(), 5, requests, events)
	return s.waiter
}

func (s *scene) wait() <-chan ending {
	end := make(chan ending, 1)
	go func() {
		r := s.waiter.LockWait(s.ctx, s.name, "v", nil)
		end <- ending{r, time.Now()}
	}()
	return end
}

func (s *scene) waitInPlace(t *testing.T) <-chan ending {
	end := s.wait()
	awaitPlaces(t, s.etcd, s.name, 1)
	return end
}

func (s *scene) waitInLine(t *testing.T) <-chan ending {
	end := s.wait()
	awaitLine(t, s.waiter, s.name, 1)
	return end
}

func TestLockWaitEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	a, b := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	for _, c := range []Client{a, b} { // in the line of the process, and in that of the cluster
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		told := witness(ctx)
		r := c.LockWait(ctx, name, "v", nil)
		at := time.Now()
		require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded, "back too early")
		cancel()
		require.Equal(t, Fail, r.Msg)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.ErrorAs(t, r.Err, new(LockDenied))
		require.Less(t, at.Sub(<-told), 100*time.Millisecond)
		awaitPlaces(t, etcd, name, 0)
	}
}

func TestLockWaitWithAnEndedCtxDoesNothing(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	var sent requests
	c := tapped(t, machines, 60, sent.tap, nil)
	sent.take()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := c.LockWait(ctx, name, "v", nil)
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, context.Canceled)
	require.Empty(t, sent.take())
	nothingLeft(t, etcd, name)
}

// The ctx bounds the wait, never the hold.
func TestCtxOfTheWaitDoesNotEndTheHold(t *testing.T) {
	t.Parallel()
	etcd, name := etcdtest.Connect(t, machines), newName()
	a, b := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
	for _, c := range []Client{a, b} {
		ctx, cancel := context.WithCancel(limited(t))
		require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
		turn := wait(ctx, c, name, "v")
		if c == a {
			awaitLine(t, a, name, 1)
		} else {
			awaitPlaces(t, etcd, name, 1)
		}
		require.NoError(t, a.Unlock(name, nil))
		r := gotLock(t, turn)
		cancel()
		require.Never(t, func() bool { return !r.Held() || isClosed(r.Done) }, 200*time.Millisecond, 50*time.Millisecond)
		require.NoError(t, c.Unlock(name, nil))
	}
}

// The quit of a LockWait counts from the moment at which the lock is held.
func TestQuitOfALockWait(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	a, b := calm(newClient(t, 5, 60)), calm(newClient(t, 5, 60))
	require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
	quit := make(chan bool)
	close(quit)
	turn := make(chan Report, 1)
	go func() { turn <- b.LockWait(ctx, name, "b", quit) }()
	awaitPlaces(t, etcd, name, 1)
	require.Empty(t, turn)
	require.NoError(t, a.Unlock(name, nil))
	r := outcomeOf(t, turn)
	require.Equal(t, Success, r.Msg, "%v", r.Err)
	select {
	case <-r.Done:
	case <-ctx.Done():
		t.Fatal("quit is not heard")
	}
	nothingLeft(t, etcd, name)
}

// What ends a wait without a turn: never with Success, and never in silence.
func TestWaiterEndsWithAnError(t *testing.T) {
	t.Parallel()
	place := func(t *testing.T, etcd *clientv3.Client, name string) string {
		resp, err := etcd.Get(t.Context(), name+waiting, clientv3.WithPrefix())
		require.NoError(t, err)
		require.Len(t, resp.Kvs, 1)
		return string(resp.Kvs[0].Key)
	}
	for _, c := range []struct {
		what string
		want error
		end  func(t *testing.T, etcd *clientv3.Client, net etcdtest.Network, waiter Client, name string)
	}{
		{"the lease is revoked", ErrLost, func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, waiter Client, _ string) {
			crash(t, etcd, waiter)
		}},
		{"the lease cannot be renewed", ErrLost, func(_ *testing.T, _ *clientv3.Client, net etcdtest.Network, _ Client, _ string) {
			net.Hold()
		}},
		{"the place is deleted", ErrLost, func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, _ Client, name string) {
			_, err := etcd.Delete(t.Context(), place(t, etcd, name))
			require.NoError(t, err)
		}},
		{"the place is deleted and made anew", ErrLost, func(t *testing.T, etcd *clientv3.Client, _ etcdtest.Network, _ Client, name string) {
			key := place(t, etcd, name)
			_, err := etcd.Delete(t.Context(), key)
			require.NoError(t, err)
			_, err = etcd.Put(t.Context(), key, "outsider")
			require.NoError(t, err)
			t.Cleanup(func() { etcd.Delete(context.Background(), key) })
		}},
		{"the client is closed", ErrClosed, func(t *testing.T, _ *clientv3.Client, _ etcdtest.Network, waiter Client, _ string) {
			require.NoError(t, waiter.Close())
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			net := etcdtest.NewNetwork(t, machines)
			hears := newGate() // of it only when all is done
			entered, entry := entering(name)
			holder, waiter := newClient(t, 5, 5), tapped(t, net.Endpoints(), 2, entry, hearing(ctx, hears))
			held := holder.Lock(name, "holder", nil)
			require.Equal(t, Success, held.Msg)
			turn := wait(ctx, waiter, name, "waiter")
			entered.awaitArrival(t)
			local := wait(ctx, waiter, name, "waiter")
			awaitLine(t, waiter, name, 1)
			start := time.Now()
			c.end(t, etcd, net, waiter, name)
			hears.open()
			r := outcomeOf(t, turn)
			require.Less(t, time.Since(start), 4*time.Second)
			require.Equal(t, Fail, r.Msg)
			require.ErrorIs(t, r.Err, c.want)
			require.False(t, r.Held())
			require.True(t, held.Held())
			net.Heal()

			// Who waited for the seat is next, with a place and a session of its own, unless the client is closed.
			if c.want == ErrClosed {
				require.ErrorIs(t, outcomeOf(t, local).Err, ErrClosed)
				require.NoError(t, holder.Unlock(name, nil))
			} else {
				awaitPlaces(t, etcd, name, 1)
				require.Empty(t, local)
				require.NoError(t, holder.Unlock(name, nil))
				gotLock(t, local)
				require.NoError(t, waiter.Unlock(name, nil))
			}
			_, err := holder.Get(name)
			require.ErrorAs(t, err, new(LockNotFound))
		})
	}
}

// A place that an outsider has written over is no claim to the lock; whoever comes next is not held up by it.
func TestPlaceWrittenOver(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"no lease", "the lease of another waiter"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			a, b, c := newClient(t, 5, 6), newClient(t, 5, 6), newClient(t, 5, 6)
			require.Equal(t, Success, a.Lock(name, "a", nil).Msg)
			turnB := wait(ctx, b, name, "b")
			awaitPlaces(t, etcd, name, 1)
			turnC := wait(ctx, c, name, "c")
			awaitPlaces(t, etcd, name, 2)
			lease := clientv3.LeaseID(clientv3.NoLease)
			if by != "no lease" {
				lease = c.live[0].id
			}
			_, err := etcd.Put(ctx, placeKey(int64(b.live[0].id), name), "outsider", clientv3.WithLease(lease))
			require.NoError(t, err)
			require.NoError(t, a.Unlock(name, nil))

			r := outcomeOf(t, turnB)
			require.Equal(t, Fail, r.Msg)
			require.ErrorIs(t, r.Err, ErrLost)
			r = gotLock(t, turnC)
			resp, err := etcd.Get(ctx, name)
			require.NoError(t, err)
			require.Equal(t, int64(c.live[0].id), resp.Kvs[0].Lease)
			require.Equal(t, r.Token, resp.Kvs[0].ModRevision)
			require.NoError(t, c.Unlock(name, nil))
			nothingLeft(t, etcd, name)
		})
	}
}

// limited is a ctx that no test of the line outlives.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// wait starts a LockWait.
func wait(ctx context.Context, c Client, name, value string) <-chan Report {
	turn := make(chan Report, 1)
	go func() { turn <- c.LockWait(ctx, name, value, nil) }()
	return turn
}

// outcomeOf is what came of a LockWait.
func outcomeOf(t testing.TB, turn <-chan Report) Report {
	t.Helper()
	select {
	case r := <-turn:
		return r
	case <-time.After(15 * time.Second):
		t.Fatal("it goes on waiting")
		return Report{}
	}
}

// gotLock is the outcome of a LockWait that got the lock.
func gotLock(t testing.TB, turn <-chan Report) Report {
	t.Helper()
	r := outcomeOf(t, turn)
	require.Equal(t, Success, r.Msg, "%v", r.Err)
	require.NoError(t, r.Err)
	require.True(t, r.Held())
	return r
}

// places is how many stand in the line for a name.
func places(t testing.TB, etcd *clientv3.Client, name string) int {
	t.Helper()
	resp, err := etcd.Get(t.Context(), name+waiting, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	return int(resp.Count)
}

// awaitPlaces waits until n stand in the line for a name.
func awaitPlaces(t testing.TB, etcd *clientv3.Client, name string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for range etcd.Watch(ctx, name+waiting, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
		if places(t, etcd, name) == n {
			return
		}
	}
	t.Fatalf("there are %d places in the line, not %d", places(t, etcd, name), n)
}

// awaitLine waits until n goroutines of a client wait for the seat of a name.
func awaitLine(t testing.TB, c Client, name string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d in the line for the seat", n), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		s := c.seats[name]
		return s != nil && len(s.line) == n
	})
}

// nothingLeft waits until there is neither a lock nor a line of that name.
func nothingLeft(t testing.TB, etcd *clientv3.Client, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for range etcd.Watch(ctx, name, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
		resp, err := etcd.Get(ctx, name, clientv3.WithPrefix())
		require.NoError(t, err)
		if len(resp.Kvs) == 0 {
			return
		}
	}
	t.Fatal("something is left")
}

// A waiter enters over a key that an outsider put at its place, while a release that has seen only that key removes it: it
// is the waiter's place by now.
func TestStrayPlaceThatIsTaken(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
	removing := newGate()
	holder := tapped(t, machines, 30, func(ctx context.Context, req, reply any, send sender) error {
		if deletes(req, name+waiting) && !puts(req, name) {
			if err := removing.pass(ctx, nil); err != nil {
				return err
			}
		}
		return send(ctx, reply)
	}, nil)
	entered, entry := entering(name)
	waiter := tapped(t, machines, 30, entry, nil)
	mustLock(t, holder, name, "v", nil)
	put(t, etcd, placeKey(int64(waiter.live[0].id), name), "of an outsider")
	released := make(chan error, 1)
	go func() { released <- holder.Unlock(name, nil) }()
	removing.awaitArrival(t)
	turn := wait(ctx, waiter, name, "v")
	entered.awaitArrival(t)
	removing.open()
	require.NoError(t, receive(t, released, soon))
	gotLock(t, turn)
	require.NoError(t, waiter.Unlock(name, nil))
}

// The watches of a line end with the session, whether another follows it or not, and whether the loss was told or not.
func TestQueueEndsWithItsSession(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"told, idle", "not told, idle", "not told, another session"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			ctx, etcd, name := limited(t), etcdtest.Connect(t, machines), newName()
			a, b := newClient(t, 5, 2), newClient(t, 5, 2)
			mustLock(t, a, name, "a", nil)
			turn := wait(ctx, b, name, "b")
			awaitPlaces(t, etcd, name, 1)
			require.NoError(t, a.Unlock(name, nil))
			r := gotLock(t, turn)
			crash(t, etcd, b)
			receive(t, r.Done, soon)
			switch then {
			case "told, idle":
				require.ErrorIs(t, b.Unlock(name, nil), ErrLost)
			case "not told, another session":
				mustLock(t, b, newName(), "v", nil)
			}
			eventually(t, "the queue is closed", func() bool {
				b.mu.Lock()
				defer b.mu.Unlock()
				return len(b.queues) == 0
			})
		})
	}
}

// sender sends a request.
type sender func(ctx context.Context, reply any) error

// tap is called for each request of a client, and passes it on to send, or not.
type tap func(ctx context.Context, req, reply any, send sender) error

// LockWait has one timeout for all that it asks before it stands in the line.
func TestLineThatIsNotReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		var back atomic.Bool
		c, _ := newFakeCore(t, &kv)
		kv.keys["name"] = &mvccpb.KeyValue{Key: []byte("name"), Lease: 1, ModRevision: 1, CreateRevision: 1} // somebody else's
		kv.script = func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			if n == 1 || back.Load() { // the first asks whether it is free
				return kv.apply(req), nil
			}
			return never[*pb.TxnResponse](ctx)
		}
		c.cli.Watcher = fakeWatcher(func(context.Context) bool { time.Sleep(200 * ms); return true })
		start := time.Now()
		r := Client{c}.LockWait(t.Context(), "name", "v", nil)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.Equal(t, c.timeout, time.Since(start))
		back.Store(true)
		require.NoError(t, c.close())
	})
}

// watchTap is called for each answer to a watch, before the client sees it.
type watchTap func(key string, resp *clientv3.WatchResponse)

// tapped is a calm client whose requests and watches a test can see, stop and change. Both taps may be nil.
func tapped(t testing.TB, endpoints []string, ttl int64, requests tap, events watchTap) Client {
	t.Helper()
	cfg := clientv3.Config{Endpoints: endpoints, Logger: clientv3.NewCtxClient(context.Background()).GetLogger()}
	if requests != nil {
		cfg.DialOptions = []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return requests(ctx, req, reply, func(ctx context.Context, reply any) error {
					return invoke(ctx, method, req, reply, cc, opts...)
				})
			})}
	}
	cli, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	if events != nil {
		cli.Watcher = tappedWatcher{cli.Watcher, events}
	}
	c, err := start(context.Background(), cli, false, 30*time.Second, seconds(ttl)) // gates may be shut for long
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return calm(c)
}

// calm lets a client wait long for its next answers, so that it sends nothing twice on a busy machine: what it sends can
// be counted, and nothing that is late is left to be removed within a TTL.
func calm(c Client) Client {
	c.usual.Store(int64(10 * time.Second))
	return c
}

type tappedWatcher struct {
	clientv3.Watcher
	tap watchTap
}

func (w tappedWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	in := w.Watcher.Watch(ctx, key, opts...)
	out := make(chan clientv3.WatchResponse)
	go func() {
		defer close(out)
		for resp := range in {
			w.tap(key, &resp)
			select {
			case out <- resp:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// entering is a tap, and a gate at which the client arrives when it knows that it stands in the line.
func entering(name string) (*gate, tap) {
	entered := newGate()
	return entered, func(ctx context.Context, req, reply any, send sender) error {
		err := send(ctx, reply)
		if err == nil && enters(req, name) {
			entered.arrive()
		}
		return err
	}
}

// hearing is a tap that lets a client hear of events only once the gate is open.
func hearing(ctx context.Context, g *gate) watchTap {
	return func(_ string, resp *clientv3.WatchResponse) {
		if len(resp.Events) > 0 {
			g.pass(ctx, nil)
		}
	}
}

// puts reports whether a request may put that key.
func puts(req any, key string) bool {
	return anyOp(req, func(op *pb.RequestOp) bool { return string(op.GetRequestPut().GetKey()) == key })
}

// deletes reports whether a request may delete that key, or one in the line if key ends so.
func deletes(req any, key string) bool {
	return anyOp(req, func(op *pb.RequestOp) bool {
		deleted := string(op.GetRequestDeleteRange().GetKey())
		return deleted == key || strings.HasSuffix(key, waiting) && strings.HasPrefix(deleted, key)
	})
}

// enters reports whether a request may enter the line for a name.
func enters(req any, name string) bool {
	return anyOp(req, func(op *pb.RequestOp) bool {
		return strings.HasPrefix(string(op.GetRequestPut().GetKey()), name+waiting)
	})
}

// writes reports whether a request may write anything.
func writes(req any) bool {
	return anyOp(req, func(op *pb.RequestOp) bool { return op.GetRequestRange() == nil })
}

func anyOp(req any, is func(*pb.RequestOp) bool) bool {
	txn, _ := req.(*pb.TxnRequest)
	for _, ops := range [][]*pb.RequestOp{txn.GetSuccess(), txn.GetFailure()} {
		for _, op := range ops {
			if is(op) {
				return true
			}
		}
	}
	return false
}

// compares reports whether a request depends on that property of a key.
func compares(req any, key string, target pb.Compare_CompareTarget) bool {
	txn, _ := req.(*pb.TxnRequest)
	for _, c := range txn.GetCompare() {
		if string(c.Key) == key && c.Target == target {
			return true
		}
	}
	return false
}

// gate stops those who pass until it is opened.
type gate struct {
	arrived, opened      chan struct{}
	arriveOnce, openOnce sync.Once
}

func newGate() *gate { return &gate{arrived: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) arrive() { g.arriveOnce.Do(func() { close(g.arrived) }) }
func (g *gate) open()   { g.openOnce.Do(func() { close(g.opened) }) }

// pass waits until the gate is open, and returns err; or the error of ctx, if that ends first.
func (g *gate) pass(ctx context.Context, err error) error {
	g.arrive()
	select {
	case <-g.opened:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) awaitArrival(t testing.TB) {
	t.Helper()
	select {
	case <-g.arrived:
	case <-time.After(15 * time.Second):
		t.Fatal("nobody has come to the gate")
	}
}
