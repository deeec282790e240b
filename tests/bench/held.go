package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// held: very many locks held by one client. What they cost, and how they end: given back, lost, or with a crash.
func held(ctx context.Context, b *bench, round int) error {
	sizes, heldTTL := []int{1000, 10_000, 100_000}, 5
	if b.quick {
		sizes, heldTTL = []int{1000}, 2
	}
	for _, n := range sizes {
		h := &hoard{bench: b, ttl: heldTTL, names: namesBelow(heldDir, n)}
		for _, part := range []func(context.Context) error{h.withQuit, h.keepAndClose, h.lose, h.crash} {
			if err := part(ctx); err != nil {
				return fmt.Errorf("%d locks: %w", n, err)
			}
		}
	}
	return nil
}

const heldDir = "bench/held"

// hoard is one client's many locks.
type hoard struct {
	*bench
	ttl     int
	names   []string
	reports []locker.Report
}

// open is a client, and what there is before it holds anything.
func (h *hoard) open(ctx context.Context) (locker.Client, footprint, error) {
	h.reports = nil
	c, err := locker.New(h.peersAt, 60, int64(h.ttl), ctx)
	return c, measureFootprint(), err
}

// take takes all the locks, with the quit channels, if there are any.
func (h *hoard) take(c locker.Client, quits []chan bool) error {
	h.reports = make([]locker.Report, len(h.names))
	return takeAll(c, h.names, func(i int, r locker.Report) { h.reports[i] = r }, quits)
}

// takers are enough to keep etcd busy.
const takers = 480

func takeAll(c locker.Client, names []string, keep func(int, locker.Report), quits []chan bool) error {
	return atOnce(make([]struct{}, takers), func(first int, _ struct{}) error {
		for i := first; i < len(names); i += takers {
			var quit chan bool
			if quits != nil {
				quit = quits[i]
			}
			r := c.Lock(names[i], locker.DefaultValue, quit)
			if r.Msg != locker.Success {
				return errors.Join(errTaken, r.Err)
			}
			keep(i, r)
		}
		return nil
	})
}

// add is for all of a hoard's figures.
func (h *hoard) add(metric string, value float64) {
	h.results.adder("held", "locks", len(h.names), ours)(metric, value)
}

// footprint is what a process occupies, after a collection.
type footprint struct{ bytes, goroutines float64 }

func measureFootprint() footprint {
	runtime.GC()
	runtime.GC() // the first leaves what has a finalizer, and what a sync.Pool keeps
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{float64(m.HeapAlloc + m.StackInuse), float64(runtime.NumGoroutine())}
}

// withQuit: what a lock costs with a quit channel of its own. The channel counts as the caller's.
func (h *hoard) withQuit(ctx context.Context) error {
	quits := make([]chan bool, len(h.names))
	for i := range quits {
		quits[i] = make(chan bool)
	}
	c, before, err := h.open(ctx)
	if err != nil {
		return err
	}
	if err := h.take(c, quits); err != nil {
		return errors.Join(err, c.Close())
	}
	h.reports = nil
	after := measureFootprint()
	runtime.KeepAlive(quits)
	h.add("B/lock, own quit", (after.bytes-before.bytes)/float64(len(h.names)))
	return c.Close()
}

// keepAndClose: what locks cost while they are held, without quit channels, and how long it takes to give back all.
func (h *hoard) keepAndClose(ctx context.Context) error {
	c, before, err := h.open(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := h.take(c, nil); err != nil {
		return errors.Join(err, c.Close())
	}
	h.add("taken in s", time.Since(start).Seconds())
	h.reports = nil
	young := measureFootprint()

	renewals, err := h.gauge.renewals(ctx)
	if err != nil {
		return err
	}
	window := 2 * time.Duration(h.ttl) * time.Second
	time.Sleep(window) // a stretch of ordinary life: this is what is measured
	more, err := h.gauge.renewals(ctx)
	if err != nil {
		return err
	}
	old := measureFootprint()
	n := float64(len(h.names))
	h.add("B/lock", (young.bytes-before.bytes)/n)
	h.add("B/lock, watched", (old.bytes-before.bytes)/n)
	h.add("goroutines", old.goroutines-before.goroutines)
	h.add("renewals/s", (more-renewals)/window.Seconds())

	start = time.Now()
	err = c.Close()
	h.add("Close s", time.Since(start).Seconds())
	return err
}

// lose: the leases are revoked by somebody else. Every lock has a goroutine that waits for its Done, as in a program
// that has work to stop; that they all get to run is part of the figure.
func (h *hoard) lose(ctx context.Context) (err error) {
	c, _, err := h.open(ctx)
	if err != nil {
		return err
	}
	defer closing(&err, c.Close)
	if err := h.take(c, nil); err != nil {
		return err
	}
	ends := make([]time.Time, len(h.names))
	var all sync.WaitGroup
	for i, r := range h.reports {
		all.Go(func() {
			<-r.Done
			ends[i] = time.Now()
		})
	}
	time.Sleep(time.Duration(h.ttl) * time.Second / 2) // older than a renewal interval, as most are: those are watched
	start := time.Now()
	if err := h.revoke(ctx); err != nil {
		return err
	}
	all.Wait()
	first, last := slices.MinFunc(ends, time.Time.Compare), slices.MaxFunc(ends, time.Time.Compare)
	h.add("first to last Done ms", ms(last.Sub(first)))
	h.add("revoked to last Done ms", ms(last.Sub(start)))
	return nil
}

// revoke revokes all leases that the hoard is attached to.
func (h *hoard) revoke(ctx context.Context) error {
	cli := h.gauge.cli
	keys, err := cli.Get(ctx, heldDir+"/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	leases := map[int64]struct{}{}
	for _, kv := range keys.Kvs {
		leases[kv.Lease] = struct{}{}
	}
	for lease := range leases {
		_, err = cli.Revoke(ctx, clientv3.LeaseID(lease))
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) { // that is the answer to a second try
			return err
		}
	}
	return nil
}
