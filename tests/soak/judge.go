package main

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// A figure is something that must not grow.
type figure struct {
	name string
	// slack is what the median of the last third of a run may be above that of the first, beside a tenth of that. All that
	// is counted goes up and down with what is done at the moment of a sample, and the medians of twenty samples each differ
	// by a few. What leaks with every wait, name, watch or client that is closed, is more by a hundred or more after an hour.
	slack float64
}

const (
	heap = iota
	goroutines
	files
	watchers
	streams
	leases
	keys
	figureCount
)

var figures = [figureCount]figure{
	heap:       {"heap KiB", 1 << 10}, // pools and maps keep what they once had; after an hour, 160 bytes for each fresh name exceed it
	goroutines: {"goroutines", 16},    // a watch or a wait has up to four: so four of them
	files:      {"files", 12},         // a client has three connections, each with three ends in this process, and one may be opened anew
	watchers:   {"watchers", 12},      // a contended name has three for a second after its use: so four names
	streams:    {"streams", 2},        // one of a client, and one that is about to end
	leases:     {"leases", 2},         // likewise
	keys:       {"keys", 8},           // of the locks and places of the moment
}

// sample is what there was at one moment.
type sample struct {
	at     time.Duration
	values [figureCount]float64
	turns  int // done until then
}

// thirds are the medians of the first and the last third of what follows the first sample, which saw the start.
func thirds(samples []sample, f int) (first, last float64) {
	steady := samples[1:]
	n := len(steady) / 3
	return median(steady[:n], f), median(steady[len(steady)-n:], f)
}

func median(samples []sample, f int) float64 {
	var values []float64
	for _, s := range samples {
		values = append(values, s.values[f])
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// grown is an error that names what has grown; nil if all is flat.
func grown(samples []sample) error {
	if len(samples) < 4 {
		return fmt.Errorf("%d samples are too few to judge by", len(samples))
	}
	var all []error
	for i, f := range figures {
		first, last := thirds(samples, i)
		if limit := first + first/10 + f.slack; last > limit {
			all = append(all, fmt.Errorf("%s grew from %.0f to %.0f, more than %.0f", f.name, first, last, limit))
		}
	}
	return errors.Join(all...)
}
