package main

import (
	"context"
	"sync"
	"time"
)

const (
	samplePeriod = 5 * time.Millisecond
	stallFrom    = 20 * time.Millisecond // later than this, and the process was not running
	doneTries    = 200                   // looks: Done will never close then
)

// sampler looks at every hold of a process, all the time, and notes how long its holder could believe in it. It also
// notes when the process did not run: what it tells late then is not to be blamed on anybody.
type sampler struct {
	c *client

	mu    sync.Mutex // guards all below
	holds map[*holding]struct{}
}

// holding is a lock that this process has.
type holding struct {
	grip
	by       *user
	op       int
	last     instant // the last look that said yes
	told     instant // the first that said no
	tries    int     // looks for done since
	lost     bool
	released bool // its holder is giving it back
	doneAt   instant
	over     chan struct{} // closed when it is over, and that was told
	quit     chan struct{} // ends the wait for done
}

// why is the cause that the Report of a hold that has ended gives, "" where there is no Report.
func (h *holding) why() string {
	if h.cause == nil {
		return ""
	}
	return outcome(context.Background(), h.cause())
}

// hold begins to look at a hold.
func (s *sampler) hold(by *user, op int, g grip) *holding {
	h := &holding{grip: g, by: by, op: op, over: make(chan struct{}), quit: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	h.released = by.closed
	if s.holds == nil {
		s.holds = map[*holding]struct{}{}
	}
	s.holds[h] = struct{}{}
	go func() {
		select {
		case <-h.done:
			at := now()
			s.mu.Lock()
			h.doneAt = at
			s.mu.Unlock()
		case <-h.quit:
		}
	}()
	return h
}

// look asks once more whether a lock is held, and returns when: the moment before the question.
func (s *sampler) look(h *holding) (at instant, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = now()
	if held = h.held(); held && h.exact {
		h.last = at
	}
	return at, held
}

// releasing notes that the hold ends by its holder's will now, if it has not ended before.
func (s *sampler) releasing(h *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releasingLocked(h)
}

// closing notes that all holds of a user end by its will now, those that it may still get as well.
func (s *sampler) closing(by *user) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by.closed = true
	for h := range s.holds {
		if h.by == by {
			s.releasingLocked(h)
		}
	}
}

func (s *sampler) releasingLocked(h *holding) {
	if at := now(); h.told == 0 && !h.released && !h.held() {
		h.told, h.lost = at, true
	}
	h.released = true
}

func (s *sampler) run(over <-chan struct{}) {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	before := now()
	resumed := before // after it did not run
	for {
		select {
		case <-tick.C:
		case <-over:
			return
		}
		at := now()
		if at.sub(before) > stallFrom {
			s.c.out.write(record{Kind: stalled, At: at, From: before})
			resumed = at
		}
		before = at
		s.mu.Lock()
		for h := range s.holds {
			at := now()
			if h.held() {
				if h.exact || at.sub(resumed) > prompt {
					h.last = at
				}
				continue
			}
			if h.told == 0 {
				h.told, h.lost = at, !h.released
			}
			if h.tries++; h.done == nil || h.doneAt != 0 || h.tries > doneTries {
				s.c.out.write(record{Kind: ended, At: h.told, Op: h.op, From: h.last, Done: h.doneAt, Lost: h.lost, Cause: h.why()})
				close(h.over)
				close(h.quit)
				delete(s.holds, h)
			}
		}
		s.mu.Unlock()
	}
}

// settle waits until the ends of all holds were told.
func (s *sampler) settle() {
	s.mu.Lock()
	var left []*holding
	for h := range s.holds {
		left = append(left, h)
	}
	s.mu.Unlock()
	for _, h := range left {
		<-h.over
	}
}
