package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// do carries out one line of standard input and returns what to answer besides "ok".
func (c *cluster) do(ctx context.Context, line string) (map[string]any, error) {
	verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	list, path, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if verb == "leader" {
		leader, err := c.leader(ctx)
		return map[string]any{"leader": leader}, err
	}
	members, err := c.parse(list)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		switch verb {
		case "isolate", "join": // whatever its state
		case "start", "wipe", "learner":
			if m.running() {
				return nil, fmt.Errorf("member %s is running", m.name)
			}
		default:
			if !m.running() {
				return nil, fmt.Errorf("member %s is not running", m.name)
			}
		}
	}
	each := func(act func(*member) error) error {
		var errs []error
		for _, m := range members {
			errs = append(errs, act(m))
		}
		return errors.Join(errs...)
	}
	switch verb {
	case "pid":
		return map[string]any{"pid": members[0].pid.Load()}, nil
	case "kill":
		return nil, each((*member).kill)
	case "stop":
		return nil, each(func(m *member) error { return m.end(ctx, syscall.SIGTERM) })
	case "freeze":
		return nil, each(func(m *member) error { return m.freeze(ctx) })
	case "thaw":
		return nil, each(func(m *member) error { return m.thaw(ctx) })
	case "start":
		for _, m := range members {
			if path != "" {
				m.etcd = path
			}
		}
		if err := c.launch("existing", members...); err != nil {
			return nil, err
		}
		return nil, c.await(ctx, members...)
	case "wipe", "learner":
		return nil, each(func(m *member) error { return c.wipe(ctx, m, verb == "learner") })
	case "isolate", "join":
		if c.fence == nil {
			return nil, errors.New("started without -partitions")
		}
		for _, m := range members {
			c.fence.isolate(slices.Index(c.members, m), verb == "isolate")
		}
		return nil, nil
	}
	return nil, fmt.Errorf("unknown command %q", verb)
}

// parse turns "0,2" into members.
func (c *cluster) parse(list string) ([]*member, error) {
	var members []*member
	for _, s := range strings.Split(list, ",") {
		i, err := strconv.Atoi(s)
		if err != nil || i < 0 || i >= len(c.members) {
			return nil, fmt.Errorf("no member %q among %d", s, len(c.members))
		}
		if slices.Contains(members, c.members[i]) {
			return nil, fmt.Errorf("member %d named twice", i)
		}
		members = append(members, c.members[i])
	}
	return members, nil
}
