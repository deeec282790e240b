package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// A lane is a kind of faults of which only one is there at a time. The lanes run side by side: what comes together is
// what a cluster, its clients and its operators may meet together, and never costs the quorum, but for the fault that is
// meant to.
type lane struct {
	name  string
	kinds []kind
}

type kind struct {
	name string
	do   func(*campaign, context.Context, *fault) error // returns when the fault is over, and everything as before
}

// fault is one that was drawn, and what it met.
type fault struct {
	lane, kind string
	length     time.Duration
	pick       uint64 // says which, where there are several to choose from

	span           // when it was there
	slot    int    // of the client, -1 if all
	target  string // what was struck
	name    string
	token   int64 // of the key that was taken away
	lease   int64
	resumed instant // after it had been frozen
	missed  bool    // there was nothing to strike
}

// longerThanTTL is for what only then takes away what is not its own.
func (f *fault) longerThanTTL() time.Duration { return ttl + f.length/2 }

const endless = instant(1<<63 - 1)

// draw is the schedule of a lane: the same for the same seed. The first kind comes first: among members, the leader is
// killed. Every kind comes once before any comes again.
func (l lane) draw(seed uint64) func() (pause time.Duration, k kind, f *fault) {
	var number uint64
	for _, b := range []byte(l.name) {
		number = number*31 + uint64(b)
	}
	rng := rand.New(rand.NewPCG(seed, number))
	var deck []int
	return func() (time.Duration, kind, *fault) {
		if len(deck) == 0 {
			first := deck == nil
			deck = rng.Perm(len(l.kinds))
			if at := slices.Index(deck, 0); first {
				deck[0], deck[at] = deck[at], deck[0]
			}
		}
		k := l.kinds[deck[0]]
		deck = deck[1:]
		pause := minPause + time.Duration(rng.Int64N(int64(maxPause-minPause)))
		length := ttl/3 + time.Duration(rng.Int64N(int64(5*ttl/3))) // to twice the TTL
		return pause, k, &fault{lane: l.name, kind: k.name, length: length, pick: rng.Uint64(), slot: -1}
	}
}

const minPause, maxPause = 300 * time.Millisecond, 2 * time.Second

// faults is the log of what was done.
type faults struct {
	mu  sync.Mutex
	all []*fault // guarded by mu while the campaign runs, and so are the faults
}

func (l *faults) begin(f *fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.from, f.to = now(), endless
	l.all = append(l.all, f)
}

// strike changes what is known of a fault.
func (l *faults) strike(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// run draws faults and lets them happen until ctx ends. What has begun is brought to its end.
func (c *campaign) run(ctx context.Context, l lane) error {
	next := l.draw(c.seed)
	for {
		pause, k, f := next()
		if !sleep(ctx, pause) || !sleep(ctx, c.lullLeft()) {
			return nil
		}
		c.faults.begin(f)
		if err := k.do(c, ctx, f); err != nil {
			return fmt.Errorf("%s %s: %w", k.name, f.target, err)
		}
		c.faults.strike(func() {
			f.to = now()
		})
	}
}

// Once a minute no fault begins for a while: what is excused beside a fault, and for a TTL after it, must be right then.
const (
	lullEvery = time.Minute
	lullFrom  = 35 * time.Second
	lullTo    = 50 * time.Second
)

// lullLeft is how long it is until a fault may begin.
func (c *campaign) lullLeft() time.Duration {
	if at := now().sub(c.began) % lullEvery; at >= lullFrom {
		return max(0, lullTo-at)
	}
	return 0
}

// sleep reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
