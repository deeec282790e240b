package main

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// inTurn is all of them, beginning with another one in each round.
func inTurn[T any](all []T, round int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := range all {
			if !yield(all[(i+round)%len(all)]) {
				return
			}
		}
	}
}

// atOnce calls do for all items, each in a goroutine of its own, and waits for them.
func atOnce[T any](items []T, do func(int, T) error) error {
	var g errgroup.Group
	for i, item := range items {
		g.Go(func() error { return do(i, item) })
	}
	return g.Wait()
}

// closing joins the error of a deferred close with that of the function.
func closing(err *error, close func() error) { *err = errors.Join(*err, close()) }

// quantile sorts what it is given.
func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	return d[min(int(q*float64(len(d))), len(d)-1)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// closers are closed together, in parallel: there may be many.
type closers []func() error

func (c closers) close() error {
	return atOnce(c, func(_ int, close func() error) error { return close() })
}

func namesBelow(dir string, n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("%s/%d", dir, i))
	}
	return names
}
