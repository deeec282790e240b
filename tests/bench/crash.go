package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// holderCommand makes this program a process that holds locks until it is killed, or its standard input ends.
const holderCommand = "hold"

func holder(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: " + holderCommand + " ENDPOINTS COUNT TTL")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	ttl, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	c, err := locker.New(strings.Split(args[0], ","), 60, int64(ttl), context.Background())
	if err != nil {
		return err
	}
	names := make([]string, n)
	for i := range names {
		names[i] = heldName(i)
	}
	if err := takeAll(c, names, func(int, locker.Report) {}, nil); err != nil {
		return errors.Join(err, c.Close())
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, c.Close())
}

// crash: the process that holds all is killed, and its lease expires. Meanwhile another client, which has nothing to
// do with those locks, goes on taking and giving back one of its own, by bare transactions: does it feel that?
func (h *hoard) crash(ctx context.Context) (err error) {
	kill, err := h.startHolder(ctx)
	if err != nil {
		return err
	}
	defer kill()
	cli, err := connect(h.endpoints)
	if err != nil {
		return err
	}
	defer cli.Close()
	ops, closeOps, err := openBare(ctx, h.endpoints, []string{"bench/bystander"})
	if err != nil {
		return err
	}
	defer closing(&err, closeOps)

	quiet, _, err := drive(ctx, ops, time.Duration(h.ttl)*time.Second)
	if err != nil {
		return err
	}
	kill()
	killed := time.Now()
	var pauses []time.Duration
	var freed time.Duration
	for freed == 0 { // and a second more, for what the deletion leaves to do
		took, _, err := drive(ctx, ops, time.Second)
		if err != nil {
			return err
		}
		pauses = append(pauses, took...)
		left, err := cli.Get(ctx, path.Dir(h.names[0])+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		if left.Count == 0 {
			freed = time.Since(killed)
		}
		if time.Since(killed) > time.Minute {
			return errors.New("the locks of a holder that was killed are not free")
		}
	}
	took, _, err := drive(ctx, ops, time.Second)
	if err != nil {
		return err
	}
	pauses = append(pauses, took...)
	h.add("killed to free s", freed.Seconds())
	h.add("longest pause before ms", ms(quantile(quiet, 1)))
	h.add("longest pause at expiry ms", ms(quantile(pauses, 1)))
	return nil
}

// startHolder starts a process that holds all the locks, and returns once it does.
func (h *hoard) startHolder(ctx context.Context) (kill func(), err error) {
	_, kill, err = startSelf(ctx, holderCommand, strings.Join(h.endpoints, ","), strconv.Itoa(len(h.names)), strconv.Itoa(h.ttl))
	return kill, err
}

// startSelf starts this program with other arguments, and returns the first line that it prints once that is there.
// kill is SIGKILL; it may be called twice.
func startSelf(ctx context.Context, args ...string) (line string, kill func(), err error) {
	program, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // it ends when this process does
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	kill = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	line, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		kill()
		return "", nil, fmt.Errorf("%s has ended: %q: %w", args[0], line, err)
	}
	return strings.TrimSuffix(line, "\n"), kill, nil
}
