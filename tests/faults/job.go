package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// jobCommand makes this program what `locker run` runs: a job that tells when it was alive, on standard output. It is started as
// `job TERM STATUS [stubborn] [forks]`.
const jobCommand = "job"

// A job tells, each on a line of its own and with the moment at its end, that it has begun, with its fencing token; that it is alive;
// and that it ends. What it has forked, and may leave behind, tells that it is alive.
const (
	jobBegins = "begin"
	jobLives  = "alive"
	jobEnds   = "end"
)

// jobOrders are how a job behaves.
type jobOrders struct {
	term     time.Duration // after which it ends by itself
	status   int           // with which it does
	stubborn bool          // it ignores SIGTERM
	forks    bool          // and leaves the other behind
}

func (o jobOrders) args() []string {
	args := []string{jobCommand, o.term.String(), fmt.Sprint(o.status)}
	if o.stubborn {
		args = append(args, "stubborn")
	}
	if o.forks {
		args = append(args, "forks")
	}
	return args
}

// runJob is the job. It lives on as it began, whatever becomes of `locker run`, until it is killed or its term is over.
func runJob(args []string) (status int, err error) {
	var term time.Duration
	if term, err = time.ParseDuration(args[0]); err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(args[1], &status); err != nil {
		return 0, err
	}
	how := strings.Join(args[2:], " ")
	terminated := make(chan os.Signal, 1)
	if signal.Notify(terminated, syscall.SIGTERM); strings.Contains(how, "stubborn") {
		signal.Ignore(syscall.SIGTERM)
	}
	forked := os.Getenv(forkedJob) != ""
	if !forked {
		fmt.Println(jobBegins, os.Getenv("LOCKER_TOKEN"), int64(now()))
	}
	if strings.Contains(how, "forks") {
		if err := fork(args); err != nil {
			return 0, err
		}
	}
	for end := time.After(term); ; fmt.Println(jobLives, int64(now())) {
		select {
		case <-time.After(samplePeriod):
			continue
		case <-end:
		case <-terminated:
		}
		if !forked {
			fmt.Println(jobEnds, int64(now()))
		}
		return status, nil
	}
}

// forkedJob is in the environment of what a job has forked.
const forkedJob = "LOCKER_FAULTS_FORKED"

// fork starts another job in the group of this one, that ignores SIGTERM and goes on for longer.
func fork(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, jobCommand, (3 * ttl).String(), args[1], "stubborn")
	child.Env = append(os.Environ(), forkedJob+"=yes")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	return child.Start()
}
