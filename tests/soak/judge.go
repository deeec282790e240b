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
	// slack is what the median of the last third of a run may be above that of the first, beside a tenth of that. All but
	// the heap go up and down with what is done at the moment of a sample: a contended name has three watches or so for a
	// second after its use. The median of twenty samples differs from that of twenty others by a few. What leaks with
	// every use of a name, with every wait, or with every client that is closed, grows by more than a hundred in an hour.
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
	heap:       {"heap KiB", 1 << 10}, // pools and maps of the runtime and of gRPC keep what they have once had
	goroutines: {"goroutines", 16},    // four of a watch or wait, so four of these
	files:      {"files", 6},          // a client's connections, twice: the proxies are in this process
	watchers:   {"watchers", 12},      // four contended names
	streams:    {"streams", 2},
	leases:     {"leases", 2},
	keys:       {"keys", 8},
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
