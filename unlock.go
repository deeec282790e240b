package locker

import (
	"cmp"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Unlock gives back the lock of that name. It returns nil only when etcd has confirmed that the key is not ours any
// more: a Lock right after it succeeds, unless somebody else was first.
//
// It deletes nothing that this client does not hold: it answers ErrNotHeld then, at once and without a request. It
// answers ErrLost when the lock had gone before. If etcd does not answer within the client's timeout, the lock counts
// as not held, the error says why, and the release is finished in the background.
//
// The name is all that it goes by: a goroutine whose lock was lost, and that calls it after another goroutine of this
// client has taken the lock, gives back that one. A quit channel of one's own, and Do, end just the hold they belong to.
//
// The quit channel of the Lock may be given, as in the fork that this API comes from; it is not used, and may be nil.
func (c Client) Unlock(name string, quit chan<- bool) error {
	err := c.checkName(name)
	if err == nil {
		err = c.unlock(name)
	}
	return told("unlock", name, err)
}

func (c *core) unlock(name string) error {
	c.mu.Lock()
	var h *hold
	if s := c.seats[name]; s != nil {
		h = cmp.Or(s.hold, s.lost)
	}
	c.mu.Unlock()
	if h == nil {
		return ErrNotHeld
	}
	return c.finish(h)
}

// finish ends a hold for its holder.
func (c *core) finish(h *hold) error {
	h.s.alive() // a process that was frozen learns here that its lease is over, before any timer has fired
	c.mu.Lock()
	err := c.retire(h)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.giveBack(h)
}

// giveBack gives back the key of a retired hold, and then the seat. A goroutine that waits for the seat gets the
// lock itself where nobody waits in etcd: one commit instead of two.
func (c *core) giveBack(h *hold) error {
	var heir *waiter
	c.mu.Lock()
	if c.ctx.Err() == nil { // nobody here wants it any more else
		heir = c.seats.heir(h.name)
	}
	c.mu.Unlock()
	token, err := c.release(c.bound(c.wireCtx), h, heir)
	if debug {
		l("released", "name", h.name, "token", h.token, "inherited", token, "err", err)
	}
	if token == 0 {
		c.pass(h.name, heir)
		return err
	}
	inherited := c.begin(&hold{s: h.s, name: h.name, token: token, lined: h.lined}, heir.quit)
	c.mu.Lock()
	defer c.mu.Unlock()
	if heir.gone {
		c.tasks.start(func() { c.finish(inherited) })
	} else {
		heir.turn <- inherited
	}
	return nil
}

// pass gives up the seat, to w if it still waits for it.
func (c *core) pass(name string, w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seats.pass(name, w)
}

// release makes the key not ours: deleted, or handed to the first in the line, or, if nobody stands there, put anew
// for heir, with the token that is returned then.
//
// All of it rests on one comparison: the key is as we put it.
func (c *core) release(by bound, h *hold, heir *waiter) (int64, error) {
	next := h.next
	if h.lined && next == nil { // others are likely to have come: a reading is cheaper than a commit in vain
		if f := c.batch.send(by, txn{then: []clientv3.Op{first(h.name, clientv3.WithSerializable())}}); f.err == nil {
			next = kvOf(f.resp, 0)
		}
	}
	token := h.token
	plain := false  // delete, whoever waits
	resent := false // what is found may be our own doing
	for {
		if next != nil && c.stray(h.s, h.name, next) {
			plain = c.drop(by, next) != nil
			next = nil
		}
		t := txn{cmps: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(h.name), "=", token)}}
		switch {
		case plain:
			heir = nil
			t.then = []clientv3.Op{clientv3.OpDelete(h.name)}
		case next != nil:
			t.cmps = append(t.cmps, clientv3.Compare(clientv3.ModRevision(string(next.Key)), "=", next.ModRevision))
			t.then = []clientv3.Op{
				clientv3.OpDelete(string(next.Key)),
				clientv3.OpPut(h.name, string(next.Value), clientv3.WithLease(clientv3.LeaseID(next.Lease))),
			}
		case heir != nil:
			t.cmps = append(t.cmps, nobody(h.name))
			t.then = []clientv3.Op{clientv3.OpPut(h.name, heir.value, clientv3.WithLease(h.s.id))}
		default:
			t.cmps = append(t.cmps, nobody(h.name))
			t.then = []clientv3.Op{clientv3.OpDelete(h.name)}
		}
		f := c.batch.do(by, t)
		resent = resent || f.resent
		if f.err == nil && f.resp.Succeeded {
			if next == nil && heir != nil {
				return f.resp.Header.Revision, nil
			}
			return 0, nil
		}
		if f.err == nil {
			ahead := []clientv3.Op{clientv3.OpGet(h.name), first(h.name)}
			if plain {
				ahead = ahead[:1]
			}
			f = c.batch.send(by, txn{then: ahead})
		}
		switch {
		case f.err == nil:
		case errors.Is(f.err, rpctypes.ErrLeaseNotFound) && next != nil:
			next = nil // it is gone, and its place with it
			continue
		case errors.Is(f.err, rpctypes.ErrLeaseNotFound):
			h.s.lose(f.err)
			return 0, ErrLost
		case !plain && !classify(f.err).passing:
			// No right to see the line, a value that is too large, or no room for a put, though that one may have been
			// applied. The line wakes up for a plain delete as well.
			plain, next = true, nil
			if f.loose {
				c.loose(h.s)
			}
			continue
		default:
			c.loose(h.s)
			return 0, f.err
		}
		kv := kvOf(f.resp, 0)
		if kv != nil && kv.Lease == int64(h.s.id) && resent { // put for heir by an attempt that got no answer
			if heir != nil && kv.ModRevision != token {
				return kv.ModRevision, nil
			}
			token = kv.ModRevision
		}
		switch {
		case kv != nil && kv.ModRevision == token:
			if next = nil; !plain {
				next = kvOf(f.resp, 1)
			}
		case resent || c.ctx.Err() != nil: // or Close's, which revokes the lease
			return 0, nil
		default:
			return 0, ErrLost
		}
	}
}
