package main

import (
	"os"

	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	// lead is how long before the next owner's success a holder must have been told of its loss.
	lead = 200 * time.Millisecond
	// grace is what a call may take beyond the client's timeout, and prompt beyond its ctx, the time apart in which its process
	// did not run.
	grace  = 500 * time.Millisecond
	prompt = 100 * time.Millisecond
	// catchUp is what a process needs for all that has become due while it did not run.
	catchUp = 400 * time.Millisecond
	// stranded is how long a lock may be free while somebody waits for it: a waiter looks once a second, whatever its watches say.
	stranded = 1500 * time.Millisecond
	// checkTimeout bounds porcupine's search for one name, and with it the memory for what it has seen: some 400 MB a second.
	checkTimeout = 10 * time.Second
)

// violation is a rule that was broken.
type violation struct {
	rule, name, what string
	at               instant
}

// judgement is what the rules say of a campaign.
type judgement struct {
	c          *campaign
	violations []violation
	undecided  []string        // names that were too much for porcupine
	losses     map[string]int  // by reason
	waits      []time.Duration // for locks that were free, with nothing in the way

	names   []string
	byName  map[string][]*operation
	byValue map[put]*operation // the first, of those of a Lead
	holds   map[string][]*hold // by name, in the order of tokens
	events  map[string][]event // by name, in order
	tenures map[string][]*tenure
	outages []span
	unlucky map[*fault]int64 // which lease was lost to it by bad luck, see reason
}

// put is what a client puts in etcd.
type put struct{ name, value string }

func judge(c *campaign) *judgement {
	j := &judgement{c: c, losses: map[string]int{}, byName: map[string][]*operation{}, byValue: map[put]*operation{},
		holds: map[string][]*hold{}, events: map[string][]event{}, tenures: map[string][]*tenure{}, outages: c.observer.outages(),
		unlucky: map[*fault]int64{}}
	for _, op := range c.history.ops {
		if op.name != "" {
			j.byName[op.name] = append(j.byName[op.name], op)
		}
		if op.wants() {
			at := put{op.name, op.value}
			j.byValue[at] = cmp.Or(j.byValue[at], op)
		}
	}
	for _, h := range c.history.holds {
		j.holds[h.name] = append(j.holds[h.name], h)
	}
	for name, events := range c.observer.events {
		for _, e := range events {
			j.events[name] = append(j.events[name], e)
		}
		slices.SortFunc(j.events[name], func(a, b event) int { return cmp.Compare(a.rev, b.rev) })
	}
	for name := range j.byName {
		j.names = append(j.names, name)
		slices.SortFunc(j.holds[name], byToken)
	}
	slices.Sort(j.names)
	for _, name := range j.names { // all, before anything is asked of one: two locks may have been taken together
		j.tell(name)
	}
	for _, name := range j.names {
		j.oneOwner(name)
		j.tokensGrow(name)
		if c.subject == ours {
			j.keysStay(name)
			j.nobodyStranded(name)
		}
		switch j.check(name) {
		case porcupine.Illegal:
			j.violate("not linearizable", name, 0, "no order of the operations explains what the clients were told")
		case porcupine.Unknown:
			j.undecided = append(j.undecided, name)
		}
	}
	j.lossesHaveReasons()
	j.callsEnd()
	j.storeIsSafe()
	j.nothingLeft()
	if c.subject == ours {
		j.errorsHaveReasons()
		j.doneCloses()
		j.causesAreTrue()
		j.guardsHold()
		j.takenInOrder()
		j.leadersLead()
		j.statusesAreTrue()
		j.closedByClose()
		j.watchesTellTheTruth()
		j.silentWatchesMove()
	}
	return j
}

func (j *judgement) violate(rule, name string, at instant, format string, args ...any) {
	j.violations = append(j.violations, violation{rule, name, fmt.Sprintf(format, args...), at})
}

