package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type options struct {
	members             int
	etcd                []string
	dir                 string
	heartbeat, election time.Duration
	partitions          bool
	flags               []string
}

// cluster is used by the main goroutine only.
type cluster struct {
	opts    options
	dir     string
	ports   *ports
	members []*member
	fence   *fence // nil without -partitions
}

// start returns a cluster whose members all answer and have a leader.
func start(ctx context.Context, opts options) (*cluster, error) {
	if opts.members < 1 || opts.members > maxMembers {
		return nil, fmt.Errorf("-members must be between 1 and %d", maxMembers)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		c := &cluster{opts: opts}
		err := c.up(ctx)
		if err == nil {
			return c, nil
		}
		// A port may have been taken between our look and the member's: then others will do.
		final := attempt == 5 || !errors.Is(err, errAddressInUse)
		if final {
			c.printLogs()
		}
		err = errors.Join(err, c.close())
		if final {
			return nil, err
		}
	}
}

func (c *cluster) up(ctx context.Context) (err error) {
	if c.dir, err = os.MkdirTemp(c.opts.dir, "locker-cluster-"); err != nil {
		return err
	}
	if c.ports, err = reservePorts(); err != nil {
		return err
	}
	for i := range c.opts.members {
		name := fmt.Sprintf("m%d", i)
		m := &member{
			name: name,
			etcd: c.opts.etcd[i%len(c.opts.etcd)],
			dir:  filepath.Join(c.dir, name),
		}
		if m.client, m.admin, m.peer, err = c.ports.three(); err != nil {
			return err
		}
		m.peerURL = "http://" + m.peer
		c.members = append(c.members, m)
	}
	if c.opts.partitions {
		if c.fence, err = newFence(c.members); err != nil {
			return err
		}
	}
	if err := c.launch("new", c.members...); err != nil {
		return err
	}
	return c.await(ctx, c.members...)
}

// launch starts members' processes.
func (c *cluster) launch(state string, members ...*member) error {
	var initial []string
	for _, m := range c.members {
		initial = append(initial, m.name+"="+m.peerURL)
	}
	flags := append([]string{
		"--initial-cluster=" + strings.Join(initial, ","),
		"--initial-cluster-state=" + state,
		"--heartbeat-interval=" + strconv.FormatInt(c.opts.heartbeat.Milliseconds(), 10),
		"--election-timeout=" + strconv.FormatInt(c.opts.election.Milliseconds(), 10),
	}, c.opts.flags...)
	for _, m := range members {
		if err := m.launch(flags); err != nil {
			return err
		}
	}
	return nil
}

// await waits until members answer and have a leader.
func (c *cluster) await(ctx context.Context, members ...*member) error {
	for _, m := range members {
		err := poll(ctx, func() (bool, error) {
			if !m.running() {
				return false, m.diedOf()
			}
			return m.answers(ctx), nil
		})
		if err != nil {
			return fmt.Errorf("member %s does not answer: %w", m.name, err)
		}
	}
	return nil
}

// leader waits until the highest term that any member knows has a leader that says so itself, and is neither
// frozen nor isolated.
func (c *cluster) leader(ctx context.Context) (leader int, err error) {
	err = poll(ctx, func() (bool, error) {
		var asked []*member
		for i, m := range c.members {
			if m.running() && !m.frozen && (c.fence == nil || !c.fence.out[i]) {
				asked = append(asked, m)
			}
		}
		answers := statuses(ctx, asked)
		var term uint64
		for _, a := range answers {
			if errors.Is(a.err, rpctypes.ErrUserEmpty) {
				return false, a.err
			}
			if a.err != nil {
				continue
			}
			if a.status.RaftTerm > term {
				term, leader = a.status.RaftTerm, -1
			}
			if a.status.RaftTerm == term && a.status.Leader == a.status.Header.MemberId {
				leader = slices.Index(c.members, a.member)
			}
		}
		return term > 0 && leader >= 0, nil
	})
	return leader, err
}

// wipe replaces a dead member by a new one with an empty disk: a voter, or a learner.
func (c *cluster) wipe(ctx context.Context, m *member, learner bool) error {
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	err = c.members[leader].ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
		list, err := cli.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, other := range list.Members {
			if len(other.PeerURLs) == 1 && other.PeerURLs[0] == m.peerURL {
				_, err = cli.MemberRemove(ctx, other.ID)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove member %s: %w", m.name, err)
	}
	// etcd takes a new member only when the others have been connected for five seconds.
	var refused error
	err = poll(ctx, func() (bool, error) {
		refused = c.members[leader].ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
			add := cli.MemberAdd
			if learner {
				add = cli.MemberAddAsLearner
			}
			_, err := add(ctx, []string{m.peerURL})
			return err
		})
		return refused == nil, nil
	})
	if err != nil {
		return fmt.Errorf("add member %s: %w", m.name, errors.Join(err, refused))
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return err
	}
	if err := c.launch("existing", m); err != nil {
		return err
	}
	return c.await(ctx, m)
}

func (c *cluster) describe() map[string]any {
	var endpoints []string
	var pids []int64
	for _, m := range c.members {
		endpoints = append(endpoints, m.url(c.opts.flags))
		pids = append(pids, m.pid.Load())
	}
	return map[string]any{"endpoints": endpoints, "pids": pids, "dir": c.dir}
}

func (c *cluster) printLogs() {
	for _, m := range c.members {
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", m.name, m.logTail())
	}
}

// close kills every member, waits for it, and removes what the cluster made.
func (c *cluster) close() error {
	var errs []error
	for _, m := range c.members {
		if m.running() {
			errs = append(errs, m.kill())
		}
	}
	if c.fence != nil {
		c.fence.close()
	}
	if c.ports != nil {
		c.ports.release()
	}
	if c.opts.dir == "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// poll asks until the answer is true, an error, or ctx ends.
func poll(ctx context.Context, ask func() (bool, error)) error {
	for {
		done, err := ask()
		if done || err != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
