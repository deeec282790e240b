package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// step is what happens to a lock in the model.
type step struct {
	kind  string
	token int64
	value string // acquire: that is put; read: that is found, "" for no lock
}

const (
	acquire = "acquire"
	finish  = "finish" // the hold with this token ends: released, lost, taken away
	refuse  = "refuse" // somebody is told that somebody has the lock
	reading = "read"
)

// state is a lock: free, or held with a token; no token comes twice, nor after a higher one.
type state struct {
	held  bool
	token int64
	value string
}

var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, _ any) (bool, any) {
		now, step := s.(state), in.(step)
		switch step.kind {
		case acquire:
			return !now.held && step.token > now.token, state{true, step.token, step.value}
		case finish:
			return now.held && step.token == now.token, state{token: now.token}
		case refuse:
			return now.held, now
		default:
			return now.value == step.value, now
		}
	},
	DescribeOperation: func(in, _ any) string {
		s := in.(step)
		return strings.TrimSpace(fmt.Sprintf("%s %d %s", s.kind, s.token, s.value))
	},
	DescribeState: func(s any) string {
		if now := s.(state); now.held {
			return fmt.Sprintf("held: %d", now.token)
		}
		return "free"
	},
}

// story is the history of one name, for porcupine: what clients were told, and the changes of the key that etcd itself
// told of, for the holds that no client knows of (its request was given up, or its process killed) and for the ends of
// those that nobody gave back.
func (j *judgement) story(name string) (ops []porcupine.Operation) {
	add := func(client int, s step, from, to instant) {
		ops = append(ops, porcupine.Operation{ClientId: client, Input: s, Call: int64(from), Return: int64(max(from, to))})
	}
	var current *tenure
	for _, t := range j.tenures[name] {
		if current != nil {
			add(current.client(), step{kind: finish, token: current.token}, current.endFrom, current.endTo)
		}
		add(t.client(), step{acquire, t.token, t.value}, t.from, t.to)
		current = t
	}
	if current != nil && current.endTo != endless {
		add(current.client(), step{kind: finish, token: current.token}, current.endFrom, current.endTo)
	}
	ops = inOrder(ops)
	for _, op := range j.byName[name] {
		switch {
		case j.c.subject != ours || op.ret == 0: // what mutexes that gave up leave behind, nobody knows
		case op.reads() && op.outcome == ok:
			add(op.by.number, step{kind: reading, value: op.value}, op.call, op.ret)
		case op.outcome == denied && op.what != guarded && !j.busy(op):
			add(op.by.number, step{kind: refuse}, op.call, op.ret)
		}
	}
	return ops
}

// inOrder narrows the times of the changes of a lock, which come in the order of their tokens: none happened before the
// one that it follows, nor after the one that follows it. Else a waiter of a long line might have been the next at any
// time, and to rule that out takes a search without end. Where no times are left, something is wrong, and they stay.
func inOrder(changes []porcupine.Operation) []porcupine.Operation {
	narrow := slices.Clone(changes)
	for i := 1; i < len(narrow); i++ {
		narrow[i].Call = max(narrow[i].Call, narrow[i-1].Call)
	}
	for i := len(narrow) - 2; i >= 0; i-- {
		narrow[i].Return = min(narrow[i].Return, narrow[i+1].Return)
	}
	if slices.ContainsFunc(narrow, func(op porcupine.Operation) bool { return op.Return < op.Call }) {
		return changes
	}
	return narrow
}

// busy says whether a Lock may have been refused because another goroutine of its process was about to take that lock,
// or to give it back: it cannot know yet what will come of that. Or another has it, and does not know yet that somebody
// has taken it away.
func (j *judgement) busy(op *operation) bool {
	if op.reads() || op.what == runs { // which is a client of its own
		return false
	}
	if slices.ContainsFunc(j.holds[op.name], func(h *hold) bool {
		return h.by == op.by && h.what != runs && h.call <= op.ret && (h.end == 0 || h.end >= op.call)
	}) {
		return true
	}
	return slices.ContainsFunc(j.byName[op.name], func(o *operation) bool {
		end := o.ret
		if o.what == "push" || o.what == "quit" {
			end = end.add(timeout) // what was received from quit is carried out in the background
		}
		return o != op && o.by == op.by && o.what != runs && (o.wants() || o.releases()) && o.call <= op.ret && (o.ret == 0 || end >= op.call)
	})
}

