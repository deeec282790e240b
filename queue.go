package locker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// waiting follows the lock's name in the keys of those who wait for it.
const waiting = "/.waiting/"

// placeKey is where the session with that lease stands in the line.
func placeKey(lease int64, name string) string {
	return name + waiting + strconv.FormatInt(lease, 16)
}

// stray reports whether nobody waits at a place: an outsider has put it there, or a late request of ours, for whoever asks
// has the seat with s, and its own place, if any, is another.
func (c *core) stray(s *session, name string, place *mvccpb.KeyValue) bool {
	return place.Lease == 0 || string(place.Key) != placeKey(place.Lease, name) || c.ours(s, place.Lease)
}

// first reads who is first in the line.
func first(name string, opts ...clientv3.OpOption) clientv3.Op {
	return clientv3.OpGet(name+waiting, append(clientv3.WithFirstCreate(), opts...)...)
}

// nobody holds when nobody stands in the line.
func nobody(name string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(name+waiting), "=", 0).WithPrefix()
}

// queue is what a session keeps open to wait for a name: a watch for the deletion of its place, which is how the
// lock is handed over, and one for the deletion of the lock's key, which is how it comes free when the holder crashed
// or knows no line. It stays open while the name is contended, for a watch takes a while to open: its next user needs
// one transaction to stand in the line.
type queue struct {
	s         *session
	name, key string
	ctx       context.Context // ends, with the cause, when the queue is closed or meets a fault that does not pass
	close     context.CancelCauseFunc
	ready     chan struct{} // closed once both watches are open
	event     chan struct{} // something was deleted, or may have been; of capacity 1
	deleted   atomic.Int64  // revision of the last deletion that was seen
	idle      bool          // not used since the janitor came by; guarded by core.mu
}

// queueOf is the queue of that name, for whoever has the seat.
func (c *core) queueOf(s *session, name string) *queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[name]
	if q != nil && q.s != s {
		q.close(nil)
	}
	if q == nil || q.ctx.Err() != nil {
		q = &queue{s: s, name: name, key: placeKey(int64(s.id), name), ready: make(chan struct{}), event: make(chan struct{}, 1)}
		q.ctx, q.close = context.WithCancelCause(c.ctx)
		c.queues[name] = q
		c.tasks.start(func() { c.follow(q) })
	}
	q.idle = false
	return q
}

// closeQueues is the janitor's: it closes the queues that nobody has used since the last time.
func (c *core) closeQueues() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, q := range c.queues {
		if q.idle {
			q.close(nil)
			delete(c.queues, name)
		}
		seat := c.seats[name]
		q.idle = seat == nil || !seat.taken || seat.hold != nil // else somebody may be waiting
	}
}

