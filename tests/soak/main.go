// Command soak is a service's day in an hour: several clients lead, watch, wait, take and release ever new names, hold,
// and are closed and opened anew, over a network with round trips, while nothing goes wrong.
//
//	go run -C tests ./soak [-for 1h] [-rtt 20ms]
//
// It prints what the process and etcd have to keep meanwhile, and fails if any of that grows, if any call fails, or if
// anything is left when all has ended. Nobody else uses the cluster: what is counted in etcd is that of these clients.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func main() {
	length := flag.Duration("for", time.Hour, "how long it goes on")
	rtt := flag.Duration("rtt", 20*time.Millisecond, "the round trip between clients and members; up to a quarter more, at random")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *length, *rtt); err != nil {
		fmt.Println(err)
		stop()
		os.Exit(1)
	}
	fmt.Println("flat")
}

// run returns an error that says what was wrong. When ctx ends, it judges what there is until then.
func run(ctx context.Context, length, rtt time.Duration) (err error) {
	cluster, err := etcdtest.Start(ctx, etcdtest.Options{Members: 3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	network, err := newNetwork(cluster.Endpoints(), rtt)
	defer network.Each((*etcdtest.Proxy).Close)
	if err != nil {
		return err
	}
	g, err := newGauge(cluster.Endpoints())
	if err != nil {
		return err
	}
	defer g.cli.Close()
	return soak(ctx, length, network.Endpoints(), g)
}

// newNetwork delays both ways of every connection alike, and the way back a little more, and not always the same.
func newNetwork(endpoints []string, rtt time.Duration) (n etcdtest.Network, err error) {
	for _, endpoint := range endpoints {
		p, err := etcdtest.NewProxy(endpoint)
		if err != nil {
			return n, err
		}
		n = append(n, p)
		p.Delay(rtt/2, etcdtest.ToServer)
		p.Jitter(rtt/2, rtt/2+rtt/4, etcdtest.ToClient)
	}
	return n, nil
}

// patience is for what must come to its end.
const patience = 20 * time.Second

// soak has the clients work, and judges.
func soak(ctx context.Context, length time.Duration, endpoints []string, g *gauge) error {
	before, err := g.sample(ctx) // also connects, so that what the gauge itself needs is in it
	if err != nil {
		return err
	}
	s := &service{endpoints: endpoints, tally: newTally()}
	working, stop := context.WithTimeout(ctx, length)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.work(working)
	}()
	samples, err := g.follow(working, length, s.tally.turns)
	stop()
	select {
	case <-ended:
	case <-time.After(patience):
		err = errors.Join(err, fmt.Errorf("the work goes on %v after its end", patience)) // left shows where
	}
	s.tally.print()
	return errors.Join(err, grown(samples), s.tally.failed(), g.left(before))
}
