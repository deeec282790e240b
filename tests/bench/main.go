// Command bench sets locker beside the other ways to lock with etcd, all in one run on one cluster:
//
//	go run -C tests ./bench [-quick] [-rounds 5] [-rtt 5ms] [-jitter 5ms] [-only SCENARIO] [-n 10000] [-json FILE] [-charts DIR] [-endpoints a,b,c]
//
// Every round measures all the peers of a scenario one after the other, and the next round begins with another of them;
// what is printed are medians over the rounds, and the medians of the rounds' ratios, with the lowest and the highest.
// Ratios mean something, absolute figures are those of the machine. A path that is not absolute begins in tests/.
//
// The cluster is its own, three members on loopback, or that of -endpoints, which nobody else should use meanwhile:
// what is counted in etcd is counted by etcd, for all its clients. With -rtt and -jitter all clients of all peers reach
// it through proxies, which make every round trip that much longer; what the members send each other, and the reading of
// etcd's counters, is not delayed.
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
	options
	cluster *etcdtest.Cluster // nil with -endpoints
	members []string          // where the cluster is
	peersAt []string          // where the peers find it, by way of the network
	gauge   *gauge
	results results
}

// scenarios in the order in which they run. Each is called once for a round, the first of which is 0.
var scenarios = []struct {
	name  string
	named bool // it takes long, and runs only when it is named
	run   func(ctx context.Context, b *bench, round int) error
}{
	{"pairs", false, pairs},
	{"handover", false, handover},
	{"entry", false, entry},
	{"alone", false, alone},
	{"waits", false, waits},
	{"watch", false, watch},
	{"held", false, held},
	{"capacity", true, capacity},
	{"scale", true, scale},
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case holderCommand:
			exit(holder(os.Args[2:]))
		case networkCommand:
			exit(network(os.Args[2:]))
		case bystanderCommand:
			exit(bystander(os.Args[2:]))
		}
	}
	o, err := parse()
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, o))
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
	rounds, n                                 int
	rtt, jitter                               time.Duration
	only, json, charts, endpoints, cpuprofile string
}

func parse() (o options, err error) {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	flag.BoolVar(&o.quick, "quick", false, "less of everything, in about a minute: shows that it works, not how fast it is")
	flag.IntVar(&o.rounds, "rounds", 0, "rounds of every scenario (default 5; 1 with -quick, and of capacity and scale)")
	flag.IntVar(&o.n, "n", 0, "how many wait in waits (default 300), or locks are held in scale (default 100,000)")
	flag.DurationVar(&o.rtt, "rtt", 0, "make the round trips of all clients longer by this")
	flag.DurationVar(&o.jitter, "jitter", 0, "make them longer by up to this, in addition")
	flag.StringVar(&o.only, "only", "", "run one scenario: "+strings.Join(names, ", "))
	flag.StringVar(&o.json, "json", "", "write the results to this file")
	flag.StringVar(&o.charts, "charts", "", "draw charts (SVG) in this directory")
	flag.StringVar(&o.endpoints, "endpoints", "", "use this cluster, a,b,c")
	flag.StringVar(&o.cpuprofile, "cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	if o.only != "" && !slices.Contains(names, o.only) {
		err = fmt.Errorf("no such scenario: %q", o.only)
	}
	return o, err
}

func run(ctx context.Context, o options) (err error) {
	b := &bench{options: o}
	closeAll, err := b.connect(ctx)
	defer closing(&err, closeAll)
	if err != nil {
		return err
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
	if err := b.runScenarios(ctx); err != nil {
		return err
	}
	return b.report(ctx)
}

// connect finds or starts the cluster, and puts the network before it.
func (b *bench) connect(ctx context.Context) (closeAll func() error, err error) {
	var opened closers
	closeAll = func() error { return opened.close() }
	b.members = strings.FieldsFunc(b.endpoints, func(r rune) bool { return r == ',' })
	if len(b.members) == 0 {
		if b.cluster, err = etcdtest.Start(ctx, etcdtest.Options{Members: 3}); err != nil {
			return closeAll, err
		}
		opened = append(opened, b.cluster.Close)
		b.members = b.cluster.Endpoints()
	}
	b.peersAt = b.members
	cli, err := connect(b.members)
	if err != nil {
		return closeAll, err
	}
	opened = append(opened, cli.Close)
	b.gauge = &gauge{cli}
	if b.rtt > 0 || b.jitter > 0 {
		d, err := startNetwork(ctx, b.members)
		if err != nil {
			return closeAll, err
		}
		opened = append(opened, func() error { d.kill(); return nil })
		b.peersAt = d.endpoints
		return closeAll, d.set(b.rtt, b.jitter)
	}
	return closeAll, nil
}

func (b *bench) runScenarios(ctx context.Context) error {
	for _, s := range scenarios {
		if b.only != s.name && (b.only != "" || s.named) {
			continue
		}
		rounds := b.rounds
		if rounds == 0 {
			rounds = 5
			if b.quick || s.named {
				rounds = 1
			}
		}
		for round := range rounds {
			fmt.Fprintf(os.Stderr, "%s: round %d of %d\n", s.name, round+1, rounds)
			if err := s.run(ctx, b, round); err != nil {
				return fmt.Errorf("%s: %w", s.name, errors.Join(err, ctx.Err()))
			}
		}
	}
	return nil
}

func (b *bench) report(ctx context.Context) error {
	trip, err := roundTrip(ctx, b.peersAt)
	if err != nil {
		return err
	}
	fmt.Printf("\ngo run -C tests ./bench %s\n", strings.Join(os.Args[1:], " "))
	fmt.Printf("\nround trip of a client: %s ms (added: %s, and up to %s)\n", number(ms(trip)), b.rtt, b.jitter)
	b.results.print(os.Stdout)
	b.results.printGoals(os.Stdout, b.rtt, b.jitter)
	if b.json != "" {
		err = b.results.write(b.json, b.rtt, b.jitter)
	}
	if b.charts != "" {
		err = errors.Join(err, b.results.draw(b.charts))
	}
	return err
}
