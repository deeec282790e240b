package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// members are the faults of the cluster.
var members = lane{"members", []kind{
	{"leader killed", leader(killed)},
	{"member killed", follower(killed)},
	{"leader shut down", leader(shutDown)},
	{pausedLeader, leader(frozen)},
	{"member frozen", follower(frozen)},
	{"leader cut off from members", leader(isolated)},
	{"member cut off from members", follower(isolated)},
	{"member cut off from clients", anyMember(behind((*etcdtest.Proxy).Swallow))},
	{"member silent to clients", anyMember(behind((*etcdtest.Proxy).Swallow, etcdtest.ToClient))},
	{"member far from clients", anyMember(behind(func(p *etcdtest.Proxy, _ ...etcdtest.Direction) { p.Delay(100 * time.Millisecond) }))},
	{"member replaced by an empty one", follower(wiped)},
	{quorumLost, (*campaign).loseQuorum},
}}

const (
	pausedLeader = "leader frozen"
	quorumLost   = "quorum killed"
)

// A breakage is what happens to a member, and its end.
type breakage func(c *campaign, ctx context.Context, f *fault, m int) error

func leader(b breakage) func(*campaign, context.Context, *fault) error {
	return chosen(func(_ *fault, leader int) int { return leader }, b)
}

func follower(b breakage) func(*campaign, context.Context, *fault) error {
	return chosen(func(f *fault, leader int) int { return (leader + 1 + int(f.pick%2)) % 3 }, b)
}

func anyMember(b breakage) func(*campaign, context.Context, *fault) error {
	return chosen(func(f *fault, _ int) int { return int(f.pick % 3) }, b)
}

// chosen breaks a member, and waits until all are well again.
func chosen(choose func(f *fault, leader int) int, b breakage) func(*campaign, context.Context, *fault) error {
	return func(c *campaign, ctx context.Context, f *fault) error {
		leader, err := c.cluster.Leader()
		if err != nil {
			return err
		}
		m := choose(f, leader)
		c.faults.strike(func() { f.target = fmt.Sprint("m", m) })
		if err := b(c, ctx, f, m); err != nil {
			return err
		}
		_, err = c.cluster.Leader()
		return err
	}
}

func killed(c *campaign, ctx context.Context, f *fault, m int) error {
	err := c.cluster.Kill(m)
	sleep(ctx, f.length)
	return errors.Join(err, c.cluster.Start(m))
}

func shutDown(c *campaign, ctx context.Context, f *fault, m int) error {
	err := c.cluster.Stop(m)
	sleep(ctx, f.length)
	return errors.Join(err, c.cluster.Start(m))
}

func frozen(c *campaign, ctx context.Context, f *fault, m int) error {
	err := c.cluster.Freeze(m)
	sleep(ctx, f.length)
	c.faults.strike(func() { f.resumed = now() })
	return errors.Join(err, c.cluster.Thaw(m))
}

func isolated(c *campaign, ctx context.Context, f *fault, m int) error {
	err := c.cluster.Isolate(m)
	sleep(ctx, f.length)
	return errors.Join(err, c.cluster.Join(m))
}

func wiped(c *campaign, _ context.Context, _ *fault, m int) error {
	return errors.Join(c.cluster.Kill(m), c.cluster.Wipe(m))
}

// behind is a bad network between a member and all clients.
func behind(worsen func(*etcdtest.Proxy, ...etcdtest.Direction), dirs ...etcdtest.Direction) breakage {
	return func(c *campaign, ctx context.Context, f *fault, m int) error {
		worsen(c.fronts[m], dirs...)
		sleep(ctx, f.length)
		c.fronts[m].Heal()
		return nil
	}
}

// loseQuorum is the one fault that the cluster does not survive while it lasts. Locks may be lost then, and calls fail;
// all else must hold.
func (c *campaign) loseQuorum(ctx context.Context, f *fault) error {
	all := []int{0, 1, 2}
	if f.pick%2 == 0 {
		all = all[:2]
	}
	err := c.cluster.Kill(all...)
	sleep(ctx, f.length)
	if err = errors.Join(err, c.cluster.Start(all...)); err == nil {
		_, err = c.cluster.Leader()
	}
	return err
}
