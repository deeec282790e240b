package main

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// course is what samples of a figure are like: its value at the n-th of them.
type course func(n int) float64

func TestGrown(t *testing.T) {
	for name, test := range map[string]struct {
		figure  int
		samples int
		course  course
		grown   string // "": flat
	}{
		"the same all the time":        {watchers, 60, func(int) float64 { return 100 }, ""},
		"nothing all the time":         {leases, 60, func(int) float64 { return 0 }, ""},
		"up and down":                  {watchers, 60, func(n int) float64 { return 100 + float64(n%2)*80 }, ""},
		"less and less":                {heap, 60, func(n int) float64 { return 5000 - float64(n) }, ""},
		"a low start":                  {heap, 60, func(n int) float64 { return 9000 * float64(min(n, 1)) }, ""},
		"one peak at the end":          {goroutines, 60, func(n int) float64 { return 100 + float64(n/59)*1000 }, ""},
		"within a tenth and the slack": {watchers, 60, func(n int) float64 { return 100 + float64(n/30)*22 }, ""},
		"a step beyond them":           {watchers, 60, func(n int) float64 { return 100 + float64(n/30)*23 }, "watchers grew from 100 to 123, more than 122"},
		"one a sample":                 {watchers, 60, func(n int) float64 { return float64(n) }, "watchers grew from 10 to 50, more than 23"},
		"one in two samples":           {streams, 60, func(n int) float64 { return float64(n / 2) }, "streams grew from 5 to 25, more than 8"},
		"a hundred bytes a name":       {heap, 60, func(n int) float64 { return 3000 + 45*float64(n) }, "heap KiB grew from 3450 to 5250, more than 4819"},
		"enough samples to judge by":   {keys, 4, func(n int) float64 { return 9 * float64(n) }, "keys grew from 9 to 27, more than 18"},
		"too few of them":              {keys, 3, func(int) float64 { return 0 }, "3 samples are too few to judge by"},
	} {
		t.Run(name, func(t *testing.T) {
			samples := make([]sample, test.samples)
			for n := range samples {
				samples[n].at = time.Duration(n) * time.Minute
				samples[n].values[test.figure] = test.course(n)
			}
			if test.grown == "" {
				require.NoError(t, grown(samples))
				return
			}
			require.EqualError(t, grown(samples), test.grown)
		})
	}
}

func TestGrown_NamesAll(t *testing.T) {
	samples := make([]sample, 10)
	for n := range samples {
		samples[n].values[files], samples[n].values[keys] = float64(10*n), float64(20*n)
	}
	require.EqualError(t, grown(samples), "files grew from 20 to 80, more than 34\nkeys grew from 40 to 160, more than 52")
}

func TestTally(t *testing.T) {
	tally := newTally()
	tally.count("turns")
	tally.count("turns")
	tally.count("watches")
	require.Equal(t, 3, tally.turns())
	require.NoError(t, tally.failed())
	tally.fail("turns", errors.New("refused"))
	tally.fail("turns", errors.New("refused"))
	require.EqualError(t, tally.failed(), "turns failed 2 times")
}
