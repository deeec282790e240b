package locker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// hold is a lock that is ours, or was.
type hold struct {
	s     *session
	name  string
	token int64
	done  chan struct{}
	over  atomic.Bool      // not ours any more; set before done is closed
	next  *mvccpb.KeyValue // the place of who was first in the line when this lock came through it
	lined bool             // it came through the line: others will wait there

	// guarded by core.mu
	lost     bool // and the holder has not been told by Unlock yet
	listener *listener
	unwatch  context.CancelFunc
}

func (h *hold) held() bool { return !h.over.Load() && h.s.alive() }

// Lock takes the lock of that name if it is free, and never waits for another holder. The value is for Get and
// Watch to see; DefaultValue will do.
//
// On success Msg is Success and Err is nil: the lock is held, and kept alive, until it is given back with Unlock, by
// a value on quit, by close(quit), by Close, or with the end of the client's ctx; or until it is lost, which Done
// and Held tell. If anybody holds the lock already, in this process or another, Msg is Fail and Err is nil. On
// anything else Msg is Fail and Err says why. Lock answers within the client's timeout.
//
// quit may be nil, and may be shared by several locks: closing it releases them all, a send releases one of them. A
// release by quit is under way when Done closes; a Lock of the same name then waits for its end, not more. quit is
// received from until it has ended its locks, also those that were lost, or Unlock has, or Close: drop no channel of a lost
// lock without one of them, for a goroutine waits for it.
//
// After an error the outcome may be unknown to the caller, but not left open: what a late request still writes is
// removed within a TTL.
func (c Client) Lock(name, value string, quit <-chan bool) Report {
	var h *hold
	err := c.check(name, value)
	if err == nil {
		h, err = c.lock(c.bound(c.ctx), name, value, quit)
	}
	return report(h, told("lock", name, err))
}

// LockWait takes the lock of that name and waits for it if it must: first come first served, across processes by
// the order of arrival in etcd, within this process by the order of the calls. Many goroutines of one client that
// wait for one name are one waiter to the cluster.
//
// It returns like Lock, or with the end of ctx, in any state of the network: then Err is ctx's error, wrapped, with
// LockDenied beside it if somebody else had the lock. ctx bounds the wait, never the hold. LockWait also gives up, with
// an error, when etcd does not answer within the client's timeout before it stands in the line; and there, when its
// session is lost, or an outsider deletes its place. quit is listened to once the lock is held.
func (c Client) LockWait(ctx context.Context, name, value string, quit <-chan bool) Report {
	var h *hold
	err := c.check(name, value)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		h, err = c.lockWait(ctx, name, value, quit)
	}
	if e := ctx.Err(); err != nil && e != nil && !errors.Is(err, e) {
		err = fmt.Errorf("%w: %w", e, err)
	}
	return report(h, told("wait for lock", name, err))
}

// Do waits for the lock like LockWait, runs fn while it is held, and gives the lock back, also when fn panics.
//
// fn's ctx is cancelled, with cause ErrLost, when the lock is lost; Do waits for fn to return all the same. token is
// the fencing token. The error joins fn's with what went wrong around it.
func (c Client) Do(ctx context.Context, name, value string, fn func(ctx context.Context, token int64) error) (err error) {
	r := c.LockWait(ctx, name, value, nil)
	if r.Msg != Success {
		return r.Err
	}
	inner, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-r.Done:
			cancel(told("lock", name, ErrLost))
		case <-inner.Done():
		}
	})
	defer func() {
		cancel(nil)
		watch.Wait()
		if e := c.finish(r.hold); e != nil {
			err = errors.Join(err, told("release lock", name, e))
		}
	}()
	return fn(inner, r.Token)
}

// report is the Report of an attempt; without a hold and without an error somebody else has the lock.
func report(h *hold, err error) Report {
	if h == nil {
		return Report{Err: err, Msg: Fail, Done: over}
	}
	return Report{Msg: Success, Token: h.token, Done: h.done, hold: h}
}

func (c Client) check(name, value string) error {
	if err := c.checkName(name); err != nil {
		return err
	}
	if value == "" {
		return ErrInvalidValue
	}
	return nil
}

func (c Client) checkName(name string) error {
	switch {
	case c.core == nil || c.ctx.Err() != nil:
		return ErrClosed
	case name == "" || strings.Contains(name+"/", waiting): // its end would make its line a part of another's
		return ErrInvalidName
	}
	return nil
}

