package main

import (
	"slices"
	"time"
)

// lateRevocation is how long after its resumption a paused leader may still revoke leases that are none of its business
// any more: it looks for those every half second, until it hears of its successor.
const lateRevocation = time.Second

// interference is the fault that took a tenure's key away before its holder gave it back or could know: an outsider's
// doing, or a lease that etcd itself revoked after its leader had been paused. nil: none.
func (j *judgement) interference(t *tenure) (cause *fault) {
	for _, f := range j.c.faults.all {
		var did bool
		switch f.kind {
		case keyDeleted, keyOverwritten:
			did = f.token == t.token && f.name == t.known.name
		case leaseRevoked:
			did = f.lease == t.lease && f.from <= t.endTo
		case pausedLeader:
			// Every tenure that ended soon after: what did end it cannot be told apart.
			resumed := span{f.resumed, f.to.add(lateRevocation)}
			did = f.resumed != 0 && t.from <= resumed.to && resumed.overlaps(span{t.endTo, t.endTo}) || j.c.subject != ours &&
				f.resumed != 0 && resumed.overlaps(span{t.from, t.endTo})
		}
		if did && !f.missed && (cause == nil || f.from < cause.from) {
			cause = f
		}
	}
	return cause
}

// slack is how long a process did not run within a time: what it was late by then was not the library's doing.
func slack(by *incarnation, from, to instant) time.Duration { return span{from, to}.total(by.stalls) }

// enough is how long the renewal of a hold's lease may be impossible at most within a time, so that the lease lives: with an interval
// of a third of the TTL and a margin of a tenth there is more than half a TTL for new tries, and half a second of it may go by
// until there is a connection again; more where a member is in trouble besides. A run gives up earlier, by its grace.
func (j *judgement) enough(h *hold, s span) time.Duration {
	enough := ttl/2 - 500*time.Millisecond
	if slices.ContainsFunc(j.c.faults.all, func(f *fault) bool { return f.lane == members.name && f.overlaps(s) }) {
		enough = ttl / 4
	}
	return max(0, enough-h.grace)
}

// reason says why a lock was lost by its deadline; "" when there was none.
func (j *judgement) reason(t *tenure) string {
	h := t.known
	if cause := j.interference(t); cause != nil {
		return cause.kind
	}
	if h.struck.how != "" && h.struck.at < h.last.add(prompt) {
		return h.struck.how
	}
	before := span{h.last.add(-ttl), h.end}
	for _, f := range j.c.faults.all {
		if f.lane == clients.name && f.strikes(h.operation) && f.kind != cutConnections && f.overlaps(before) {
			return f.kind
		}
		if f.kind == quorumLost && f.overlaps(before) {
			return f.kind
		}
	}
	switch {
	case before.total(j.outages) > j.enough(h, before):
		return "no quorum answered"
	case before.total(j.stalls(h.operation)) > j.enough(h, before):
		return "the machine was too busy"
	}
	// The loss of one lock can be the loss of the session: whatever took a key of the same lease explains both.
	for _, f := range j.c.faults.all {
		if f.kind == leaseRevoked && f.lease == t.lease {
			return f.kind
		}
	}
	// To renew its lease elsewhere a client has to give its password first: clientv3 asks one member for a token, and
	// another for the stream. To a busy client, a member that does not answer may be one of the two, time and again. That
	// is rare: for a fault, it explains the loss of one lease.
	for _, f := range j.c.faults.all {
		lease, seen := j.unlucky[f]
		if j.c.user != "" && f.lane == members.name && (!seen || lease == t.lease) &&
			(span{h.last.add(-ttl), h.last}).total([]span{f.span}) > ttl/2 {
			j.unlucky[f] = t.lease
			return "a token was asked of a member in trouble"
		}
	}
	return ""
}
