package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// tally counts what was done, and what failed.
type tally struct {
	mu       sync.Mutex // guards all below
	done     map[string]int
	failures map[string]int // by what was done, and the error
}

func newTally() *tally { return &tally{done: make(map[string]int), failures: make(map[string]int)} }

func (t *tally) count(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done[what]++
}

// fail counts an error that nothing explains, and prints it if it is the first of its kind.
func (t *tally) fail(what string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures[what]++; t.failures[what] == 1 {
		fmt.Printf("%s: %v\n", what, err)
	}
}

// turns is how much was done.
func (t *tally) turns() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, count := range t.done {
		n += count
	}
	return n
}

func (t *tally) print() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(t.done)) {
		fmt.Printf("%8d %s\n", t.done[what], what)
	}
}

// failed is an error that names what failed; nil if nothing did.
func (t *tally) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []error
	for _, what := range slices.Sorted(maps.Keys(t.failures)) {
		all = append(all, fmt.Errorf("%s failed %d times", what, t.failures[what]))
	}
	return errors.Join(all...)
}
