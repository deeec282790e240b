package locker

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// A frozen member keeps its connections open and says nothing; what was sent to it lies there until it goes on.
func TestFrozenMembers(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.New(t, etcdtest.Options{Members: 3})
	t.Run("each in turn", func(t *testing.T) { testEachFrozen(t, cluster) })
	t.Run("a request applied long after", func(t *testing.T) { testLateRequest(t, cluster) })
	t.Run("a leader for longer than a TTL", func(t *testing.T) { testFrozenLeader(t, cluster) })
}

// leaderOf is the leader, and the others.
func leaderOf(t testing.TB, cluster *etcdtest.Cluster) (leader int, others []int) {
	t.Helper()
	leader, err := cluster.Leader()
	require.NoError(t, err)
	for m := range cluster.Endpoints() {
		if m != leader {
			others = append(others, m)
		}
	}
	return leader, others
}

func testEachFrozen(t *testing.T, cluster *etcdtest.Cluster) {
	const ttl = 10
	names, holds := make([]string, 30), make([]Report, 30)
	for i := range holds {
		names[i] = newName()
		holds[i] = mustLock(t, clientAt(t, cluster.Endpoints(), 5, ttl), names[i], DefaultValue, nil)
	}
	c := clientAt(t, cluster.Endpoints(), 5, ttl)
	leader, followers := leaderOf(t, cluster)
	for _, member := range append(followers, leader) {
		isLeader, _ := leaderOf(t, cluster)
		others := slices.Delete(slices.Clone(cluster.Endpoints()), member, member+1)
		beside := clientAt(t, others, 5, ttl) // knows nothing of the member: what it takes is the machine's doing
		require.NoError(t, cluster.Freeze(member))
		var took, usual []time.Duration
		for end := time.Now().Add(ttl * time.Second * 6 / 10); time.Now().Before(end); {
			took, usual = append(took, timeOfLock(t, c)), append(usual, timeOfLock(t, beside))
		}
		require.NoError(t, cluster.Thaw(member))
		slices.Sort(took)
		slices.Sort(usual)
		half := len(took) / 2
		t.Logf("member %d frozen, leader %t: %d Locks, median %v, longest %v; beside it: median %v", member, member == isLeader,
			len(took), took[half], took[len(took)-1], usual[half])
		if member != isLeader {
			assert.Less(t, took[half], 50*time.Millisecond+4*usual[half], "4 times the usual: on a busy machine that is what counts")
		}
	}
	etcd := etcdtest.Connect(t, cluster.Endpoints())
	for i, h := range holds {
		require.True(t, h.Held())
		require.Equal(t, h.Token, stored(t, etcd, names[i]).GetModRevision())
	}
}

// timeOfLock is how long a Lock takes.
func timeOfLock(t *testing.T, c Client) time.Duration {
	t.Helper()
	name, start := newName(), time.Now()
	r := c.Lock(name, DefaultValue, nil)
	took := time.Since(start)
	assert.Equal(t, Success, r.Msg, "%v", r.Err)
	assert.NoError(t, c.Unlock(name, nil))
	return took
}

// testLateRequest is about a Lock that a member applies when nobody has wanted it for long.
func testLateRequest(t *testing.T, cluster *etcdtest.Cluster) {
	const ttl = 5
	leader, followers := leaderOf(t, cluster)
	frozen, follower := followers[0], followers[1]
	n := etcdtest.NewNetwork(t, cluster.Endpoints())
	etcd := etcdtest.Connect(t, []string{cluster.Endpoints()[leader], cluster.Endpoints()[follower]})
	c := clientAt(t, n.Endpoints(), 1, ttl)
	t.Cleanup(func() { n[frozen].Heal() })
	name, kept := newName(), newName()
	session := mustLock(t, c, kept, DefaultValue, nil)
	lease := stored(t, etcd, kept).Lease
	events := etcd.Watch(t.Context(), name)

	require.NoError(t, cluster.Freeze(frozen))
	n[leader].Swallow()
	n[follower].Swallow()
	lies := n[frozen].Delivered(name)
	given := make(chan Report, 1)
	go func() { given <- c.Lock(name, DefaultValue, nil) }()
	receive(t, lies, soon)               // there, with the frozen member,
	n[frozen].Swallow(etcdtest.ToServer) // which is not to see that it is taken back
	r := receive(t, given, time.Second+slack)
	require.Equal(t, Fail, r.Msg)
	require.ErrorIs(t, r.Err, context.DeadlineExceeded)
	listed := func() (n float64) { // how often the keys of a lease were asked for
		for _, m := range []int{leader, follower} {
			n += metric(t, cluster.Endpoints()[m], `grpc_server_handled_total{grpc_code="OK",grpc_method="LeaseTimeToLive",`+
				`grpc_service="etcdserverpb.Lease",grpc_type="unary"}`)
		}
		return n
	}
	before := listed()
	n[leader].Heal()
	n[follower].Heal()
	eventually(t, "the client has looked for what it left, again and again", func() bool { return listed() >= before+3 })
	require.Nil(t, stored(t, etcd, name))

	require.NoError(t, cluster.Thaw(frozen))
	put := receive(t, events, soon)
	require.True(t, len(put.Events) == 1 && put.Events[0].IsCreate(), "it was not applied: this test shows nothing")
	require.Equal(t, lease, put.Events[0].Kv.Lease)
	applied := time.Now()
	gone := receive(t, events, (ttl+1)*time.Second)
	require.Equal(t, clientv3.EventTypeDelete, gone.Events[0].Type)
	t.Logf("the orphan is gone after %v", time.Since(applied))
	require.True(t, session.Held())
	require.Equal(t, session.Token, stored(t, etcd, kept).GetModRevision())
	mustLock(t, c, name, DefaultValue, nil)
	require.Equal(t, lease, stored(t, etcd, name).Lease, "the session is to go on")
}

