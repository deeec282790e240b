package locker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

func TestHoldOutlivesItsTTL(t *testing.T) {
	t.Parallel()
	c, other, etcd := newClient(t, 5, 1), newClient(t, 5, 1), etcdtest.Connect(t, machines)
	name := newName()
	r := mustLock(t, c, name, DefaultValue, nil)
	end, tick := time.After(3*c.live[0].granted()), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-tick.C:
			require.True(t, r.Held())
			mustFail(t, other, name)
		case <-r.Done:
			require.FailNow(t, "lost")
		case <-end:
			over = true
		}
	}
	require.Equal(t, r.Token, stored(t, etcd, name).ModRevision)
	require.NoError(t, c.Unlock(name, nil))
}

func TestCrashOfTheHolder(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 1), etcdtest.Connect(t, machines)
	name := newName()
	holder := child(t, "hold", name)
	stdin, err := holder.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)
	token := stored(t, etcd, name).ModRevision
	mustFail(t, c, name)

	deletion := etcd.Watch(t.Context(), name, clientv3.WithRev(token+1))
	require.NoError(t, holder.Process.Kill())
	holder.Wait()
	resp := receive(t, deletion, c.live[0].granted()+2*time.Second)
	require.Equal(t, clientv3.EventTypeDelete, resp.Events[0].Type)
	require.Greater(t, mustLock(t, c, name, DefaultValue, nil).Token, token)
}

// holdForParent holds a lock until it is killed, or its parent is gone.
func holdForParent(name string) {
	c, err := New(etcdtest.EndpointsFromEnv(), 5, 1, context.Background())
	if err != nil {
		panic(err)
	}
	if r := c.Lock(name, DefaultValue, nil); !r.Held() {
		panic(fmt.Sprint(r))
	}
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
}

// interferences are what an outsider can do to a lock.
var interferences = map[string]func(t testing.TB, etcd *clientv3.Client, name string){
	"key deleted":     remove,
	"key overwritten": func(t testing.TB, etcd *clientv3.Client, name string) { put(t, etcd, name, "foreign") },
	"same value put":  func(t testing.TB, etcd *clientv3.Client, name string) { put(t, etcd, name, DefaultValue) },
	"lease revoked": func(t testing.TB, etcd *clientv3.Client, name string) {
		_, err := etcd.Revoke(context.Background(), clientv3.LeaseID(stored(t, etcd, name).Lease))
		require.NoError(t, err)
	},
}

// A lock that is held for longer than a renewal interval hears of its loss at once; those beside it go on.
func TestInterference(t *testing.T) {
	t.Parallel()
	for kind, interfere := range interferences {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c, etcd := newClient(t, 5, 6), etcdtest.Connect(t, machines)
			name, byQuit, beside, quit := newName(), newName(), newName(), make(chan bool)
			lost := map[string]Report{
				name:   mustLock(t, c, name, DefaultValue, nil),
				byQuit: mustLock(t, c, byQuit, DefaultValue, quit),
			}
			spared := mustLock(t, c, beside, DefaultValue, nil)
			session := c.live[0]
			<-time.After(session.interval() + 200*time.Millisecond) // that long it is to be held

			start := time.Now()
			interfere(t, etcd, name)
			if kind != "lease revoked" { // which takes all that hangs on it
				interfere(t, etcd, byQuit)
			}
			after := map[string]int64{}
			for name, r := range lost {
				receive(t, r.Done, time.Second-time.Since(start))
				require.False(t, r.Held())
				after[name] = stored(t, etcd, name).GetModRevision()
			}
			require.Equal(t, kind != "lease revoked", spared.Held())

			require.ErrorIs(t, c.Unlock(name, nil), ErrLost)
			require.ErrorIs(t, c.Unlock(name, nil), ErrNotHeld, "it was told already")
			send(t, quit, true)
			eventually(t, "the send was the end of it", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.listeners) == 0 && c.seats[byQuit] == nil
			})
			for name, r := range lost {
				require.Equal(t, after[name], stored(t, etcd, name).GetModRevision(), "a foreign key is let alone")
				remove(t, etcd, name)
				require.Greater(t, mustLock(t, c, name, DefaultValue, nil).Token, r.Token, "life goes on")
			}
		})
	}
}

// A lock just taken is not watched yet: Unlock finds out.
func TestInterferenceAtOnce(t *testing.T) {
	t.Parallel()
	for kind, interfere := range interferences {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c, etcd := newClient(t, 5, 30), etcdtest.Connect(t, machines)
			name, byQuit, quit := newName(), newName(), make(chan bool)
			c.usual.Store(int64(time.Minute)) // no request is sent twice: what is found is not its own effect
			mustLock(t, c, name, DefaultValue, nil)
			interfere(t, etcd, name)
			after := stored(t, etcd, name).GetModRevision()
			require.ErrorIs(t, c.Unlock(name, nil), ErrLost)
			require.Equal(t, after, stored(t, etcd, name).GetModRevision(), "a foreign key is let alone")

			r := mustLock(t, c, byQuit, DefaultValue, quit)
			interfere(t, etcd, byQuit)
			after = stored(t, etcd, byQuit).GetModRevision()
			close(quit)
			receive(t, r.Done, soon)
			eventually(t, "the release is over", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.seats[byQuit] == nil
			})
			require.Equal(t, after, stored(t, etcd, byQuit).GetModRevision(), "a foreign key is let alone")
		})
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	c, other, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name, guarded := newName(), newName()
	defer remove(t, etcd, guarded)
	write := func(r Report) bool {
		t.Helper()
		resp, err := etcd.Txn(t.Context()).If(r.Guard()).Then(clientv3.OpPut(guarded, "written")).Commit()
		require.NoError(t, err)
		return resp.Succeeded
	}
	released := mustLock(t, c, name, DefaultValue, nil)
	require.True(t, write(released))
	require.False(t, write(other.Lock(name, DefaultValue, nil)), "of a Lock that was refused")
	require.NoError(t, c.Unlock(name, nil))
	require.False(t, write(released))
	held := mustLock(t, c, name, DefaultValue, nil)
	require.False(t, write(released), "of an earlier hold of the same client")
	require.True(t, write(held))
	remove(t, etcd, name)
	require.False(t, write(held), "of a lock that was taken away")
	require.False(t, write(Report{}))
	require.False(t, Report{}.Held())
}

// Holds that are older than etcd's history are still watched, and cost no stream of requests.
func TestHoldSurvivesCompaction(t *testing.T) {
	t.Parallel()
	endpoints := etcdtest.New(t, etcdtest.Options{Members: 1}).Endpoints()
	etcd := etcdtest.Connect(t, endpoints)
	var asked atomic.Int64
	counted, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialOptions: []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, resp any, conn *grpc.ClientConn,
			call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			asked.Add(1)
			return call(ctx, method, req, resp, conn, opts...)
		})}})
	require.NoError(t, err)
	defer counted.Close()
	c, err := NewFromClient(context.Background(), counted, 3)
	require.NoError(t, err)
	defer c.Close()
	name := newName()
	r := mustLock(t, c, name, DefaultValue, nil)
	put(t, etcd, newName(), "new")
	_, err = etcd.Compact(t.Context(), put(t, etcd, newName(), "newer"), clientv3.WithCompactPhysical())
	require.NoError(t, err)

	<-time.After(c.live[0].interval() + 500*time.Millisecond) // held so long that it is watched
	before := asked.Load()
	<-time.After(2 * time.Second)
	require.LessOrEqual(t, asked.Load()-before, int64(3))
	require.True(t, r.Held())
	remove(t, etcd, name)
	receive(t, r.Done, time.Second)
}
