package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// pairs: lockers that take and give back locks, each its own key. Nobody waits for anybody.
func pairs(ctx context.Context, b *bench, round int) error {
	sizes, length := []int{1, 16, 64, 256, 1024}, 2*time.Second
	if b.quick {
		sizes, length = []int{1, 16, 256}, 200*time.Millisecond
	}
	for _, n := range sizes {
		for p := range inTurn(peers, round) {
			if err := b.pairsOf(ctx, p, n, length); err != nil {
				return fmt.Errorf("%s, %d lockers: %w", p.name, n, err)
			}
		}
	}
	return nil
}

func (b *bench) pairsOf(ctx context.Context, p peer, n int, length time.Duration) (err error) {
	ops, closePeer, err := p.open(ctx, b.peersAt, namesBelow("bench/pairs", n))
	if err != nil {
		return err
	}
	defer closing(&err, closePeer)
	if _, _, err := drive(ctx, ops, length/4); err != nil { // to warm up
		return err
	}
	var before, after runtime.MemStats
	proposals, err := b.gauge.proposals(ctx)
	if err != nil {
		return err
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	took, elapsed, err := drive(ctx, ops, length)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	more, err := b.gauge.proposals(ctx)
	if err != nil {
		return err
	}
	count := float64(len(took))
	add := b.results.adder("pairs", "lockers", n, p.name)
	add("pairs/s", count/elapsed.Seconds())
	add("p50 ms", ms(quantile(took, 0.5)))
	add("p99 ms", ms(quantile(took, 0.99)))
	add("allocs/pair", float64(after.Mallocs-before.Mallocs)/count)
	add("proposals/1000", 1000*(more-proposals)/count)
	return nil
}

// drive repeats every operation in a goroutine of its own until the time is up, and returns how long each took, and
// all together: the last ones are waited for.
func drive(ctx context.Context, ops []operation, length time.Duration) (took []time.Duration, elapsed time.Duration, err error) {
	each := make([][]time.Duration, len(ops))
	start := time.Now()
	err = atOnce(ops, func(i int, op operation) error {
		for last := start; last.Sub(start) < length; {
			if err := op(ctx); err != nil {
				return err
			}
			now := time.Now()
			each[i] = append(each[i], now.Sub(last))
			last = now
		}
		return nil
	})
	return slices.Concat(each...), time.Since(start), err
}
