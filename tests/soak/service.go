package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PumpkinSeed/locker"
)

const (
	clients  = 4
	ttl      = 10 // seconds: others may use this machine, too, and no lock may be lost
	timeout  = 5  // seconds
	lifetime = 20 * time.Second
)

// service is what the clients are for.
type service struct {
	endpoints []string
	tally     *tally
	fresh     atomic.Int64 // takers of the names that nobody has used before
}

// work returns when ctx has ended, and all clients are closed. The last client is closed and opened anew all the time.
func (s *service) work(ctx context.Context) {
	var working sync.WaitGroup
	for i := range clients {
		working.Go(func() {
			if i < clients-1 {
				s.live(ctx, ctx.Done())
				return
			}
			for ctx.Err() == nil {
				life, end := context.WithTimeout(ctx, lifetime)
				s.live(ctx, life.Done())
				end()
			}
		})
	}
	working.Wait()
}

// live is the life of one client. Its work ends before it is closed if ctx has ended; else it is closed in the middle.
func (s *service) live(ctx context.Context, end <-chan struct{}) {
	opened, err := locker.New(s.endpoints, timeout, ttl, context.Background())
	if err != nil {
		s.tally.fail("open a client", err)
		<-ctx.Done()
		return
	}
	s.tally.count("clients opened")
	c := &client{service: s, Client: opened}
	var working sync.WaitGroup
	for _, job := range c.jobs() {
		working.Go(func() {
			for ctx.Err() == nil && !c.closing.Load() {
				job(ctx)
			}
		})
	}
	<-end
	c.closing.Store(true)
	if ctx.Err() == nil {
		c.shut()
	}
	working.Wait()
	c.settle()
	c.shut()
}

// client is one client and its work.
type client struct {
	*service
	locker.Client
	closing atomic.Bool
}

// shut closes the client, if that was not done before.
func (c *client) shut() {
	if err := c.Close(); err != nil {
		c.tally.fail("close a client", err)
	}
}

// settle waits until the client, whose work has ended, has nothing any more: Close must not be needed for that. Nothing may
// have been lost either, which a leader takes again without a word.
func (c *client) settle() {
	for end := time.Now().Add(timeout * time.Second); ; time.Sleep(100 * time.Millisecond) {
		now := c.Stats()
		switch {
		case now.Held+now.Waiting+now.Queued+now.Watches == 0 && now.LostLease+now.LostKey == 0:
			return
		case time.Now().After(end):
			c.tally.fail("settle", fmt.Errorf("this is left when the work has ended: %+v", now))
			return
		}
	}
}

// check reports whether a call has succeeded. An error is a failure unless its ctx has ended, or the client was closed.
func (c *client) check(ctx context.Context, what string, err error) bool {
	switch {
	case err == nil:
		c.tally.count(what)
		return true
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
	case c.closing.Load() && errors.Is(err, locker.ErrClosed):
	default:
		c.tally.fail(what, err)
	}
	return false
}
