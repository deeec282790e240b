package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/PumpkinSeed/locker"
)

// bystanderCommand makes this program another client in another process, which has nothing to do with what others hold.
const bystanderCommand = "bystand"

// bystander measures Lock for as long as each line of its input says, until there are no more.
func bystander(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: " + bystanderCommand + " ENDPOINTS")
	}
	ctx := context.Background()
	c, err := locker.New(strings.Split(args[0], ","), 0, ttl, ctx)
	if err != nil {
		return err
	}
	defer closing(&err, c.Close)
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		length, err := time.ParseDuration(lines.Text())
		if err != nil {
			return err
		}
		p, err := pausesOf(ctx, lockerLock(c, "bench/bystander"), length)
		if err != nil {
			return err
		}
		fmt.Println(p.p999, p.longest)
	}
	return lines.Err()
}

// pauses are the longest waits for Lock.
type pauses struct{ p999, longest time.Duration }

func pausesOf(ctx context.Context, w waiter, length time.Duration) (pauses, error) {
	var took []time.Duration
	for began := time.Now(); time.Since(began) < length; {
		start := time.Now()
		if err := w.lock(ctx); err != nil {
			return pauses{}, err
		}
		took = append(took, time.Since(start))
		if err := w.unlock(ctx); err != nil {
			return pauses{}, err
		}
	}
	return pauses{quantile(took, 0.999), quantile(took, 1)}, nil
}

// askBystander is pausesOf in the other process.
func askBystander(c *child, length time.Duration) (p pauses, err error) {
	line, err := c.ask(length.String())
	if err != nil {
		return p, err
	}
	p999, longest, _ := strings.Cut(line, " ")
	p.p999, err = time.ParseDuration(p999)
	var err2 error
	p.longest, err2 = time.ParseDuration(longest)
	return p, errors.Join(err, err2)
}