// testFrozenLeader is about what no client can foresee: a leader that is resumed after a successor was elected may
// revoke leases that the successor has renewed. It does not always, so the test revokes one in its place.
func testFrozenLeader(t *testing.T, cluster *etcdtest.Cluster) {
	const ttl, rounds = 5, 2
	clients := make([]Client, 10)
	for i := range clients {
		clients[i] = clientAt(t, cluster.Endpoints(), 5, ttl)
	}
	for range rounds {
		leader, others := leaderOf(t, cluster)
		etcd := etcdtest.Connect(t, []string{cluster.Endpoints()[others[0]], cluster.Endpoints()[others[1]]})
		holds := make([]Report, len(clients))
		told, deleted := make([]chan time.Time, len(clients)), make([]chan time.Time, len(clients))
		first := newName()
		for i, c := range clients {
			name := newName()
			if i == 0 {
				name = first
			}
			holds[i] = mustLock(t, c, name, DefaultValue, nil)
			told[i], deleted[i] = make(chan time.Time, 1), make(chan time.Time, 1)
			changes := etcd.Watch(t.Context(), name, clientv3.WithRev(holds[i].Token+1))
			go func() {
				if resp := <-changes; len(resp.Events) > 0 {
					deleted[i] <- time.Now()
				}
			}()
			go func() {
				<-holds[i].Done
				told[i] <- time.Now()
			}()
		}
		time.Sleep(ttl * time.Second * 2 / 3) // for longer than a renewal interval
		require.NoError(t, cluster.Freeze(leader))
		time.Sleep(ttl*time.Second + slack)
		late := etcdtest.Lateness()
		require.NoError(t, cluster.Thaw(leader))
		if kv := stored(t, etcd, first); kv != nil {
			etcd.Revoke(t.Context(), clientv3.LeaseID(kv.Lease)) // fails if etcd has done it at this moment
		}
		time.Sleep(2 * time.Second) // what etcd does, it does at its next look at the leases

		var latest time.Duration
		revoked := 0
		for i, h := range holds {
			select {
			case at := <-deleted[i]:
				revoked++
				latest = max(latest, receive(t, told[i], soon).Sub(at))
				require.False(t, h.Held())
			default:
				require.True(t, h.Held(), "lost, though its lease goes on")
			}
		}
		busy := late()
		t.Logf("%d leases revoked, told after %v at the latest; the machine was late by up to %v", revoked, latest, busy)
		require.NotZero(t, revoked)
		require.Less(t, latest, 100*time.Millisecond+10*busy, "what is told passes through several hands")
		for i, h := range holds {
			if h.Held() {
				require.NoError(t, clients[i].Unlock(h.hold.name, nil))
			}
		}
	}
}

// oldTerm makes the answers to renewals those of a former leader, once it is on.
type oldTerm struct {
	grpc.ClientStream
	on *atomic.Bool
}

func (s oldTerm) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if resp, ok := m.(*pb.LeaseKeepAliveResponse); ok && err == nil && s.on.Load() {
		resp.Header.RaftTerm--
	}
	return err
}

// A leader that was frozen, replaced and resumed answers renewals that it has no right to give. The rest of the cluster
// goes on renewing here, so only the client's own deadline can end the lock.
func TestAnswersOfAFormerLeader(t *testing.T) {
	t.Parallel()
	const ttl = 2
	var former atomic.Bool
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints: machines,
		Logger:    clientv3.NewCtxClient(context.Background()).GetLogger(),
		DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc,
			conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := streamer(ctx, desc, conn, method, opts...)
			return oldTerm{stream, &former}, err
		})},
	})
	require.NoError(t, err)
	defer etcd.Close()
	c, err := NewFromClient(t.Context(), etcd, ttl)
	require.NoError(t, err)
	defer c.Close()
	name := newName()
	held := mustLock(t, c, name, DefaultValue, nil)
	time.Sleep(ttl * time.Second * 3 / 2) // answers of the leader keep it
	require.True(t, held.Held())
	former.Store(true)
	receive(t, held.Done, ttl*time.Second)
	require.False(t, held.Held())
	require.ErrorIs(t, c.Unlock(name, nil), ErrLost)
}
