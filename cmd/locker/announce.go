package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker"
)

// announceInterval is how often a wait on a terminal looks at who is before it.
const announceInterval = time.Second

// announce says on a terminal who holds a lock that this program waits for with that value, and how many stand before it, until
// it is told to stop.
func announce(ctx context.Context, locks locker.Client, name, value string) (stop func()) {
	info, err := os.Stderr.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var announcing sync.WaitGroup
	announcing.Go(func() {
		ticks := time.NewTicker(announceInterval)
		defer ticks.Stop()
		for last := ""; ; {
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
			h, err := holderOf(ctx, locks, name)
			if text := queueText(h, value); err == nil && h.Token != 0 && text != last {
				fmt.Fprintln(os.Stderr, "locker: "+text)
				last = text
			}
		}
	})
	return func() {
		cancel()
		announcing.Wait()
	}
}

func queueText(h locker.Holder, value string) string {
	before := slices.IndexFunc(h.Waiters, func(w locker.Waiter) bool { return w.Value == value })
	if before < 0 {
		before = len(h.Waiters)
	}
	return fmt.Sprintf("waiting for %s, which is held by %s; before us in the queue: %d", shown(h.Name), shown(h.Value), before)
}
