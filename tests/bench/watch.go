package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

const (
	watched = "bench/watch"
	plain   = "clientv3 Watch"
)

// watch: many watchers of one lock, all of one client; another client changes it. The delay is counted from the
// sending of the change: it holds the commit.
func watch(ctx context.Context, b *bench, round int) error {
	sizes, most := []int{1, 100, 10_000}, 200
	if b.quick {
		sizes, most = []int{1, 100, 1000}, 20
	}
	for _, n := range sizes {
		for p := range inTurn(watchers, round) {
			if err := b.watchOf(ctx, p, n, min(most, max(10, 20_000/n))); err != nil {
				return fmt.Errorf("%s, %d watchers: %w", p.name, n, err)
			}
		}
	}
	return nil
}

// watchers are the ways to watch. open returns a function that watches a name until ctx ends and calls see for every
// value, first for the one that the key has.
var watchers = []watchingPeer{{ours, openLockerWatch}, {plain, openPlainWatch}}

type watchingPeer struct {
	name string
	open func(ctx context.Context, endpoints []string) (watching, func() error, error)
}

type watching func(ctx context.Context, name string, see func(value string)) error

func openLockerWatch(ctx context.Context, endpoints []string) (watching, func() error, error) {
	c, err := locker.New(endpoints, 0, ttl, ctx)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, name string, see func(string)) error {
		values, quit, ended := make(chan string), make(chan bool), make(chan error, 1)
		go func() { ended <- c.Watch(name, values, quit) }()
		for {
			select {
			case v := <-values:
				see(v)
			case err := <-ended:
				return errors.Join(errors.New("the watch has ended"), err)
			case <-ctx.Done():
				close(quit)
				return <-ended
			}
		}
	}, c.Close, nil
}

// openPlainWatch gives no more than etcd's events, without a word on the value at the start.
func openPlainWatch(_ context.Context, endpoints []string) (watching, func() error, error) {
	cli, err := connect(endpoints)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, name string, see func(string)) error {
		for resp := range cli.Watch(ctx, name, clientv3.WithCreatedNotify()) {
			if resp.Created {
				see("")
			}
			for _, e := range resp.Events {
				see(string(e.Kv.Value))
			}
		}
		if ctx.Err() == nil {
			return errors.New("the watch has ended")
		}
		return nil
	}, cli.Close, nil
}

func (b *bench) watchOf(ctx context.Context, p watchingPeer, n, changes int) (err error) {
	watch, closePeer, err := p.open(ctx, b.peersAt)
	if err != nil {
		return err
	}
	defer closing(&err, closePeer)
	cli, err := connect(b.peersAt)
	if err != nil {
		return err
	}
	defer closing(&err, func() error {
		_, err := cli.Delete(context.WithoutCancel(ctx), watched)
		return errors.Join(err, cli.Close())
	})

	a := &audience{seen: make([]time.Time, n)}
	a.told.Add(n)
	watchCtx, stop := context.WithCancel(ctx)
	g, watchCtx := errgroup.WithContext(watchCtx)
	defer func() {
		stop()
		err = errors.Join(err, g.Wait())
	}()
	began := time.Now()
	for i := range n {
		g.Go(func() error { return watch(watchCtx, watched, func(string) { a.see(i) }) })
	}
	if err := await(watchCtx, &a.told); err != nil {
		return err
	}
	add := b.results.adder("watch", "watchers", n, p.name)
	add("all watching after ms", ms(slices.MaxFunc(a.seen, time.Time.Compare).Sub(began)))
	delays, err := a.follow(watchCtx, cli, changes)
	if err != nil {
		return err
	}
	add("p50 ms", ms(quantile(delays, 0.5)))
	add("p99 ms", ms(quantile(delays, 0.99)))
	return nil
}

// audience is all who watch.
type audience struct {
	told sync.WaitGroup // all have seen the value of this moment; seen is handed over by it
	seen []time.Time
}

func (a *audience) see(i int) {
	a.seen[i] = time.Now()
	a.told.Done()
}

// follow changes the value again and again, and returns how long it took each to see that.
func (a *audience) follow(ctx context.Context, cli *clientv3.Client, changes int) (delays []time.Duration, err error) {
	const warmUp = 3
	for change := range warmUp + changes {
		a.told.Add(len(a.seen))
		sent := time.Now()
		if _, err := cli.Put(ctx, watched, strconv.Itoa(change)); err != nil {
			return nil, err
		}
		if err := await(ctx, &a.told); err != nil {
			return nil, err
		}
		for _, at := range a.seen {
			if change >= warmUp {
				delays = append(delays, at.Sub(sent))
			}
		}
	}
	return delays, nil
}

// await waits for all, with a bound, unless ctx ends before.
func await(ctx context.Context, all *sync.WaitGroup) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
