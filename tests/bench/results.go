package main

import (
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"time"
)

// figure is what one peer reached, in every round.
type figure struct {
	Scenario string    `json:"scenario"`
	N        int       `json:"n"`
	Of       string    `json:"of"` // what N counts
	Peer     string    `json:"peer"`
	Metric   string    `json:"metric"`
	Rounds   []float64 `json:"rounds"`
	Median   float64   `json:"median"`
}

// results are all figures, in the order of their measures.
type results struct{ figures []*figure }

// adder adds the figures of one peer in one measure.
func (r *results) adder(scenario, of string, n int, peer string) func(metric string, value float64) {
	return func(metric string, value float64) {
		f := r.find(scenario, of, n, peer, metric)
		if f == nil {
			f = &figure{Scenario: scenario, Of: of, N: n, Peer: peer, Metric: metric}
			r.figures = append(r.figures, f)
		}
		f.Rounds = append(f.Rounds, value)
		f.Median = median(f.Rounds)
	}
}

// find returns nil when there is no such figure.
func (r *results) find(scenario, of string, n int, peer, metric string) *figure {
	i := slices.IndexFunc(r.figures, func(f *figure) bool {
		return f.Scenario == scenario && f.Of == of && f.N == n && f.Peer == peer && f.Metric == metric
	})
	if i < 0 {
		return nil
	}
	return r.figures[i]
}

// against is the quotient of two figures, round by round.
func (f *figure) against(other *figure) []float64 {
	var ratios []float64
	for i := range min(len(f.Rounds), len(other.Rounds)) {
		ratios = append(ratios, f.Rounds[i]/other.Rounds[i])
	}
	return ratios
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func (r *results) write(path string, rtt, jitter time.Duration) error {
	out, err := json.MarshalIndent(struct {
		Go      string    `json:"go"`
		CPUs    int       `json:"cpus"`
		RTT     string    `json:"rtt"`    // added to that of loopback
		Jitter  string    `json:"jitter"` // added at most to that
		Figures []*figure `json:"figures"`
	}{runtime.Version(), runtime.NumCPU(), rtt.String(), jitter.String(), r.figures}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o644)
}
