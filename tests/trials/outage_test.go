package trials

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// outage is long enough for gRPC's back-off to grow: left to itself it reconnects 23 s after such an outage.
const outage = 100 * time.Second

func TestOutage(t *testing.T) {
	t.Parallel()
	for name, strike := range map[string]func(*etcdtest.Proxy){
		"connections refused": func(p *etcdtest.Proxy) { p.Refuse(); p.Cut() },
		"silence":             func(p *etcdtest.Proxy) { p.Swallow() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := etcdtest.NewNetwork(t, machines)
			clients := newClients(t, n.Endpoints())
			n.Each(strike)
			firstLocks(t, clients, func() { n.Heal() })
		})
	}
	t.Run("members killed", func(t *testing.T) {
		t.Parallel()
		cluster := etcdtest.New(t, etcdtest.Options{Members: 3})
		clients := newClients(t, cluster.Endpoints())
		require.NoError(t, cluster.Kill(0, 1, 2))
		firstLocks(t, clients, func() { require.NoError(t, cluster.Start(0, 1, 2)) })
	})
}

// newClients are two clients of each kind: one that goes on asking during the outage, and one that asks when it is over.
func newClients(t *testing.T, endpoints []string) map[string]locker.Client {
	clients := map[string]locker.Client{}
	for _, habit := range []string{busy, idle} {
		clients["New, "+habit] = newClient(t, endpoints, 1, 2)
		given, err := locker.NewFromClient(context.Background(), etcdtest.Connect(t, endpoints), 2)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, given.Close()) })
		clients["NewFromClient, "+habit] = given
	}
	return clients
}

const busy, idle = "busy", "idle"

// firstLocks lets the outage last, ends it, and sees that each client has a lock within 1 s.
func firstLocks(t *testing.T, clients map[string]locker.Client, end func()) {
	over := make(chan struct{})
	got := make(map[string]chan time.Time)
	for kind, c := range clients {
		first := make(chan time.Time, 1)
		got[kind] = first
		go func() {
			if strings.HasSuffix(kind, idle) {
				<-over
			}
			for name := etcdtest.NewName(); c.Lock(name, locker.DefaultValue, nil).Msg != locker.Success; {
			}
			first <- time.Now()
		}()
	}
	time.Sleep(outage)
	for kind, first := range got {
		require.Empty(t, first, kind)
	}
	end()
	back := time.Now()
	close(over)
	for kind, first := range got {
		select {
		case at := <-first:
			t.Logf("%s: first lock %v after the return", kind, at.Sub(back))
			assert.Less(t, at.Sub(back), time.Second, kind)
		case <-time.After(time.Minute):
			t.Errorf("%s: no lock after the return", kind)
		}
	}
}
