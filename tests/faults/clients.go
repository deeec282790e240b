package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// clients are the faults of client processes, and of their ways to the cluster.
var clients = lane{"clients", []kind{
	{"client killed", (*campaign).crash},
	{frozenClient, (*campaign).freeze},
	{"client cut off", onTheWay(func(p *etcdtest.Proxy) { p.Swallow() })},
	{"client hears nothing", onTheWay(func(p *etcdtest.Proxy) { p.Swallow(etcdtest.ToClient) })},
	{"client is not heard", onTheWay(func(p *etcdtest.Proxy) { p.Swallow(etcdtest.ToServer) })},
	{"client cut off, all delivered late", onTheWay(func(p *etcdtest.Proxy) { p.Hold() })},
	{"answers delivered late", onTheWay(func(p *etcdtest.Proxy) { p.Hold(etcdtest.ToClient) })},
	{"requests delivered late", onTheWay(func(p *etcdtest.Proxy) { p.Hold(etcdtest.ToServer) })},
	{"delay and jitter", (*campaign).jitter},
	{cutConnections, (*campaign).cut},
}}

const (
	frozenClient   = "client frozen"
	cutConnections = "connections cut"
)

// spared is the slot of the process that is never killed: the one to look at for what grows with time.
const spared = 0

func (c *campaign) crash(ctx context.Context, f *fault) error {
	s := c.slots[1+f.pick%uint64(len(c.slots)-1)]
	c.strikeClient(f, s)
	c.kill(s.now)
	sleep(ctx, f.length)
	return c.spawn(s, c.nextNumber())
}

func (c *campaign) strikeClient(f *fault, s *slot) {
	c.faults.strike(func() { f.slot, f.target = s.number, fmt.Sprint("p", s.now.number) })
}

func (c *campaign) freeze(ctx context.Context, f *fault) error {
	s := c.slots[f.pick%uint64(len(c.slots))]
	c.strikeClient(f, s)
	if err := s.now.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	sleep(ctx, f.longerThanTTL())
	return s.now.cmd.Process.Signal(syscall.SIGCONT)
}

// onTheWay is a bad network between one client and all members.
func onTheWay(worsen func(*etcdtest.Proxy)) func(*campaign, context.Context, *fault) error {
	return func(c *campaign, ctx context.Context, f *fault) error {
		s := c.slots[f.pick%uint64(len(c.slots))]
		c.strikeClient(f, s)
		for _, p := range s.proxies {
			worsen(p)
		}
		sleep(ctx, f.length)
		for _, p := range s.proxies {
			p.Heal()
		}
		return nil
	}
}

// jitter delays all that one client sends and gets, by other times every time.
func (c *campaign) jitter(ctx context.Context, f *fault) error {
	s := c.slots[f.pick%uint64(len(c.slots))]
	c.strikeClient(f, s)
	x := f.pick
	for end := time.Now().Add(f.length); time.Now().Before(end) && ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		for _, p := range s.proxies {
			x = x*6364136223846793005 + 1442695040888963407
			p.Delay(time.Duration(x>>33) % (200 * time.Millisecond))
		}
	}
	for _, p := range s.proxies {
		p.Heal()
	}
	return nil
}

// cut resets the connections of one client, in the middle of whatever is under way, several times.
func (c *campaign) cut(ctx context.Context, f *fault) error {
	s := c.slots[f.pick%uint64(len(c.slots))]
	c.strikeClient(f, s)
	for range 5 {
		for _, p := range s.proxies {
			p.Cut()
		}
		sleep(ctx, f.length/10)
	}
	return nil
}
