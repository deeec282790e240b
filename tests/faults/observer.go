package main

import (
	"context"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// event is a change of a lock's key, in etcd.
type event struct {
	rev   int64
	value string // "": deleted
	lease int64
	seen  instant // not earlier than the change, and soon after it as a rule
}

// observer watches all that the campaign writes, at every member: what a frozen one holds back, others tell.
type observer struct {
	prefix  string
	clients []*clientv3.Client
	running sync.WaitGroup
	cancel  context.CancelFunc

	mu     sync.Mutex // guards all below
	events map[string]map[int64]event
	rev    int64 // all that happened up to this was seen
	up     []instant
}

func observe(user string, endpoints []string, prefix string) (*observer, error) {
	o := &observer{prefix: prefix, events: map[string]map[int64]event{}}
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(context.Background())
	for _, endpoint := range endpoints {
		cli, err := dial(user, endpoint)
		if err != nil {
			o.close()
			return nil, err
		}
		o.clients = append(o.clients, cli)
		o.running.Go(func() { o.follow(ctx, cli) })
		o.running.Go(func() { o.probe(ctx, cli) })
	}
	return o, nil
}

// follow reads all changes, in order, from one member.
func (o *observer) follow(ctx context.Context, cli *clientv3.Client) {
	next := int64(1)
	for ctx.Err() == nil {
		changes := cli.Watch(clientv3.WithRequireLeader(ctx), o.prefix, clientv3.WithPrefix(), clientv3.WithRev(next),
			clientv3.WithProgressNotify())
		for resp := range changes {
			at := now()
			if resp.CompactRevision > next {
				// The campaign compacts nothing that was not seen here: another member has told this.
				next = resp.CompactRevision
				continue
			}
			if resp.Err() != nil {
				continue
			}
			o.mu.Lock()
			for _, e := range resp.Events {
				next = e.Kv.ModRevision + 1
				o.rev = max(o.rev, e.Kv.ModRevision)
				name := string(e.Kv.Key)
				if strings.Contains(name, waiting) {
					continue
				}
				if o.events[name] == nil {
					o.events[name] = map[int64]event{}
				}
				if _, known := o.events[name][e.Kv.ModRevision]; !known {
					o.events[name][e.Kv.ModRevision] = event{e.Kv.ModRevision, string(e.Kv.Value), e.Kv.Lease, at}
				}
			}
			o.mu.Unlock()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// waiting is what is reserved in the names of locks.
const waiting = "/.waiting/"

// probe asks for an answer that only a quorum can give, all the time.
func (o *observer) probe(ctx context.Context, cli *clientv3.Client) {
	for ctx.Err() == nil {
		asked, cancel := context.WithTimeout(ctx, time.Second)
		_, err := cli.Get(clientv3.WithRequireLeader(asked), o.prefix)
		cancel()
		if err == nil {
			o.mu.Lock()
			o.up = append(o.up, now())
			o.mu.Unlock()
		}
		select {
		case <-time.After(probePeriod):
		case <-ctx.Done():
		}
	}
}

const (
	probePeriod = 50 * time.Millisecond
	outageFrom  = 300 * time.Millisecond
)

// outages are the times in which no member could give a quorum's answer.
func (o *observer) outages() (down []span) {
	for i := 1; i < len(o.up); i++ {
		if gap := (span{o.up[i-1], o.up[i]}); gap.to.sub(gap.from) > outageFrom {
			down = append(down, gap)
		}
	}
	return down
}

// reach waits until everything up to a revision was seen.
func (o *observer) reach(ctx context.Context, rev int64) bool {
	for ctx.Err() == nil {
		o.mu.Lock()
		seen := o.rev >= rev
		o.mu.Unlock()
		if seen {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func (o *observer) close() {
	o.cancel()
	o.running.Wait()
	for _, cli := range o.clients {
		cli.Close()
	}
}
