package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scene is a made-up campaign, with times in milliseconds.
type scene struct {
	*campaign
	ops int
}

func newScene() *scene {
	c := newCampaign(ours, 1, time.Minute, 0)
	c.observer = &observer{events: map[string]map[int64]event{}}
	for ms := 0; ms < 60_000; ms += 100 {
		c.observer.up = append(c.observer.up, at(ms))
	}
	return &scene{campaign: c}
}

func at(ms int) instant { return instant(ms) * instant(time.Millisecond) }

func (s *scene) client() *incarnation {
	by := &incarnation{slot: len(s.incarnations), number: len(s.incarnations), bye: true, ops: map[int]*operation{}}
	s.incarnations = append(s.incarnations, by)
	return by
}

// did is an operation from its call to its return; 0 for the latter: none.
func (s *scene) did(by *incarnation, what string, from, to int, r record) int {
	s.ops++
	call, ret := r, r
	call.Kind, call.At, call.Op, call.What, call.Name = called, at(from), s.ops, what, "n"
	s.history.add(by, call)
	if to > 0 {
		ret.Kind, ret.At, ret.Op, ret.Name = returned, at(to), s.ops, "n"
		s.history.add(by, ret)
	}
	return s.ops
}

// on is did, with another lock.
func (s *scene) on(name string, by *incarnation, what string, from, to int, r record) int {
	op := s.did(by, what, from, to, r)
	by.ops[op].name = name
	return op
}

// tookBoth are two locks that were taken together, and given back.
func (s *scene) tookBoth(by *incarnation, from int, first, second int64) {
	if s.observer.events["o"] == nil {
		s.observer.events["o"] = map[int64]event{}
	}
	r := record{Value: fmt.Sprint("both", first), Outcome: ok, Token: first, Until: at(from + 5000)}
	a := s.did(by, both, from, from+20, r)
	r.Token, r.Of = second, a
	b := s.on("o", by, bothThen, from, from+20, r)
	s.etcd(from+5, first, r.Value)
	s.observer.events["o"][second] = event{second, r.Value, 7, at(from + 10)}
	s.etcd(from+95, second+10, "")
	s.observer.events["o"][second+11] = event{second + 11, "", 7, at(from + 95)}
	s.did(by, "done", from+90, from+100, record{Of: a, Outcome: ok})
	s.on("o", by, "done", from+90, from+100, record{Of: b, Outcome: ok})
	for _, op := range []int{a, b} {
		s.history.add(by, record{Kind: ended, Op: op, From: at(from + 90), At: at(from + 95)})
	}
}

// reigned is a reign of a Lead, to its end.
func (s *scene) reigned(by *incarnation, from, to int, token int64, isLost bool, until int) {
	s.etcd(from+5, token, "leader")
	op := s.did(by, reigns, from, from+10, record{Value: "leader", Outcome: ok, Token: token, Until: at(until)})
	s.etcd(to-5, token+1, "")
	outcome := ok
	if isLost {
		s.fault(keyDeleted, to-6, to-4).token = token
		outcome = lost
	}
	s.did(by, "done", to-10, to, record{Of: op, Outcome: outcome, Until: at(60_000)})
	s.history.add(by, record{Kind: ended, Op: op, From: at(to - 10), At: at(to - 9), Lost: isLost})
}

// etcd has a put of the key, or its deletion, with the value "".
func (s *scene) etcd(ms int, rev int64, value string) {
	if s.observer.events["n"] == nil {
		s.observer.events["n"] = map[int64]event{}
	}
	s.observer.events["n"][rev] = event{rev, value, 7, at(ms)}
}

// took is a lock that was taken, in the middle of its operation.
func (s *scene) took(by *incarnation, from, to int, token int64) int {
	return s.tookVia(by, 0, from, to, token)
}

// tookVia is one that a certain client of the process took.
func (s *scene) tookVia(by *incarnation, user, from, to int, token int64) int {
	value := fmt.Sprint("v", token)
	s.etcd((from+to)/2, token, value)
	return s.did(by, "lock", from, to, record{Value: value, Outcome: ok, Token: token, Via: user})
}

// over is the end of a hold: its holder last believed in it at that time.
func (s *scene) over(by *incarnation, op, last int, isLost bool) {
	cause := released
	switch {
	case isLost:
		cause = lost
	case s.history.holds[by.ops[op]].closed() != nil:
		cause = closed
	}
	s.history.add(by, record{Kind: ended, Op: op, From: at(last), At: at(last + 5), Done: at(last + 3), Lost: isLost, Cause: cause})
}

// gave is a lock that was taken, and given back.
func (s *scene) gave(by *incarnation, from, to int, token int64) {
	op := s.took(by, from, from+10, token)
	s.etcd(to-5, token+1, "")
	s.did(by, "unlock", to-10, to, record{Of: op, Outcome: ok})
	s.over(by, op, to-10, false)
}

// ran is a run whose job has begun.
func (s *scene) ran(by *incarnation, from int, token int64, grace int) int {
	value := fmt.Sprint("v", token)
	s.etcd(from+5, token, value)
	return s.did(by, runs, from, from+10, record{Value: value, Outcome: ok, Token: token, Until: at(from + 20_000), From: at(from + 7500),
		Grace: time.Duration(at(grace))})
}

