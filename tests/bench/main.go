// Command bench sets locker beside the other ways to lock with etcd, all in one run on one cluster:
//
//	go run -C tests ./bench [-quick] [-rounds 5] [-rtt 5ms] [-only SCENARIO] [-json FILE] [-charts DIR] [-endpoints a,b,c]
//
// Every round measures all the peers of a scenario one after the other, and the next round begins with another of them;
// what is printed are medians over the rounds, and the medians of the rounds' ratios, with the lowest and the highest.
// Ratios mean something, absolute figures are those of the machine. A path that is not absolute begins in tests/.
//
// The cluster is its own, three members on loopback, or that of -endpoints, which nobody else should use meanwhile:
// what is counted in etcd is counted by etcd, for all its clients. With -rtt all clients of all peers reach it through
// proxies, which make every round trip that much longer; what the members send each other, and the reading of etcd's
// counters, is not delayed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// bench is one run of the program.
type bench struct {
	endpoints []string // where the peers find the cluster
	rtt       time.Duration
	quick     bool
	gauge     *gauge
	results   results
}

// scenarios in the order in which they run. Each is called once for a round, the first of which is 0.
var scenarios = []struct {
	name string
	run  func(ctx context.Context, b *bench, round int) error
}{
	{"pairs", pairs},
	{"handover", handover},
	{"entry", entry},
	{"alone", alone},
	{"waits", waits},
	{"watch", watch},
	{"held", held},
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case holderCommand:
			exit(holder(os.Args[2:]))
		case networkCommand:
			exit(network(os.Args[2:]))
		}
	}
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	quick := flag.Bool("quick", false, "less of everything, in about a minute: shows that it works, not how fast it is")
	rounds := flag.Int("rounds", 0, "rounds of every scenario (default 5, with -quick 1)")
	rtt := flag.Duration("rtt", 0, "make the round trips of all clients longer by this")
	only := flag.String("only", "", "run one scenario: "+strings.Join(names, ", "))
	jsonFile := flag.String("json", "", "write the results to this file")
	charts := flag.String("charts", "", "draw charts (SVG) in this directory")
	endpoints := flag.String("endpoints", "", "use this cluster, a,b,c")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	if *only != "" && !slices.Contains(names, *only) {
		exit(fmt.Errorf("no such scenario: %q", *only))
	}
	switch {
	case *rounds > 0:
	case *quick:
		*rounds = 1
	default:
		*rounds = 5
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, options{*quick, *rounds, *rtt, *only, *jsonFile, *charts, *endpoints, *profile}))
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

type options struct {
	quick                                     bool
	rounds                                    int
	rtt                                       time.Duration
	only, json, charts, endpoints, cpuprofile string
}

func run(ctx context.Context, o options) (err error) {
	b := &bench{quick: o.quick, rtt: o.rtt, endpoints: strings.FieldsFunc(o.endpoints, func(r rune) bool { return r == ',' })}
	if len(b.endpoints) == 0 {
		cluster, startErr := etcdtest.Start(ctx, etcdtest.Options{Members: 3})
		if startErr != nil {
			return startErr
		}
		defer closing(&err, cluster.Close)
		b.endpoints = cluster.Endpoints()
	}
	cli, err := connect(b.endpoints)
	if err != nil {
		return err
	}
	defer cli.Close()
	b.gauge = &gauge{cli}
	if b.rtt > 0 {
		delayed, stop, err := startNetwork(ctx, b.endpoints, b.rtt)
		if err != nil {
			return err
		}
		defer stop()
		b.endpoints = delayed
	}

	if o.cpuprofile != "" {
		file, err := os.Create(o.cpuprofile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for _, s := range scenarios {
		if o.only != "" && o.only != s.name {
			continue
		}
		for round := range o.rounds {
			fmt.Fprintf(os.Stderr, "%s: round %d of %d\n", s.name, round+1, o.rounds)
			if err := s.run(ctx, b, round); err != nil {
				return fmt.Errorf("%s: %w", s.name, errors.Join(err, ctx.Err()))
			}
		}
	}
	trip, err := roundTrip(ctx, b.endpoints)
	if err != nil {
		return err
	}
	fmt.Printf("\nround trip of a client: %s added, %s ms in all\n", b.rtt, number(ms(trip)))
	b.results.print(os.Stdout, b.rtt)
	if o.json != "" {
		err = b.results.write(o.json, b.rtt)
	}
	if o.charts != "" {
		err = errors.Join(err, b.results.draw(o.charts))
	}
	return err
}
