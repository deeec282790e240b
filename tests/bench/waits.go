package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"golang.org/x/sync/errgroup"
)

// waits: one client waits for very many things at once: for locks that another one has, and for values.
func waits(ctx context.Context, b *bench, round int) error {
	many, watches := 300, 10_000
	if b.quick {
		many, watches = 50, 500
	}
	if b.n > 0 {
		many = b.n
	}
	for p := range inTurn(patient, round) {
		if err := b.waitsOf(ctx, p, many); err != nil {
			return fmt.Errorf("%s, %d waiters: %w", p.name, many, err)
		}
	}
	for _, n := range []int{min(many, 300), watches} {
		for p := range inTurn(watchers, round) {
			if p.name == plain && n == watches {
				continue // a round trip each, one after the other
			}
			if err := b.watchesOf(ctx, p, n); err != nil {
				return fmt.Errorf("%s, %d watches: %w", p.name, n, err)
			}
		}
	}
	return nil
}

// patience is how long a waiter waits.
const patience = 20 * time.Second

// patient are the ways to wait for many names. open returns the waiters of one client.
var patient = []peerOfMany{{ours, openManyLocker}, {mutexShared, openManyMutex}}

type peerOfMany struct {
	name string
	open func(ctx context.Context, endpoints, names []string) ([]waiter, func() error, error)
}

func openManyLocker(ctx context.Context, endpoints, names []string) (ws []waiter, closeAll func() error, err error) {
	c, err := locker.New(endpoints, 0, ttl, ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		ws = append(ws, lockerWait(c, name))
	}
	return ws, c.Close, nil
}

func openManyMutex(ctx context.Context, endpoints, names []string) (ws []waiter, closeAll func() error, err error) {
	_, session, closeBoth, err := connectLeased(ctx, endpoints)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		mutex := concurrency.NewMutex(session, name)
		ws = append(ws, waiter{mutex.Lock, mutex.Unlock})
	}
	return ws, closeBoth, nil
}

func (b *bench) waitsOf(ctx context.Context, p peerOfMany, n int) (err error) {
	names := namesBelow("bench/waits", n)
	holders, closeHolders, err := p.open(ctx, b.peersAt, names)
	if err != nil {
		return err
	}
	defer closing(&err, closeHolders)
	ws, closeWaiters, err := p.open(ctx, b.peersAt, names)
	if err != nil {
		return err
	}
	defer closing(&err, closeWaiters)
	if err := atOnce(holders, func(_ int, w waiter) error { return w.lock(ctx) }); err != nil {
		return err
	}

	waitCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	line := startLine(waitCtx, ws)
	defer line.all.Wait()
	if err := b.awaitKeys(ctx, path.Dir(names[0])+"/", func() int64 { return 2*int64(n) - line.gaveUp.Load() }); err != nil {
		return err
	}
	inLine := time.Since(began)
	time.Sleep(b.inLine())
	released := time.Now()
	if err := atOnce(holders, func(_ int, w waiter) error { return w.unlock(ctx) }); err != nil {
		return err
	}
	line.all.Wait()
	add := b.results.adder("waits", "waiters", n, p.name)
	add("gave up", float64(line.gaveUp.Load()))
	add("all in line ms", ms(inLine))
	if line.gaveUp.Load() < int64(n) {
		add("all have it ms", ms(slices.MaxFunc(line.entered, time.Time.Compare).Sub(released)))
	}
	return nil
}

// line is those who wait, each for a lock of its own.
type line struct {
	all     sync.WaitGroup
	gaveUp  atomic.Int64
	entered []time.Time // read when all have ended
}

func startLine(ctx context.Context, ws []waiter) *line {
	l := &line{entered: make([]time.Time, len(ws))}
	for i, w := range ws {
		l.all.Go(func() {
			if w.lock(ctx) != nil {
				l.gaveUp.Add(1)
				return
			}
			l.entered[i] = time.Now()
		})
	}
	return l
}

// awaitKeys waits until there are so many. Who has a lock has a key below its name, or of that name; who is in line has
// one, too.
func (b *bench) awaitKeys(ctx context.Context, prefix string, enough func() int64) error {
	for {
		keys, err := b.gauge.keys(ctx, prefix)
		if err != nil || keys >= enough() {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// watchesOf: how long it takes until all have told the value that their name has.
func (b *bench) watchesOf(ctx context.Context, p watchingPeer, n int) (err error) {
	watch, closePeer, err := p.open(ctx, b.peersAt)
	if err != nil {
		return err
	}
	defer closing(&err, closePeer)
	names := namesBelow("bench/watches", n)
	defer func() {
		_, e := b.gauge.cli.Delete(context.WithoutCancel(ctx), path.Dir(names[0])+"/", clientv3.WithPrefix())
		err = errors.Join(err, e)
	}()
	var puts []clientv3.Op
	for _, name := range names {
		puts = append(puts, clientv3.OpPut(name, locker.DefaultValue))
	}
	for some := range slices.Chunk(puts, 100) {
		if _, err := b.gauge.cli.Txn(ctx).Then(some...).Commit(); err != nil {
			return err
		}
	}

	told := &sync.WaitGroup{}
	told.Add(n)
	watchCtx, stop := context.WithCancel(ctx)
	g, watchCtx := errgroup.WithContext(watchCtx)
	defer func() {
		stop()
		err = errors.Join(err, g.Wait())
	}()
	began := time.Now()
	for _, name := range names {
		g.Go(func() error { return watch(watchCtx, name, func(string) { told.Done() }) })
	}
	if err := await(watchCtx, told); err != nil {
		return err
	}
	b.results.adder("waits", "watches", n, p.name)("all told ms", ms(time.Since(began)))
	return nil
}
