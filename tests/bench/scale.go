package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/PumpkinSeed/locker"
	"golang.org/x/sync/errgroup"
)

// scale: very many locks of one client, and very many who wait for one lock.
func scale(ctx context.Context, b *bench, _ int) error {
	n, scaleTTL := 100_000, 10
	if b.quick {
		n, scaleTTL = 10_000, 2
	}
	if b.n > 0 {
		n = b.n
	}
	s := &mass{hoard: &hoard{bench: b, ttl: scaleTTL, names: namesBelow(heldDir, n)}}
	if err := s.keep(ctx); err != nil {
		return fmt.Errorf("%d locks: %w", n, err)
	}
	return queues(ctx, b)
}

// mass is a hoard that is looked at from outside as well.
type mass struct {
	*hoard
	other *child // a client of another process
}

func (s *mass) add(metric string, value float64) {
	s.results.adder("scale", "locks", len(s.names), ours)(metric, value)
}

// keep takes all the locks, keeps them for three TTLs and closes the client. What Lock takes meanwhile is compared with
// what it took before.
func (s *mass) keep(ctx context.Context) (err error) {
	if s.other, _, err = startSelf(ctx, bystanderCommand, strings.Join(s.peersAt, ",")); err != nil {
		return err
	}
	defer s.other.kill()
	c, _, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer closing(&err, func() error { return s.closeAll(ctx, c) })
	before, err := s.live(ctx, c)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := takeAll(c, s.names, func(int, locker.Report) {}, nil); err != nil {
		return err
	}
	s.add("taken in s", time.Since(start).Seconds())
	after, err := s.live(ctx, c)
	if err != nil {
		return err
	}
	s.compare(before, after)
	return nil
}

// span is what was seen in three TTLs.
type span struct {
	own, other     pauses // of this client, and of another
	client         footprint
	memory, cpu    float64 // of all members: bytes, and processors kept busy
	renewalsPerSec float64
}

func (s *mass) live(ctx context.Context, c locker.Client) (l span, err error) {
	length := 3 * time.Duration(s.ttl) * time.Second
	cpu, err := s.gauge.sum(ctx, "process_cpu_seconds_total")
	if err != nil {
		return l, err
	}
	renewals, err := s.gauge.renewals(ctx)
	if err != nil {
		return l, err
	}
	var g errgroup.Group
	g.Go(func() (err error) {
		l.own, err = pausesOf(ctx, lockerLock(c, "bench/own"), length)
		return err
	})
	g.Go(func() (err error) {
		l.other, err = askBystander(s.other, length)
		return err
	})
	if err := g.Wait(); err != nil {
		return l, err
	}
	moreCPU, err := s.gauge.sum(ctx, "process_cpu_seconds_total")
	if err != nil {
		return l, err
	}
	moreRenewals, err := s.gauge.renewals(ctx)
	if err != nil {
		return l, err
	}
	l.cpu, l.renewalsPerSec = (moreCPU-cpu)/length.Seconds(), (moreRenewals-renewals)/length.Seconds()
	l.memory, err = s.gauge.sum(ctx, "process_resident_memory_bytes")
	l.client = measureFootprint()
	return l, err
}

func (s *mass) compare(before, after span) {
	n := float64(len(s.names))
	s.add("B/lock", (after.client.bytes-before.client.bytes)/n)
	s.add("goroutines", after.client.goroutines-before.client.goroutines)
	s.add("renewals/s", after.renewalsPerSec)
	s.addPauses(ours, before.own, after.own)
	s.addPauses("another client", before.other, after.other)
	s.add("etcd MB before", before.memory/1e6)
	s.add("etcd MB", after.memory/1e6)
	s.add("etcd CPUs before", before.cpu)
	s.add("etcd CPUs", after.cpu)
}

// addPauses is for what Lock of another name takes, of the client that holds them all or of another one.
func (s *mass) addPauses(client string, before, after pauses) {
	add := s.results.adder("pauses", "locks", len(s.names), client)
	add("Lock p99.9 ms", ms(after.p999))
	add("to none held", float64(after.p999)/float64(before.p999))
	add("longest ms", ms(after.longest))
	add("to none held, longest", float64(after.longest)/float64(before.longest))
}

func (s *mass) closeAll(ctx context.Context, c locker.Client) error {
	start := time.Now()
	err := c.Close()
	s.add("Close s", time.Since(start).Seconds())
	left, countErr := s.gauge.keys(ctx, heldDir+"/")
	s.add("keys left", float64(left))
	return errors.Join(err, countErr)
}
