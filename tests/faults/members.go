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
	{"member replaced by a learner", follower(relearned)},
	{quorumLost, leader(withOthers)},
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
		leader, err := c.leader()
		if err != nil {
			return err
		}
		m := choose(f, leader)
		c.faults.strike(func() { f.target = fmt.Sprint("m", m) })
		if err := b(c, ctx, f, m); err != nil {
			return err
		}
		_, err = c.leader()
		return err
	}
}

// leader waits until a member leads, none of which is frozen or cut off, and returns it.
func (c *campaign) leader() (leader int, err error) {
	err = insist(func(ctx context.Context) error {
		var term uint64
		leader = -1
		for i, endpoint := range c.cluster.Endpoints() {
			s, err := c.etcd.Status(ctx, endpoint)
			if err != nil {
				return err
			}
			if s.RaftTerm >= term && s.Leader == s.Header.MemberId {
				leader, term = i, s.RaftTerm
			}
		}
		if leader < 0 {
			return errors.New("no member leads")
		}
		return nil
	})
	return leader, err
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
	sleep(ctx, f.longerThanTTL())
	c.faults.strike(func() { f.resumed = now() })
	return errors.Join(err, c.cluster.Thaw(m))
}

func isolated(c *campaign, ctx context.Context, f *fault, m int) error {
	err := c.cluster.Isolate(m)
	sleep(ctx, f.length)
	return errors.Join(err, c.cluster.Join(m))
}

// wiped is done without authentication: the cluster's program has no password.
func wiped(c *campaign, _ context.Context, _ *fault, m int) error {
	return c.withoutAuth(func() error {
		return errors.Join(c.cluster.Kill(m), insist(func(context.Context) error { return c.cluster.Wipe(m) }))
	})
}

// relearned is wiped, but the new member is a learner for a while, which serves nobody, before it is promoted.
func relearned(c *campaign, ctx context.Context, f *fault, m int) error {
	return c.withoutAuth(func() error {
		err := errors.Join(c.cluster.Kill(m), insist(func(context.Context) error { return c.cluster.Learner(m) }))
		sleep(ctx, f.length)
		return errors.Join(err, insist(c.promote))
	})
}

// promote makes voters of all learners.
func (c *campaign) promote(ctx context.Context) error {
	list, err := c.etcd.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, m := range list.Members {
		if m.IsLearner {
			if _, err := c.etcd.MemberPromote(ctx, m.ID); err != nil {
				return err
			}
		}
	}
	return nil
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

// withOthers is the one fault that the cluster does not survive while it lasts. Locks may be lost then, and calls fail;
// all else must hold.
func withOthers(c *campaign, ctx context.Context, f *fault, m int) error {
	all := []int{m, (m + 1) % 3, (m + 2) % 3}
	if f.pick%2 == 0 {
		all = all[:2]
	}
	err := c.cluster.Kill(all...)
	sleep(ctx, f.length)
	return errors.Join(err, c.cluster.Start(all...))
}
