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

// place is a place in the line for a lock, across processes. The oldest create revision is the first.
type place struct {
	key, value  string
	lease       clientv3.LeaseID
	create, mod int64
}

func placeOf(kv *mvccpb.KeyValue) *place {
	if kv == nil {
		return nil
	}
	return &place{string(kv.Key), string(kv.Value), clientv3.LeaseID(kv.Lease), kv.CreateRevision, kv.ModRevision}
}

// placeKey is where a session stands in the line.
func placeKey(s *session, name string) string {
	return name + waiting + strconv.FormatInt(int64(s.id), 16)
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
	cancel    context.CancelFunc
	ready     chan struct{} // closed when both watches are open
	broken    chan struct{} // closed when a watch has ended
	err       error         // why; set before broken is closed

	event   chan struct{} // something was deleted; of capacity 1
	place   atomic.Int64  // revision of the last deletion of the place
	lock    atomic.Int64  // revision of the last deletion of the lock's key
	inUse   bool          // guarded by core.mu
	restful bool          // not used since the janitor came by; guarded by core.mu
}

// queueOf is the open queue of that name, or a new one if open says so. It is in use until rest.
func (c *core) queueOf(s *session, name string, open bool) *queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[name]
	if q != nil && (q.s != s || isClosed(q.broken)) {
		q.cancel()
		delete(c.queues, name)
		q = nil
	}
	if q == nil && open {
		ctx, cancel := context.WithCancel(c.ctx)
		q = &queue{s: s, name: name, key: placeKey(s, name), cancel: cancel,
			ready: make(chan struct{}), broken: make(chan struct{}), event: make(chan struct{}, 1)}
		c.queues[name] = q
		c.tasks.start(func() { c.follow(ctx, q) })
	}
	if q != nil {
		q.inUse, q.restful = true, false
	}
	return q
}

// rest ends the use of a name's queue; the janitor closes it when nobody comes for it.
func (c *core) rest(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q := c.queues[name]; q != nil {
		q.inUse = false
	}
}

// closeQueues closes the queues that nobody has used since the last time.
func (c *core) closeQueues() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, q := range c.queues {
		switch {
		case q.inUse:
		case q.restful:
			q.cancel()
			delete(c.queues, name)
		default:
			q.restful = true
		}
	}
}

