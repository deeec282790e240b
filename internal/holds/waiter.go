package holds

import (
	"container/list"
	"context"
)

// A Waiter is a goroutine that waits for a name which another goroutine of this client has reserved or holds.
type Waiter struct {
	Value string
	Quit  <-chan bool
	turn  chan *Hold // of capacity 1; receives a hold of the lock, or nil for the reservation alone
	gone  bool       // the goroutine does not wait any more; guarded by Table.mu
}

// Reserve reserves a name. While another goroutine of this client has the name, it waits, first come first served. h is
// nil if the caller got the reservation alone. h is a hold if the goroutine before had the lock and left it to the caller.
//
// ctx bounds the wait. ok is false if ctx ended first. But a reservation or a hold that comes in the same moment is the
// caller's.
func (t *Table) Reserve(ctx context.Context, name, value string, quit <-chan bool) (h *Hold, ok bool) {
	t.mu.Lock()
	if ok, _ := t.tryReserve(name); ok {
		t.mu.Unlock()
		return nil, true
	}
	w := &Waiter{Value: value, Quit: quit, turn: make(chan *Hold, 1)}
	e := t.entries[name]
	place := e.enqueue(w)
	t.mu.Unlock()
	t.Counts.Waiting.Add(1)
	defer t.Counts.Waiting.Add(-1)
	select {
	case h := <-w.turn:
		return h, true
	case <-ctx.Done():
	}
	t.mu.Lock()
	w.gone = true
	e.waiters.Remove(place)
	t.mu.Unlock()
	select {
	case h := <-w.turn:
		return h, true
	default:
		return nil, false
	}
}

func (e *entry) enqueue(w *Waiter) *list.Element {
	if e.waiters == nil {
		e.waiters = list.New()
	}
	return e.waiters.PushBack(w)
}

func (e *entry) shift() *Waiter {
	if e.waiters == nil || e.waiters.Len() == 0 {
		return nil
	}
	return e.waiters.Remove(e.waiters.Front()).(*Waiter)
}

// FirstWaiter removes the first waiter for a name from those that wait, so that a release can leave the lock to it. The caller
// passes it to Inherit or to Yield. FirstWaiter returns nil if nobody waits, or if the client is closing.
func (t *Table) FirstWaiter(name string) *Waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open.Err() != nil {
		return nil
	}
	return t.entries[name].shift()
}
