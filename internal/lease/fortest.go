package lease

import "time"

// Suspend is for tests. It leaves the lease as a machine that was suspended until d after the deadline leaves it: the
// deadline has passed by the clock that runs on during a suspension, and the watchdog has not noticed that yet.
func (l *Lease) Suspend(d time.Duration) { l.deadline.boot.Store(int64(now().boot - d)) }

// StreamIsOpen is for tests. It reports whether a stream has answered the last renewal and is free for the next.
func (l *Lease) StreamIsOpen() bool { return l.stream.Load() != nil }
