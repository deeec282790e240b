package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/PumpkinSeed/locker"
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
	if err := takeAll(c, namesBelow(heldDir, n), func(int, locker.Report) {}, nil); err != nil {
		return errors.Join(err, c.Close())
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, c.Close())
}

// crash: the process that holds all is killed, and its lease expires. Meanwhile another client, which has nothing to
// do with those locks, goes on taking and giving back one of its own, by bare transactions: does it feel that?
func (h *hoard) crash(ctx context.Context) (err error) {
	c, err := h.startHolder(ctx)
	if err != nil {
		return err
	}
	defer c.kill()
	ops, closeOps, err := openBare(ctx, h.peersAt, []string{"bench/bystander"})
	if err != nil {
		return err
	}
	defer closing(&err, closeOps)

	quiet, _, err := drive(ctx, ops, time.Duration(h.ttl)*time.Second)
	if err != nil {
		return err
	}
	c.kill()
	pauses, freed, err := h.driveUntilFree(ctx, ops)
	if err != nil {
		return err
	}
	h.add("killed to free s", freed.Seconds())
	h.add("longest pause before ms", ms(quantile(quiet, 1)))
	h.add("longest pause at expiry ms", ms(quantile(pauses, 1)))
	return nil
}

// driveUntilFree goes on until all locks of the hoard are free, and a second more, for what the deletion leaves to do.
func (h *hoard) driveUntilFree(ctx context.Context, ops []operation) (pauses []time.Duration, freed time.Duration, err error) {
	killed := time.Now()
	for ended := false; !ended; {
		ended = freed != 0
		took, _, err := drive(ctx, ops, time.Second)
		if err != nil {
			return nil, 0, err
		}
		pauses = append(pauses, took...)
		left, err := h.gauge.keys(ctx, heldDir+"/")
		if err != nil {
			return nil, 0, err
		}
		if left == 0 && freed == 0 {
			freed = time.Since(killed)
		}
		if time.Since(killed) > time.Minute {
			return nil, 0, errors.New("the locks of a holder that was killed are not free")
		}
	}
	return pauses, freed, nil
}

// startHolder starts a process that holds all the locks, and returns once it does.
func (h *hoard) startHolder(ctx context.Context) (*child, error) {
	c, _, err := startSelf(ctx, holderCommand, strings.Join(h.peersAt, ","), strconv.Itoa(len(h.names)), strconv.Itoa(h.ttl))
	return c, err
}
