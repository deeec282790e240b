package locker

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	lanes     = 2         // transactions in flight
	maxOps    = 120       // operations in one: a nested transaction may hold --max-txn-ops (128) minus the outer count
	maxWeight = 512 << 10 // bytes in one
)

// txn is one lock operation. No two of one name are ever under way together (the seat sees to that), so any of
// them may share a transaction: etcd evaluates all comparisons of nested transactions before it applies anything,
// and refuses two writes of one key.
type txn struct {
	cmps []clientv3.Cmp
	then []clientv3.Op
	els  []clientv3.Op
}

func (t txn) weight() (n int) {
	for _, c := range t.cmps {
		n += len(c.KeyBytes()) + 32
	}
	for _, ops := range [][]clientv3.Op{t.then, t.els} {
		for _, op := range ops {
			n += len(op.KeyBytes()) + len(op.ValueBytes()) + 32
		}
	}
	return n
}

// found is what came of a txn.
type found = answer[*clientv3.TxnResponse]

// batch sends lock operations. One that comes while no other is in flight goes at once, alone, from its caller's
// goroutine; those that come meanwhile gather, and go together when a lane is free: many operations, one Raft
// proposal.
type batch struct {
	*wire
	ctx     context.Context // of requests that carry operations of several callers
	running sync.WaitGroup  // the goroutines of lanes

	mu      sync.Mutex // guards all below
	flying  int        // lanes in use
	waiting []*errand
	limit   int // operations in one transaction; what the server allows is learnt
}

// errand is a caller's operation that waits for a lane.
type errand struct {
	txn
	bound
	answer chan found // of capacity 1: the lane never waits for its callers
}

// do sends t and returns what came of it.
func (b *batch) do(by bound, t txn) found {
	b.mu.Lock()
	if b.flying < lanes && len(b.waiting) == 0 {
		b.flying++
		b.mu.Unlock()
		f := b.send(by, t)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.waiting) == 0 {
			b.flying--
		} else {
			b.running.Go(b.fly) // the lane is theirs now
		}
		return f
	}
	e := &errand{txn: t, bound: by, answer: make(chan found, 1)}
	b.waiting = append(b.waiting, e)
	b.mu.Unlock()
	ctx, cancel := by.context()
	defer cancel()
	select {
	case f := <-e.answer:
		return f
	case <-ctx.Done():
		return found{err: ended(ctx, nil), resent: true, loose: !b.withdraw(e)}
	}
}

// withdraw takes back an operation that has not been sent, and reports whether that was still possible.
func (b *batch) withdraw(e *errand) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, e)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	return i >= 0
}

// fly is a lane: it sends batch after batch until nobody waits.
func (b *batch) fly() {
	for errands := b.next(); errands != nil; errands = b.next() {
		b.carry(errands, found{})
	}
}

// next takes the next batch; nil, and the lane is free, when nobody waits.
func (b *batch) next() []*errand {
	runtime.Gosched() // callers that are about to join do so now: larger batches
	b.mu.Lock()
	defer b.mu.Unlock()
	n, weight := 0, 0
	for n < len(b.waiting) && n < b.limit {
		if weight += b.waiting[n].weight(); n > 0 && weight > maxWeight {
			break
		}
		n++
	}
	if n == 0 {
		b.flying--
		return nil
	}
	errands := slices.Clone(b.waiting[:n])
	b.waiting = slices.Delete(b.waiting, 0, n)
	return errands
}

// carry sends errands as one transaction and gives each caller its own answer. A batch that is refused goes again
// in halves, so that an error in the end meets the caller that it belongs to, and no other. before is what is known
// of such an earlier sending.
func (b *batch) carry(errands []*errand, before found) {
	if len(errands) == 1 {
		f := b.send(errands[0].bound, errands[0].txn)
		errands[0].answer <- f.after(before)
		return
	}
	var all txn
	by := bound{ctx: b.ctx}
	for _, e := range errands {
		all.then = append(all.then, clientv3.OpTxn(e.cmps, e.then, e.els))
		if e.until.After(by.until) {
			by.until = e.until
		}
	}
	f := b.send(by, all).after(before)
	if f.err != nil && b.ctx.Err() == nil && time.Now().Before(by.until) {
		if errors.Is(f.err, rpctypes.ErrTooManyOps) {
			b.mu.Lock()
			b.limit = max(1, min(b.limit, len(errands)/2))
			b.mu.Unlock()
		}
		half := len(errands) / 2
		b.carry(errands[:half], f)
		b.carry(errands[half:], f)
		return
	}
	for i, e := range errands {
		own := f
		if f.err == nil {
			nested := f.resp.Responses[i].GetResponseTxn()
			own.resp = (*clientv3.TxnResponse)(&pb.TxnResponse{
				Header: f.resp.Header, Succeeded: nested.Succeeded, Responses: nested.Responses})
		}
		e.answer <- own
	}
}

// send sends t as a transaction of its own.
func (b *batch) send(by bound, t txn) found {
	return ask(by, b.wire, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		resp, err := b.cli.Txn(ctx).If(t.cmps...).Then(t.then...).Else(t.els...).Commit()
		if err == nil {
			b.seen((*pb.ResponseHeader)(resp.Header))
		}
		return resp, err
	})
}
