package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clientsInQueue = 50
	shortQueue     = 10 // what longer ones are compared with
)

// queues: one lock, and more and more goroutines of up to fifty clients that want it. Does a hand-over cost more, the more
// there are?
func queues(ctx context.Context, b *bench) error {
	sizes, length := []int{shortQueue, 100, 1000, 5000}, 5*time.Second
	if b.quick {
		sizes, length = []int{shortQueue, 1000}, time.Second
	}
	for _, n := range sizes {
		clients := min(n, clientsInQueue)
		ws, closeAll, err := waiters(ctx, b.peersAt, waiting[0], clients, n/clients)
		if err == nil {
			err = b.queueOf(ctx, ws, length)
		}
		if err = errors.Join(err, closeAll()); err != nil {
			return fmt.Errorf("%d waiters: %w", n, err)
		}
	}
	return nil
}

func (b *bench) queueOf(ctx context.Context, ws []waiter, length time.Duration) error {
	var inside, turns atomic.Int64
	var overlap atomic.Bool
	queueCtx, leave := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, w := range ws {
		all.Go(func() {
			for w.lock(queueCtx) == nil {
				if inside.Add(1) != 1 {
					overlap.Store(true)
				}
				turns.Add(1)
				time.Sleep(holding)
				inside.Add(-1)
				if w.unlock(ctx) != nil {
					return
				}
			}
		})
	}
	err := pause(ctx, length) // all come, and it warms up
	early, start := turns.Load(), time.Now()
	err = errors.Join(err, pause(ctx, length))
	rate := float64(turns.Load()-early) / time.Since(start).Seconds()
	leave()
	all.Wait()
	if overlap.Load() {
		err = errors.New("two have the lock at once")
	}
	add := b.results.adder("queue", "waiters", len(ws), ours)
	add("hand-overs/s", rate)
	if short := b.results.find("queue", "waiters", shortQueue, ours, "hand-overs/s"); short != nil {
		add("to that of 10", rate/short.Rounds[len(short.Rounds)-1])
	}
	return err
}
