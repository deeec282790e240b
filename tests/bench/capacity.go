package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc"
)

// capacity: many clients, while the network or a member changes under them. How much fails that need not, and how much is
// sent more than once? It has a network of its own, whatever -rtt says.
func capacity(ctx context.Context, b *bench, round int) error {
	d, err := startNetwork(ctx, b.members)
	if err != nil {
		return err
	}
	defer d.kill()
	for _, o := range ordeals {
		if o.freezes && b.cluster == nil {
			continue // a cluster of somebody else's
		}
		for p := range inTurn(sturdy, round) {
			if err := b.endure(ctx, p, o, d); err != nil {
				return fmt.Errorf("%s, %d %s: %w", p.name, o.clients, o.of, err)
			}
		}
	}
	return nil
}

// ordeal is what clients go through. run returns when it is over.
type ordeal struct {
	of               string
	clients, lockers int
	freezes          bool
	run              func(ctx context.Context, b *bench, d *detour) error
}

const (
	oneEach   = "clients x 1 locker, round trip steps 0-20 ms"
	fourEach  = "clients x 4 lockers, round trip steps 0-20 ms"
	jittery   = "clients x 1 locker, round trip 6-60 ms"
	oneFrozen = "clients x 1 locker, a member is frozen"
)

var ordeals = []ordeal{
	{oneEach, 64, 1, false, stepUpAndDown},
	{fourEach, 64, 4, false, stepUpAndDown},
	{jittery, 16, 1, false, jitter},
	{oneFrozen, 64, 1, true, freeze},
}

// spell is how long each part of an ordeal takes.
func (b *bench) spell(length time.Duration) time.Duration {
	if b.quick {
		return length / 5
	}
	return length
}

func stepUpAndDown(ctx context.Context, b *bench, d *detour) error {
	for _, rtt := range []time.Duration{0, 20, 0, 20, 0} {
		if err := d.set(rtt*time.Millisecond, 0); err != nil {
			return err
		}
		if err := pause(ctx, b.spell(2*time.Second)); err != nil {
			return err
		}
	}
	return nil
}

func jitter(ctx context.Context, b *bench, d *detour) error {
	if err := d.set(6*time.Millisecond, 54*time.Millisecond); err != nil {
		return err
	}
	if err := pause(ctx, b.spell(10*time.Second)); err != nil {
		return err
	}
	return d.set(0, 0)
}

// freeze stops a member that does not lead, for longer than a call may take.
func freeze(ctx context.Context, b *bench, _ *detour) error {
	leader, err := b.cluster.Leader()
	if err != nil {
		return err
	}
	silent := (leader + 1) % len(b.members)
	if err := pause(ctx, b.spell(time.Second)); err != nil {
		return err
	}
	if err := b.cluster.Freeze(silent); err != nil {
		return err
	}
	err = pause(ctx, b.spell(timeout+3*time.Second))
	if thawErr := b.cluster.Thaw(silent); thawErr != nil {
		return thawErr
	}
	return err
}

// pause is a part of a scenario: it lasts as long as it is told.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sturdy are the peers of an ordeal. open is one client, whose etcd client is made with opt, and its lockers.
var sturdy = []sturdyPeer{{ours, openSturdyLocker}, {mutexShared, openSturdyMutex}}

type sturdyPeer struct {
	name string
	open func(ctx context.Context, endpoints, names []string, opt grpc.DialOption) ([]waiter, func() error, error)
}

func openSturdyLocker(ctx context.Context, endpoints, names []string, opt grpc.DialOption) (ws []waiter, closeBoth func() error, err error) {
	config := locker.Config(endpoints, timeout)
	config.DialOptions = append(config.DialOptions, opt)
	cli, err := clientv3.New(config)
	if err != nil {
		return nil, nil, err
	}
	c, err := locker.NewFromClient(ctx, cli, ttl)
	for _, name := range names {
		ws = append(ws, lockerLock(c, name))
	}
	return ws, func() (err error) {
		defer closing(&err, cli.Close)
		return c.Close()
	}, err
}

func openSturdyMutex(ctx context.Context, endpoints, names []string, opt grpc.DialOption) (ws []waiter, closeBoth func() error, err error) {
	_, session, closeBoth, err := connectLeased(ctx, endpoints, opt)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		mutex := concurrency.NewMutex(session, name)
		ws = append(ws, waiter{mutex.Lock, mutex.Unlock})
	}
	return ws, closeBoth, nil
}

// toll is what an ordeal took from one locker, or from all.
type toll struct {
	took            []time.Duration // of each Lock
	calls, failures int
}

func (b *bench) endure(ctx context.Context, p sturdyPeer, o ordeal, d *detour) (err error) {
	var sent sendings
	var all []waiter
	var opened closers
	defer closing(&err, func() error { return opened.close() })
	for i := range o.clients {
		names := namesBelow(fmt.Sprint("bench/capacity/", i), o.lockers)
		ws, closeOne, err := p.open(ctx, d.endpoints, names, sent.count())
		if err != nil {
			return err
		}
		opened, all = append(opened, closeOne), append(all, ws...)
	}
	began := time.Now()
	tolls, err := pay(ctx, all, func() error { return o.run(ctx, b, d) })
	if err != nil {
		return err
	}
	var sum toll
	for _, t := range tolls {
		sum.took = slices.Concat(sum.took, t.took)
		sum.calls, sum.failures = sum.calls+t.calls, sum.failures+t.failures
	}
	add := b.results.adder("capacity", o.of, o.clients, p.name)
	add("failures", float64(sum.failures))
	add("calls", float64(sum.calls))
	add("calls/s", float64(sum.calls)/time.Since(began).Seconds())
	add("sent again %", 100*(float64(sent.all.Load())/float64(sent.first.Load())-1))
	add("sent/call", float64(sent.all.Load())/float64(sum.calls))
	add("Lock p50 ms", ms(quantile(sum.took, 0.5)))
	add("Lock p99 ms", ms(quantile(sum.took, 0.99)))
	return nil
}

// pay lets all lock and unlock while the ordeal lasts. Calls that are under way at its end are waited for.
func pay(ctx context.Context, all []waiter, ordeal func() error) ([]toll, error) {
	tolls := make([]toll, len(all))
	ended := make(chan struct{})
	var paying sync.WaitGroup
	for i, w := range all {
		paying.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					tolls[i].pair(ctx, w)
				}
			}
		})
	}
	err := ordeal()
	close(ended)
	paying.Wait()
	return tolls, err
}

func (t *toll) pair(ctx context.Context, w waiter) {
	start := time.Now()
	locked := t.call(ctx, w.lock)
	t.took = append(t.took, time.Since(start))
	if locked {
		t.call(ctx, w.unlock)
	}
}

// call gives every peer locker's timeout.
func (t *toll) call(ctx context.Context, op operation) (done bool) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	t.calls++
	if op(ctx) != nil {
		t.failures++
		return false
	}
	return true
}
