package locker

// seat is what this process knows of a name. Whoever has it taken may talk to etcd about the name; so the process
// never races itself, and a key that carries our lease while nobody has the seat can only be what is left of an
// attempt of ours that got no answer.
//
// All fields are guarded by core.mu.
type seat struct {
	taken    bool
	settling bool          // who has the seat does not hold, nor want, the lock any more: there is only clean-up
	settled  chan struct{} // if not nil: closed when the clean-up is over
	hold     *hold         // the lock, while it is ours
	lost     *hold         // a lock that was lost, until its holder has been told
	line     []*waiter     // who waits for the seat, first come first served
}

// waiter is a LockWait in the line for a seat.
type waiter struct {
	value string
	quit  <-chan bool
	turn  chan *hold // of capacity 1; what is sent is the lock itself, or nil: the seat alone
	gone  bool       // does not wait any more; guarded by core.mu
}

// seats are the seats that anybody has taken, or waits for, or must be told of a loss about.
type seats map[string]*seat

func (m seats) get(name string) *seat {
	s := m[name]
	if s == nil {
		s = &seat{}
		m[name] = s
	}
	return s
}

// take takes the seat if nobody has it. Where only clean-up is under way, it says what to wait for before the next
// try.
func (m seats) take(name string) (ok bool, settled <-chan struct{}) {
	s := m.get(name)
	if s.taken && s.settling && s.settled == nil {
		s.settled = make(chan struct{})
	}
	ok, s.taken = !s.taken, true
	return ok, s.settled
}

// settledNow is the end of settling.
func (s *seat) settledNow() {
	s.settling = false
	if s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
}

// heir takes the first waiter out of the line.
func (m seats) heir(name string) *waiter {
	s := m[name]
	if len(s.line) == 0 {
		return nil
	}
	w := s.line[0]
	s.line = s.line[1:]
	return w
}

// pass gives up the seat: to w, or if that is nil or has gone, to the next in line.
func (m seats) pass(name string, w *waiter) {
	s := m[name]
	s.settledNow()
	if w == nil || w.gone {
		w = m.heir(name)
	}
	if w != nil {
		w.turn <- nil
		return
	}
	s.taken, s.line = false, nil
	m.forget(name)
}

// forget drops a seat that nobody has any use for.
func (m seats) forget(name string) {
	if s := m[name]; !s.taken && s.lost == nil {
		delete(m, name)
	}
}
