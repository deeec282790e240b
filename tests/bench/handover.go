package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker"
	"go.etcd.io/etcd/client/v3/concurrency"
	"golang.org/x/sync/errgroup"
)

// holding is how long a lock is held that others wait for.
const holding = time.Millisecond

// handover: one lock that all want, each with a client of its own ("clients"), or all with one ("goroutines").
func handover(ctx context.Context, b *bench, round int) error {
	length := 3 * time.Second
	crowds := []struct {
		of      string
		n       int
		clients bool
	}{{"clients", 2, true}, {"clients", 16, true}, {"clients", 64, true}, {"goroutines", 2, false}, {"goroutines", 64, false}}
	if b.quick {
		length = 500 * time.Millisecond
		crowds = slices.Delete(crowds, 2, 3)
	}
	for _, c := range crowds {
		for w := range inTurn(waiting, round) {
			clients := 1
			if c.clients {
				clients = c.n
			}
			ws, closeAll, err := waiters(ctx, b.peersAt, w, clients, c.n/clients)
			if err == nil {
				err = b.handoverOf(ctx, w.name, ws, c.of, length)
			}
			if err = errors.Join(err, closeAll()); err != nil {
				return fmt.Errorf("%s, %d %s: %w", w.name, c.n, c.of, err)
			}
		}
	}
	return nil
}

// waiter is one of those who want the lock.
type waiter struct{ lock, unlock operation }

// pair takes the lock and gives it back.
func (w waiter) pair(ctx context.Context) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	return w.unlock(ctx)
}

// waiting are the ways to wait. open returns waiters of one client.
var waiting = []waitingPeer{{ours, lockerWaiters}, {mutexEach, mutexWaiters}}

type waitingPeer struct {
	name string
	open func(ctx context.Context, endpoints []string, n int) ([]waiter, func() error, error)
}

const contended = "bench/handover"

func lockerWaiters(ctx context.Context, endpoints []string, n int) ([]waiter, func() error, error) {
	c, err := locker.New(endpoints, 0, ttl, ctx)
	if err != nil {
		return nil, nil, err
	}
	return slices.Repeat([]waiter{lockerWait(c, contended)}, n), c.Close, nil
}

func lockerWait(c locker.Client, name string) waiter {
	return waiter{
		lock:   func(ctx context.Context) error { return c.LockWait(ctx, name, locker.DefaultValue, nil).Err },
		unlock: func(context.Context) error { return c.Unlock(name, nil) },
	}
}

// mutexWaiters have a session each: two Mutexes of one session would hold the lock together.
func mutexWaiters(ctx context.Context, endpoints []string, n int) ([]waiter, func() error, error) {
	cli, err := connect(endpoints)
	if err != nil {
		return nil, nil, err
	}
	var ws []waiter
	var sessions closers
	for range n {
		session, err := concurrency.NewSession(cli, concurrency.WithTTL(ttl), concurrency.WithContext(ctx))
		if err != nil {
			return nil, nil, errors.Join(err, cli.Close())
		}
		sessions = append(sessions, session.Close)
		mutex := concurrency.NewMutex(session, contended)
		ws = append(ws, waiter{mutex.Lock, mutex.Unlock})
	}
	return ws, func() error { return errors.Join(sessions.close(), cli.Close()) }, nil
}

// waiters are those of several clients.
func waiters(ctx context.Context, endpoints []string, p waitingPeer, clients, each int) (all []waiter, closeAll func() error, err error) {
	var opened closers
	for range clients {
		ws, closeOne, err := p.open(ctx, endpoints, each)
		if err != nil {
			return nil, opened.close, err
		}
		opened = append(opened, closeOne)
		all = append(all, ws...)
	}
	return all, opened.close, nil
}

func (b *bench) handoverOf(ctx context.Context, name string, ws []waiter, of string, length time.Duration) error {
	if _, err := contend(ctx, ws, length/4); err != nil { // to warm up
		return err
	}
	proposals, err := b.gauge.proposals(ctx)
	if err != nil {
		return err
	}
	got, err := contend(ctx, ws, length)
	if err == nil && len(got.gaps) == 0 {
		err = errors.New("no hand-over")
	}
	if err != nil {
		return err
	}
	more, err := b.gauge.proposals(ctx)
	if err != nil {
		return err
	}
	most, fewest := float64(slices.Max(got.turns)), float64(slices.Min(got.turns))
	add := b.results.adder("handover", of, len(ws), name)
	add("hand-overs/s", float64(len(got.gaps))/length.Seconds())
	add("p50 ms", ms(quantile(got.gaps, 0.5)))
	add("p99 ms", ms(quantile(got.gaps, 0.99)))
	add("proposals/cycle", (more-proposals)/float64(got.cycles))
	add("most/fewest turns", most/max(fewest, 1))
	return nil
}

// contention is what is seen of waiters that take turns.
type contention struct {
	end    time.Time
	inside sync.Mutex // guards all below: it is never waited for, else the lock under test is none

	gaps     []time.Duration // from the start of a release to the entry of the next
	turns    []int           // of every waiter, while the time ran
	cycles   int             // all turns, also those of the end when nobody came again
	released time.Time
}

// turn is one waiter's, while it has the lock. again tells it whether to come for another.
func (c *contention) turn(i int) (again bool, err error) {
	if !c.inside.TryLock() {
		return false, errors.New("two have the lock at once")
	}
	defer c.inside.Unlock()
	entry := time.Now()
	c.cycles++
	if entry.After(c.end) {
		return false, nil
	}
	c.turns[i]++
	if !c.released.IsZero() {
		c.gaps = append(c.gaps, entry.Sub(c.released))
	}
	time.Sleep(holding)
	c.released = time.Now()
	return true, nil
}

// contend lets all take turns until the time is up and the line has come to its end.
func contend(ctx context.Context, ws []waiter, length time.Duration) (*contention, error) {
	c := &contention{end: time.Now().Add(length), turns: make([]int, len(ws))}
	g, ctx := errgroup.WithContext(ctx)
	for i, w := range ws {
		g.Go(func() error {
			for again := true; again; {
				err := w.lock(ctx)
				if err != nil {
					return err
				}
				if again, err = c.turn(i); err != nil {
					return err
				}
				if err := w.unlock(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return c, err
}
