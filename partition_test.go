package locker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// network is a client's own way to a cluster: one proxy in front of every member.
type network []*etcdtest.Proxy

func newNetwork(t testing.TB, endpoints []string) (n network) {
	t.Helper()
	for _, target := range endpoints {
		p, err := etcdtest.NewProxy(target)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		n = append(n, p)
	}
	return n
}

func (n network) endpoints() (urls []string) {
	for _, p := range n {
		urls = append(urls, p.URL())
	}
	return urls
}

// each does the same to the ways to all members.
func (n network) each(f func(*etcdtest.Proxy)) {
	for _, p := range n {
		f(p)
	}
}

// clientAt is a client of the members at these endpoints, closed at the end of the test.
func clientAt(t testing.TB, endpoints []string, timeout, ttl int64) Client {
	t.Helper()
	c, err := New(endpoints, timeout, ttl, context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// partitions cut a holder off; the times in them are part of the fault.
var partitions = []struct {
	name   string
	strike func(n network, ttl time.Duration)
}{
	{"both ways", func(n network, _ time.Duration) {
		n.each(func(p *etcdtest.Proxy) { p.Swallow() })
	}},
	{"answers only", func(n network, _ time.Duration) {
		n.each(func(p *etcdtest.Proxy) { p.Swallow(etcdtest.ToClient) })
	}},
	{"answers delivered late", func(n network, ttl time.Duration) {
		n.each(func(p *etcdtest.Proxy) { p.Hold(etcdtest.ToClient) })
		time.Sleep(ttl / 2) // renewals go out
		n.each(func(p *etcdtest.Proxy) { p.Hold(etcdtest.ToServer) })
		time.Sleep(ttl / 3)
		n.each(func(p *etcdtest.Proxy) { p.Delay(0, etcdtest.ToClient) })
	}},
	{"slow answers, then none", func(n network, ttl time.Duration) {
		n.each(func(p *etcdtest.Proxy) { p.Delay(ttl/9, etcdtest.ToClient) })
		time.Sleep(ttl / 2) // a renewal, at least, is answered late, but not too late
		n.each(func(p *etcdtest.Proxy) { p.Swallow() })
	}},
}

// The holder is told of its loss before another client can have the lock. tests/trials does this many more times, and
// with a TTL of 5 s.
func TestPartitionOfTheHolder(t *testing.T) {
	t.Parallel()
	const ttl, trials = 2, 4
	etcd, rival := newEtcd(t, machines), newClient(t, 5, 60)
	leads := make([][]time.Duration, len(partitions))
	var running sync.WaitGroup
	for k, partition := range partitions {
		leads[k] = make([]time.Duration, trials)
		for i := range trials {
			n := newNetwork(t, machines)
			holder := clientAt(t, n.endpoints(), 5, ttl)
			t.Cleanup(func() { n.each(func(p *etcdtest.Proxy) { p.Heal() }) })
			running.Go(func() {
				var err error
				leads[k][i], err = leadOf(t.Context(), etcd, holder, rival, func() {
					time.Sleep(ttl * time.Second * time.Duration(i) / trials) // at moments all over three renewal intervals
					partition.strike(n, ttl*time.Second)
				})
				assert.NoError(t, err, partition.name)
			})
		}
	}
	running.Wait()
	for k, partition := range partitions {
		smallest := slices.Min(leads[k])
		t.Logf("%s: smallest lead of %d: %v", partition.name, trials, smallest)
		assert.GreaterOrEqual(t, smallest, 200*time.Millisecond, partition.name)
	}
}

// leadOf is the time from the moment at which the holder is told of its loss to that at which the rival, which takes
// the lock as soon as etcd gives it away, has it.
func leadOf(ctx context.Context, etcd *clientv3.Client, holder, rival Client, strike func()) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	name := newName()
	held := holder.Lock(name, "holder", nil)
	if held.Msg != Success {
		return 0, fmt.Errorf("the holder got no lock: %w", held.Err)
	}
	told := make(chan time.Time, 1)
	go func() {
		<-held.Done
		told <- time.Now()
	}()
	deleted := etcd.Watch(ctx, name, clientv3.WithRev(held.Token+1), clientv3.WithFilterPut())
	strike()
	if len((<-deleted).Events) == 0 {
		return 0, errors.New("the lock never came free")
	}
	taken := rival.Lock(name, "rival", nil)
	at := time.Now()
	switch {
	case taken.Msg != Success:
		return 0, fmt.Errorf("the rival got no lock: %w", taken.Err)
	case held.Held():
		return 0, errors.New("two owners")
	case taken.Token <= held.Token:
		return 0, fmt.Errorf("token %d after %d", taken.Token, held.Token)
	}
	select {
	case loss := <-told:
		return at.Sub(loss), rival.Unlock(name, nil)
	case <-ctx.Done():
		return 0, errors.New("the holder was never told")
	}
}
