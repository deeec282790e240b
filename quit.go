package locker

import (
	"maps"
	"slices"
)

// listener listens to one quit channel for all locks that were taken with it.
type listener struct {
	quit  <-chan bool
	stop  chan struct{}      // closed when no hold is left
	holds map[*hold]struct{} // guarded by core.mu
}

// listen makes h end with quit. A nil channel ends nothing, and a Lock that meets Close ends with the session: nobody
// would end its listener. mu is held.
func (c *core) listen(quit <-chan bool, h *hold) {
	if quit == nil || c.ctx.Err() != nil {
		return
	}
	n := c.listeners[quit]
	if n == nil {
		n = &listener{quit: quit, stop: make(chan struct{}), holds: map[*hold]struct{}{}}
		c.listeners[quit] = n
		c.tasks.start(func() { c.hear(n) })
	}
	n.holds[h] = struct{}{}
	h.listener = n
}

// unlisten is the end of listen; the last hold of a channel ends its listener. mu is held.
func (c *core) unlisten(h *hold) {
	n := h.listener
	if n == nil {
		return
	}
	h.listener = nil
	delete(n.holds, h)
	if len(n.holds) == 0 {
		close(n.stop)
		if c.listeners[n.quit] == n {
			delete(c.listeners, n.quit)
		}
	}
}

// hear waits for what comes over a quit channel: a value ends one lock, close ends all.
//
// It goes on for a lock that was lost until its holder says that it is done with it, by quit or by Unlock: a send
// on quit must not block for ever because of what happened to the lock meanwhile. A live lock comes first.
func (c *core) hear(n *listener) {
	for {
		select {
		case _, open := <-n.quit:
			c.mu.Lock()
			var ending []*hold
			if now := c.listeners[n.quit]; now != nil { // another, if this one has ended at the same moment
				ending = slices.Collect(maps.Keys(now.holds))
			}
			if !open {
				delete(c.listeners, n.quit) // a later Lock with this channel gets a listener of its own
			} else if len(ending) > 0 {
				live := slices.IndexFunc(ending, func(h *hold) bool { return !h.lost })
				ending = ending[max(0, live):][:1]
			}
			ending = slices.DeleteFunc(ending, func(h *hold) bool { return c.retire(h) != nil })
			c.mu.Unlock()
			c.tasks.start(func() { each(ending, func(h *hold) { c.giveBack(h) }) })
			if !open {
				return
			}
		case <-n.stop:
			return
		}
	}
}