// oneOwner: nobody believes in a hold when another has the lock, and who loses it by its deadline has known for a while.
func (j *judgement) oneOwner(name string) {
	all := j.tenures[name]
	for i, t := range all {
		h := t.known
		if h == nil || h.last == 0 || j.interference(t) != nil || j.interfered(j.other(h)) {
			continue
		}
		for _, next := range all[i+1:] {
			n := next.known
			if n == nil {
				continue
			}
			if n.call > h.last.add(lead) {
				break
			}
			if h.last > n.ret {
				j.violate("two owners", name, n.ret, "p%d believed in token %d until %v after p%d had got token %d",
					h.by.number, h.token, h.last.sub(n.ret), n.by.number, n.token)
				break
			}
			if h.deprived() && h.last.add(lead) > n.ret {
				j.violate("told too late", name, n.ret, "p%d believed in token %d until %v before p%d got token %d",
					h.by.number, h.token, n.ret.sub(h.last), n.by.number, n.token)
				break
			}
		}
	}
}

// keysStay: a key goes away only by its holder's will, with its lease, or by an outsider; and a success is one in etcd.
func (j *judgement) keysStay(name string) {
	inEtcd := map[int64]bool{}
	for _, t := range j.tenures[name] {
		inEtcd[t.token] = true
		if t.endFrom > t.endTo {
			j.violate("key gone without a cause", name, t.endTo, "token %d of p%d, gone %v before anything that could be the cause",
				t.token, t.client(), t.endFrom.sub(t.endTo))
		}
		if t.by == nil && !strings.HasPrefix(t.value, "outside") {
			j.violate("a value that nobody put", name, t.to, "%q, token %d", t.value, t.token)
		}
	}
	for _, h := range j.holds[name] {
		if !inEtcd[h.token] {
			j.violate("success without a key", name, h.ret, "p%d has token %d; etcd never had that", h.by.number, h.token)
		}
	}
}

// tokensGrow: who asks after another had the lock gets a higher token.
func (j *judgement) tokensGrow(name string) {
	asked := slices.Clone(j.holds[name])
	slices.SortFunc(asked, func(a, b *hold) int { return cmp.Compare(a.call, b.call) })
	got := slices.Clone(asked)
	slices.SortFunc(got, func(a, b *hold) int { return cmp.Compare(a.ret, b.ret) })
	var highest int64
	for _, h := range asked {
		for len(got) > 0 && got[0].ret < h.call {
			highest = max(highest, got[0].token)
			got = got[1:]
		}
		if h.token <= highest {
			j.violate("tokens grow", name, h.ret, "p%d got token %d after token %d was given", h.by.number, h.token, highest)
		}
	}
	for i, h := range j.holds[name] {
		if i > 0 && j.holds[name][i-1].token == h.token {
			j.violate("tokens grow", name, h.ret, "token %d twice", h.token)
		}
	}
}

// nobodyStranded: nobody waits for a lock that is free, unless something is in the way.
func (j *judgement) nobodyStranded(name string) {
	tenures := j.tenures[name]
	for _, op := range j.byName[name] {
		if op.outcome != expired && (op.outcome != ok || op.what == leads || op.what == runs) || !op.wants() ||
			op.what == bothThen || // which waits for the first of the two, before
			op.struck.how != "" {
			continue
		}
		for i := 0; i <= len(tenures); i++ {
			free := span{0, endless}
			if i > 0 {
				free.from = tenures[i-1].endTo
			}
			if i < len(tenures) {
				free.to = tenures[i].to
			}
			from := op.call
			if op.what == runs {
				from = from.add(starting)
			}
			j.waitedFor(op, span{max(free.from, from), min(free.to, op.ret)})
		}
	}
}

// waitedFor judges a time in which somebody waited for a lock that was free.
func (j *judgement) waitedFor(op *operation, free span) {
	took := free.to.sub(free.from)
	if took <= 0 || j.troubled(op, free) || j.behindStruck(op.name, free) {
		return
	}
	j.waits = append(j.waits, took)
	if took > stranded {
		j.violate("stranded waiter", op.name, free.to, "p%d waited %v for a free lock", op.by.number, took)
	}
}

