package main

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// instant is a point in time by CLOCK_MONOTONIC, in nanoseconds: one clock for all processes of a machine.
type instant int64

func now() instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return instant(ts.Nano())
}

func (t instant) add(d time.Duration) instant { return t + instant(d) }
func (t instant) sub(u instant) time.Duration { return time.Duration(t - u) }

// span is a time from its beginning to its end.
type span struct{ from, to instant }

func (s span) overlaps(o span) bool { return s.from <= o.to && o.from <= s.to }

// total is how much of a span is covered by others, which do not overlap one another.
func (s span) total(others []span) (sum time.Duration) {
	for _, o := range others {
		if s.overlaps(o) {
			sum += min(s.to, o.to).sub(max(s.from, o.from))
		}
	}
	return sum
}

// record is a line of what a client process tells, as it happens: what it told before it is killed counts.
type record struct {
	Kind    string  `json:"kind"`
	At      instant `json:"at"`
	Op      int     `json:"op,omitempty"`
	What    string  `json:"what,omitempty"`
	Name    string  `json:"name,omitempty"`
	Value   string  `json:"value,omitempty"`
	Until   instant `json:"until,omitempty"` // call: when it has to end; 0 is the client's timeout
	Of      int     `json:"of,omitempty"`    // call: the operation that took, or made, what this one gives back
	Via     int     `json:"via,omitempty"`   // call: the one that made the client whose this is
	Outcome string  `json:"outcome,omitempty"`
	Token   int64   `json:"token,omitempty"`
	Error   string  `json:"error,omitempty"`
	From    instant `json:"from,omitempty"`  // end: the last moment at which Held said yes; stall, hushed: its beginning
	Done    instant `json:"done,omitempty"`  // end: when Done was seen closed
	Lost    bool    `json:"lost,omitempty"`  // end: though it was not released
	Cause   string  `json:"cause,omitempty"` // end: that its Report gives

	Grace time.Duration `json:"grace,omitempty"` // call: of a run

	Vitals *vitals `json:"vitals,omitempty"`
}

// The kinds of records.
const (
	called   = "call"   // an operation begins
	returned = "return" // and ends
	ended    = "end"    // a hold is over
	struck   = "strike" // a run is about to be struck by its worker, in the way that What says
	wrote    = "write"  // a holder writes to the store; At is when it looked whether it holds
	told     = "value"  // a Watch has told a value
	stalled  = "stall"  // the process did not run for a while
	hushed   = "hushed" // a stream of watches was not left for a while though it had gone silent
	measured = "vitals"
	refused  = "refused" // etcd refused a request, for its token had expired
	idle     = "idle"    // nothing is under way any more, nothing is held
	gone     = "bye"     // the client is closed
)

// The outcomes of operations.
const (
	ok       = "ok"
	denied   = "denied"   // somebody else has the lock
	expired  = "ended"    // with its ctx
	lost     = "lost"     // the lock, or the place in the line
	notHeld  = "not held" // nothing to release
	released = "released" // a cause, and no outcome
	closed   = "closed"   // the client was
	failed   = "error"    // anything else: it may have been carried out
)

// order is a line that the parent writes to a client process.
type order struct {
	Config   *config `json:"config,omitempty"` // the first line
	Answer   int     `json:"answer,omitempty"` // to the write of this number
	Accepted bool    `json:"accepted,omitempty"`
	Silence  bool    `json:"silence,omitempty"` // to the watches that are open
	Finish   bool    `json:"finish,omitempty"`  // end the work
	Close    bool    `json:"close,omitempty"`   // and the client
}

// lines writes JSON lines; they are complete and in order, whoever writes.
type lines struct {
	mu  sync.Mutex
	out *json.Encoder
}

func newLines(w io.Writer) *lines { return &lines{out: json.NewEncoder(w)} }

func (l *lines) write(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Encode(v)
}
