package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// gauge reads what this process and etcd keep. It reaches the members past the network.
type gauge struct{ cli *clientv3.Client }

func newGauge(members []string) (*gauge, error) {
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: members,
		Logger:    clientv3.NewCtxClient(context.Background()).GetLogger(), // says nothing
	})
	return &gauge{cli}, err
}

// sample reads all figures.
func (g *gauge) sample(ctx context.Context) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var errs [4]error
	s.values[watchers], errs[0] = etcdtest.Metric(ctx, "etcd_debugging_mvcc_watcher_total", g.cli.Endpoints()...)
	s.values[streams], errs[1] = etcdtest.Metric(ctx, "etcd_debugging_mvcc_watch_stream_total", g.cli.Endpoints()...)
	granted, err := g.cli.Leases(ctx)
	if errs[2] = err; err == nil {
		s.values[leases] = float64(len(granted.Leases))
	}
	all, err := g.cli.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if errs[3] = err; err == nil {
		s.values[keys] = float64(all.Count)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.values[heap] = float64(m.HeapAlloc) / 1024
	s.values[goroutines] = float64(runtime.NumGoroutine())
	open, _ := os.ReadDir("/proc/self/fd") // nil where there is no such thing
	s.values[files] = float64(len(open))
	return s, errors.Join(errs[:]...)
}

const (
	sampleCount = 60
	samplesARow = 5
)

// follow takes samples until ctx ends, and prints some of them.
func (g *gauge) follow(ctx context.Context, length time.Duration, turns func() int) (samples []sample, err error) {
	began := time.Now()
	ticker := time.NewTicker(max(length/sampleCount, time.Second))
	defer ticker.Stop()
	printHead()
	defer func() { printMedians(samples) }()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return samples, nil
		}
		s, err := g.sample(ctx)
		switch {
		case ctx.Err() != nil:
			return samples, nil
		case err != nil:
			return samples, fmt.Errorf("sample: %w", err)
		}
		s.at, s.turns = time.Since(began), turns()
		samples = append(samples, s)
		if len(samples)%samplesARow == 1 {
			printRow(s)
		}
	}
}

// left waits until no more is there than was before, and returns an error that names what stays. The heap is left out:
// the runtime's own pools are in it.
func (g *gauge) left(before sample) error {
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		now, err := g.sample(context.Background())
		if err != nil {
			return err
		}
		var all []error
		for i := goroutines; i < figureCount; i++ {
			if now.values[i] > before.values[i] {
				all = append(all, fmt.Errorf("%s in the end: %.0f, and %.0f before", figures[i].name, now.values[i], before.values[i]))
			}
		}
		if len(all) > 0 && now.values[goroutines] > before.values[goroutines] {
			all = append(all, ownStacks()...)
		}
		if len(all) == 0 || time.Now().After(end) {
			return errors.Join(all...)
		}
	}
}

// ownStacks are those of the goroutines that run code of the library, or wait for it.
func ownStacks() (all []error) {
	buf := make([]byte, 1<<20)
	for stack := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		of := func(code string) bool { return bytes.Contains(stack, []byte(code)) }
		if of("main.(*client)") || of("\ngithub.com/PumpkinSeed/locker") && !of("/etcdtest.") {
			all = append(all, errors.New(string(stack)))
		}
	}
	return all
}
