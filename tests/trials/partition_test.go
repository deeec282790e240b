package trials

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const trials = 20

// partitions cut a holder off; the times in them are part of the fault. blind is the number of trials in which etcd's
// own client must be seen to fail, for the trials to be able to show anything.
var partitions = []struct {
	name   string
	blind  int
	strike func(n network, ttl time.Duration)
}{
	{"both ways", 1, func(n network, _ time.Duration) {
		n.each(func(p *etcdtest.Proxy) { p.Swallow() })
	}},
	{"answers only", 0, func(n network, _ time.Duration) { // its renewals still arrive
		n.each(func(p *etcdtest.Proxy) { p.Swallow(etcdtest.ToClient) })
	}},
	{"answers delivered late", 1, func(n network, ttl time.Duration) {
		n.each(func(p *etcdtest.Proxy) { p.Hold(etcdtest.ToClient) })
		time.Sleep(ttl / 2) // renewals go out
		n.each(func(p *etcdtest.Proxy) { p.Hold(etcdtest.ToServer) })
		time.Sleep(ttl / 3)
		n.each(func(p *etcdtest.Proxy) { p.Delay(0, etcdtest.ToClient) })
	}},
	{"slow answers, then none", 1, func(n network, ttl time.Duration) {
		n.each(func(p *etcdtest.Proxy) { p.Delay(ttl/9, etcdtest.ToClient) })
		time.Sleep(ttl / 2) // a renewal, at least, is answered late
		n.each(func(p *etcdtest.Proxy) { p.Swallow() })
	}},
}

// The holder is told of its loss 200 ms or more before another client can have the lock, every time; and under the same
// faults, at the same moments, a concurrency.Session is not.
func TestPartitionOfTheHolder(t *testing.T) {
	t.Parallel()
	for _, ttl := range []int{2, 5} {
		t.Run(fmt.Sprintf("TTL %d s", ttl), func(t *testing.T) {
			t.Parallel()
			for _, partition := range partitions {
				t.Run(partition.name, func(t *testing.T) {
					ours, theirs := leads(t, ttl, partition.strike)
					t.Logf("locker:      smallest lead %v, median %v", ours[0], ours[trials/2])
					early, _ := slices.BinarySearch(theirs, 0)
					t.Logf("concurrency: smallest lead %v, median %v; two owners in %d of %d", theirs[0], theirs[trials/2], early, trials)
					require.GreaterOrEqual(t, ours[0], 200*time.Millisecond)
					require.GreaterOrEqual(t, early, partition.blind, "these trials show nothing")
				})
			}
		})
	}
}

// leads are the leads of all trials of a fault, in order: of locker and of concurrency.
func leads(t *testing.T, ttl int, strike func(network, time.Duration)) (ours, theirs []time.Duration) {
	rival := newRival(t)
	var running sync.WaitGroup
	var mu sync.Mutex // guards ours, theirs
	for i := range trials {
		n := newNetwork(t)
		a, b := holdLocker(t, n, rival, ttl), holdConcurrency(t, n, rival, ttl)
		t.Cleanup(func() { n.each(func(p *etcdtest.Proxy) { p.Heal() }) }) // before the clients are closed
		running.Go(func() {
			// At moments all over three renewal intervals: what polls, etcd and its client, is met in any phase.
			session := time.Duration(ttl) * time.Second
			time.Sleep(session * time.Duration(i) / trials)
			strike(n, session)
		})
		for h, all := range map[*held]*[]time.Duration{a: &ours, b: &theirs} {
			running.Go(func() {
				lead, err := h.lead(t.Context())
				assert.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				*all = append(*all, lead)
			})
		}
	}
	running.Wait()
	slices.Sort(ours)
	slices.Sort(theirs)
	return ours, theirs
}

// held is a lock with its holder behind a network.
type held struct {
	over    <-chan struct{} // closed when the holder must take it for lost
	deleted clientv3.WatchChan
	take    func(context.Context) error // is another's attempt to take it, which must succeed
}

// lead is the time from the moment at which the holder is told of its loss to that at which another, who takes the
// lock as soon as etcd gives it away, has it. It is negative when there were two owners.
func (h *held) lead(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	told := make(chan time.Time, 1)
	go func() {
		select {
		case <-h.over:
			told <- time.Now()
		case <-ctx.Done():
		}
	}()
	select {
	case resp := <-h.deleted:
		if len(resp.Events) == 0 {
			return 0, fmt.Errorf("watching the key: %w", resp.Err())
		}
	case <-ctx.Done():
		return 0, errors.New("the lock never came free")
	}
	if err := h.take(ctx); err != nil {
		return 0, err
	}
	taken := time.Now()
	select {
	case loss := <-told:
		return taken.Sub(loss), nil
	case <-ctx.Done():
		return 0, errors.New("the holder was never told")
	}
}

// rival is who takes what the holders lose; nothing is in its way.
type rival struct {
	etcd    *clientv3.Client
	client  locker.Client
	session *concurrency.Session
}

func newRival(t *testing.T) *rival {
	t.Helper()
	etcd := newEtcd(t, machines)
	session, err := concurrency.NewSession(etcd)
	require.NoError(t, err)
	return &rival{etcd, newClient(t, machines, 5, 60), session}
}

// deleted tells when etcd gives away a lock whose key was put at that revision.
func (r *rival) deleted(t *testing.T, key string, put int64) clientv3.WatchChan {
	return r.etcd.Watch(t.Context(), key, clientv3.WithRev(put+1), clientv3.WithFilterPut())
}

func holdLocker(t *testing.T, n network, rival *rival, ttl int) *held {
	t.Helper()
	name := newName()
	r := newClient(t, n.endpoints(), 5, int64(ttl)).Lock(name, "holder", nil)
	require.Equal(t, locker.Success, r.Msg, "%v", r.Err)
	over := make(chan struct{})
	go func() {
		defer close(over)
		<-r.Done
		assert.False(t, r.Held())
	}()
	return &held{
		over:    over,
		deleted: rival.deleted(t, name, r.Token),
		take: func(context.Context) error {
			taken := rival.client.Lock(name, "rival", nil)
			switch {
			case taken.Msg != locker.Success:
				return fmt.Errorf("the rival got no lock: %w", taken.Err)
			case r.Held():
				return errors.New("two owners")
			case taken.Token <= r.Token:
				return fmt.Errorf("token %d after %d", taken.Token, r.Token)
			}
			return nil
		},
	}
}

func holdConcurrency(t *testing.T, n network, rival *rival, ttl int) *held {
	t.Helper()
	session, err := concurrency.NewSession(newEtcd(t, n.endpoints()), concurrency.WithTTL(ttl))
	require.NoError(t, err)
	name := newName()
	mutex := concurrency.NewMutex(session, name)
	require.NoError(t, mutex.TryLock(t.Context()))
	return &held{
		over:    session.Done(),
		deleted: rival.deleted(t, mutex.Key(), mutex.Header().Revision),
		take:    func(ctx context.Context) error { return concurrency.NewMutex(rival.session, name).TryLock(ctx) },
	}
}
