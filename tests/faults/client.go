package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// clientCommand makes this program a client process, which the parent orders about over standard input.
const clientCommand = "client"

// config is the first line that a client process reads.
type config struct {
	Subject   string
	Endpoints []string
	User      string // "": nobody asks
	Prefix    string // of the client, which the names do not have then
	TTL       time.Duration
	Timeout   time.Duration
	Seed      uint64 // of the script
	Value     string // begins every value of this process
	Hot, Cold []string
	Program   string // `locker`; "": there is none
}

// client is a client process.
type client struct {
	cfg     config
	out     *lines
	sampler sampler
	ops     atomic.Int64
	values  atomic.Int64
	stop    chan struct{} // closed when the work ends

	mu      sync.Mutex // guards all below
	writes  int
	answers map[int]chan bool
	silence *silence // of the streams of watches that are opened now
}

func runClient() error {
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	var first order
	if err := in.Decode(&first); err != nil || first.Config == nil {
		return fmt.Errorf("no configuration: %w", err)
	}
	c := &client{cfg: *first.Config, out: newLines(os.Stdout), stop: make(chan struct{}), answers: map[int]chan bool{},
		silence: newSilence()}
	c.sampler.c = c
	closing := make(chan struct{})
	go func() { // ends with the process: a read of standard input cannot be interrupted
		for {
			var o order
			if in.Decode(&o) != nil {
				os.Exit(1) // the parent is gone
			}
			switch {
			case o.Silence:
				c.mu.Lock()
				c.silence.tell()
				c.silence = newSilence()
				c.mu.Unlock()
			case o.Finish:
				close(c.stop)
			case o.Close:
				close(closing)
			default:
				c.mu.Lock()
				c.answers[o.Answer] <- o.Accepted
				delete(c.answers, o.Answer)
				c.mu.Unlock()
			}
		}
	}()

	before := measure()
	var sampling sync.WaitGroup
	over := make(chan struct{})
	sampling.Go(func() { c.sampler.run(over) })
	sampling.Go(func() {
		tick := time.NewTicker(vitalsPeriod)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				v := measure()
				c.out.write(record{Kind: measured, At: now(), Vitals: &v})
			case <-over:
				return
			}
		}
	})
	if u := c.connect(); u != nil {
		u.work(closing)
		u.close()
	} else {
		c.out.write(record{Kind: idle, At: now()})
		<-closing
	}
	after := measure()
	after.Leaked = ownGoroutines()
	after.LeakedFiles = max(0, after.Files-before.Files)
	c.out.write(record{Kind: measured, At: now(), Vitals: &after})
	close(over)
	sampling.Wait()
	c.out.write(record{Kind: gone, At: now()})
	return nil
}

// connect makes the client that lives as long as the process, and tries again until it is told to stop.
func (c *client) connect() *user {
	for {
		select {
		case <-c.stop:
			return nil
		default:
		}
		if u, err := c.open(); err == nil {
			return u
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// What runs in a client process: goroutines that use locks, one that has jobs run under `locker run`, and such as only watch.
const (
	workers  = 4
	watchers = 1
)

// work runs the script until the work ends, and then the watchers until everything does.
func (u *user) work(closing <-chan struct{}) {
	var working, watching sync.WaitGroup
	for i := range workers {
		w := &worker{user: u, rng: rand.New(rand.NewPCG(u.cfg.Seed, uint64(i)))}
		working.Go(w.run)
	}
	if l, ok := u.subject.(lockers); ok {
		rng := rand.New(rand.NewPCG(u.cfg.Seed, workers))
		runner := &worker{user: u, rng: rand.New(rand.NewPCG(u.cfg.Seed, workers+1))}
		working.Go(func() { runner.repeat(runner.underRun) })
		for range watchers {
			name := u.cfg.Hot[rng.IntN(len(u.cfg.Hot))]
			watching.Go(func() { u.followToTheEnd(l, name, closing) })
		}
	}
	working.Wait()
	u.sampler.settle()
	u.out.write(record{Kind: idle, At: now()})
	<-closing
	watching.Wait()
}

// call is an operation of a client, as it is told.
type call struct {
	c      *client
	id, of int
}

func (c *client) begin(r record) call {
	r.Kind, r.At, r.Op = called, cmp.Or(r.At, now()), int(c.ops.Add(1))
	if r.Name != "" {
		r.Name = c.cfg.Prefix + r.Name
	}
	c.out.write(r)
	return call{c, r.Op, r.Of}
}

// done tells the end of an operation. The time is taken before anything else.
func (o call) done(ctx context.Context, err error) { o.took(ctx, now(), 0, err) }

func (o call) took(ctx context.Context, at instant, token int64, err error) {
	r := record{Kind: returned, At: at, Op: o.id, Of: o.of, Outcome: outcome(ctx, err), Token: token}
	if r.Outcome == failed || r.Outcome == lost {
		r.Error = err.Error()
	}
	o.c.out.write(r)
}

// store writes to the parent's store, as a holder that has just seen that it holds; it reports whether the token was
// good enough.
func (c *client) store(name string, op int, token int64, looked instant) {
	answer := make(chan bool, 1)
	c.mu.Lock()
	c.writes++
	n := c.writes
	c.answers[n] = answer
	c.mu.Unlock()
	c.out.write(record{Kind: wrote, At: looked, Op: op, Name: c.cfg.Prefix + name, Token: token, Of: n})
	<-answer
}

var errNobodyListens = errors.New("nobody received from quit")