// jobOver is the end of a job, which was killed or has ended by itself, and the answer of `locker run`.
func (s *scene) jobOver(by *incarnation, op, last, exit int, killed bool, answer record) {
	answer.Of, answer.Until = op, at(last+10_500)
	s.did(by, "done", last, exit, answer)
	s.history.add(by, record{Kind: ended, Op: op, From: at(last), At: at(last), Lost: killed})
}

func (s *scene) fault(kind string, from, to int) *fault {
	f := &fault{lane: "test", kind: kind, span: span{at(from), at(to)}, slot: -1, name: "n"}
	s.faults.all = append(s.faults.all, f)
	return f
}

// Every rule is broken by some history, and by no other than is named: what the campaign reports, it has found.
func TestRules(t *testing.T) {
	for _, test := range []struct {
		name  string
		act   func(s *scene)
		rules []string
	}{
		{"all is well", func(s *scene) {
			a, b := s.client(), s.client()
			s.gave(a, 100, 200, 10)
			s.did(b, "lock", 120, 130, record{Value: "w", Outcome: denied})
			s.did(b, "get", 125, 135, record{Value: "v10", Outcome: ok})
			s.did(b, "get", 210, 220, record{Outcome: ok})
			s.gave(b, 230, 300, 20)
		}, nil},
		{"lost in time", func(s *scene) {
			a, b := s.client(), s.client()
			s.over(a, s.took(a, 100, 110, 10), 3000, true)
			s.fault(quorumLost, 1000, 3000)
			s.etcd(3300, 11, "")
			s.gave(b, 3290, 3400, 12)
		}, nil},
		{"lost by a process that was stopped before it could look", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 6000, 10)
			f := s.fault(frozenClient, 150, 5990)
			f.lane, f.slot = clients.name, a.slot
			s.history.add(a, record{Kind: stalled, From: at(150), At: at(5990)})
			delete(s.observer.events["n"], 10)
			s.etcd(120, 10, "v10")
			s.etcd(3500, 11, "")
			s.history.add(a, record{Kind: ended, Op: op, At: at(6001), Done: at(6001), Lost: true, Cause: lost})
		}, nil},
		{"two owners", func(s *scene) {
			a, b := s.client(), s.client()
			s.over(a, s.took(a, 100, 110, 10), 3500, true)
			s.fault(quorumLost, 1000, 3000)
			s.etcd(3300, 11, "")
			s.gave(b, 3290, 3400, 12)
		}, []string{"key gone without a cause", "not linearizable", "two owners"}},
		{"two owners after an outsider's deletion", func(s *scene) {
			a, b := s.client(), s.client()
			s.over(a, s.took(a, 100, 110, 10), 3500, true)
			s.fault(keyDeleted, 3290, 3310).token = 10
			s.etcd(3300, 11, "")
			s.gave(b, 3290, 3400, 12)
		}, nil},
		{"another key was deleted", func(s *scene) {
			a, b := s.client(), s.client()
			s.over(a, s.took(a, 100, 110, 10), 3500, true)
			s.fault(keyDeleted, 3290, 3310).token = 9
			s.etcd(3300, 11, "")
			s.gave(b, 3290, 3400, 12)
		}, []string{"key gone without a cause", "lost without a reason", "not linearizable", "two owners"}},
		{"two owners after a paused leader", func(s *scene) {
			a, b := s.client(), s.client()
			s.over(a, s.took(a, 100, 110, 10), 3500, true)
			s.fault(pausedLeader, 300, 3310).resumed = at(3250)
			s.etcd(3300, 11, "")
			s.gave(b, 3290, 3400, 12)
		}, nil},
		{"told too late", func(s *scene) {
			a, b := s.client(), s.client()
			s.over(a, s.took(a, 100, 110, 10), 3110, true)
			s.fault(quorumLost, 1000, 3000)
			s.etcd(3292, 11, "")
			s.gave(b, 3290, 3400, 12)
		}, []string{"told too late"}},
		{"lost without a reason", func(s *scene) {
			a := s.client()
			s.over(a, s.took(a, 100, 110, 10), 3000, true)
			s.etcd(3300, 11, "")
		}, []string{"lost without a reason"}},
		{"a lower token later", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 20)
			s.gave(a, 300, 400, 10)
		}, []string{"not linearizable", "tokens grow", "two owners"}},
		{"success out of nothing", func(s *scene) {
			a := s.client()
			op := s.did(a, "lock", 100, 110, record{Value: "v", Outcome: ok, Token: 10})
			s.did(a, "unlock", 120, 130, record{Of: op, Outcome: ok})
			s.over(a, op, 120, false)
		}, []string{"success without a key"}},
		{"somebody else's key", func(s *scene) {
			s.gave(s.client(), 100, 200, 10)
			s.etcd(300, 20, "x")
			s.etcd(301, 21, "")
		}, []string{"a value that nobody put"}},
		{"deleted while held", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.etcd(200, 11, "")
			s.did(a, "unlock", 300, 310, record{Of: op, Outcome: ok})
			s.over(a, op, 300, false)
		}, []string{"key gone without a cause"}},
		{"refused, though free", func(s *scene) {
			a, b := s.client(), s.client()
			s.gave(a, 100, 200, 10)
			s.did(b, "lock", 210, 220, record{Value: "w", Outcome: denied})
		}, []string{"not linearizable"}},
		{"refused while another goroutine gives it back", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, "unlock", 190, 300, record{Of: op, Outcome: ok})
			s.did(a, "lock", 210, 220, record{Value: "w", Outcome: denied})
			s.over(a, op, 190, false)
		}, nil},
		{"refused by a request that was given up", func(s *scene) {
			a, b := s.client(), s.client()
			s.fault(quorumLost, 0, 100)
			s.did(a, "lock", 100, 200, record{Value: "v", Outcome: failed})
			s.etcd(250, 10, "v")
			s.did(b, "lock", 260, 270, record{Value: "w", Outcome: denied})
			s.etcd(300, 11, "")
		}, nil},
		{"refused for a lock that was taken away", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.fault(keyDeleted, 199, 201).token = 10
			s.etcd(200, 11, "")
			s.did(a, "lock", 500, 501, record{Value: "v", Outcome: denied})
			s.over(a, op, 900, true)
		}, nil},
		{"read what was not", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			s.did(a, "get", 210, 220, record{Value: "v10", Outcome: ok})
		}, []string{"not linearizable"}},
		{"a call that takes too long", func(s *scene) {
			s.did(s.client(), "lock", 100, 5650, record{Value: "v", Outcome: denied})
			s.gave(s.client(), 100, 6000, 10)
		}, []string{"call ended late"}},
		{"its process was stopped", func(s *scene) {
			a := s.client()
			s.did(a, "lock", 100, 6000, record{Value: "v", Outcome: denied})
			s.history.add(a, record{Kind: stalled, From: at(3000), At: at(6000)})
			s.gave(s.client(), 100, 6000, 10)
		}, nil},
		{"a wait that does not end with its ctx", func(s *scene) {
			s.did(s.client(), "wait", 100, 1125, record{Value: "v", Outcome: expired, Until: at(1000)})
		}, []string{"call ended late"}},
		{"a wait that was stopped before it began", func(s *scene) {
			s.did(s.client(), "wait", 1500, 1550, record{Value: "v", Outcome: expired, Until: at(1000)})
		}, nil},
		{"a wait for what is free", func(s *scene) {
			s.did(s.client(), "wait", 100, 5000, record{Value: "v", Outcome: expired, Until: at(5000)})
		}, []string{"stranded waiter"}},
		{"an error for no reason", func(s *scene) {
			s.did(s.client(), "wait", 100, 150, record{Value: "v", Outcome: failed, Error: "no", Until: at(1000)})
		}, []string{"error without a reason"}},
		{"an error because of a compaction", func(s *scene) {
			s.fault(quorumLost, 0, 100)
			s.did(s.client(), "wait", 100, 150, record{Value: "v", Outcome: failed, Error: "compacted", Until: at(1000)})
		}, []string{"error without a reason"}},
		{"Done that does not close", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, "unlock", 190, 200, record{Of: op, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op, From: at(190), At: at(195), Cause: released})
		}, []string{"Done did not close"}},
		{"Done too early", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, "unlock", 190, 200, record{Of: op, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op, From: at(190), At: at(195), Done: at(180), Cause: released})
		}, []string{"held after Done"}},
		{"held after Unlock", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, "unlock", 190, 200, record{Of: op, Outcome: ok})
			s.over(a, op, 210, false)
		}, []string{"held after its release"}},
		{"given back right before an outsider revoked the lease", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.did(a, "unlock", 190, 200, record{Of: op, Outcome: ok})
			s.over(a, op, 190, false)
			f := s.fault(leaseRevoked, 201, 210)
			f.lease = 7
			s.etcd(205, 11, "") // seen late
		}, nil},
		{"given back by Close", func(s *scene) {
			a, b := s.client(), s.client()
			u := s.did(a, "new", 10, 20, record{Outcome: ok})
			op := s.tookVia(a, u, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, closes, 190, 200, record{Of: u, Outcome: ok})
			s.did(a, "lock", 180, 195, record{Value: "w", Outcome: closed, Via: u})
			s.over(a, op, 190, false)
			s.did(a, "done", 199, 205, record{Of: op, Outcome: notHeld}) // of a Do, which has seen it a little later
			s.gave(b, 210, 300, 20)
		}, nil},
		{"held after Close", func(s *scene) {
			a := s.client()
			u := s.did(a, "new", 10, 20, record{Outcome: ok})
			op := s.tookVia(a, u, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, closes, 190, 200, record{Of: u, Outcome: ok})
			s.over(a, op, 210, false)
		}, []string{"held after its release"}},
		{"lost before Close", func(s *scene) {
			a := s.client()
			u := s.did(a, "new", 10, 20, record{Outcome: ok})
			op := s.tookVia(a, u, 100, 110, 10)
			s.did(a, closes, 3000, 3300, record{Of: u, Outcome: ok})
			s.over(a, op, 3000, true)
			s.etcd(3300, 11, "")
		}, []string{"lost without a reason"}},
		{"lost by a process that was stopped, and closed after that", func(s *scene) {
			a, b := s.client(), s.client()
			u := s.did(a, "new", 10, 20, record{Outcome: ok})
			op := s.tookVia(a, u, 100, 110, 10)
			f := s.fault(frozenClient, 500, 6000)
			f.lane, f.slot = clients.name, a.slot
			s.history.add(a, record{Kind: stalled, From: at(500), At: at(6000)})
			s.etcd(3500, 11, "")
			s.gave(b, 3600, 3700, 20)
			s.did(a, closes, 6001, 6010, record{Of: u, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op, From: at(499), At: at(6002), Done: at(6002), Lost: true, Cause: lost})
		}, nil},
		{"a function of a process that was stopped, and closed before it could be told", func(s *scene) {
			a := s.client()
			u := s.did(a, "new", 10, 20, record{Outcome: ok})
			op := s.did(a, "do", 100, 110, record{Value: "v10", Outcome: ok, Token: 10, Via: u, Until: at(9000)})
			s.etcd(105, 10, "v10")
			s.history.add(a, record{Kind: stalled, From: at(500), At: at(6000)})
			s.etcd(3500, 11, "")
			s.did(a, closes, 6001, 6010, record{Of: u, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op, From: at(499), At: at(6002)})
			s.did(a, "done", 6003, 6004, record{Of: op, Outcome: closed, Via: u})
		}, nil},
		{"a function that was told late", func(s *scene) {
			a := s.client()
			op := s.did(a, "do", 100, 110, record{Value: "v10", Outcome: ok, Token: 10, Until: at(9000)})
			s.etcd(105, 10, "v10")
			s.etcd(3500, 11, "")
			s.did(a, "done", 6003, 6004, record{Of: op, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op, From: at(6002), At: at(6003)})
		}, []string{"key gone without a cause"}},
		{"killed in the middle of Close", func(s *scene) {
			a, b := s.client(), s.client()
			u := s.did(a, "new", 10, 20, record{Outcome: ok})
			s.tookVia(a, u, 100, 110, 10)
			s.did(a, closes, 190, 0, record{Of: u})
			a.killed = at(200)
			s.etcd(195, 11, "")
			s.gave(b, 210, 300, 20)
		}, nil},
		{"closed before Close", func(s *scene) {
			a := s.client()
			u := s.did(a, "new", 10, 20, record{Outcome: ok})
			s.did(a, "lock", 180, 185, record{Value: "w", Outcome: closed, Via: u})
			s.did(a, closes, 190, 200, record{Of: u, Outcome: ok})
		}, []string{"closed before Close"}},
		{"a watch that goes back", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			s.gave(a, 300, 400, 20)
			op := s.did(a, "watch", 50, 500, record{From: at(500), Outcome: ok})
			for _, v := range []string{"", "v20", "", "v10"} {
				s.history.add(a, record{Kind: told, Op: op, Value: v})
			}
		}, []string{"watch out of order"}},
		{"a watch that leaves out values", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			s.gave(a, 300, 400, 20)
			s.gave(a, 500, 600, 30)
			op := s.did(a, "watch", 50, 700, record{From: at(700), Outcome: ok})
			for _, v := range []string{"v10", "", "v30"} {
				s.history.add(a, record{Kind: told, Op: op, Value: v})
			}
		}, nil},
		{"a watch that leaves out that it was free", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			s.gave(a, 300, 400, 20)
			op := s.did(a, "watch", 50, 500, record{From: at(500), Outcome: ok})
			for _, v := range []string{"v10", "v20"} {
				s.history.add(a, record{Kind: told, Op: op, Value: v})
			}
		}, []string{"watch hid that it was free"}},
		{"a watch that may mean the second of two", func(s *scene) {
			a, b := s.client(), s.client()
			s.fault(quorumLost, 0, 100)
			s.did(a, "lock", 50, 310, record{Value: "v", Outcome: failed}) // sent twice
			s.etcd(100, 10, "v")
			s.etcd(150, 11, "")
			s.etcd(300, 12, "v")
			s.etcd(350, 13, "w")
			s.did(b, "wait", 300, 360, record{Value: "w", Outcome: ok, Token: 13, Until: at(5000)})
			s.etcd(390, 14, "")
			s.did(b, "unlock", 380, 400, record{Of: 2, Outcome: ok})
			s.over(b, 2, 380, false)
			op := s.did(a, "watch", 200, 500, record{From: at(500), Outcome: ok})
			for _, v := range []string{"", "v", "w", ""} {
				s.history.add(a, record{Kind: told, Op: op, Value: v})
			}
		}, nil},
		{"a watch that misses the end", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			op := s.did(a, "watch to the end", 50, 500, record{From: at(500), Outcome: ok})
			s.history.add(a, record{Kind: told, Op: op, Value: "v10"})
		}, []string{"watch left behind"}},
		{"a write that overtakes", func(s *scene) {
			a, b := s.client(), s.client()
			first := s.took(a, 100, 110, 10)
			second := s.took(b, 300, 310, 20)
			s.etcd(200, 11, "")
			s.etcd(395, 21, "")
			for _, w := range []struct {
				by    *incarnation
				op    int
				token int64
			}{{b, second, 20}, {a, first, 10}} {
				s.history.add(w.by, record{Kind: wrote, Op: w.op, Name: "n", Token: w.token, At: now()})
			}
			s.did(a, "unlock", 190, 210, record{Of: first, Outcome: ok})
			s.did(b, "unlock", 390, 400, record{Of: second, Outcome: ok})
			s.over(a, first, 190, false)
			s.over(b, second, 390, false)
		}, []string{"write of an owner refused"}},
		{"a lease lost to passwords, and two", func(s *scene) {
			s.user = operator
			f := s.fault("member frozen", 1000, 6000)
			f.lane = members.name
			for i, by := range []*incarnation{s.client(), s.client()} {
				s.over(by, s.took(by, 100+4000*i, 110+4000*i, int64(10+10*i)), 3000+2500*i, true)
				s.etcd(3300+2500*i, int64(11+10*i), "")
			}
			s.observer.events["n"][20] = event{20, "v20", 8, at(4105)}
		}, []string{"lost without a reason"}},
		{"errors because tokens expired", func(s *scene) {
			s.fault(tokenExpired, 100, 100)
			s.fault(authSwitched, 100, 200)
			s.did(s.client(), "wait", 100, 150, record{Value: "v", Outcome: failed, Error: "no", Until: at(1000)})
		}, []string{"error without a reason"}},
		{"what a Report says", func(s *scene) {
			a := s.client()
			for i, what := range []string{"unlock hold", "push"} {
				from, token := 100+1000*i, int64(10+10*i)
				op := s.took(a, from, from+10, token)
				s.etcd(from+95, token+1, "")
				s.did(a, what, from+90, from+100, record{Of: op, Outcome: ok})
				s.over(a, op, from+90, false)
				s.did(a, again, from+110, from+111, record{Of: op, Outcome: notHeld, Until: at(from + 110)})
			}
			op := s.took(a, 3000, 3010, 30)
			s.fault(keyDeleted, 3099, 3101).token = 30
			s.etcd(3100, 31, "")
			s.over(a, op, 3101, true)
			s.did(a, "unlock hold", 3200, 3201, record{Of: op, Outcome: lost})
			s.did(a, again, 3210, 3211, record{Of: op, Outcome: lost, Until: at(3210)})
		}, nil},
		{"given back by the Unlock of another hold", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			op := s.took(a, 300, 310, 20)
			s.did(a, again, 390, 410, record{Of: 1, Outcome: ok, Until: at(390)})
			s.etcd(400, 21, "")
			s.history.add(a, record{Kind: ended, Op: op, From: at(390), At: at(395), Done: at(393), Lost: true, Cause: released})
			s.did(a, "unlock hold", 450, 451, record{Of: op, Outcome: notHeld})
		}, []string{"lost without a reason", "wrong answer of an Unlock again", "wrong cause"}},
		{"released, and nobody gave it back", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.fault(keyDeleted, 199, 201).token = 10
			s.etcd(200, 11, "")
			s.history.add(a, record{Kind: ended, Op: op, From: at(200), At: at(205), Done: at(203), Cause: released})
		}, []string{"wrong cause"}},
		{"lost, and given back all the same", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.fault(leaseRevoked, 194, 196).lease = 7
			s.etcd(195, 11, "")
			s.did(a, "unlock hold", 190, 200, record{Of: op, Outcome: ok})
			s.over(a, op, 190, true)
		}, []string{"wrong cause"}},
		{"closed, without a Close", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, "unlock hold", 190, 200, record{Of: op, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op, From: at(190), At: at(195), Done: at(193), Cause: closed})
		}, []string{"wrong cause"}},
		{"over without a cause", func(s *scene) {
			a := s.client()
			op := s.took(a, 100, 110, 10)
			s.etcd(195, 11, "")
			s.did(a, "unlock hold", 190, 200, record{Of: op, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op, From: at(190), At: at(195), Done: at(193), Cause: ok})
		}, []string{"wrong cause"}},
		{"an Unlock again that asks etcd", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			s.did(a, again, 300, 450, record{Of: 1, Outcome: notHeld, Until: at(300)})
		}, []string{"call ended late"}},
		{"guarded writes", func(s *scene) {
			a, b := s.client(), s.client()
			s.gave(a, 100, 200, 10)
			s.gave(b, 300, 400, 20)
			s.did(a, guarded, 150, 160, record{Of: 1, Outcome: ok, Token: 10})
			s.did(a, guarded, 210, 220, record{Of: 1, Outcome: denied, Token: 11})
			s.did(a, guarded, 310, 320, record{Of: 1, Outcome: denied, Token: 25})
			s.did(a, guarded, 310, 320, record{Of: 1, Outcome: failed, Error: "no"})
		}, nil},
		{"a guarded write of a former owner", func(s *scene) {
			a, b := s.client(), s.client()
			s.gave(a, 100, 200, 10)
			s.gave(b, 300, 400, 20)
			s.did(a, guarded, 310, 320, record{Of: 1, Outcome: ok, Token: 20})
		}, []string{"guard of a former owner passed"}},
		{"a guarded write of the owner, refused", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			s.did(a, guarded, 150, 160, record{Of: 1, Outcome: denied, Token: 10})
		}, []string{"guard of the owner refused"}},
		{"two locks taken together", func(s *scene) {
			s.tookBoth(s.client(), 100, 10, 11)
			s.tookBoth(s.client(), 300, 30, 31)
		}, nil},
		{"the second of two locks is taken away", func(s *scene) {
			a, b := s.client(), s.client()
			s.tookBoth(a, 100, 10, 12)
			for _, h := range s.history.holds {
				h.lost = true // as the error of the one release says
			}
			f := s.fault(keyDeleted, 194, 196)
			f.name, f.token = "o", 12
			s.gave(b, 196, 400, 30)
		}, nil},
		{"two locks taken in any order", func(s *scene) {
			s.tookBoth(s.client(), 100, 11, 10)
		}, []string{"two locks out of order"}},
		{"two locks, and only one is held", func(s *scene) {
			a := s.client()
			op := s.did(a, both, 100, 110, record{Value: "v", Outcome: failed})
			s.fault(quorumLost, 100, 110)
			s.did(a, bothThen, 100, 110, record{Value: "v", Outcome: ok, Token: 10, Of: op})
			s.etcd(105, 10, "v")
			s.etcd(200, 11, "")
			s.did(a, "done", 190, 210, record{Of: op + 1, Outcome: ok})
			s.history.add(a, record{Kind: ended, Op: op + 1, From: at(190), At: at(195)})
		}, []string{"one of two locks"}},
		{"two locks, the second of which is taken away", func(s *scene) {
			a, b := s.client(), s.client()
			r := record{Value: "both10", Outcome: ok, Token: 10, Until: at(5100)}
			first := s.did(a, both, 100, 120, r)
			r.Token, r.Of = 11, first
			second := s.on("o", a, bothThen, 100, 120, r)
			s.etcd(105, 10, "both10")
			s.observer.events["o"] = map[int64]event{11: {11, "both10", 7, at(110)}, 12: {12, "", 7, at(150)}}
			f := s.fault(keyDeleted, 149, 151)
			f.token, f.name = 11, "o"
			s.etcd(195, 13, "")
			s.did(a, "done", 190, 200, record{Of: first, Outcome: lost})
			s.on("o", a, "done", 190, 200, record{Of: second, Outcome: lost})
			for _, op := range []int{first, second} {
				s.history.add(a, record{Kind: ended, Op: op, From: at(189), At: at(191)})
			}
			s.gave(b, 194, 300, 20)
		}, nil},
		{"a wait for the second of two locks", func(s *scene) {
			a := s.client()
			op := s.on("o", a, both, 100, 5000, record{Value: "v", Outcome: expired, Until: at(5000)})
			s.did(a, bothThen, 100, 5000, record{Value: "v", Outcome: expired, Until: at(5000), Of: op})
			s.observer.events["o"] = map[int64]event{10: {10, "v", 7, at(110)}, 11: {11, "", 7, at(4990)}}
		}, nil},
		{"a wait for two locks that are free", func(s *scene) {
			a := s.client()
			op := s.did(a, both, 100, 5000, record{Value: "v", Outcome: expired, Until: at(5000)})
			s.on("o", a, bothThen, 100, 5000, record{Value: "v", Outcome: expired, Until: at(5000), Of: op})
		}, []string{"stranded waiter"}},
		{"a leader that loses the lock, and leads again", func(s *scene) {
			a, b := s.client(), s.client()
			s.did(a, leads, 100, 500, record{Value: "leader", Outcome: ok, From: at(9000)})
			s.reigned(a, 100, 200, 10, true, 5000)
			s.reigned(a, 200, 500, 20, false, 5000)
			s.gave(b, 510, 600, 30)
			s.did(b, leads, 400, 450, record{Value: "w", Outcome: expired, From: at(450)})
			s.did(b, leads, 400, 0, record{Value: "x"})
			b.killed = at(30_000)
		}, nil},
		{"a Lead that loses the lock, and ends with its ctx", func(s *scene) {
			a := s.client()
			s.did(a, leads, 100, 210, record{Value: "leader", Outcome: lost, Error: "lost", From: at(9000)})
			s.reigned(a, 100, 200, 10, true, 205)
		}, nil},
		{"a Lead that ends when the lock is lost", func(s *scene) {
			a := s.client()
			s.did(a, leads, 100, 210, record{Value: "leader", Outcome: lost, Error: "lost", From: at(9000)})
			s.reigned(a, 100, 200, 10, true, 5000)
		}, []string{"Lead ended"}},
		{"a Lead that ends for what heals", func(s *scene) {
			s.fault(quorumLost, 100, 200)
			s.did(s.client(), leads, 100, 210, record{Value: "leader", Outcome: failed, Error: "no leader", From: at(9000)})
		}, []string{"Lead ended"}},
		{"a Lead that does not end with its ctx", func(s *scene) {
			a, b := s.client(), s.client()
			s.did(a, leads, 200, 1150, record{Value: "leader", Outcome: expired, From: at(1000)})
			s.gave(b, 100, 1200, 10)
		}, []string{"call ended late"}},
		{"a Lead that waits for what is free", func(s *scene) {
			s.did(s.client(), leads, 100, 5000, record{Value: "leader", Outcome: expired, From: at(5000)})
		}, []string{"stranded waiter"}},
		{"a job that ends by itself", func(s *scene) {
			a, b := s.client(), s.client()
			op := s.ran(a, 100, 10, 300)
			s.etcd(205, 11, "")
			s.jobOver(a, op, 200, 220, false, record{Outcome: ok})
			s.gave(b, 200, 300, 20)
		}, nil},
		{"a job that lives on", func(s *scene) {
			a, b := s.client(), s.client()
			op := s.ran(a, 100, 10, 300)
			s.history.add(a, record{Kind: struck, What: runKilled, Op: op, At: at(1000)})
			s.etcd(4000, 11, "")
			s.history.add(a, record{Kind: ended, Op: op, From: at(4100), At: at(4100), Lost: true})
			s.gave(b, 3990, 4200, 20)
		}, []string{"key gone without a cause", "not linearizable", "two owners"}},
		{"a job that is killed late", func(s *scene) {
			a, b := s.client(), s.client()
			op := s.ran(a, 100, 10, 300)
			s.history.add(a, record{Kind: struck, What: runStopped, Op: op, At: at(1000)})
			s.etcd(4000, 11, "")
			s.jobOver(a, op, 3900, 5500, true, record{Outcome: lost})
			s.gave(b, 3990, 4200, 20)
		}, []string{"told too late"}},
		{"a job that is killed in time", func(s *scene) {
			a, b := s.client(), s.client()
			op := s.ran(a, 100, 10, 300)
			s.history.add(a, record{Kind: struck, What: runStopped, Op: op, At: at(1000)})
			s.etcd(4000, 11, "")
			s.jobOver(a, op, 3700, 5500, true, record{Outcome: lost})
			s.gave(b, 3990, 4200, 20)
		}, nil},
		{"a job that ends when it is told to, and the lock is given back", func(s *scene) {
			a, b := s.client(), s.client()
			op := s.ran(a, 100, 10, 1000)
			s.fault(quorumLost, 1000, 3000)
			s.etcd(3005, 11, "")
			s.jobOver(a, op, 3000, 3010, false, record{Outcome: lost})
			s.gave(b, 3002, 3100, 20)
		}, nil},
		{"a job that outlives locker run", func(s *scene) {
			a := s.client()
			op := s.ran(a, 100, 10, 300)
			s.etcd(205, 11, "")
			s.did(a, "done", 200, 220, record{Outcome: ok, Of: op, Until: at(10_000)})
			s.history.add(a, record{Kind: ended, Op: op, From: at(230), At: at(230)})
		}, []string{"held after its release"}},
		{"an exit status that hides what became of the job", func(s *scene) {
			a := s.client()
			s.fault(quorumLost, 50, 3000)
			op := s.ran(a, 100, 10, 300)
			s.etcd(3500, 11, "")
			s.jobOver(a, op, 3000, 3010, true, record{Outcome: failed, Error: wrongStatus + " 0"})
		}, []string{"wrong exit status"}},
		{"a run whose client is frozen", func(s *scene) {
			a := s.client()
			f := s.fault(frozenClient, 1000, 6000)
			f.lane, f.slot = clients.name, a.slot
			s.history.add(a, record{Kind: stalled, From: at(1000), At: at(6000)})
			op := s.ran(a, 100, 10, 300)
			s.etcd(3500, 11, "")
			s.jobOver(a, op, 3000, 3010, true, record{Outcome: lost})
			s.did(a, runs, 4000, 4100, record{Value: "v", Outcome: failed, Error: "no", Until: at(9000)})
		}, []string{"error without a reason", "lost without a reason"}},
		{"a run that is struck when it has lost the lock", func(s *scene) {
			a := s.client()
			op := s.ran(a, 100, 10, 300)
			s.history.add(a, record{Kind: struck, What: runStopped, Op: op, At: at(3200)})
			s.etcd(3500, 11, "")
			s.jobOver(a, op, 3000, 9000, true, record{Outcome: lost})
		}, []string{"lost without a reason"}},
		{"an outage that is too long for a long grace", func(s *scene) {
			a, b := s.client(), s.client()
			s.observer.up = slices.DeleteFunc(s.observer.up, func(up instant) bool { return up > at(1500) && up < at(2100) })
			op := s.ran(a, 100, 10, 1200)
			s.etcd(3005, 11, "")
			s.jobOver(a, op, 3000, 3010, false, record{Outcome: lost})
			op = s.ran(b, 3020, 20, 1200)
			s.etcd(6005, 21, "")
			s.jobOver(b, op, 6000, 6010, false, record{Outcome: lost})
		}, []string{"lost without a reason"}},
		{"an outage that is not too long for a short grace", func(s *scene) {
			a := s.client()
			s.observer.up = slices.DeleteFunc(s.observer.up, func(up instant) bool { return up > at(1500) && up < at(2000) })
			op := s.ran(a, 100, 10, 200)
			s.etcd(3005, 11, "")
			s.jobOver(a, op, 3000, 3010, false, record{Outcome: lost})
		}, []string{"lost without a reason"}},
		{"a run that is killed while it waits, and those behind it", func(s *scene) {
			a, b := s.client(), s.client()
			op := s.did(a, runs, 100, 0, record{Value: "v", Until: at(9000)})
			s.history.add(a, record{Kind: struck, What: runKilled, Op: op, At: at(1000)})
			s.did(b, "wait", 500, 5000, record{Value: "w", Outcome: expired, Until: at(5000)})
			op = s.did(a, runs, 10_000, 18_000, record{Value: "x", Outcome: failed, Error: "no", Until: at(19_000)})
			s.history.add(a, record{Kind: struck, What: runStopped, Op: op, At: at(11_000)})
			s.did(b, "wait", 20_000, 25_000, record{Value: "y", Outcome: expired, Until: at(25_000)})
		}, []string{"stranded waiter"}},
		{"a run is another client than its process", func(s *scene) {
			a := s.client()
			s.gave(a, 100, 200, 10)
			s.did(a, runs, 150, 160, record{Value: "v", Outcome: denied, Until: at(9000)})
			s.did(a, "lock", 205, 300, record{Value: "w", Outcome: failed})
			s.fault(quorumLost, 205, 300)
			s.did(a, runs, 210, 220, record{Value: "x", Outcome: denied, Until: at(9000)})
		}, []string{"not linearizable"}},
		{"a client that is killed when its job has ended", func(s *scene) {
			a, b := s.client(), s.client()
			s.ran(a, 100, 10, 300)
			s.etcd(205, 11, "")
			a.killed = at(210)
			s.gave(b, 200, 300, 20)
		}, nil},
		{"a run that begins late", func(s *scene) {
			a := s.client()
			s.etcd(9105, 10, "v10")
			op := s.did(a, runs, 100, 9110, record{Value: "v10", Outcome: ok, Token: 10, Until: at(20_000), From: at(7600)})
			s.etcd(9205, 11, "")
			s.jobOver(a, op, 9200, 9210, false, record{Outcome: ok})
		}, []string{"call ended late"}},
		{"the network is no excuse", func(s *scene) {
			a := s.client()
			for _, k := range network.kinds {
				s.fault(k.name, 100, 5000)
			}
			s.over(a, s.took(a, 100, 110, 10), 3000, true)
			s.etcd(3300, 11, "")
			s.did(a, "lock", 3400, 3500, record{Value: "v", Outcome: failed, Error: "no"})
			s.did(a, "wait", 4000, 9000, record{Value: "w", Outcome: expired, Until: at(9000)})
		}, []string{"error without a reason", "lost without a reason", "stranded waiter"}},
		{"silent watches are moved, also by a process that was stopped, and one that gets answers late", func(s *scene) {
			a := s.client()
			s.history.add(a, record{Kind: hushed, From: at(100), At: at(3000)})
			s.history.add(a, record{Kind: hushed, From: at(4000), At: at(9000)})
			s.history.add(a, record{Kind: stalled, From: at(4500), At: at(7000)})
			s.history.add(a, record{Kind: hushed, From: at(10_000), At: at(13_000)})
			s.history.add(a, record{Kind: hushed, From: at(14_000), At: at(17_000)})
		}, nil},
		{"silent watches that are not moved", func(s *scene) {
			s.fault(quorumLost, 0, 30_000)
			a := s.client()
			s.history.add(a, record{Kind: stalled, From: at(100), At: at(600)})
			s.history.add(a, record{Kind: hushed, From: at(100), At: at(5000)})
		}, []string{"silent watches not moved"}},
		{"things left behind", func(s *scene) {
			a := s.client()
			s.client().bye = false
			a.vitals = []vitals{{Leaked: 1, LeakedFiles: 2}}
			s.did(a, "lock", 100, 0, record{Value: "v"})
			s.leftover = []string{"at the end: lease 7"}
			s.hung = []*process{{incarnation: a}}
		}, []string{"call never returned", "client died", "files left open", "goroutines left", "left behind"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene()
			test.act(s)
			j := judge(s.campaign)
			var rules []string
			for _, v := range j.violations {
				t.Log(v.rule, v.what)
				rules = append(rules, v.rule)
			}
			slices.Sort(rules)
			require.Equal(t, test.rules, slices.Compact(rules))

			dir := t.TempDir()
			require.NoError(t, j.draw(dir))
			pictures, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Equal(t, slices.ContainsFunc(j.violations, func(v violation) bool { return v.name != "" }), len(pictures) == 2)
		})
	}
}

