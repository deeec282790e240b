package main

// An order is the layers of a module, from the top down. What is in a layer may use what is in the layers below it, and
// nothing else: neither what is above it nor what is beside it.
type order struct {
	files    []layer // of the root package
	packages []layer // all of them below the root package
	testOnly []string
}

// A layer has one unit, or several that do not use each other.
type layer []unit

// A unit is a file of the root package, or an internal package. Its role is for the picture.
type unit struct{ name, role string }

// lockerOrder is the order of this library, and the only place where it is written down. After a change of it, or of
// what the units use, draw the picture anew:
//
//	go run -C tests ./layers -write
var lockerOrder = order{
	files: []layer{
		{{"cmd/locker", "the command for a shell"}},
		{{"do.go", "runs functions with locks"}, {"holders.go", "who holds and who waits"}, {"stats.go", "figures for metrics"}},
		{{"locker.go", "the client and its API"}},
		{{"janitor.go", "checks holds, deletes remains"}},
		{{"queue.go", "waits in the queue"}},
		{{"place.go", "watches around a place in it"}},
		{{"unlock.go", "releases and hands over"}, {"watch.go", "observes a lock for Watch"}},
		{{"lock.go", "takes a free lock"}},
		{{"store.go", "keys and transactions"}, {"report.go", "results and errors"}, {"options.go", "what a client is made with"}, {"utils.go", "the debug log"}},
	},
	packages: []layer{
		{{"internal/holds", "the state of each name in this client"}},
		{{"internal/lease", "leases, and when one is lost"}, {"internal/watch", "all watches on one stream"}, {"internal/groupcommit", "many operations, one transaction"}},
		{{"internal/hedge", "hedged requests, what errors mean"}, {"internal/dial", "replaces silent connections"}, {"internal/syncutil", "helpers for goroutines"}},
	},
	testOnly: []string{"internal/etcdtest", "internal/etcdfake"},
}

// units are the units of the order from the top down.
func (o order) units() (all []unit) {
	for _, layers := range [][]layer{o.files, o.packages} {
		for _, l := range layers {
			all = append(all, l...)
		}
	}
	return all
}

// ranks are the layers of the units, counted from the top.
func (o order) ranks() map[string]int {
	ranks, n := map[string]int{}, 0
	for _, layers := range [][]layer{o.files, o.packages} {
		for _, l := range layers {
			for _, r := range l {
				ranks[r.name] = n
			}
			n++
		}
	}
	return ranks
}