// troubled says whether anything was wrong, for a client, in a time or shortly before.
func (j *judgement) troubled(op *operation, s span) bool {
	s.from = s.from.add(-ttl)
	return s.total(j.outages) > 0 || s.total(j.stalls(op)) > 0 || slices.ContainsFunc(j.c.faults.all, func(f *fault) bool {
		return !f.missed && !slices.Contains(unnoticed, f.kind) && (f.slot == -1 || f.strikes(op)) && f.overlaps(s)
	})
}

// unnoticed is what may trouble nobody.
var unnoticed = []string{compaction, defragmentation, authSwitched, tokenExpired, slowNetwork, farMember, narrowNetwork, silentWatches}

// lossesHaveReasons: what a cluster survives, a lock survives.
func (j *judgement) lossesHaveReasons() {
	for _, name := range j.names {
		for _, t := range j.tenures[name] {
			if t.known == nil || !t.known.lost {
				continue
			}
			reason := j.reason(t)
			if o := j.other(t.known); reason == "" && o != nil { // its function was told of the loss of that
				reason = j.reason(j.tenure(o))
			}
			if j.losses[reason]++; reason == "" && j.c.subject == ours {
				before := span{t.known.last.add(-ttl), t.known.end}
				j.violate("lost without a reason", name, t.known.last, "p%d lost token %d; in the TTL before no quorum answered for %v, and it did not run for %v",
					t.known.by.number, t.token, before.total(j.outages), before.total(j.stalls(t.known.operation)))
			}
		}
	}
}

// callsEnd: every call ends with its ctx, or with the client's timeout.
func (j *judgement) callsEnd() {
	for _, op := range j.c.history.ops {
		limit := op.call.add(timeout + grace)
		switch {
		case (op.watches() || op.what == leads) && op.until == 0:
			limit = endless // its quit was never closed, or it ended by itself
		case op.until != 0:
			limit = max(op.until, op.call).add(prompt) // it may have been stopped before the call
		}
		end := op.ret
		if end == 0 {
			if end = op.by.killed; end == 0 || limit == endless || op.struck.how == runKilled {
				continue // see nothingLeft
			}
		}
		missing := slack(op.by, max(op.call, limit.add(-grace)), end)
		late := end.sub(limit) - missing
		if missing > 0 || op.ret == 0 { // who was killed could not tell that it had not run
			late -= catchUp
		}
		if late > 0 {
			j.violate("call ended late", op.name, end, "%s of p%d, called %v before, %v after its limit, and for %v of that its process did not run",
				op.what, op.by.number, end.sub(op.call), end.sub(limit), missing)
		}
	}
}

// errorsHaveReasons: what fails, fails because something is wrong that does not pass in time. Nobody's call ends with an
// error because the history was compacted, or a member defragmented.
func (j *judgement) errorsHaveReasons() {
	for _, op := range j.c.history.ops {
		if op.outcome != failed || op.what == guarded { // which is sent by etcd's own client
			continue
		}
		if op.struck.how != "" { // before its job had begun
			continue
		}
		if strings.Contains(op.err, "compacted") || !j.troubled(op, span{op.call, op.ret}) {
			j.violate("error without a reason", op.name, op.ret, "%s of p%d: %s", op.what, op.by.number, op.err)
		}
	}
}

// storeIsSafe: a store that looks at tokens is never written by a former owner after the next; and who is refused could
// not know.
func (j *judgement) storeIsSafe() {
	highest := map[string]int64{}
	for _, w := range j.c.history.writes {
		switch {
		case w.accepted && w.h.token < highest[w.h.name]:
			j.violate("late write accepted", w.h.name, w.at, "token %d after %d", w.h.token, highest[w.h.name])
		case w.accepted:
			highest[w.h.name] = w.h.token
		case w.h.inside() && slack(w.h.by, w.looked.add(-prompt), w.at) > 0:
			// It was stopped between its look and its write, or just resumed: see grip.exact.
		case w.at.sub(w.looked) < lead && !j.interfered(w.h):
			j.violate("write of an owner refused", w.h.name, w.at, "p%d, token %d, %v after it saw that it holds",
				w.h.by.number, w.h.token, w.at.sub(w.looked))
		}
	}
}

