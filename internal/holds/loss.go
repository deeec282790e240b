package holds

import (
	"fmt"
	"time"

	"github.com/PumpkinSeed/locker/internal/lease"
)

// A loss is remembered until its holder learns of it from End. The holder may never come, so the oldest losses are forgotten
// once they are older than MinMemory and more than MaxLosses are remembered: then Find does not know the lock any more, and
// its quit channel has no receiver.
const (
	MinMemory = 10 * time.Minute
	MaxLosses = 10_000
)

// step is how many holds are ended, at most, before others may have the mutex: it takes about 0.1 ms.
const step = 200

// Lose ends a hold whose lock is lost, and remembers that until its holder learns of it.
func (t *Table) Lose(h *Hold, reason error) {
	cause := fmt.Errorf("%w: %w", ErrLost, reason)
	t.mu.Lock()
	lost := t.lose(h, cause)
	t.mu.Unlock()
	if lost {
		t.log.Warn("locker: lost", "name", h.Name, "token", h.Token, "cause", cause)
	}
}

// LoseAll ends all holds of a lease that has ended, like Lose.
func (t *Table) LoseAll(l *lease.Lease) {
	cause := causeOf(l)
	for {
		lost, more := t.loseSome(l, cause)
		for _, h := range lost {
			if cause != ErrClosed {
				t.log.Warn("locker: lost", "name", h.Name, "token", h.Token, "cause", cause)
			}
		}
		if !more {
			return
		}
	}
}

func (t *Table) loseSome(l *lease.Lease, cause error) (lost []*Hold, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.leases[l]
	if of == nil {
		return nil, false
	}
	for of.len > 0 && len(lost) < step {
		lost = append(lost, of.first)
		t.lose(of.first, cause)
	}
	if of.len == 0 {
		delete(t.leases, l)
	}
	return lost, of.len > 0
}

func (t *Table) lose(h *Hold, cause error) bool {
	if !t.finish(h, cause) {
		return false
	}
	h.lostAt = time.Now()
	t.losses.add(h)
	t.lost[h.Name] = h
	switch {
	case cause == ErrClosed: // it was taken while Close gave back all others, and goes with the lease
		t.Counts.Released.Add(1)
	case h.Lease.Context().Err() != nil:
		t.Counts.LostLease.Add(1)
	default:
		t.Counts.LostKey.Add(1)
	}
	t.forgetOldLosses()
	t.yield(h.Name, nil)
	return true
}

// forgetOldLosses forgets up to two losses, so that their number falls again when holds begin and end.
func (t *Table) forgetOldLosses() {
	for range 2 {
		if t.losses.len <= MaxLosses || time.Since(t.losses.first.lostAt) < MinMemory {
			return
		}
		t.forgetLoss(t.losses.first)
	}
}

func (t *Table) forgetLoss(h *Hold) {
	t.unlisten(h)
	if t.losses.remove(h) && t.lost[h.Name] == h {
		delete(t.lost, h.Name)
	}
}

// replaceLoss forgets that a lock was lost, because the client has it again. But where the lost hold had another quit channel
// than the new one, somebody may still send on that.
func (t *Table) replaceLoss(name string, quit <-chan bool) {
	t.forgetOldLosses()
	old := t.lost[name]
	if old == nil {
		return
	}
	delete(t.lost, name)
	if old.listener == nil || old.listener.quit == quit {
		t.forgetLoss(old)
	}
}
