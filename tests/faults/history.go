package main

import (
	"cmp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// incarnation is one client process, from its start to its end.
type incarnation struct {
	slot, number int     // its place, which it has from the one before it, and which it is of all
	killed       instant // by the campaign; 0: not. Guarded by history.mu
	bye          bool    // it ended as it should; guarded by history.mu
	stalls       []span  // when it did not run; guarded by history.mu
	hushed       []span  // streams of watches that had gone silent, see tap.kept; guarded by history.mu
	vitals       []vitals
	ops          map[int]*operation
}

// operation is what a client did, and what came of it.
type operation struct {
	by         *incarnation
	what, name string
	value      string // that it would put; of a reading: that it found
	call, ret  instant
	until      instant // when it has to end; 0: not given
	outcome    string
	token      int64
	err        string
	told       []string   // by a Watch
	via        *operation // that made the client
	closing    *operation // of one that made a client: the end of that
	under      *operation // of a guarded write: that took the lock
	with       *operation // the other of a DoAll

	// Of a run.
	grace  time.Duration
	struck strike
}

// strike is what a worker did to a run of its own.
type strike struct {
	how string // "": nothing
	at  instant
}

// hold is a lock that a client knew it had.
type hold struct {
	*operation            // that took it
	last       instant    // when its holder last looked and could believe in it; 0: never
	end        instant    // when it first saw that it could not; 0: never
	done       instant    // when Done was seen closed; 0: never
	lost       bool       // before it was released
	unasked    bool       // it ended before its holder began to give it back
	cause      string     // that its Report gives; "": there is no Report, or it was killed
	release    *operation // the first of back, or Close if that came before; nil: none
	back       []*operation
}

// write is what a holder wrote to the store.
type write struct {
	h        *hold
	looked   instant // when the holder saw that it holds
	at       instant // when it came here
	accepted bool
}

// history is all that happened.
type history struct {
	mu     sync.Mutex // guards all below while the campaign runs
	ops    []*operation
	holds  map[*operation]*hold
	store  map[string]int64 // the highest token of each name
	writes []write
}

func newHistory() *history {
	return &history{holds: map[*operation]*hold{}, store: map[string]int64{}}
}

// add takes in what a client process tells. For a write to the store it returns whether it was accepted.
func (h *history) add(by *incarnation, r record) (accepted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch r.Kind {
	case called:
		op := &operation{by: by, what: r.What, name: r.Name, value: r.Value, call: r.At, until: r.Until, via: by.ops[r.Via], grace: r.Grace}
		by.ops[r.Op] = op
		h.ops = append(h.ops, op)
		if op.what == bothThen {
			op.with = by.ops[r.Of]
			op.with.with = op
		}
		if op.what == closes {
			by.ops[r.Of].closing = op
		}
		hold := h.holds[by.ops[r.Of]]
		switch {
		case hold == nil || op.takes(): // of a DoAll
		case op.what == guarded:
			op.under = hold.operation
		default:
			hold.back = append(hold.back, op)
			hold.release = cmp.Or(hold.release, op) // Close may have been first
		}
	case returned:
		op := by.ops[r.Op]
		op.ret, op.outcome, op.token, op.err = r.At, r.Outcome, r.Token, r.Error
		switch {
		case op.takes() && r.Outcome == ok:
			h.holds[op] = &hold{operation: op}
		case op.reads():
			op.value = r.Value
		case op.watches() || op.what == leads:
			op.until = r.From
		}
		if op.what == runs && r.Outcome == ok {
			op.until = r.From
		}
		if hold := h.holds[by.ops[r.Of]]; hold != nil && r.Outcome == lost && hold.meant(r.Error) {
			hold.lost = true
		}
	case ended:
		hold := h.holds[by.ops[r.Op]]
		hold.last, hold.end, hold.done, hold.unasked, hold.cause = r.From, r.At, r.Done, r.Lost, r.Cause
		hold.lost = hold.lost || r.Lost || r.Cause == lost
		if c := hold.closed(); c != nil && !hold.lost && (hold.release == nil || hold.release.call > c.call) {
			hold.release = c
		}
	case struck:
		by.ops[r.Op].struck = strike{r.What, r.At}
	case told:
		op := by.ops[r.Op]
		op.told = append(op.told, r.Value)
	case wrote:
		// The store that the locks guard: it knows nothing of leases and clocks, only the highest token so far.
		accepted = r.Token >= h.store[r.Name]
		if accepted {
			h.store[r.Name] = r.Token
		}
		h.writes = append(h.writes, write{h.holds[by.ops[r.Op]], r.At, now(), accepted})
	case gone:
		by.bye = true
	case stalled:
		by.stalls = append(by.stalls, span{r.From, r.At})
	case hushed:
		by.hushed = append(by.hushed, span{r.From, r.At})
	case measured:
		by.vitals = append(by.vitals, *r.Vitals)
	}
	return accepted
}

// meant says whether a release that failed is that of this hold: of the two of a DoAll there is one error, in which either may be.
func (h *hold) meant(err string) bool {
	return h.with == nil || strings.Contains(err, "release lock "+strconv.Quote(h.name)) ||
		strings.Contains(err, "release lock "+strconv.Quote(strings.TrimPrefix(h.name, prefix)))
}

// kill notes that a process is about to be killed.
func (h *history) kill(by *incarnation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	by.killed = now()
}

const (
	// closes is the operation that ends a client, and gives back all that it holds.
	closes = "close"
	// again is an Unlock of the Report of a hold that is over: it finds nothing to do.
	again = "unlock again"
	// guarded is a write to etcd that depends on the Guard of a hold. Its token is the revision at which etcd decided.
	guarded = "guarded write"
	// both takes the first lock of a DoAll, by the order of their keys, and bothThen the second.
	both     = "both"
	bothThen = "both, then"
	// leads is a call of Lead, and reigns what takes the lock for it, every time.
	leads  = "lead"
	reigns = "reign"
)

// closed is the end of the client whose operation this is; nil if it was not closed.
func (o *operation) closed() *operation {
	if o.via == nil {
		return nil
	}
	return o.via.closing
}

// takes says whether an operation takes a lock.
func (o *operation) takes() bool { return o.what == "lock" || o.what == "wait" || o.inside() }

func (o *operation) releases() bool {
	return o.unlocks() || o.what == again || o.what == "push" || o.what == "quit" || o.what == "done"
}

// inside says whether an operation runs a function, or a job, while the lock is held, which sees no Report.
func (o *operation) inside() bool {
	return o.what == "do" || o.what == both || o.what == bothThen || o.what == reigns || o.what == runs
}

// wants says whether an operation may have the lock put in etcd.
func (o *operation) wants() bool { return o.takes() || o.what == leads }

// unlocks says whether an operation gives back a lock by Unlock, of the client or of the Report.
func (o *operation) unlocks() bool { return o.what == "unlock" || o.what == "unlock hold" }

func (o *operation) reads() bool { return o.what == "get" || o.what == "inspect" }

func (o *operation) watches() bool { return o.what == "watch" || o.what == "watch to the end" }
