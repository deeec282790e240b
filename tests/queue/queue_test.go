// Package queue has many processes contend for one lock.
package queue

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	processes  = 8
	goroutines = 8
	rounds     = 50
)

var faultsFor = flag.Duration("faults", 30*time.Second, "how long the cluster is broken while processes contend")

func newCluster(t *testing.T) (*etcdtest.Cluster, *clientv3.Client) {
	t.Helper()
	cluster := etcdtest.New(t, etcdtest.Options{Members: 3})
	return cluster, etcdtest.Connect(t, cluster.Endpoints())
}

func TestManyProcesses(t *testing.T) {
	cluster, etcd := newCluster(t)
	store := contend(t, etcd, order{Endpoints: cluster.Endpoints(), TTL: 60, Name: "lock", Rounds: rounds}, func(<-chan struct{}) {})
	require.Equal(t, processes*goroutines*rounds, store.counter)
	for who, turns := range store.turns {
		require.Equal(t, rounds, turns, who)
	}
}

// Members are killed and restarted, frozen and thawed, and connections cut. All of it is shorter than the TTL, so that
// no lock and no place may be lost to it.
func TestManyProcessesAndFaults(t *testing.T) {
	cluster, etcd := newCluster(t)
	net := etcdtest.NewNetwork(t, cluster.Endpoints())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	faults := map[string]int{}
	store := contend(t, etcd, order{Endpoints: net.Endpoints(), TTL: 20, Name: "lock", For: *faultsFor, Faults: true}, func(over <-chan struct{}) {
		for {
			// How long a fault lasts, and the time between faults, is part of the faults.
			fault, pause := time.Duration(500+random.IntN(2000))*time.Millisecond, time.Duration(random.IntN(1000))*time.Millisecond
			member := random.IntN(len(net))
			if random.IntN(2) == 0 {
				leader, err := cluster.Leader()
				require.NoError(t, err)
				member = leader
			}
			switch random.IntN(3) {
			case 0:
				faults["killed and restarted"]++
				require.NoError(t, cluster.Kill(member))
				time.Sleep(fault)
				require.NoError(t, cluster.Start(member))
			case 1:
				faults["frozen and thawed"]++
				require.NoError(t, cluster.Freeze(member))
				time.Sleep(fault)
				require.NoError(t, cluster.Thaw(member))
			case 2:
				faults["connections cut"]++
				net.Cut()
			}
			select {
			case <-time.After(pause):
			case <-over:
				return
			}
		}
	})
	t.Logf("%d turns; %v", store.counter, faults)
	require.NotEmpty(t, faults)
}

// contend runs processes that contend for a lock, and meanwhile disturb, and checks all that must hold.
func contend(t *testing.T, etcd *clientv3.Client, o order, disturb func(over <-chan struct{})) *Store {
	store, addr := newStore(t, processes)
	o.Store, o.Goroutines = addr, goroutines
	now, err := etcd.Get(t.Context(), o.Name)
	require.NoError(t, err)
	began := time.Now()
	var running []*process
	for i := range processes {
		o.Process = i
		running = append(running, start(t, o))
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		limit := time.AfterFunc(o.For+2*time.Minute, func() {
			for _, p := range running {
				p.cmd.Process.Kill()
			}
		})
		defer limit.Stop()
		for _, p := range running {
			p.cmd.Wait()
		}
	}()
	disturb(over)
	<-over
	for i, p := range running {
		require.True(t, p.cmd.ProcessState.Success(), "process %d: %v\n%s", i, p.cmd.ProcessState, p.stderr)
		if p.stderr.Len() > 0 {
			t.Log(p.stderr)
		}
	}
	t.Logf("%d turns in %v", store.counter, time.Since(began))

	require.Empty(t, store.faults)
	require.Empty(t, store.inside)
	for i := range processes {
		for j := range goroutines {
			require.NotZero(t, store.turns[fmt.Sprintf("%d/%d", i, j)], "%d/%d never got in", i, j)
		}
	}
	require.Len(t, store.entered, store.counter)
	events := history(t, etcd, o.Name, now.Header.Revision+1)
	require.GreaterOrEqual(t, len(events), store.counter)
	require.Empty(t, disorder(events, o.Name, store.entered))

	keys, err := etcd.Get(t.Context(), o.Name, clientv3.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, keys.Kvs)
	leases, err := etcd.Leases(t.Context())
	require.NoError(t, err)
	require.Empty(t, leases.Leases)
	return store
}
