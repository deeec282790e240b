package command

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/v3/concurrency"
	"golang.org/x/sys/unix"
)

const trials = 20

// stubborn is a command that ignores SIGTERM and has forked.
func stubborn(l life) string { return l.script() + "trap '' TERM; sleep 300 & sleep 300" }

// The command that runs under a lock is dead before another can have the lock, every time; and under the same faults, at the same
// moments, one that runs under `etcdctl lock` is not.
func TestPartition(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second
	session, err := concurrency.NewSession(etcdtest.Connect(t, machines))
	require.NoError(t, err)
	late := etcdtest.Lateness()
	var mu sync.Mutex // guards leads and both
	var leads []time.Duration
	both := 0 // trials in which etcdctl's command ran while another had the lock
	var running sync.WaitGroup
	for i := range trials {
		n := etcdtest.NewNetwork(t, machines)
		t.Cleanup(n.Heal)
		ours, theirs := newLife(t), newLife(t)
		name := etcdtest.NewName()
		p := start(t, n.Endpoints(), "run", "-ttl", ttl.String(), name, "--", "sh", "-c", stubborn(ours))
		e := etcdctl(t, n.Endpoints(), "lock", "--ttl", "5", name+"-etcdctl", "--", "sh", "-c", stubborn(theirs))
		t.Cleanup(func() { unix.Kill(-e.Process.Pid, unix.SIGKILL) })
		etcdtest.ReceiveWithin(t, ours.began, soon)
		etcdtest.ReceiveWithin(t, theirs.began, soon)
		taken := rival(t, name)
		running.Go(func() { // at moments all over three renewal intervals
			time.Sleep(ttl * time.Duration(i) / trials)
			strike := etcdtest.Partitions[[]string{"both ways", "answers delivered late", "slow answers, then none"}[i%3]]
			strike(n, ttl)
		})
		running.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			if assert.NoError(t, concurrency.NewMutex(session, name+"-etcdctl").Lock(ctx)) {
				mu.Lock()
				defer mu.Unlock()
				if len(theirs.over) == 0 {
					both++
				}
			}
		})
		running.Go(func() {
			var lead time.Duration
			select {
			case got := <-taken:
				select {
				case died := <-ours.over:
					lead = got.Sub(died)
				default:
					assert.Fail(t, "the command runs, and another has the lock")
				}
			case <-time.After(soon):
				assert.Fail(t, "nobody else got the lock")
			}
			mu.Lock()
			defer mu.Unlock()
			leads = append(leads, lead)
			assert.Equal(t, 74, p.status(t))
		})
	}
	running.Wait()
	slices.Sort(leads)
	busy := late()
	t.Logf("locker run: smallest lead %v, median %v; the machine was late by up to %v", leads[0], leads[trials/2], busy)
	t.Logf("etcdctl lock: the command ran beside the next holder in %d of %d", both, trials)
	require.Positive(t, leads[0])
	require.GreaterOrEqual(t, leads[0], 200*time.Millisecond-busy, "as the holder was told of its loss")
	require.NotZero(t, both, "these trials show nothing")
}

// SIGTERM comes in time for a command that needs all of the grace.
func TestPartition_Grace(t *testing.T) {
	t.Parallel()
	n := etcdtest.NewNetwork(t, machines)
	l, name := newLife(t), etcdtest.NewName()
	p := start(t, n.Endpoints(), "run", "-ttl", "6s", "-grace", "2s", name, "--", "sh", "-c",
		l.script()+"trap 'sleep 1.2; echo stopped in order; exit 0' TERM; while :; do sleep 0.05; done")
	etcdtest.ReceiveWithin(t, l.began, soon)
	taken := rival(t, name)
	n.Swallow()
	require.Positive(t, leadOf(t, l, taken))
	require.Equal(t, 74, p.status(t))
	require.Contains(t, p.output.String(), "stopped in order")
}

// A partition that ends before the grace begins is not felt.
func TestPartition_Short(t *testing.T) {
	t.Parallel()
	n := etcdtest.NewNetwork(t, machines)
	l, name := newLife(t), etcdtest.NewName()
	p := start(t, n.Endpoints(), "run", "-ttl", "15s", name, "--", "sh", "-c", l.script()+"sleep 10; echo undisturbed")
	etcdtest.ReceiveWithin(t, l.began, soon)
	n.Swallow()
	time.Sleep(2 * time.Second)
	n.Heal()
	require.Zero(t, p.status(t))
	require.Equal(t, "undisturbed", strings.TrimSpace(p.output.String()))
}

// Where etcd does not answer when a command has ended, `locker run` says that the lock is not free yet, also if the lease ends before
// it gives up.
func TestPartition_AtTheEnd(t *testing.T) {
	t.Parallel()
	for _, ttl := range []string{"3s", "60s"} {
		t.Run(ttl, func(t *testing.T) {
			t.Parallel()
			n := etcdtest.NewNetwork(t, machines)
			l := newLife(t)
			p := start(t, n.Endpoints(), "run", "-ttl", ttl, etcdtest.NewName(), "--", "sh", "-c",
				l.script()+"trap 'exit 3' USR1; while :; do sleep 0.05; done")
			etcdtest.ReceiveWithin(t, l.began, soon)
			n.Swallow()
			require.NoError(t, p.Process.Signal(unix.SIGUSR1))
			require.Equal(t, 3, p.status(t))
			require.Contains(t, p.output.String(), "come free at the end of their lease")
		})
	}
}
