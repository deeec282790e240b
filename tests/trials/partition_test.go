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

// The holder is told of its loss 200 ms or more before another client can have the lock, every time; and under the same
// faults, at the same moments, a concurrency.Session is not.
func TestPartitionOfTheHolder(t *testing.T) {
	t.Parallel()
	for _, ttl := range []int{2, 5} {
		t.Run(fmt.Sprintf("TTL %d s", ttl), func(t *testing.T) {
			t.Parallel()
			for kind, strike := range etcdtest.Partitions {
				t.Run(kind, func(t *testing.T) {
					late := etcdtest.Lateness()
					ours, theirs := leads(t, ttl, strike)
					busy := late() // this much of a lead may be this machine's, which told us of the loss too late
					t.Logf("locker:      smallest lead %v, median %v; the machine was late by up to %v", ours[0], ours[trials/2], busy)
					early, _ := slices.BinarySearch(theirs, 0)
					t.Logf("concurrency: smallest lead %v, median %v; two owners in %d of %d", theirs[0], theirs[trials/2], early, trials)
					require.Positive(t, ours[0])
					require.GreaterOrEqual(t, ours[0], 200*time.Millisecond-busy)
					if kind != "answers only" { // where a lease is renewed for as long as its holder believes in it
						require.NotZero(t, early, "these trials show nothing")
					}
				})
			}
		})
	}
}

// leads are the leads of all trials of a fault, in order: of locker and of concurrency.
func leads(t *testing.T, ttl int, strike func(etcdtest.Network, time.Duration)) (ours, theirs []time.Duration) {
	rival := newRival(t)
	var running sync.WaitGroup
	var mu sync.Mutex // guards ours, theirs
	for i := range trials {
		n := etcdtest.NewNetwork(t, machines)
		a, b := holdLocker(t, n, rival, ttl), holdConcurrency(t, n, rival, ttl)
		t.Cleanup(func() { n.Heal() }) // before the clients are closed
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
	etcd := etcdtest.Connect(t, machines)
	session, err := concurrency.NewSession(etcd)
	require.NoError(t, err)
	return &rival{etcd, newClient(t, machines, 5, 60), session}
}

// deleted tells when etcd gives away a lock whose key was put at that revision.
func (r *rival) deleted(t *testing.T, key string, put int64) clientv3.WatchChan {
	return r.etcd.Watch(t.Context(), key, clientv3.WithRev(put+1), clientv3.WithFilterPut())
}

func holdLocker(t *testing.T, n etcdtest.Network, rival *rival, ttl int) *held {
	t.Helper()
	name := etcdtest.NewName()
	r := newClient(t, n.Endpoints(), 5, int64(ttl)).Lock(name, "holder", nil)
	require.Equal(t, locker.Success, r.Msg, "%v", r.Err)
	over := make(chan struct{})
	go func() {
		defer close(over)
		<-r.Done
		assert.False(t, r.Held())
	}()
	lost := etcdtest.FollowLoss(r.Done, r.Remaining)
	margin := max(200*time.Millisecond, time.Duration(ttl)*time.Second/10)
	return &held{
		over:    over,
		deleted: rival.deleted(t, name, r.Token),
		take: func(ctx context.Context) error {
			taken := rival.client.Lock(name, "rival", nil)
			at := time.Now()
			switch {
			case taken.Msg != locker.Success:
				return fmt.Errorf("the rival got no lock: %w", taken.Err)
			case r.Held():
				return errors.New("two owners")
			case taken.Token <= r.Token:
				return fmt.Errorf("token %d after %d", taken.Token, r.Token)
			}
			select {
			case l := <-lost: // by the clock, which no busy machine delays
				if lead := at.Sub(l.Deadline); lead < margin {
					return fmt.Errorf("held until %v before another had the lock", lead)
				}
			case <-ctx.Done():
			}
			return nil
		},
	}
}

func holdConcurrency(t *testing.T, n etcdtest.Network, rival *rival, ttl int) *held {
	t.Helper()
	session, err := concurrency.NewSession(etcdtest.Connect(t, n.Endpoints()), concurrency.WithTTL(ttl))
	require.NoError(t, err)
	name := etcdtest.NewName()
	mutex := concurrency.NewMutex(session, name)
	require.NoError(t, mutex.TryLock(t.Context()))
	return &held{
		over:    session.Done(),
		deleted: rival.deleted(t, mutex.Key(), mutex.Header().Revision),
		take:    func(ctx context.Context) error { return concurrency.NewMutex(rival.session, name).TryLock(ctx) },
	}
}
