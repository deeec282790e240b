package main

import (
	"context"
	"fmt"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// network is what the ways between the clients and the members are like. Nothing of it is an excuse: whatever the network
// is like here, no lock may be lost, no call fail, and nobody wait for a lock that is free.
var network = lane{"network", []kind{
	{slowNetwork, (*campaign).slowDown},
	{farMember, (*campaign).moveAway},
	{narrowNetwork, (*campaign).narrow},
	{silentWatches, (*campaign).silence},
}}

const (
	slowNetwork   = "round trips step up and down"
	farMember     = "member in another region"
	narrowNetwork = "narrow network"
	silentWatches = "members silent to watches"
)

const (
	longestTrip = 100 * time.Millisecond
	// narrowest is what a connection carries at least, in bytes a second.
	narrowest = 64 << 10
)

// distance has every packet take between a half and the whole of its share of a round trip.
func distance(p *etcdtest.Proxy, trip time.Duration) { p.Jitter(trip/4, trip/2) }

// calm ends a fault of the network.
func (c *campaign) calm() {
	c.distances.Heal()
	c.distances.Each(func(p *etcdtest.Proxy) { distance(p, c.rtt) })
}

// slowDown gives the ways to all members the same round trip, and soon another.
func (c *campaign) slowDown(ctx context.Context, f *fault) error {
	defer c.calm()
	x := f.pick
	for end := time.Now().Add(f.length); time.Now().Before(end) && ctx.Err() == nil; {
		x = x*6364136223846793005 + 1442695040888963407
		trip := time.Duration(x>>33) % (longestTrip + 1)
		c.distances.Each(func(p *etcdtest.Proxy) { distance(p, trip) })
		sleep(ctx, 200*time.Millisecond+4*trip)
	}
	return nil
}

// moveAway has one member far from all clients, and the others near.
func (c *campaign) moveAway(ctx context.Context, f *fault) error {
	defer c.calm()
	m := int(f.pick % uint64(len(c.distances)))
	c.faults.strike(func() { f.target = fmt.Sprint("m", m) })
	for i, p := range c.distances {
		trip := max(2*time.Millisecond, c.rtt)
		if i == m {
			trip = longestTrip
		}
		distance(p, trip)
	}
	sleep(ctx, f.length)
	return nil
}

// narrow bounds what every connection carries.
func (c *campaign) narrow(ctx context.Context, f *fault) error {
	defer c.calm()
	c.distances.Throttle(narrowest << (f.pick % 3))
	sleep(ctx, f.length)
	return nil
}

// silence has the members tell the watches that are open nothing any more, time and again, while all else is answered: the
// clients must move them, in the middle of hand-overs. Only those that were made by NewFromClient are struck: see
// client.dial.
func (c *campaign) silence(ctx context.Context, f *fault) error {
	for end := time.Now().Add(f.length); time.Now().Before(end) && ctx.Err() == nil; sleep(ctx, time.Second) {
		for _, p := range c.present() {
			p.in.write(order{Silence: true}) // its error is that it was killed
		}
	}
	return nil
}

// present are the processes that are there now.
func (c *campaign) present() (all []*process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.slots {
		all = append(all, s.now)
	}
	return all
}
