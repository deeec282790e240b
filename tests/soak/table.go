package main

import (
	"fmt"
	"strings"
	"time"
)

// printHead, printRow and printMedians write to standard output as they go, so that a run that is cut off shows what it saw.
func printHead() {
	var line strings.Builder
	fmt.Fprintf(&line, "%8s", "minute")
	for _, f := range figures {
		fmt.Fprintf(&line, "%12s", f.name)
	}
	fmt.Printf("%s%10s\n", line.String(), "turns")
}

func printRow(s sample) { printLine(fmt.Sprintf("%.1f", s.at.Minutes()), s) }

func printLine(title string, s sample) {
	line := fmt.Sprintf("%8s", title)
	for _, v := range s.values {
		line += fmt.Sprintf("%12.0f", v)
	}
	if s.turns > 0 {
		line += fmt.Sprintf("%10d", s.turns)
	}
	fmt.Println(line)
}

// printMedians shows what is judged.
func printMedians(samples []sample) {
	if len(samples) < 4 {
		return
	}
	var first, last sample
	for i := range figures {
		first.values[i], last.values[i] = thirds(samples, i)
	}
	fmt.Println("medians of the first third and of the last, after the first sample, which was taken at", samples[0].at.Round(time.Second))
	printLine("first", first)
	printLine("last", last)
}
