package main

import (
	"slices"
	"strings"
	"time"
)

// The rules that are about runs alone, and what excuses are like for them.

// strikes says whether a fault of one client process met an operation of it. `locker run` goes on while that is frozen.
func (f *fault) strikes(op *operation) bool {
	return f.slot == op.by.slot && !(f.kind == frozenClient && op.what == runs)
}

// stalls are when the process of an operation did not run. For a run those of its client process count, which tell how busy the
// machine was, but for those that were meant for that alone.
func (j *judgement) stalls(op *operation) []span {
	if op.what != runs {
		return op.by.stalls
	}
	return slices.DeleteFunc(slices.Clone(op.by.stalls), func(s span) bool {
		return slices.ContainsFunc(j.c.faults.all, func(f *fault) bool {
			return f.kind == frozenClient && f.slot == op.by.slot && f.overlaps(s)
		})
	})
}

// deprived says whether a hold ended because its lease did. A job that ends by itself, if only because it was told to, lets the lock
// be given back, even if that is about to be lost.
func (h *hold) deprived() bool { return h.lost && (h.what != runs || h.unasked) }

// behindStruck says whether somebody may have waited behind a run that was struck while it waited: its place is there until its
// lease ends.
func (j *judgement) behindStruck(name string, s span) bool {
	return slices.ContainsFunc(j.byName[name], func(op *operation) bool {
		return op.struck.how != "" && (op.outcome != ok || op.ret > op.struck.at) && span{op.struck.at, op.struck.at.add(afterwards)}.overlaps(s)
	})
}

// statusesAreTrue: the exit status of `locker run` says what became of its job.
func (j *judgement) statusesAreTrue() {
	for _, h := range j.c.history.holds {
		if r := h.release; h.what == runs && r != nil && strings.HasPrefix(r.err, wrongStatus) {
			j.violate("wrong exit status", h.name, r.ret, "p%d, token %d: %s", h.by.number, h.token, r.err)
		}
	}
}

// deathsBefore are how long the jobs that lost their locks were dead before the next owner had them, as far as there was one.
func (j *judgement) deathsBefore() (leads []time.Duration) {
	for _, name := range j.names {
		holds := j.holds[name]
		for i, h := range holds[:max(0, len(holds)-1)] {
			if h.what == runs && h.last != 0 && h.deprived() && !j.interfered(h) {
				leads = append(leads, holds[i+1].ret.sub(h.last))
			}
		}
	}
	slices.Sort(leads)
	return leads
}