// follow reads the watches of a queue until its ctx or one of them ends.
func (c *core) follow(ctx context.Context, q *queue) {
	defer close(q.broken)
	defer q.cancel()
	// No start revision: a watch that starts in the past is served only every 100 ms.
	places, err := c.open(c.bound(ctx), q.key, clientv3.WithFilterPut())
	var locks clientv3.WatchChan
	if err == nil {
		locks, err = c.open(c.bound(ctx), q.name, clientv3.WithFilterPut())
	}
	if err != nil {
		q.err = err
		return
	}
	close(q.ready)
	for {
		var resp clientv3.WatchResponse
		var ok bool
		seen := &q.place
		select {
		case resp, ok = <-places:
		case resp, ok = <-locks:
			seen = &q.lock
		}
		if !ok || resp.Err() != nil {
			q.err = watchErr(resp)
			return
		}
		for _, e := range resp.Events {
			seen.Store(e.Kv.ModRevision)
		}
		if len(resp.Events) > 0 {
			select {
			case q.event <- struct{}{}:
			default:
			}
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
		c.seats[name].settle()
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
	for {
		q, err := c.approach(ctx, h, value)
		if err != nil || h.token > 0 {
			return err
		}
		inner, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(h.s.ctx, cancel) // the place goes with the session
		var v view
		h.token, v, err = c.enter(inner, h.s, q, value)
		entered := !errors.Is(err, rpctypes.ErrLeaseNotFound)
		if err == nil && h.token == 0 {
			h.token, h.next, err = c.wait(inner, h.s, q, value, v)
		}
		stop()
		cancel()
		c.rest(h.name)
		switch {
		case !entered:
			h.s.lose(err) // and another try, with a new one
		case err != nil && ctx.Err() == nil && !h.s.alive():
			return fmt.Errorf("%w: %w", ErrLost, h.s.why())
		default:
			return err
		}
	}
}

// approach tries to take the lock at once, where nothing says that it is contended, and else opens the queue.
func (c *core) approach(ctx context.Context, h *hold, value string) (*queue, error) {
	by := c.bound(ctx)
	s, err := c.session(by)
	if err != nil {
		return nil, err
	}
	h.s = s
	if c.queueOf(s, h.name, false) == nil {
		if h.s, h.token, err = c.try(by, h.name, value); err != nil || h.token > 0 {
			return nil, err
		}
	}
	h.lined = true
	ctx, cancel := by.context()
	defer cancel()
	for {
		q := c.queueOf(h.s, h.name, true)
		select {
		case <-q.ready:
			return q, nil
		case <-q.broken:
			if !classify(q.err).passing {
				return nil, fmt.Errorf("watching the line: %w", q.err)
			}
			err = q.err
			select {
			case <-time.After(maxPause):
			case <-ctx.Done():
			}
		case <-ctx.Done():
			c.rest(h.name)
			return nil, ended(ctx, err)
		}
	}
}

// view is what a waiter sees of its name: the lock's key, its own place and the first place, nil where there is none.
type view struct{ lock, own, first *mvccpb.KeyValue }

// errPlaceGone is ErrLost's reason for a waiter whose place was deleted, though not to hand over the lock.
var errPlaceGone = fmt.Errorf("the place in the line was deleted: %w", ErrLost)

// wait waits for the turn of a place in the line. It returns the token, and who is next. A fault that passes does not
// end it: the session does, if it does not pass in time.
func (c *core) wait(ctx context.Context, s *session, q *queue, value string, v view) (int64, *place, error) {
	created := v.own.CreateRevision
	entered := v.own.ModRevision // what was deleted before is not about this place
	claimed := entered
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if v.own.GetCreateRevision() != created {
			v.own = nil // gone; what is there was put by somebody else, or late
		}
		pause := s.interval()
		ours := v.lock != nil && v.lock.Lease == int64(s.id)
		switch {
		case v.own == nil && ours:
			return v.lock.ModRevision, placeOf(v.first), nil
		case v.own == nil:
			return 0, nil, errPlaceGone
		case v.lock == nil || ours: // free, or put by an attempt of ours that got no answer
			claimed = q.lock.Load()
			token, seen, err := c.claim(ctx, s, q, value, v)
			switch {
			case token > 0:
				return token, nil, nil
			case err == nil && seen.own == nil:
				v = seen
				continue
			case err == nil:
				v = seen
			case errors.Is(err, rpctypes.ErrLeaseNotFound):
				s.lose(err)
				return 0, nil, err
			case !classify(err).passing:
				return 0, nil, err
			}
			pause = maxPause // the first in the line is about to claim it, or is dead
		}

		timer.Reset(pause)
		var since int64
		select {
		case <-q.event:
			if place := q.place.Load(); place > entered {
				since = place
			} else if q.lock.Load() > claimed {
				v.lock = nil // claimed without another look
				continue
			} else {
				continue // it was about an earlier place
			}
		case <-timer.C: // no event that was lost may strand a waiter
		case <-q.broken:
			if !classify(q.err).passing {
				return 0, nil, fmt.Errorf("watching the line: %w", q.err)
			}
			select {
			case <-time.After(maxPause):
			case <-ctx.Done():
			}
			q = c.queueOf(s, q.name, true)
		case <-ctx.Done():
			return 0, nil, ended(ctx, nil)
		}
		seen, err := c.look(ctx, q, since)
		if err == nil {
			v = seen
		} else if !classify(err).passing {
			return 0, nil, err
		}
	}
}

// enter takes the lock if it is free and nobody waits for it, and a place in the line else.
func (c *core) enter(ctx context.Context, s *session, q *queue, value string) (int64, view, error) {
	return c.change(ctx, s, txn{
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(q.name), "=", 0), nobody(q.name)},
		then: []clientv3.Op{clientv3.OpPut(q.name, value, clientv3.WithLease(s.id))},
		els: []clientv3.Op{clientv3.OpGet(q.name), clientv3.OpPut(q.key, value, clientv3.WithLease(s.id)),
			clientv3.OpGet(q.key)},
	})
}