func (j *judgement) interfered(h *hold) bool {
	return h != nil && slices.ContainsFunc(j.tenures[h.name], func(t *tenure) bool { return t.known == h && j.interference(t) != nil })
}

// other is the other hold of a DoAll; nil: there is none.
func (j *judgement) other(h *hold) *hold { return j.c.history.holds[h.with] }

// tenure is what a hold is in etcd.
func (j *judgement) tenure(h *hold) *tenure {
	for _, t := range j.tenures[h.name] {
		if t.known == h {
			return t
		}
	}
	return &tenure{token: h.token, known: h} // see keysStay
}

// doneCloses: Done and Held say the same, and Held is false after a release.
func (j *judgement) doneCloses() {
	for _, h := range j.c.history.holds {
		switch {
		case h.end == 0 || h.inside(): // killed; a function gets no Done
		case h.done == 0:
			j.violate("Done did not close", h.name, h.end, "p%d, token %d", h.by.number, h.token)
		case h.done < h.last:
			j.violate("held after Done", h.name, h.last, "p%d, token %d, by %v", h.by.number, h.token, h.last.sub(h.done))
		case h.done.sub(h.end)-slack(h.by, h.last, h.done) > prompt:
			j.violate("Done closed late", h.name, h.done, "p%d, token %d, by %v", h.by.number, h.token, h.done.sub(h.end))
		}
		// A value that was received from quit is not more than that: the end comes right after it.
		if r := h.release; r != nil && r.what != "push" && r.ret != 0 && h.last > r.ret {
			j.violate("held after its release", h.name, h.last, "p%d, token %d, by %v", h.by.number, h.token, h.last.sub(r.ret))
		}
	}
}

// causesAreTrue: the Report of a hold that is over says truly why, and its Unlock says the same ever after.
func (j *judgement) causesAreTrue() {
	answers := map[string]string{released: notHeld, lost: lost, closed: closed}
	for _, h := range j.c.history.holds {
		if h.end == 0 || h.inside() {
			continue
		}
		if wrong := wrongCause(h); wrong != "" {
			j.violate("wrong cause", h.name, h.end, "p%d, token %d, cause %q: %s", h.by.number, h.token, h.cause, wrong)
		}
		for _, op := range h.back {
			if op.what == again && op.ret != 0 && op.outcome != answers[h.cause] {
				j.violate("wrong answer of an Unlock again", h.name, op.ret, "p%d, token %d, cause %q: %s %s", h.by.number, h.token,
					h.cause, op.outcome, op.err)
			}
		}
	}
}

// wrongCause says what is wrong with the cause that the Report of a hold gives, "" if nothing is.
func wrongCause(h *hold) string {
	switch c := h.closed(); {
	case h.unasked && h.cause != lost:
		return "it ended before anybody gave it back"
	case h.cause == released:
		if !slices.ContainsFunc(h.back, func(o *operation) bool { return o.what != again && o.call <= h.end }) {
			return "nobody gave it back"
		}
	case h.cause == closed:
		if c == nil || c.call > h.end {
			return "nobody closed the client"
		}
	case h.cause == lost:
		if slices.ContainsFunc(h.back, func(o *operation) bool { return o.unlocks() && o.outcome == ok }) {
			return "its Unlock said nil"
		}
	default:
		return "none of those that there are"
	}
	return ""
}

// guardsHold: a transaction that depends on the guard of a hold passes if and only if the key is as that hold has put it.
func (j *judgement) guardsHold() {
	for _, op := range j.c.history.ops {
		if op.what != guarded || op.outcome != ok && op.outcome != denied {
			continue
		}
		var key event // as it was when etcd decided
		for _, e := range j.events[op.name] {
			if e.rev > op.token {
				break
			}
			key = e
		}
		owned := key.rev == op.under.token && key.value != ""
		switch {
		case op.outcome == ok && !owned:
			j.violate("guard of a former owner passed", op.name, op.ret, "p%d, token %d, at revision %d; the key was of revision %d",
				op.by.number, op.under.token, op.token, key.rev)
		case op.outcome == denied && owned:
			j.violate("guard of the owner refused", op.name, op.ret, "p%d, token %d, at revision %d", op.by.number, op.under.token, op.token)
		}
	}
}

