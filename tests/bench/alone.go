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
// when others of the same client are at it as well? Both peers see the same moments.
func alone(ctx context.Context, b *bench, round int) error {
	length := 5 * time.Second
	if b.quick {
		length = time.Second
	}
	for _, rate := range []int{50, 200, 500} {
		for p := range inTurn(loners, round) {
			if err := b.aloneOf(ctx, p, round, rate, length); err != nil {
				return fmt.Errorf("%s, %d a second: %w", p.name, rate, err)
			}
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

func (b *bench) aloneOf(ctx context.Context, p loner, round, rate int, length time.Duration) (err error) {
	lockOf, closePeer, err := p.open(ctx, b.peersAt)
	if err != nil {
		return err
	}
	defer closing(&err, closePeer)

	random := rand.New(rand.NewPCG(uint64(round), uint64(rate)))
	warmUp := rate / 4
	took := make([]time.Duration, warmUp+int(length.Seconds()*float64(rate)))
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
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	add := b.results.adder("alone", "callers/s", rate, p.name)
	add("p50 ms", ms(quantile(took[warmUp:], 0.5)))
	add("p99 ms", ms(quantile(took[warmUp:], 0.99)))
	return nil
}
