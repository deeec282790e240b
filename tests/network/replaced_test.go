package network

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// balancer is one address for a whole cluster: new connections go to the members in turn.
type balancer struct {
	net.Listener
	links []*etcdtest.Link

	mu   sync.Mutex // guards last
	last int        // the member that the last connection went to
}

func newBalancer(t *testing.T, endpoints []string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &balancer{Listener: l, last: -1}
	for _, e := range endpoints {
		b.links = append(b.links, etcdtest.NewLink(strings.TrimPrefix(e, "http://")))
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.last = (b.last + 1) % len(b.links)
			b.links[b.last].Serve(c.(*net.TCPConn))
			b.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		for _, link := range b.links {
			link.Close()
		}
	})
	return b
}

func (b *balancer) endpoint() string { return "http://" + b.Addr().String() }

func (b *balancer) each(f func(*etcdtest.Link)) {
	for _, link := range b.links {
		f(link)
	}
}

func (b *balancer) lastLink() *etcdtest.Link {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.links[b.last]
}

// What a client is connected to goes silent, and only a new connection helps: that is made in time.
func TestSilentConnectionIsReplaced(t *testing.T) {
	const ttl = 10
	for what, begin := range map[string]func(t *testing.T) (endpoints []string, silence, heal func()){
		"the only connection": func(t *testing.T) ([]string, func(), func()) {
			b := newBalancer(t, machines)
			return []string{b.endpoint()}, func() { b.each((*etcdtest.Link).SwallowOpen) }, func() { b.each((*etcdtest.Link).Heal) }
		},
		"the member behind the only address": func(t *testing.T) ([]string, func(), func()) {
			b := newBalancer(t, machines)
			return []string{b.endpoint()}, func() { b.lastLink().Swallow() }, func() { b.each((*etcdtest.Link).Heal) }
		},
		"all connections": func(t *testing.T) ([]string, func(), func()) {
			n := etcdtest.NewNetwork(t, machines)
			return n.Endpoints(), n.SwallowOpen, n.Heal
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel() // they mostly wait
			endpoints, silence, heal := begin(t)
			defer heal()
			c, name := newClient(t, endpoints, 5, ttl), newName(t)
			held := mustLock(t, c, name)
			silence()
			start := time.Now()
			eventually(t, "a lock is to be had", func() bool { return c.Lock(newName(t), "value", nil).Msg == locker.Success })
			took := time.Since(start)
			t.Logf("first lock after %v", took)
			assert.Less(t, took, 6*time.Second)
			select { // until a lease that is not renewed would have expired
			case <-held.Done:
				assert.Fail(t, "the lock was lost", "after %v", time.Since(start))
			case <-time.After(time.Until(start.Add((ttl + 2) * time.Second))):
				assert.True(t, held.Held())
				assert.NoError(t, c.Unlock(name, nil))
			}
		})
	}
}