// A stream that has gone silent counts while the library can't know but that answers come soon: not from a slow answer on,
// until that is forgotten.
func TestTap(t *testing.T) {
	var out bytes.Buffer
	tap := (&client{out: newLines(&out)}).newTap()
	from := now()
	tap.answered(soon)
	tap.answered(soon + 1)
	for range settled - 1 {
		tap.answered(soon)
	}
	tap.answered(soon + 1) // once more
	slow := now()
	for range settled - 1 {
		tap.answered(soon)
	}
	between := now()
	tap.kept(span{slow, between})
	require.Empty(t, out.String())
	tap.answered(soon)
	tap.kept(span{from, now()})
	var first, second record
	told := json.NewDecoder(&out)
	require.NoError(t, told.Decode(&first))
	require.NoError(t, told.Decode(&second))
	require.Equal(t, from, first.From)
	require.Less(t, first.At, slow)
	require.GreaterOrEqual(t, second.From, between)
	require.Error(t, told.Decode(&first))
}

// Each of a long line may have been the next, for all that its call says: porcupine must not have to try them all.
func TestLongLine(t *testing.T) {
	s := newScene()
	for i := range 100 {
		by, token, from := s.client(), int64(2*i+10), 1000+100*i
		value := fmt.Sprint("v", token)
		s.etcd(from, token, value)
		op := s.did(by, "wait", 500-i, from+10, record{Value: value, Outcome: ok, Token: token, Until: at(60_000)})
		s.did(by, "get", from-2000, from+2000, record{Value: value, Outcome: ok})
		s.etcd(from+50, token+1, "")
		s.did(by, "unlock", from+40, from+60, record{Of: op, Outcome: ok})
		s.over(by, op, from+40, false)
	}
	j := judge(s.campaign)
	require.Empty(t, j.violations)
	require.Empty(t, j.undecided)
}

// The schedule is the seed's, and has everything in it.
func TestSchedule(t *testing.T) {
	for _, l := range []lane{members, clients, outsiders, network} {
		one, same, other := l.draw(1), l.draw(1), l.draw(2)
		kinds := map[string]bool{}
		differ := false
		for i := range l.kinds {
			p, k, f := one()
			require.Equal(t, i == 0, k.name == l.kinds[0].name)
			p2, _, f2 := same()
			_, _, f3 := other()
			require.Equal(t, p, p2)
			require.Equal(t, f, f2)
			differ = differ || f.pick != f3.pick
			kinds[k.name] = true
			require.Less(t, f.length, 2*ttl)
		}
		require.Len(t, kinds, len(l.kinds))
		require.True(t, differ)
	}
}