// lock is Lock; it returns nil when somebody else has the lock.
func (c *core) lock(by bound, name, value string, quit <-chan bool) (*hold, error) {
	for {
		c.mu.Lock()
		ok, settled := c.seats.take(name)
		c.mu.Unlock()
		if ok {
			break
		}
		if settled == nil {
			return nil, nil
		}
		if err := by.wait(settled, nil); err != nil {
			return nil, err
		}
	}
	h := &hold{name: name}
	if err := c.try(by, h, value); err != nil || h.token == 0 {
		c.pass(name, nil)
		return nil, err
	}
	return c.checked(c.begin(h, quit))
}

// try is one attempt to take the lock, with the seat; the token stays 0 when somebody else has it.
func (c *core) try(by bound, h *hold, value string) (err error) {
	for {
		if h.s, err = c.session(by); err != nil {
			return err
		}
		if err = c.put(by, h, value); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
	}
}

// put is the transaction of Lock: put if absent.
func (c *core) put(by bound, h *hold, value string) error {
	t := txn{
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(h.name), "=", 0)},
		then: []clientv3.Op{clientv3.OpPut(h.name, value, clientv3.WithLease(h.s.id))},
		els:  []clientv3.Op{clientv3.OpGet(h.name)},
	}
	for {
		f := c.take(by, h, t)
		if f.err != nil || h.token > 0 {
			return f.err
		}
		kv := kvOf(f.resp, 0)
		if kv != nil && !c.ours(h.s, kv.Lease) {
			return nil
		}
		// What is left of an attempt that got no answer, or that clientv3 has sent twice by itself. It is put again,
		// not adopted as it is: a late Unlock of that attempt names its revision, and must not delete this one.
		t.cmps = []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(h.name), "=", kv.GetModRevision())} // gone by now: 0
	}
}

// take sends a transaction that takes the lock when it succeeds, and sets the token then.
func (c *core) take(by bound, h *hold, t txn) found {
	f := c.batch.do(by, t)
	if f.loose {
		c.loose(h.s)
	}
	switch {
	case f.err == nil && f.resp.Succeeded:
		h.token = f.resp.Header.Revision
	case errors.Is(f.err, rpctypes.ErrLeaseNotFound):
		h.s.lose(f.err)
	}
	return f
}

// kvOf is the key that the i-th operation, a Get, has found; nil if there was none.
func kvOf(resp *clientv3.TxnResponse, i int) *mvccpb.KeyValue {
	if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// begin is the start of a hold, by whoever has the seat. The caller must have it checked by whom it goes to.
func (c *core) begin(h *hold, quit <-chan bool) *hold {
	h.done = make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	seat := c.seats.get(h.name)
	if old := seat.lost; old != nil {
		seat.lost = nil
		if old.listener != nil && old.listener.quit == quit { // its holder is back; another may still send
			c.unlisten(old)
		}
	}
	seat.hold = h
	h.s.holds++
	seat.settledNow()
	c.listen(quit, h)
	if debug { // spares the fast path what passing arguments costs
		l("held", "name", h.name, "token", h.token)
	}
	return h
}

// checked is the last step of taking a lock: its session may have been lost before it knew of the hold.
func (c *core) checked(h *hold) (*hold, error) {
	if h.s.alive() {
		return h, nil
	}
	c.lose(h)
	c.mu.Lock()
	defer c.mu.Unlock()
	return nil, errors.Join(c.retire(h), h.s.why())
}

// lose ends a hold that is not ours any more, though nobody has given it back.
func (c *core) lose(h *hold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loseLocked(h)
}

func (c *core) loseLocked(h *hold) {
	if !c.over(h) {
		return
	}
	h.lost = true
	c.seats[h.name].lost = h
	c.seats.pass(h.name, nil)
	l("lost", "name", h.name, "token", h.token)
}

// retire ends a hold for its holder, and reports ErrLost, ErrNotHeld or ErrClosed when it had ended before. After nil the
// caller must give the key back. mu is held.
func (c *core) retire(h *hold) error {
	c.unlisten(h)
	if h.s.ctx.Err() != nil { // Held knows it already; sessionOver is about to
		c.loseLocked(h)
	}
	if h.lost {
		h.lost = false
		if s := c.seats[h.name]; s != nil && s.lost == h {
			s.lost = nil
			c.seats.forget(h.name)
		}
		return ErrLost
	}
	if !c.over(h) {
		if c.ctx.Err() != nil {
			return ErrClosed // Close has given it back
		}
		return ErrNotHeld
	}
	c.seats[h.name].settling = true
	return nil
}

// over is the moment from which a hold is over, once. mu is held.
func (c *core) over(h *hold) bool {
	if h.over.Swap(true) {
		return false
	}
	close(h.done)
	if h.unwatch != nil {
		h.unwatch()
		h.unwatch = nil
	}
	c.seats[h.name].hold = nil
	h.s.holds--
	return true
}