// takenInOrder: of two locks that are taken together, all take the same one first, so that nobody waits for ever. The function
// begins when both are held.
func (j *judgement) takenInOrder() {
	for _, second := range j.c.history.holds {
		if second.what != bothThen {
			continue
		}
		switch first := j.other(second); {
		case first == nil && second.by.killed == 0:
			j.violate("one of two locks", second.name, second.ret, "p%d, token %d", second.by.number, second.token)
		case first != nil && first.token > second.token:
			j.violate("two locks out of order", second.name, second.ret, "p%d got token %d of %s before token %d", second.by.number,
				second.token, second.name, first.token)
		}
	}
}

// leadersLead: Lead goes on when a lock is lost, and after what may heal. It ends when its function has ended while it had the
// lock, though it may find only then that the lock was gone; with its ctx; and with the client.
func (j *judgement) leadersLead() {
	last := map[put]*hold{}
	for _, h := range j.c.history.holds {
		at := put{h.name, h.value}
		if l := last[at]; h.what == reigns && (l == nil || h.token > l.token) {
			last[at] = h
		}
	}
	for _, op := range j.c.history.ops {
		if op.what != leads || op.ret == 0 {
			continue
		}
		reign := last[put{op.name, op.value}]
		switch {
		case op.outcome == expired || op.outcome == closed:
		case reign == nil:
			j.violate("Lead ended", op.name, op.ret, "p%d never led: %s %s", op.by.number, op.outcome, op.err)
		case reign.unasked && op.ret >= reign.until: // its ctx has ended, too
		case op.outcome != ok && op.outcome != lost && op.outcome != failed || reign.unasked:
			j.violate("Lead ended", op.name, op.ret, "p%d, token %d, lost: %v: %s %s", op.by.number, reign.token, reign.lost, op.outcome, op.err)
		}
	}
}

// closedByClose: nobody is told that his client is closed before its Close.
func (j *judgement) closedByClose() {
	for _, op := range j.c.history.ops {
		if c := op.closed(); op.outcome == closed && (c == nil || c.call > op.ret) {
			j.violate("closed before Close", op.name, op.ret, "%s of p%d", op.what, op.by.number)
		}
	}
}

// watchesTellTheTruth: in order, nothing that was not, every time that the lock was free, and the end.
func (j *judgement) watchesTellTheTruth() {
	where := map[string]map[string][]int{} // of a value among the events of a name
	for name, events := range j.events {
		where[name] = map[string][]int{}
		for n, e := range events {
			where[name][e.value] = append(where[name][e.value], n)
		}
	}
	for _, op := range j.c.history.ops {
		if !op.watches() {
			continue
		}
		after := func(value string, n int) []int {
			all := where[op.name][value]
			i, _ := slices.BinarySearch(all, n+1)
			return all[i:]
		}
		at := []int{-1} // where it may be: a request that was sent twice may have put one value twice
		for i, value := range op.told {
			if i == 0 && value == "" {
				continue // it was free from the beginning, perhaps before the first event
			}
			candidates := after(value, at[0])
			if len(candidates) == 0 {
				j.violate("watch out of order", op.name, op.ret, "p%d was told %q after event %d", op.by.number, value, at[0])
				break
			}
			var next []int
			for _, n := range candidates {
				if slices.ContainsFunc(at, func(p int) bool {
					free := after("", p)
					return p < n && (i == 0 || op.told[i-1] == "" || len(free) == 0 || free[0] >= n)
				}) {
					next = append(next, n)
				}
				if value == "" && len(next) > 0 {
					break // the first is as good as any
				}
			}
			if len(next) == 0 {
				j.violate("watch hid that it was free", op.name, op.ret, "p%d was told %q after event %d, and nothing in between", op.by.number, value, at[0])
				next = candidates[:1]
			}
			at = next
		}
		if op.what == "watch to the end" && op.outcome == ok && (len(op.told) == 0 || op.told[len(op.told)-1] != "") {
			j.violate("watch left behind", op.name, op.ret, "p%d was not told of the end; last told: %q", op.by.number, op.told[max(0, len(op.told)-1):])
		}
	}
}

