package locker

import (
	"context"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxWatched is about how many held keys a client watches. The rest are told by the listing.
const maxWatched = 1000

// loose says that a request is out that got no answer, and so may still be applied.
func (c *core) loose(s *session) {
	l("a request is left without an answer", "lease", int64(s.id))
	notify(s.untidy)
}

// janitor looks after what a session holds, until it is lost. Once per renewal interval it sees that nobody has taken
// away what is held. Once a request has been left without an answer, it sees that this leaves nothing behind: at once,
// soon again, and in the end once per TTL for the rest of the session, for a request may lie in a frozen member.
func (c *core) janitor(s *session) {
	select {
	case <-s.ready:
	case <-s.ctx.Done():
		return
	}
	tick := time.NewTicker(s.interval())
	defer tick.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	pause := time.Duration(0) // until the next look for what was left behind; 0: there is no such request
	for {
		due := true
		select {
		case <-s.untidy:
			pause = firstPause
		case <-again.C:
			due = pause > 0
		case <-tick.C:
			c.closeQueues()
			due = c.watchHeld(s) > 0
		case <-s.ctx.Done():
			return
		}
		if !due {
			continue
		}
		if err := c.tidy(s); err != nil && classify(err).passing {
			pause = min(max(2*pause, firstPause), maxPause)
		} else {
			pause = min(4*pause, s.granted())
		}
		if pause > 0 {
			again.Reset(pause)
		}
	}
}

// watchHeld watches the keys that have been held for a renewal interval, and returns how many are left over. Short
// holds pay nothing.
func (c *core) watchHeld(s *session) (left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, seat := range c.seats {
		h := seat.hold
		if h == nil || h.s != s || h.unwatch != nil {
			continue
		}
		if left++; s.watched < maxWatched/max(1, len(c.live)) {
			left--
			s.watched++
			var ctx context.Context
			ctx, h.unwatch = context.WithCancel(c.ctx) // Close waits for it before it ends the session
			c.tasks.start(func() {
				c.watchHold(ctx, h)
				c.mu.Lock()
				s.watched--
				c.mu.Unlock()
			})
		}
	}
	return left
}

// watchHold waits for the key of a hold to change, which only others can do while it is held.
func (c *core) watchHold(ctx context.Context, h *hold) {
	known := h.token // the key is as it was put, up to this revision
	for ctx.Err() == nil {
		changes, err := c.open(c.bound(ctx), h.name, clientv3.WithRev(known+1))
		for err == nil {
			resp, ok := <-changes
			if len(resp.Events) > 0 {
				h.s.hurry() // the lease may be gone, and other locks with it
				c.lose(h)
				return
			}
			if !ok {
				break
			}
		}
		// The watch has ended: compacted, without a leader, or not allowed.
		known = max(known, c.confirm(c.bound(ctx), h))
		sleep(ctx, maxPause)
	}
}

// confirm asks etcd whether a key is as its holder put it, and ends the hold if it is not. It returns the revision of
// the answer.
func (c *core) confirm(by bound, h *hold) int64 {
	kv, at, err := c.read(by, h.name)
	if err == nil && (kv == nil || kv.ModRevision != h.token) {
		c.lose(h)
	}
	return at
}

// tidy lists what is attached to the lease, one request however many locks are held, and compares: what is held
// here but not listed was taken away; what is listed but has no seat here is left of a request without an answer.
func (c *core) tidy(s *session) error {
	by := bound{ctx: s.ctx, until: time.Now().Add(max(s.interval(), time.Second))}
	a := ask(by, c.wire, func(ctx context.Context) (*clientv3.LeaseTimeToLiveResponse, error) {
		resp, err := c.cli.TimeToLive(ctx, s.id, clientv3.WithAttachedKeys())
		if err == nil && !c.seen((*pb.ResponseHeader)(resp.ResponseHeader)) {
			err = errFormer
		}
		return resp, err
	})
	if a.err != nil {
		return a.err
	}
	listed := make(map[string]bool, len(a.resp.Keys))
	for _, key := range a.resp.Keys {
		listed[string(key)] = true
	}
	var missing []*hold // or taken since, which etcd is asked about
	var remains []string
	c.mu.Lock()
	for _, seat := range c.seats {
		if h := seat.hold; h != nil && h.s == s && !listed[h.name] {
			missing = append(missing, h)
		}
	}
	for key := range listed {
		name, _, _ := strings.Cut(key, waiting)
		if ok, _ := c.seats.take(name); ok {
			c.seats[name].settling = true
			remains = append(remains, name)
		}
	}
	c.mu.Unlock()
	each(missing, func(h *hold) { c.confirm(by, h) })
	each(remains, func(name string) {
		for _, key := range []string{name, placeKey(int64(s.id), name)} {
			if listed[key] {
				l("removed what a lost request had left", "key", key, "err", c.remove(by, s, key))
			}
		}
		c.pass(name, nil)
	})
	return nil
}

// remove deletes a lock that carries our lease, or our place in the line, for whoever has the seat.
func (c *core) remove(by bound, s *session, key string) error {
	kv, _, err := c.read(by, key)
	if err != nil || kv == nil || kv.Lease != int64(s.id) && !strings.Contains(key, waiting) {
		return err
	}
	return c.drop(by, kv)
}

// drop deletes a key as it was seen, by its revision: sent twice and late, it must not meet what was put there next,
// perhaps under the same lease.
func (c *core) drop(by bound, kv *mvccpb.KeyValue) error {
	return c.batch.do(by, txn{
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)},
		then: []clientv3.Op{clientv3.OpDelete(string(kv.Key))},
	}).err
}
