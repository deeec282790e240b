package locker

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestCost_UncontendedLockWait(t *testing.T) {
	t.Parallel()
	ctx, name := testCtx(t), etcdtest.NewName()
	var sent requests
	c := tapped(t, machines, 60, sent.tap, nil)
	for range 3 {
		unhedged(c)
		sent.take()
		r := c.LockWait(ctx, name, "v", nil)
		require.Equal(t, Success, r.Msg, "%v", r.Err)
		require.Len(t, sent.take(), 1)
		require.NoError(t, c.Unlock(name, nil))
		require.Len(t, sent.take(), 1)
	}
}

// The release of a contended lock is one transaction, and the client that gets the lock writes nothing.
func TestCost_HandOver(t *testing.T) {
	t.Parallel()
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	var sent [6]requests
	var watches atomic.Int64
	var clients []Client
	for i := range sent {
		clients = append(clients, tapped(t, machines, 60, sent[i].tap, func(_ string, resp *pb.WatchResponse) {
			if resp.Created {
				watches.Add(1)
			}
		}))
	}
	mustLock(t, clients[0], name, "v", nil)
	turns := make([]<-chan Report, len(sent))
	for i := 1; i < len(sent); i++ {
		turns[i] = startLockWait(ctx, clients[i], name, "v")
		awaitPlaces(t, etcd, name, i)
	}
	etcdtest.Eventually(t, "two watches of each who waits, and one more of the head of the queue", func() bool {
		return watches.Load() == int64(2*(len(sent)-1)+1)
	})
	for i := range len(sent) - 1 {
		for j := range sent {
			unhedged(clients[j])
			sent[j].take()
		}
		if i > 0 {
			awaitSuccessor(t, clients[i], name)
			sent[i].take()
		}
		require.NoError(t, clients[i].Unlock(name, nil))
		gotLock(t, turns[i+1])
		if i > 0 { // the first holder did not know of the queue before its release
			require.Len(t, sent[i].take(), 1, "the one who releases")
		}
		for _, req := range sent[i+1].take() {
			require.False(t, writes(req), "the one who gets: %v", req)
		}
		for j := i + 2; j < len(sent); j++ {
			for _, req := range sent[j].take() {
				require.False(t, writes(req), "one who waits on: %v", req)
				if i > 0 { // at first they may still read what came before their watches were open
					require.Equal(t, i+2, j, "one who is not the head of the queue now")
				}
			}
		}
	}
}

// Within a process the lock changes hands in one transaction, and takes no place in the queue.
func TestCost_HandOverWithinAProcess(t *testing.T) {
	t.Parallel()
	ctx, name := testCtx(t), etcdtest.NewName()
	var sent requests
	c := tapped(t, machines, 60, sent.tap, nil)
	mustLock(t, c, name, "v", nil)
	var turns []<-chan Report
	for i := range 5 {
		turns = append(turns, startLockWait(ctx, c, name, "v"))
		awaitLocalWaiters(t, c, name, i+1)
	}
	for _, turn := range turns {
		unhedged(c)
		sent.take()
		require.NoError(t, c.Unlock(name, nil))
		gotLock(t, turn)
		require.Len(t, sent.take(), 1)
	}
}

// A hand-over wakes the one who gets the lock and the one behind it, however many wait.
func TestCost_OneWaiterIsWoken(t *testing.T) {
	t.Parallel()
	const waiters = 20
	ctx, etcd, name := testCtx(t), etcdtest.Connect(t, machines), etcdtest.NewName()
	var events, watches atomic.Int64
	holder := unhedged(newClient(t, 5, 60))
	mustLock(t, holder, name, "v", nil)
	var clients []Client
	var turns []<-chan Report
	for i := range waiters {
		c := tapped(t, machines, 60, nil, func(_ string, resp *pb.WatchResponse) {
			if resp.Created {
				watches.Add(1)
			}
			events.Add(int64(len(resp.Events)))
		})
		clients = append(clients, c)
		turns = append(turns, startLockWait(ctx, c, name, "v"))
		awaitPlaces(t, etcd, name, i+1)
	}
	etcdtest.Eventually(t, "two watches of each, and one more of the head of the queue", func() bool { return watches.Load() == 2*waiters+1 })
	require.LessOrEqual(t, events.Load(), int64(waiters), "the head of the queue sees who comes, and nobody else")
	events.Store(0)
	for i, turn := range turns {
		require.NoError(t, holder.Unlock(name, nil))
		gotLock(t, turn)
		holder = clients[i]
	}
	// The new holder sees the lock, its place, and the queue, as the holder before it may; the next one its predecessor go.
	require.LessOrEqual(t, events.Load(), int64(6*waiters), "events")
}