// tenure is a hold of a name in etcd: between which moments it began, and between which it ended.
type tenure struct {
	token          int64
	value          string
	lease          int64
	known          *hold // nil: no client knows of it
	by             *operation
	from, to       instant
	endFrom, endTo instant
}

func (t *tenure) client() int {
	if t.by == nil {
		return 0
	}
	return t.by.by.number
}

// tell makes the tenures of a name, from what etcd told and from what its clients did.
func (j *judgement) tell(name string) {
	holds := j.holds[name]
	var all []*tenure
	if j.c.subject != ours {
		for _, h := range holds {
			all = append(all, &tenure{token: h.token, value: h.value, known: h, by: h.operation, from: h.call, to: h.ret, endTo: endless})
		}
		for i, t := range all[:max(0, len(all)-1)] {
			t.endTo = all[i+1].to
		}
	} else {
		byToken := map[int64]*hold{}
		for _, h := range holds {
			byToken[h.token] = h
		}
		var current *tenure
		for _, e := range j.events[name] {
			if current != nil {
				current.endTo = e.seen
				current = nil
			}
			if e.value == "" {
				continue
			}
			current = &tenure{token: e.rev, value: e.value, lease: e.lease, known: byToken[e.rev], by: j.byValue[put{name, e.value}], to: e.seen, endTo: endless}
			if h := current.known; h != nil {
				current.by = h.operation
				current.to = min(e.seen, h.ret)
			}
			if current.by != nil {
				current.from = current.by.call
			}
			all = append(all, current)
		}
	}
	for _, t := range all {
		j.ending(t)
	}
	j.tenures[name] = all
}

// ending finds out from when on a tenure may have been over.
func (j *judgement) ending(t *tenure) {
	t.endFrom = t.from
	h := t.known
	if h == nil {
		return
	}
	if r := h.release; r != nil && r.outcome == ok && (r.unlocks() || r.what == "done" || r.what == closes) {
		t.endTo = min(t.endTo, r.ret)
	}
	switch cause := j.interference(t); {
	case cause != nil:
		t.endFrom = max(t.from, cause.from)
	case h.release != nil && h.inside() && slack(h.by, h.last, h.release.call) > 0:
		// Its process was stopped, and its client closed before the function could be told: see grip.exact.
		t.endFrom = max(t.from, h.last)
	case h.release != nil && !h.lost:
		t.endFrom = max(t.from, h.release.call) // a Close may have begun before
	case h.lost:
		t.endFrom = max(t.from, h.last) // its process may have been stopped before it could look even once
	case h.what == runs:
		// Its client process was killed: the job may have ended by itself before that, and nobody could tell.
		t.endFrom = max(t.from, h.ret)
	case h.by.killed != 0:
		t.endFrom = h.by.killed
		if c := h.closed(); c != nil { // and had no time to tell what came of it
			t.endFrom = max(t.from, c.call)
		}
	}
}

// check asks porcupine about a name.
func (j *judgement) check(name string) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(model, j.story(name), checkTimeout)
}

// picture is how porcupine shows the history of a name, with the faults above it.
func (j *judgement) picture(name, path string) error {
	story := j.story(name)
	_, info := porcupine.CheckOperationsVerbose(model, story, checkTimeout)
	var first, last int64 = math.MaxInt64, 0
	for _, op := range story {
		first, last = min(first, op.Call), max(last, op.Return)
	}
	var notes []porcupine.Annotation
	for _, f := range j.c.faults.all {
		if !f.missed && int64(f.from) < last && int64(f.to) > first {
			notes = append(notes, porcupine.Annotation{Tag: f.lane, Description: f.kind + " " + f.target,
				Start: max(first, int64(f.from)), End: min(last, int64(f.to)), BackgroundColor: "#ffd9b3"})
		}
	}
	for _, v := range j.violations {
		if v.name == name && v.at != 0 {
			notes = append(notes, porcupine.Annotation{Tag: "violations", Description: v.rule, Details: v.what,
				Start: int64(v.at), End: int64(v.at), BackgroundColor: "#ff9999"})
		}
	}
	info.AddAnnotations(notes)
	return porcupine.VisualizePath(model, info, path)
}

func byToken(a, b *hold) int { return cmp.Compare(a.token, b.token) }
