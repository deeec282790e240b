package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/PumpkinSeed/locker"
)

// names that several clients lead with, or queue for.
const names = 3

func led() string    { return fmt.Sprint("led/", rand.IntN(names)) }
func queued() string { return fmt.Sprint("queued/", rand.IntN(names)) }

// jobs are done over and over, each by its own goroutine, until the client's life ends.
func (c *client) jobs() []func(ctx context.Context) {
	jobs := []func(context.Context){c.lead, c.lead, c.takeFresh, c.takeFresh, c.watchAWhile, c.watchAWhile}
	for i := range names {
		jobs = append(jobs, c.queue, c.queue)
		jobs = append(jobs, func(ctx context.Context) { c.watch(ctx, fmt.Sprint("led/", i), ctx.Done()) })
	}
	for range 5 {
		jobs = append(jobs, c.hold)
	}
	return jobs
}

// pause lasts between half of about and one and a half.
func pause(ctx context.Context, about time.Duration) {
	select {
	case <-time.After(about/2 + rand.N(about)):
	case <-ctx.Done():
	}
}

// lead leads for a while, and leaves it to another then.
func (c *client) lead(ctx context.Context) {
	err := c.Lead(ctx, led(), c.value(), func(ctx context.Context, _ int64) error {
		pause(ctx, 2*time.Second)
		return nil
	})
	c.check(ctx, "terms of leaders", err)
}

// queue waits for a lock that others want, too. One of four gives up, if it takes long.
func (c *client) queue(ctx context.Context) {
	pause(ctx, time.Second)
	limit := time.Hour
	if rand.IntN(4) == 0 {
		limit = rand.N(500 * time.Millisecond)
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name := queued()
	if rand.IntN(2) == 0 {
		err := c.Do(waiting, name, c.value(), func(ctx context.Context, _ int64) error {
			pause(ctx, 150*time.Millisecond)
			return nil
		})
		c.checkWait(waiting, err)
		return
	}
	quit := make(chan bool)
	r := c.LockWait(waiting, name, c.value(), quit)
	if c.checkWait(waiting, taken(r)) {
		pause(ctx, 150*time.Millisecond)
		c.release(ctx, r, name, quit)
	}
}

// checkWait is check, and counts those who have given up.
func (c *client) checkWait(waiting context.Context, err error) bool {
	got := c.check(waiting, "turns in queues", err)
	if !got && waiting.Err() != nil {
		c.tally.count("waits given up")
	}
	return got
}

// taken is nil if the lock was taken.
func taken(r locker.Report) error {
	if r.Err == nil && r.Msg != locker.Success {
		return errors.New("somebody else has the lock")
	}
	return r.Err
}

// release gives a lock back in one of all ways.
func (c *client) release(ctx context.Context, r locker.Report, name string, quit chan bool) {
	switch rand.IntN(3) {
	case 0:
		c.check(ctx, "releases by name", c.Unlock(name, nil))
	case 1:
		c.check(ctx, "releases of holds", r.Unlock())
	case 2:
		close(quit) // a send would block if Close came before it
		<-r.Done
		if cause := r.Cause(); !errors.Is(cause, locker.ErrReleased) {
			c.check(ctx, "releases by quit", cause)
			return
		}
		c.tally.count("releases by quit")
	}
}

// takeFresh takes a lock that nobody has ever had, or only the one who came just before, who may have it still.
func (c *client) takeFresh(ctx context.Context) {
	pause(ctx, 600*time.Millisecond)
	name := fmt.Sprint("fresh/", c.fresh.Add(1)/2)
	err := c.Do(ctx, name, c.value(), func(ctx context.Context, _ int64) error {
		pause(ctx, 200*time.Millisecond)
		return nil
	})
	c.check(ctx, "turns with fresh names", err)
}

// hold has a lock for long.
func (c *client) hold(ctx context.Context) {
	name := fmt.Sprint("held/", c.fresh.Add(1))
	r := c.Lock(name, c.value(), nil)
	if !c.check(ctx, "locks held long", taken(r)) {
		return
	}
	held, cancel := r.Context(ctx)
	pause(held, time.Minute)
	cancel()
	if cause := r.Cause(); cause != nil {
		c.check(ctx, "holds to their end", cause)
		return
	}
	c.check(ctx, "holds to their end", r.Unlock())
}

// watchAWhile watches a name that is led with or queued for, and ends that soon.
func (c *client) watchAWhile(ctx context.Context) {
	name := led()
	if rand.IntN(2) == 0 {
		name = queued()
	}
	end, cancel := context.WithTimeout(ctx, 200*time.Millisecond+rand.N(2*time.Second))
	defer cancel()
	c.watch(ctx, name, end.Done())
}

// watch counts the values of a lock until end is closed.
func (c *client) watch(ctx context.Context, name string, end <-chan struct{}) {
	values, quit, ended := make(chan string), make(chan bool), make(chan error, 1)
	go func() { ended <- c.Watch(name, values, quit) }()
	for {
		select {
		case <-values:
			c.tally.count("values watched")
		case <-end:
			close(quit)
			c.check(ctx, "watches", <-ended)
			return
		case err := <-ended:
			c.check(ctx, "watches", err)
			if err == nil && !c.closing.Load() {
				c.tally.fail("watches", errors.New("ended by itself"))
			}
			return
		}
	}
}

// value is one that no other turn has.
func (c *client) value() string { return fmt.Sprint("turn ", rand.Int64()) }
