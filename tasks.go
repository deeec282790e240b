package locker

import (
	"sync"
	"sync/atomic"
)

// tasks are the goroutines that a client owns: wait ends when all have ended, and lets none begin after it.
type tasks struct {
	mu      sync.Mutex
	closed  bool // guarded by mu
	running sync.WaitGroup
}

// start runs f in a goroutine, unless the client is past its end: what f would have cleaned up has gone with the
// session then.
func (t *tasks) start(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.running.Go(f)
	}
}

func (t *tasks) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.running.Wait()
}

// crowd is how many operations each has under way at a time: enough to fill both lanes' batches.
const crowd = 2 * maxOps * lanes

// each calls f for every item, many at a time, and waits for all.
func each[T any](items []T, f func(T)) {
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(len(items), crowd) {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(items)); i = next.Add(1) - 1 {
				f(items[i])
			}
		})
	}
	running.Wait()
}
