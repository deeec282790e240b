package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// putEvent is the least that one client can tell another by way of etcd.
const putEvent = "put + event"

// entry: two clients, one of which has the lock while the other is next in line, and has been for a while. How long does
// it take from the start of the release to the entry? The ways to do it take turns, so that all see the same machine.
func entry(ctx context.Context, b *bench, round int) error {
	sittings, turns := 4, 25
	if b.quick {
		sittings, turns = 2, 10
	}
	took := map[string][]time.Duration{}
	for range sittings { // each with new clients: it matters which members serve them
		if err := b.sitting(ctx, round, turns, took); err != nil {
			return err
		}
	}
	for _, p := range relays {
		add := b.results.adder("entry", "clients", 2, p.name)
		add("p50 ms", ms(quantile(took[p.name], 0.5)))
		add("p90 ms", ms(quantile(took[p.name], 0.9)))
	}
	return nil
}

// relays are the ways to tell another client that it is its turn.
var relays = []relay{
	{ours, lockRelay(waiting[0])},
	{putEvent, openPutEvent},
	{mutexEach, lockRelay(waiting[1])},
}

// relay is one of them. open returns a function that does it once, the next time the other way round.
type relay struct {
	name string
	open func(ctx context.Context, b *bench) (turn, func() error, error)
}

type turn func(ctx context.Context) (time.Duration, error)

func (b *bench) sitting(ctx context.Context, round, turns int, took map[string][]time.Duration) (err error) {
	type seat struct {
		name string
		turn turn
	}
	var seats []seat
	for p := range inTurn(relays, round) {
		turn, closeOne, err2 := p.open(ctx, b)
		if err2 != nil {
			return fmt.Errorf("%s: %w", p.name, err2)
		}
		defer closing(&err, closeOne)
		seats = append(seats, seat{p.name, turn})
	}
	const warmUp = 3
	for i := range warmUp + turns {
		for _, s := range seats {
			t, err := s.turn(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if i >= warmUp {
				took[s.name] = append(took[s.name], t)
			}
		}
	}
	return nil
}

// inLine is how long the next one waits before the lock is given back: the round trips that it needs to get in line, and
// 50 ms in it.
func (b *bench) inLine() time.Duration { return 50*time.Millisecond + 4*b.rtt }

func lockRelay(p waitingPeer) func(context.Context, *bench) (turn, func() error, error) {
	return func(ctx context.Context, b *bench) (turn, func() error, error) {
		ws, closeAll, err := waiters(ctx, b.peersAt, p, 2, 1)
		if err == nil {
			err = ws[0].lock(ctx)
		}
		if err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
		return func(ctx context.Context) (time.Duration, error) {
			holder, next := ws[0], ws[1]
			ws[0], ws[1] = next, holder
			var entered time.Time
			ended := make(chan error, 1)
			go func() {
				err := next.lock(ctx)
				entered = time.Now()
				ended <- err
			}()
			time.Sleep(b.inLine())
			released := time.Now()
			if err := errors.Join(holder.unlock(ctx), <-ended); err != nil {
				return 0, err
			}
			if entered.Before(released) {
				return 0, errors.New("two have the lock at once")
			}
			return entered.Sub(released), nil
		}, closeAll, nil
	}
}

// openPutEvent: each of two clients watches a key that the other one puts.
func openPutEvent(ctx context.Context, b *bench) (_ turn, closeAll func() error, err error) {
	type side struct {
		cli    *clientv3.Client
		name   string
		events clientv3.WatchChan
	}
	var sides []side
	var opened closers
	for i := range 2 {
		cli, err := connect(b.peersAt)
		if err != nil {
			return nil, nil, errors.Join(err, opened.close())
		}
		opened = append(opened, cli.Close)
		s := side{cli: cli, name: fmt.Sprintf("bench/event/%d", i)}
		s.events = cli.Watch(ctx, s.name, clientv3.WithCreatedNotify())
		<-s.events
		sides = append(sides, s)
	}
	return func(ctx context.Context) (time.Duration, error) {
		from, to := sides[0], sides[1]
		sides[0], sides[1] = to, from
		time.Sleep(b.inLine())
		sent := time.Now()
		put := make(chan error, 1)
		go func() {
			_, err := from.cli.Put(ctx, to.name, locker.DefaultValue)
			put <- err
		}()
		resp, open := <-to.events
		seen := time.Now()
		if err := <-put; err != nil {
			return 0, err
		}
		if !open || resp.Err() != nil || len(resp.Events) != 1 {
			return 0, fmt.Errorf("a put is told by %d events: %w", len(resp.Events), resp.Err())
		}
		return seen.Sub(sent), nil
	}, opened.close, nil
}
