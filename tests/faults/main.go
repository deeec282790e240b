// Command faults tries to break the promises of the library. Clients in several processes use all of it, while a
// schedule drawn from a seed kills, freezes, cuts off, delays and interferes; then the history of all they did is
// checked: for linearizability against a model of a lock with fencing tokens, and against the rules in rules.go.
//
//	go run -C tests ./faults [-for 1m] [-seed N] [-rtt 20ms] [-subject locker|concurrency] [-visual DIR]
//
// It exits with 1 when a rule was broken, and leaves pictures of the histories in question. With -subject concurrency it
// does the same to the Mutex of etcd's own client, as far as that has the functions, and reports what it finds.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == clientCommand {
		if err := runClient(); err != nil {
			fmt.Fprintln(os.Stderr, "client:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 3 && os.Args[1] == jobCommand {
		status, err := runJob(os.Args[2:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "job:", err)
			os.Exit(1)
		}
		os.Exit(status)
	}
	length := flag.Duration("for", time.Minute, "how long faults are injected")
	seed := flag.Uint64("seed", 0, "of the schedule; 0 draws one")
	rtt := flag.Duration("rtt", 0, "round trip from the clients to the members while the network has no fault")
	subject := flag.String("subject", ours, "locker, or concurrency for the Mutex of etcd's own client")
	visual := flag.String("visual", filepath.Join(os.TempDir(), "locker-faults"), "where pictures of broken histories go")
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64N(1 << 32)
	}
	if subjects[*subject] == nil || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	found, err := run(newCampaign(*subject, *seed, *length, *rtt), *visual)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case found > 0 && *subject == ours:
		os.Exit(1)
	}
}

func run(c *campaign, visual string) (found int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Printf("seed %d: %v of faults for %s, round trips of %v\n", c.seed, c.length, c.subject, c.rtt)
	if err := c.play(ctx); err != nil {
		return 0, fmt.Errorf("the campaign itself failed, with seed %d: %w", c.seed, err)
	}
	v := judge(c)
	c.summarize(os.Stdout, v)
	return len(v.violations), v.draw(visual)
}
