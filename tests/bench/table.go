package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// row is a line of a table: what one peer reached in one measure.
type row struct {
	scenario, of string
	n            int
	peer         string
}

// layout says which tables there are, and what their rows and columns are.
func (r *results) layout() (scenarios []string, rows map[string][]row, metrics map[string][]string) {
	rows, metrics = map[string][]row{}, map[string][]string{}
	for _, f := range r.figures {
		s := f.Scenario
		if rows[s] == nil {
			scenarios = append(scenarios, s)
		}
		if !slices.Contains(metrics[s], f.Metric) {
			metrics[s] = append(metrics[s], f.Metric)
		}
		if at := (row{s, f.Of, f.N, f.Peer}); !slices.Contains(rows[s], at) {
			rows[s] = append(rows[s], at)
		}
	}
	return scenarios, rows, metrics
}

// print writes a table for every scenario, and its ratios.
func (r *results) print(out io.Writer) {
	scenarios, rows, metrics := r.layout()
	for _, s := range scenarios {
		// The order of the first round may be any; by size, it can be read. The sort is stable.
		slices.SortStableFunc(rows[s], func(a, b row) int {
			return cmp.Or(cmp.Compare(a.of, b.of), cmp.Compare(a.n, b.n))
		})
		table(out, s, rows[s], metrics[s], func(at row, metric string) string {
			if f := r.find(at.scenario, at.of, at.n, at.peer, metric); f != nil {
				return cell(f.Rounds)
			}
			return "-"
		})
		rivals := slices.DeleteFunc(rows[s], func(at row) bool { return at.peer == ours })
		if len(rivals) == 0 {
			continue
		}
		table(out, s+": locker's figure divided by that of", rivals, metrics[s], func(at row, metric string) string {
			own := r.find(at.scenario, at.of, at.n, ours, metric)
			f := r.find(at.scenario, at.of, at.n, at.peer, metric)
			if f == nil || own == nil {
				return "-"
			}
			return cell(own.against(f))
		})
	}
}

func table(out io.Writer, title string, rows []row, metrics []string, cell func(row, string) string) {
	fmt.Fprintf(out, "\n%s\n\n", title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprint(w, "\t")
	for _, m := range metrics {
		fmt.Fprintf(w, "\t%s", m)
	}
	for _, at := range rows {
		fmt.Fprintf(w, "\n%d %s\t%s", at.n, at.of, at.peer)
		for _, m := range metrics {
			fmt.Fprintf(w, "\t%s", cell(at, m))
		}
	}
	fmt.Fprintln(w)
}

// cell is the median, with the lowest and the highest of several.
func cell(values []float64) string {
	if len(values) == 1 {
		return number(values[0])
	}
	return fmt.Sprintf("%s (%s-%s)", number(median(values)), number(slices.Min(values)), number(slices.Max(values)))
}

// number has three digits that count, or more where they stand before the point.
func number(v float64) string {
	if a := math.Abs(v); a >= 100 || a == 0 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
