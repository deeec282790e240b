//go:build linux || darwin || freebsd || openbsd || dragonfly

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runUnderLocks is `locker run`.
func (in *invocation) runUnderLocks(o runOptions, args []string) error {
	host, _ := os.Hostname()
	if err := o.complete(args, fmt.Sprintf("%s:%d", host, os.Getpid())); err != nil {
		return err
	}
	if _, err := exec.LookPath(o.argv[0]); err != nil {
		return notRun(err) // before anybody has to wait for it
	}
	signals := make(chan os.Signal, 16)
	notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	held, err := in.acquire(o, signals)
	if err != nil {
		return err
	}
	notify(signals, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT)
	status, err := held.runCommand(o, signals)
	if e := held.giveBack(); err == nil {
		err = e
	}
	if err == nil && status != 0 {
		err = failure{status: status}
	}
	return err
}

// notify asks for signals, but not for one that this program was told to ignore, as by nohup: the command is to ignore it, too.
func notify(c chan<- os.Signal, signals ...os.Signal) {
	signal.Notify(c, slices.DeleteFunc(signals, signal.Ignored)...)
}

// acquire takes the locks, until it is told by a signal to give up.
func (in *invocation) acquire(o runOptions, signals <-chan os.Signal) (*held, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	var listening sync.WaitGroup
	listening.Go(func() {
		select {
		case s := <-signals:
			cancel(failure{status: statusSignal + int(s.(syscall.Signal))})
		case <-ctx.Done():
		}
	})
	h, err := in.take(ctx, o)
	cancel(nil)
	listening.Wait()
	if interrupted := (failure{}); errors.As(context.Cause(ctx), &interrupted) {
		if err == nil {
			report(h.giveBack(), os.Stderr)
		}
		return nil, interrupted
	}
	return h, err
}

// notRun is the failure of a command that can't be started, with the exit statuses of a shell.
func notRun(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return failure{statusNoCommand, err.Error()}
	}
	return failure{statusNotRun, err.Error()}
}

// look is how often the time that is left is compared with the grace, and passed on to the guard.
const look = 100 * time.Millisecond

// runCommand runs the command until it ends, and ends it if the locks are about to be lost. err says so.
func (h *held) runCommand(o runOptions, signals <-chan os.Signal) (status int, err error) {
	g, err := startGuard()
	if err != nil {
		return 0, err
	}
	defer g.stop()
	c, err := startChild(o.argv, h.environment(o))
	if err != nil {
		return 0, err
	}
	defer c.kill() // what it has left behind
	ticks := time.NewTicker(look)
	defer ticks.Stop()
	for {
		if left, soon := h.tend(o, g, c); soon && err == nil {
			err = failure{status: statusLost}
			report(fmt.Errorf("the lease is not renewed: %s has %v to end", o.argv[0], left.Round(look)), os.Stderr)
			c.signal(unix.SIGTERM)
		}
		select {
		case <-ticks.C:
		case <-h.lost.Done():
			c.kill()
			<-c.ended
			return 0, fmt.Errorf("%s was killed: %w", o.argv[0], context.Cause(h.lost))
		case s := <-signals:
			c.signal(s.(syscall.Signal))
		case stopped := <-c.stops:
			c.resume(stopped)
		case status = <-c.ended:
			return status, err
		}
	}
}

// tend tells the guard how long the command may run, and lets it begin once it has more time than the grace. soon says that one which
// has begun has less than that; one that has not can wait for the next renewal, or for the loss.
func (h *held) tend(o runOptions, g *guardProcess, c *child) (left time.Duration, soon bool) {
	deadline := clock() + h.remaining() // in this order: if this program is stopped in between, it is the earlier for that
	g.allow(c.group, deadline)
	left = deadline - clock()
	if left > o.grace {
		c.begin(deadline)
		return left, false
	}
	return left, c.gate == nil
}

// environment is the command's.
func (h *held) environment(o runOptions) []string {
	return append(os.Environ(), "LOCKER_NAME="+strings.Join(o.names, " "),
		"LOCKER_TOKEN="+strings.Trim(fmt.Sprint(h.tokens), "[]"))
}