// follow keeps the watches of a queue open, as long as its session lives.
func (c *core) follow(q *queue) {
	defer context.AfterFunc(q.s.ctx, func() { q.close(fmt.Errorf("%w: %w", ErrLost, q.s.why())) })()
	for q.ctx.Err() == nil {
		if err := c.followOnce(q); !classify(err).passing {
			q.close(fmt.Errorf("watching the line: %w", err))
		}
		sleep(q.ctx, maxPause)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queues[q.name] == q {
		delete(c.queues, q.name)
	}
}

func (c *core) followOnce(q *queue) error {
	ctx, cancel := context.WithCancel(q.ctx)
	defer cancel()
	// No start revision: a watch that starts in the past is served only every 100 ms.
	place, err := c.open(c.bound(ctx), q.key, clientv3.WithFilterPut())
	if err != nil {
		return err
	}
	lock, err := c.open(c.bound(ctx), q.name, clientv3.WithFilterPut())
	if err != nil {
		return err
	}
	if isClosed(q.ready) {
		q.deleted.Store(0) // nobody was watching for a while
		notify(q.event)
	} else {
		close(q.ready)
	}
	for {
		var resp clientv3.WatchResponse
		var ok bool
		select {
		case resp, ok = <-place:
		case resp, ok = <-lock:
		}
		if !ok || resp.Err() != nil {
			return watchErr(resp)
		}
		for _, e := range resp.Events {
			q.deleted.Store(e.Kv.ModRevision)
			notify(q.event)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// notify leaves a note in a channel of capacity 1.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for that time, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// lockWait is LockWait: the line of this process, then that of the cluster.
func (c *core) lockWait(outer context.Context, name, value string, quit <-chan bool) (*hold, error) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	if outer.Done() != nil {
		defer context.AfterFunc(outer, func() { cancel(context.Cause(outer)) })()
	}
	h, err := c.seated(ctx, name, value, quit)
	if err != nil {
		return nil, err
	}
	if h != nil {
		return c.checked(h)
	}
	h = &hold{name: name}
	if err := c.stand(ctx, h, value); err != nil {
		if h.lined && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", LockDenied{name}, err)
		}
		c.mu.Lock()
		c.seats[name].settling = true
		c.mu.Unlock()
		c.tasks.start(func() { c.leave(h.s, name) })
		return nil, err
	}
	return c.checked(c.begin(h, quit))
}

// seated waits for the seat. The lock may come with it.
func (c *core) seated(ctx context.Context, name, value string, quit <-chan bool) (*hold, error) {
	c.mu.Lock()
	if ok, _ := c.seats.take(name); ok {
		c.mu.Unlock()
		return nil, nil
	}
	w := &waiter{value: value, quit: quit, turn: make(chan *hold, 1)}
	seat := c.seats[name]
	seat.line = append(seat.line, w)
	c.mu.Unlock()
	select {
	case h := <-w.turn:
		return h, nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	w.gone = true
	seat.line = slices.DeleteFunc(seat.line, func(o *waiter) bool { return o == w })
	c.mu.Unlock()
	select {
	case h := <-w.turn: // it came all the same
		if h == nil {
			c.pass(name, nil)
		} else {
			c.tasks.start(func() { c.finish(h) })
		}
	default:
	}
	return nil, fmt.Errorf("%w: %w", LockDenied{name}, ended(ctx, nil))
}

// stand takes the lock, with the seat, and stands in the line for it if it must. After an error leave must be called:
// the line, or even the lock, may have been reached.
func (c *core) stand(ctx context.Context, h *hold, value string) error {
	by := c.bound(ctx)
	for {
		q, err := c.approach(by, h, value)
		if err != nil || h.token > 0 {
			return err
		}
		inner, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(h.s.ctx, cancel) // the place goes with the session
		v, err := c.enter(bound{ctx: inner, until: by.until}, h, q, value)
		entered := !errors.Is(err, rpctypes.ErrLeaseNotFound)
		if err == nil && h.token == 0 {
			err = c.wait(inner, h, q, value, v)
		}
		stop()
		cancel()
		switch {
		case !entered: // another try, with a new session
		case err != nil && ctx.Err() == nil && !h.s.alive():
			return fmt.Errorf("%w: %w", ErrLost, h.s.why())
		default:
			return err
		}
	}
}

// approach tries to take the lock at once, where nothing says that it is contended, and else opens the queue.
func (c *core) approach(by bound, h *hold, value string) (q *queue, err error) {
	c.mu.Lock()
	contended := c.queues[h.name] != nil
	c.mu.Unlock()
	if contended {
		h.s, err = c.session(by)
	} else {
		err = c.try(by, h, value)
	}
	if err != nil || h.token > 0 {
		return nil, err
	}
	h.lined = true
	q = c.queueOf(h.s, h.name)
	if err = by.wait(q.ready, q.ctx.Done()); err == nil && q.ctx.Err() != nil {
		err = context.Cause(q.ctx)
	}
	return q, err
}

// view is what a waiter sees of its name: the lock's key, the first place and its own place, nil where there is none.
type view struct{ lock, first, own *mvccpb.KeyValue }

// gets read a view; they stand at the end of a transaction.
func (q *queue) gets(opts ...clientv3.OpOption) []clientv3.Op {
	return []clientv3.Op{clientv3.OpGet(q.name, opts...), first(q.name, opts...), clientv3.OpGet(q.key, opts...)}
}

func viewOf(resp *clientv3.TxnResponse) view {
	n := len(resp.Responses)
	return view{kvOf(resp, n-3), kvOf(resp, n-2), kvOf(resp, n-1)}
}

// errPlaceGone is ErrLost's reason for a waiter whose place was deleted, though not to hand over the lock.
var errPlaceGone = fmt.Errorf("the place in the line was deleted: %w", ErrLost)

// wait waits for the turn of a place in the line, and sets the token, and who is next. A fault that passes does not
// end it: the session does, if it does not pass in time.
func (c *core) wait(ctx context.Context, h *hold, q *queue, value string, v view) error {
	entered := v.own
	for {
		// What is there in place of it was put by somebody else, or late.
		gone := v.own.GetCreateRevision() != entered.CreateRevision
		pause := h.s.interval() // no event that was lost may strand a waiter
		handed := v.lock.GetLease() == int64(h.s.id)
		switch {
		case gone && !handed:
			return errPlaceGone
		case gone && string(v.lock.Value) == value:
			h.token, h.next = v.lock.ModRevision, v.first
			return nil
		case v.lock == nil && v.first.GetCreateRevision() < v.own.CreateRevision:
			pause = maxPause // the first in the line is about to claim it, or is dead
			if c.stray(h.s, h.name, v.first) {
				c.drop(c.bound(ctx), v.first)
			}
		case v.lock == nil || c.ours(h.s, v.lock.Lease): // free, or put by an attempt of ours that got no answer
			err := c.claim(ctx, h, q, value, v)
			if h.token > 0 || err != nil && !classify(err).passing {
				return err
			}
			pause = maxPause
		}

		var since int64
		select {
		case <-q.event:
			if since = q.deleted.Load(); since < entered.ModRevision {
				since = 0 // it was about an earlier place, or nobody was watching for a while
			}
		case <-time.After(pause):
		case <-q.ctx.Done():
			return context.Cause(q.ctx)
		case <-ctx.Done():
			return ended(ctx, nil)
		}
		if seen, err := c.look(ctx, q, since); err == nil {
			v = seen
		} else if !classify(err).passing {
			return err
		}
	}
}

// look reads a view. After an event, which has told of a deletion at that revision, any member that has come so far
// will do, and no quorum is asked. The reading tells a lock that was handed over from a place that an outsider deleted.
func (c *core) look(ctx context.Context, q *queue, since int64) (view, error) {
	var f found
	if since > 0 {
		f = c.batch.send(c.bound(ctx), txn{then: q.gets(clientv3.WithSerializable())})
	}
	if since == 0 || f.err != nil || f.resp.Header.Revision < since {
		f = c.batch.send(c.bound(ctx), txn{then: q.gets()})
	}
	if f.err != nil {
		return view{}, f.err
	}
	return viewOf(f.resp), nil
}

// enter takes the lock if it is free and nobody waits for it, and a place in the line else.
func (c *core) enter(by bound, h *hold, q *queue, value string) (view, error) {
	f := c.take(by, h, txn{
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(q.name), "=", 0), nobody(q.name)},
		then: []clientv3.Op{clientv3.OpPut(q.name, value, clientv3.WithLease(h.s.id))},
		els:  append([]clientv3.Op{clientv3.OpPut(q.key, value, clientv3.WithLease(h.s.id))}, q.gets()...),
	})
	if f.err != nil || h.token > 0 {
		return view{}, f.err
	}
	return viewOf(f.resp), nil
}

// claim takes the lock that is as it was seen: free, or put by an earlier attempt of ours. Whoever was first in the
// line once is first as long as the place is there.
func (c *core) claim(ctx context.Context, h *hold, q *queue, value string, v view) error {
	return c.take(c.bound(ctx), h, txn{
		cmps: []clientv3.Cmp{
			clientv3.Compare(clientv3.ModRevision(q.name), "=", v.lock.GetModRevision()),
			clientv3.Compare(clientv3.ModRevision(q.key), "=", v.own.GetModRevision()),
		},
		then: []clientv3.Op{clientv3.OpPut(q.name, value, clientv3.WithLease(h.s.id)), clientv3.OpDelete(q.key)},
	}).err
}

// leave cleans up behind a LockWait that ended early, with the seat, which is settling: it removes the place, and where
// that was handed the lock meanwhile, passes it on. If etcd does not answer, the janitor goes on with it.
func (c *core) leave(s *session, name string) {
	if s != nil && s.alive() { // else there was nothing, or it goes with the lease
		by := c.bound(c.wireCtx)
		err := c.remove(by, s, placeKey(int64(s.id), name))
		var kv *mvccpb.KeyValue
		if err == nil {
			kv, _, err = c.read(by, name)
		}
		if err != nil {
			c.loose(s)
		} else if c.ours(s, kv.GetLease()) {
			c.giveBack(&hold{s: s, name: name, token: kv.ModRevision})
			return
		}
	}
	c.pass(name, nil)
}