// A contended cycle takes two Raft proposals across clients, for the place and the hand-over, and one within a client.
func TestCost_Proposals(t *testing.T) {
	t.Parallel()
	ctx := testCtx(t)
	cluster := etcdtest.New(t, etcdtest.Options{Members: 1})
	const cycles = 30
	etcd := etcdtest.Connect(t, cluster.Endpoints())
	committed := func() float64 { // the metric of that name may lag behind an answer
		status, err := etcd.Status(ctx, cluster.Endpoints()[0])
		require.NoError(t, err)
		return float64(status.RaftIndex)
	}

	for _, n := range []int{2, 4} {
		name := etcdtest.NewName()
		var clients []Client
		for range n {
			clients = append(clients, tapped(t, cluster.Endpoints(), 60, nil, nil))
		}
		turns := make([]<-chan Report, n)
		for i := range n {
			turns[i] = startLockWait(ctx, clients[i], name, "v")
			etcdtest.Eventually(t, "the first has the lock", func() bool { return stored(t, etcd, name) != nil })
			awaitPlaces(t, etcd, name, i)
		}
		var before float64
		for i := range n + cycles {
			if i == n {
				before = committed()
			}
			unhedged(clients[i%n])
			gotLock(t, turns[i%n])
			if i > 0 {
				awaitSuccessor(t, clients[i%n], name)
			}
			require.NoError(t, clients[i%n].Unlock(name, nil))
			turns[i%n] = startLockWait(ctx, clients[i%n], name, "v")
			awaitPlaces(t, etcd, name, n-1)
		}
		each := (committed() - before) / cycles
		if each > 2 {
			t.Errorf("%d clients: %.2f proposals a cycle", n, each)
		}
		for i := range n { // the queue becomes empty
			k := (cycles + n + i) % n
			gotLock(t, turns[k])
			require.NoError(t, clients[k].Unlock(name, nil))
		}
	}

	name, c := etcdtest.NewName(), tapped(t, cluster.Endpoints(), 60, nil, nil)
	mustLock(t, c, name, "v", nil)
	turn := startLockWait(ctx, c, name, "v")
	awaitLocalWaiters(t, c, name, 1)
	before := committed()
	for range cycles {
		unhedged(c)
		require.NoError(t, c.Unlock(name, nil))
		gotLock(t, turn)
		turn = startLockWait(ctx, c, name, "v")
		awaitLocalWaiters(t, c, name, 1)
	}
	require.InDelta(t, cycles, committed()-before, 0, "within a client")
	require.NoError(t, c.Unlock(name, nil))
	gotLock(t, turn)
}

// change is what one commit has done to the key of a lock and to its queue.
type change struct {
	revision int64
	what     map[string]string // key: "delete", or "put" and the value
	lease    int64             // of the lock's key, if that was put
}

// changes returns the commits to a name since a revision.
func changes(t *testing.T, etcd *clientv3.Client, name string, since int64) (found []change) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	mark, err := etcd.Put(ctx, name+"/end", "") // old servers answer a request for progress too early
	require.NoError(t, err)
	remove(t, etcd, name+"/end")
	events := etcd.Watch(ctx, name, clientv3.WithPrefix(), clientv3.WithRev(since))
	for {
		resp, ok := <-events
		require.True(t, ok, "the watch has ended: %v", resp.Err())
		for _, e := range resp.Events {
			if e.Kv.ModRevision == mark.Header.Revision {
				return found
			}
			if n := len(found); n == 0 || found[n-1].revision != e.Kv.ModRevision {
				found = append(found, change{revision: e.Kv.ModRevision, what: map[string]string{}})
			}
			c := &found[len(found)-1]
			what := "delete"
			if e.Type == clientv3.EventTypePut {
				what = "put " + string(e.Kv.Value)
				if string(e.Kv.Key) == name {
					c.lease = e.Kv.Lease
				}
			}
			c.what[string(e.Kv.Key)] = what
		}
	}
}
