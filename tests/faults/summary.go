package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// shown is how many violations of one rule are printed in full.
const shown = 10

// summarize prints what was done, and what the rules say of it.
func (c *campaign) summarize(w io.Writer, j *judgement) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "\nseed %d, %.2f hours, %d client processes, porcupine undecided on %d of %d names\n", c.seed, c.length.Hours(),
		len(c.incarnations), len(j.undecided), len(j.names))

	fmt.Fprintln(t, "\nfault\tnumber\tseconds")
	type sum struct {
		n    int
		time time.Duration
	}
	struck := map[string]sum{}
	for _, f := range c.faults.all {
		if s := struck[f.kind]; !f.missed {
			s.n++
			s.time += f.to.sub(f.from)
			struck[f.kind] = s
		}
	}
	for _, l := range []lane{members, clients, outsiders, network, authentication} {
		for _, k := range l.kinds {
			fmt.Fprintf(t, "%s\t%d\t%.0f\n", k.name, struck[k.name].n, struck[k.name].time.Seconds())
		}
	}

	outcomes := []string{ok, denied, expired, lost, notHeld, closed, failed, ""}
	counts := map[string]map[string]int{}
	errs := map[string]int{}
	for _, op := range c.history.ops {
		if counts[op.what] == nil {
			counts[op.what] = map[string]int{}
		}
		counts[op.what][op.outcome]++
		if op.outcome == failed {
			errs[op.what+": "+brief(op.err)]++
		}
	}
	fmt.Fprintf(t, "\noperation\t%s\tno answer: killed\n", strings.Join(outcomes[:len(outcomes)-1], "\t"))
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprint(t, what)
		for _, o := range outcomes {
			fmt.Fprintf(t, "\t%d", counts[what][o])
		}
		fmt.Fprintln(t)
	}
	table(t, "errors", errs)
	table(t, "locks lost by", j.losses)
	refused := 0
	for _, w := range c.history.writes {
		if !w.accepted {
			refused++
		}
	}
	if leads := j.deathsBefore(); len(leads) > 0 {
		fmt.Fprintf(t, "\njobs that lost their lock were dead before the next owner by: %v at least, median %v, of %d\n",
			leads[0].Round(time.Millisecond), leads[len(leads)/2].Round(time.Millisecond), len(leads))
	}
	fmt.Fprintf(t, "\nwrites to the guarded store: %d, of former owners refused: %d\n", len(c.history.writes), refused)
	c.silences(t)
	fmt.Fprintf(t, "waits for a lock that was free, with nothing in the way: %d, for %v at most\n", len(j.waits),
		slices.Max(append(j.waits, 0)).Round(time.Millisecond))
	for _, by := range c.incarnations {
		if n := len(by.vitals); by.slot == spared && n > 1 {
			first, last := by.vitals[0], by.vitals[n-2]
			fmt.Fprintf(t, "p%d aged %v to %v: heap %.1f to %.1f MiB, goroutines %d to %d, files %d to %d\n", by.number,
				first.Age.Round(time.Second), last.Age.Round(time.Second), float64(first.Heap)/(1<<20), float64(last.Heap)/(1<<20),
				first.Goroutines, last.Goroutines, first.Files, last.Files)
		}
	}

	broken := map[string]int{}
	for _, v := range j.violations {
		broken[v.rule]++
	}
	table(t, "violations", broken)
	slices.SortStableFunc(j.violations, func(a, b violation) int { return cmp.Compare(a.rule, b.rule) })
	printed := map[string]int{}
	for _, v := range j.violations {
		if printed[v.rule]++; printed[v.rule] <= shown {
			fmt.Fprintf(t, "VIOLATION (seed %d) %s: %s at %s: %s\n", c.seed, v.rule, v.name, c.clock(v.at), v.what)
		}
	}
	if len(j.violations) > 0 {
		fmt.Fprintln(t, "\nfrom\tto\tfault")
		for _, f := range c.faults.all {
			if !f.missed {
				fmt.Fprintf(t, "%s\t%s\t%s %s\n", c.clock(f.from), c.clock(f.to), f.kind, f.target)
			}
		}
	}
	fmt.Fprintf(t, "\n%d violations\n", len(j.violations))
}

// silences prints what the rule about silent watches had to judge.
func (c *campaign) silences(w io.Writer) {
	n, longest := 0, time.Duration(0)
	for _, by := range c.incarnations {
		n += len(by.hushed)
		for _, s := range by.hushed {
			longest = max(longest, s.to.sub(s.from))
		}
	}
	fmt.Fprintf(w, "streams of watches that fell silent while answers came soon: %d, kept for %v at most\n", n, longest.Round(time.Millisecond))
}

// clock is a moment as seconds from the beginning.
func (c *campaign) clock(at instant) string {
	if at == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", at.sub(c.began).Seconds())
}

func table(w io.Writer, title string, counts map[string]int) {
	if len(counts) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\tnumber\n", title)
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "%s\t%d\n", cmp.Or(k, "no reason"), counts[k])
	}
}

// brief is the last part of an error's text: what is at its root.
func brief(err string) string {
	if i := strings.Index(err, "\": "); i >= 0 {
		err = err[i+len("\": "):] // the lock's name
	}
	if i := strings.Index(err, "]: "); i >= 0 {
		err = err[i+len("]: "):] // the endpoints
	}
	if i := strings.Index(err, "last attempt: "); i >= 0 {
		err = strings.TrimSuffix(err[i+len("last attempt: "):], ")")
	}
	if i := strings.LastIndex(err, "desc = "); i >= 0 {
		err = err[i+len("desc = "):]
	}
	err, _, _ = strings.Cut(err, "\n")
	return err[:min(len(err), 100)]
}
