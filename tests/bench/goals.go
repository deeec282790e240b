package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// goal is a figure to reach: locker's own, or its ratio to that of a peer.
type goal struct {
	scenario string
	n        int
	of       string
	metric   string
	peer     string // none: locker's own figure
	atLeast  bool   // or else at most
	value    float64
}

// goals are told of, not enforced: the ratios hold for two quiet processors, and for the round trips added that stand
// before them, in ms.
var goals = []struct {
	rtts  []int
	goals []goal
}{
	{[]int{0}, []goal{
		{"pairs", 1, "lockers", "p50 ms", bare, false, 1.05},
		{"pairs", 16, "lockers", "pairs/s", mutexShared, true, 1.8},
		{"pairs", 64, "lockers", "pairs/s", mutexShared, true, 2},
		{"pairs", 256, "lockers", "pairs/s", mutexShared, true, 2.8},
		{"pairs", 1024, "lockers", "pairs/s", mutexShared, true, 2.5},
		{"pairs", 64, "lockers", "pairs/s", mutexEach, true, 12},
		{"pairs", 256, "lockers", "p99 ms", mutexShared, false, 0.45},
		{"pairs", 256, "lockers", "proposals/1000", "", false, 40},
		{"pairs", 1, "lockers", "allocs/pair", mutexShared, false, 1},
		{"handover", 2, "clients", "hand-overs/s", mutexEach, true, 8},
		{"handover", 16, "clients", "hand-overs/s", mutexEach, true, 2},
		{"handover", 64, "clients", "hand-overs/s", mutexEach, true, 1.6},
		{"handover", 64, "clients", "p99 ms", mutexEach, false, 0.7},
		{"handover", 64, "goroutines", "hand-overs/s", mutexEach, true, 2.2},
		{"handover", 2, "goroutines", "hand-overs/s", mutexEach, true, 12},
		// The first to come and the last to go are no hand-overs: a hundredth is for them.
		{"handover", 2, "clients", "proposals/cycle", "", false, 2.02},
		{"handover", 16, "clients", "proposals/cycle", "", false, 2.02},
		{"handover", 64, "clients", "proposals/cycle", "", false, 2.02},
		{"handover", 64, "goroutines", "proposals/cycle", "", false, 1.01},
		{"handover", 64, "clients", "most/fewest turns", "", false, 1.1},
		{"held", 100_000, "locks", "B/lock", "", false, 512},
		{"held", 100_000, "locks", "B/lock, own quit", "", false, 1024},
		{"held", 100_000, "locks", "longest pause at expiry ms", "", false, 1000},
		{"held", 100_000, "locks", "B/lock, watched", "", false, 1024},
		{"capacity", 64, oneEach, "failures", "", false, 0},
		{"capacity", 64, oneEach, "sent again %", "", false, 2},
		{"capacity", 64, fourEach, "failures", "", false, 0},
		{"capacity", 64, fourEach, "sent again %", "", false, 2},
		{"capacity", 16, jittery, "failures", "", false, 0},
		{"capacity", 16, jittery, "sent again %", "", false, 2},
		{"capacity", 64, oneFrozen, "failures", "", false, 0},
		{"capacity", 64, oneFrozen, "sent again %", "", false, 40},
		{"capacity", 64, oneFrozen, "Lock p50 ms", "", false, 50},
		{"pauses", 100_000, "locks", "to none held", "", false, 2},
		{"scale", 100_000, "locks", "keys left", "", false, 0},
		{"scale", 1_000_000, "locks", "B/lock", "", false, 1024},
		{"scale", 1_000_000, "locks", "keys left", "", false, 0},
		{"queue", 5000, "waiters", "to that of 10", "", true, 0.9},
	}},
	{[]int{0, 5}, []goal{
		{"entry", 2, "clients", "p50 ms", putEvent, false, 1.25},
	}},
	{[]int{5}, []goal{
		{"pairs", 1, "lockers", "pairs/s", mutexShared, true, 0.97},
		{"pairs", 64, "lockers", "pairs/s", mutexShared, true, 1.6},
		{"pairs", 256, "lockers", "pairs/s", mutexShared, true, 2},
	}},
	{[]int{10, 20}, []goal{
		{"alone", 50, "callers/s", "p50 ms", bare, false, 1.05},
		{"alone", 200, "callers/s", "p50 ms", bare, false, 1.1},
		{"alone", 500, "callers/s", "p50 ms", bare, false, 1.15},
	}},
	{[]int{0, 20}, []goal{
		{"waits", 300, "waiters", "gave up", "", false, 0},
		{"waits", 300, "waiters", "all have it ms", "", false, 2000},
		{"waits", 10_000, "waiters", "gave up", "", false, 0},
		{"waits", 10_000, "watches", "all told ms", "", false, 2000},
	}},
}

// goalsAt are those for that round trip.
func goalsAt(rtt time.Duration) (all []goal) {
	for _, g := range goals {
		if slices.ContainsFunc(g.rtts, func(n int) bool { return time.Duration(n)*time.Millisecond == rtt }) {
			all = append(all, g.goals...)
		}
	}
	return all
}

// printGoals sets the figures beside the goals; there are none with jitter.
func (r *results) printGoals(out io.Writer, rtt, jitter time.Duration) {
	if jitter > 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprint(w, "\ngoals\n\n\t\tagainst\tgoal\treached\t\n")
	for _, g := range goalsAt(rtt) {
		own := r.find(g.scenario, g.of, g.n, ours, g.metric)
		if own == nil {
			continue
		}
		reached := own.Rounds
		if g.peer != "" {
			peer := r.find(g.scenario, g.of, g.n, g.peer, g.metric)
			if peer == nil {
				continue
			}
			reached = own.against(peer)
		}
		sign, met := "<=", median(reached) <= g.value
		if g.atLeast {
			sign, met = ">=", median(reached) >= g.value
		}
		verdict := "missed"
		if met {
			verdict = "met"
		}
		fmt.Fprintf(w, "%d %s\t%s\t%s\t%s %s\t%s\t%s\n", g.n, g.of, g.metric, g.peer, sign, number(g.value), cell(reached), verdict)
	}
}