// silentWatchesMove: a stream of watches that has gone silent is left for another one, whatever else is wrong.
func (j *judgement) silentWatchesMove() {
	for _, by := range j.c.incarnations {
		for _, s := range by.hushed {
			if late := s.to.sub(s.from) - slack(by, s.from, s.to); late > moved {
				j.violate("silent watches not moved", "", s.to, "p%d kept their stream for %v", by.number, s.to.sub(s.from))
			}
		}
	}
}

// nothingLeft: no key, no lease, no process that does not end, no goroutine.
func (j *judgement) nothingLeft() {
	for _, left := range j.c.leftover {
		name := ""
		for _, n := range j.names {
			if strings.Contains(left, n+" ") || strings.Contains(left, n+waiting) {
				name = n
			}
		}
		j.violate("left behind", name, 0, "%s", left)
	}
	for _, p := range j.c.hung {
		var under []string
		for _, op := range p.ops {
			if op.ret == 0 {
				under = append(under, op.what+" "+op.name)
			}
		}
		j.violate("call never returned", "", 0, "p%d: %v", p.number, under)
	}
	for _, by := range j.c.incarnations {
		if !by.bye && by.killed == 0 {
			j.violate("client died", "", 0, "p%d", by.number)
		}
		if n := len(by.vitals); n > 0 && by.vitals[n-1].Leaked > 0 {
			j.violate("goroutines left", "", 0, "p%d: %d", by.number, by.vitals[n-1].Leaked)
		}
		if n := len(by.vitals); n > 0 && by.vitals[n-1].LeakedFiles > 0 {
			j.violate("files left open", "", 0, "p%d: %d", by.number, by.vitals[n-1].LeakedFiles)
		}
	}
}

// draw leaves a picture of every name about which a rule was broken.
func (j *judgement) draw(dir string) error {
	if len(j.violations) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	drawn := map[string]bool{"": true}
	for _, v := range j.violations {
		if drawn[v.name] {
			continue
		}
		drawn[v.name] = true
		path := filepath.Join(dir, fmt.Sprintf("%s-%d-%s", j.c.subject, j.c.seed, filepath.Base(v.name)))
		if err := errors.Join(j.picture(v.name, path+".html"), j.write(v.name, path+".txt")); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Println("picture:", path+".html, and what was told:", path+".txt")
	}
	return errors.Join(errs...)
}

// write tells all that is known of a name, in the order of time: what its clients did, when they last believed in their
// holds, and what etcd told.
func (j *judgement) write(name, path string) error {
	type line struct {
		at   instant
		text string
	}
	var lines []line
	add := func(at instant, format string, args ...any) {
		lines = append(lines, line{at, fmt.Sprintf("%.6f ", time.Duration(at).Seconds()) + fmt.Sprintf(format, args...)})
	}
	for _, op := range j.byName[name] {
		add(op.call, "p%d %s, until %.6f: %s, value %q, token %d, %s", op.by.number, op.what, time.Duration(op.ret).Seconds(),
			op.outcome, op.value, op.token, op.err)
	}
	for _, h := range j.holds[name] {
		add(h.last, "p%d last believed in token %d; not from %.6f on, done %.6f, lost: %v", h.by.number, h.token,
			time.Duration(h.end).Seconds(), time.Duration(h.done).Seconds(), h.lost)
	}
	for _, e := range j.events[name] {
		add(e.seen, "etcd: revision %d, value %q, lease %x", e.rev, e.value, e.lease)
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	var text strings.Builder
	for _, l := range lines {
		text.WriteString(l.text + "\n")
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}
