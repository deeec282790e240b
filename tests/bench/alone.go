package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/PumpkinSeed/locker"
	"golang.org/x/sync/errgroup"
)

// alone: callers who come by themselves, at random moments, each for a lock of its own. What does one of them wait for it,
// when others of the same client are at it as well? The peers take turns of a second each, so that all see the same
// machine, and the same moments.
func alone(ctx context.Context, b *bench, round int) error {
	turns := 5
	if b.quick {
		turns = 1
	}
	for _, rate := range []int{50, 200, 500} {
		if err := b.aloneOf(ctx, round, rate, turns); err != nil {
			return fmt.Errorf("%d a second: %w", rate, err)
		}
	}
	return nil
}

// loners are the ways to take a lock that are compared here. open returns what makes the lock of a name.
var loners = []loner{{ours, openLoneLocker}, {bare, openLoneBare}}

type loner struct {
	name string
	open func(ctx context.Context, endpoints []string) (func(name string) waiter, func() error, error)
}

func openLoneLocker(ctx context.Context, endpoints []string) (func(string) waiter, func() error, error) {
	c, err := locker.New(endpoints, 0, ttl, ctx)
	return func(name string) waiter { return lockerLock(c, name) }, c.Close, err
}

func openLoneBare(ctx context.Context, endpoints []string) (func(string) waiter, func() error, error) {
	cli, session, closeBoth, err := connectLeased(ctx, endpoints)
	return func(name string) waiter { return bareLock(cli, session.Lease(), name) }, closeBoth, err
}

func (b *bench) aloneOf(ctx context.Context, round, rate, turns int) (err error) {
	lockOf := map[string]func(string) waiter{}
	for _, p := range loners {
		open, closePeer, err2 := p.open(ctx, b.peersAt)
		if err2 != nil {
			return fmt.Errorf("%s: %w", p.name, err2)
		}
		defer closing(&err, closePeer)
		lockOf[p.name] = open
	}
	took := map[string][]time.Duration{}
	for turn := range turns {
		for p := range inTurn(loners, round+turn) {
			some, err := callAtRandom(ctx, lockOf[p.name], rand.New(rand.NewPCG(uint64(round), uint64(turn))), rate)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			took[p.name] = append(took[p.name], some...)
		}
	}
	for _, p := range loners {
		add := b.results.adder("alone", "callers/s", rate, p.name)
		add("p50 ms", ms(quantile(took[p.name], 0.5)))
		add("p99 ms", ms(quantile(took[p.name], 0.99)))
	}
	return nil
}

// callAtRandom lets callers come for a second, and for a while before to warm up. It returns what each waited for its lock.
func callAtRandom(ctx context.Context, lockOf func(string) waiter, random *rand.Rand, rate int) ([]time.Duration, error) {
	warmUp := rate / 4
	took := make([]time.Duration, warmUp+rate)
	g, callCtx := errgroup.WithContext(ctx)
	next := time.Now()
	for i := range took {
		next = next.Add(time.Duration(random.ExpFloat64() * float64(time.Second) / float64(rate)))
		time.Sleep(time.Until(next))
		if callCtx.Err() != nil {
			break
		}
		g.Go(func() error {
			w := lockOf(fmt.Sprintf("bench/alone/%d", i))
			start := time.Now()
			err := w.lock(callCtx)
			took[i] = time.Since(start)
			if err == nil {
				err = w.unlock(callCtx)
			}
			return err
		})
	}
	return took[warmUp:], errors.Join(g.Wait(), ctx.Err())
}
