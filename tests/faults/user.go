package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker"
)

// user is one client of the subject's; its process may have several.
type user struct {
	*client
	subject subject
	id      int           // the operation that made it
	closing chan struct{} // closed when it is about to be
	closed  bool          // the same; guarded by sampler.mu
}

// open makes a user.
func (c *client) open() (*user, error) {
	cli, err := c.dial()
	if err != nil {
		return nil, err
	}
	op := c.begin(record{What: "new"})
	s, err := subjects[c.cfg.Subject](c.cfg, cli)
	op.done(context.Background(), err)
	if err != nil {
		if cli != nil {
			cli.Close()
		}
		return nil, err
	}
	return &user{client: c, subject: s, id: op.id, closing: make(chan struct{})}, nil
}

func (u *user) close() {
	op := u.begin(record{What: closes, Of: u.id})
	u.sampler.closing(u)
	close(u.closing)
	op.done(context.Background(), u.subject.close())
}

func (u *user) call(what, name, value string, until instant, of int) call {
	return u.callAt(0, what, name, value, until, of)
}

// callAt is a call that began at that moment; 0: now.
func (u *user) callAt(at instant, what, name, value string, until instant, of int) call {
	return u.begin(record{At: at, What: what, Name: name, Value: value, Until: until, Of: of, Via: u.id})
}

// guests are the goroutines of a user that comes and goes.
const guests = 6

// visit is a user that is closed in the middle of what its goroutines do: locks are held then, waited for, taken and
// given back.
func (w *worker) visit() {
	u, err := w.open()
	if err != nil {
		return // which was told
	}
	var working sync.WaitGroup
	for range guests {
		g := &worker{user: u, rng: rand.New(rand.NewPCG(w.rng.Uint64(), 0))}
		working.Go(func() {
			for {
				select {
				case <-u.closing:
					return
				case <-time.After(g.upTo(40 * time.Millisecond)):
				}
				own, _ := g.subject.(lockers)
				switch dice := g.rng.IntN(12); {
				case dice < 4:
					g.lock()
				case dice < 8 || own.Client == (locker.Client{}):
					g.wait()
				case dice < 10:
					g.do(own)
				case dice < 11:
					g.both(own)
				default:
					g.lead(own)
				}
			}
		})
	}
	select {
	case <-time.After(w.upTo(w.cfg.TTL)):
	case <-w.stop:
	}
	u.close()
	working.Wait()
}