// claim takes a free lock for the first in the line, if that is us, or the lock that an earlier attempt of ours put.
func (c *core) claim(ctx context.Context, s *session, q *queue, value string, v view) (int64, view, error) {
	cmps := []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(q.name), "=", 0),
		clientv3.Compare(clientv3.ModRevision(q.key), "=", v.own.ModRevision),
		clientv3.Compare(clientv3.CreateRevision(q.name+waiting), ">", v.own.CreateRevision-1).WithPrefix(),
	}
	if v.lock != nil {
		cmps = []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(q.name), "=", v.lock.ModRevision)}
	}
	return c.change(ctx, s, txn{
		cmps: cmps,
		then: []clientv3.Op{clientv3.OpPut(q.name, value, clientv3.WithLease(s.id)), clientv3.OpDelete(q.key)},
		els:  []clientv3.Op{clientv3.OpGet(q.name), clientv3.OpGet(q.key)},
	})
}

// change sends a transaction that takes the lock, or says what is there instead: the lock first, the own place last.
func (c *core) change(ctx context.Context, s *session, t txn) (int64, view, error) {
	f := c.batch.do(c.bound(ctx), t)
	if f.loose {
		c.loose(s)
	}
	if f.err != nil {
		return 0, view{}, f.err
	}
	if f.resp.Succeeded {
		return f.resp.Header.Revision, view{}, nil
	}
	return 0, view{lock: kvOf(f.resp, 0), own: kvOf(f.resp, len(t.els)-1)}, nil
}

// look reads the lock, the first place and the own place. After an event, which has told of the deletion of the place
// at that revision, any member that has come so far will do, and no quorum is asked; the reading tells a lock that was
// handed over from a place that an outsider deleted.
func (c *core) look(ctx context.Context, q *queue, since int64) (view, error) {
	if since > 0 {
		here := clientv3.WithSerializable()
		f := c.batch.send(c.bound(ctx), txn{then: []clientv3.Op{clientv3.OpGet(q.name, here), first(q.name, here)}})
		if f.err == nil && f.resp.Header.Revision >= since {
			return view{lock: kvOf(f.resp, 0), first: kvOf(f.resp, 1)}, nil
		}
	}
	f := c.batch.send(c.bound(ctx), txn{then: []clientv3.Op{clientv3.OpGet(q.name), first(q.name), clientv3.OpGet(q.key)}})
	if f.err != nil {
		return view{}, f.err
	}
	return view{lock: kvOf(f.resp, 0), first: kvOf(f.resp, 1), own: kvOf(f.resp, 2)}, nil
}

// leave cleans up behind a LockWait that ended early, with the seat, which is settling: it removes the place, and where that was handed
// the lock meanwhile, passes it on. If etcd does not answer, the janitor goes on with it.
func (c *core) leave(s *session, name string) {
	if s == nil || !s.alive() {
		c.pass(name, nil) // there was nothing, or it goes with the lease
		return
	}
	f := c.batch.do(c.bound(c.wireCtx), txn{then: []clientv3.Op{clientv3.OpDelete(placeKey(s, name)), clientv3.OpGet(name)}})
	if f.err != nil {
		c.loose(s)
		c.pass(name, nil)
		return
	}
	if kv := kvOf(f.resp, 1); kv != nil && kv.Lease == int64(s.id) {
		c.giveBack(&hold{s: s, name: name, token: kv.ModRevision})
		return
	}
	c.pass(name, nil)
}
