package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	ttl     = 3 * time.Second
	timeout = 5 * time.Second // NewFromClient takes no other
	// processes are the clients that are there at a time.
	processes = 4
	prefix    = "campaign/"
)

// quickRedial has the parent's own clients back as soon as a member is.
var quickRedial = []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
	MinConnectTimeout: time.Second,
})}

// campaign is one run.
type campaign struct {
	subject string
	seed    uint64
	length  time.Duration
	rtt     time.Duration // from the clients to the members, while the network has no fault
	began   instant       // what is printed counts from here

	user      string // "": etcd asks nobody who he is
	dir       string // of the key that signs tokens, and of the command locker
	life      life
	cluster   *etcdtest.Cluster
	etcd      *clientv3.Client // an operator's, with a way of its own
	observer  *observer
	distances etcdtest.Network  // from each member to all clients
	fronts    []*etcdtest.Proxy // one in front of each distance, for all clients
	slots     []*slot
	hot, cold []string
	history   *history
	faults    faults
	open      sync.Mutex // held while authentication is off

	mu           sync.Mutex
	incarnations []*incarnation // guarded by mu

	hung     []*process // that did not end when they were told to
	leftover []string   // what was found at the end
}

func newCampaign(subject string, seed uint64, length, rtt time.Duration) *campaign {
	c := &campaign{subject: subject, seed: seed, length: length, rtt: rtt, history: newHistory()}
	if seed%2 == 1 {
		c.user = operator
	}
	for i := range 6 {
		c.hot = append(c.hot, fmt.Sprintf("%shot%d", prefix, i))
	}
	for i := range 200 {
		c.cold = append(c.cold, fmt.Sprintf("%scold%03d", prefix, i))
	}
	return c
}

// play does it all, but for the judgement.
func (c *campaign) play(ctx context.Context) (err error) {
	if err := c.setUp(ctx); err != nil {
		return errors.Join(err, c.close())
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for _, s := range c.slots {
		if err := c.spawn(s, c.nextNumber()); err != nil {
			return err
		}
	}
	c.began = now()
	striking, stop := context.WithTimeout(ctx, c.length)
	defer stop()
	lanes := []lane{members, clients, outsiders, network}
	if c.subject != ours {
		lanes[2] = harmless
	}
	if c.user != "" {
		lanes[2].kinds = slices.Concat(lanes[2].kinds, authentication.kinds[:1])
	}
	errs := make([]error, len(lanes))
	var running sync.WaitGroup
	for i, l := range lanes {
		running.Go(func() {
			if errs[i] = c.run(striking, l); errs[i] != nil {
				stop()
			}
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.finish()
}

// ours is the subject that this is about.
const ours = "locker"

func (c *campaign) nextNumber() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.incarnations)
}

// setUp starts the cluster, and makes the ways to it.
func (c *campaign) setUp(ctx context.Context) (err error) {
	if err := c.prepareRuns(); err != nil {
		return err
	}
	options := etcdtest.Options{Partitions: true, Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}
	if c.user != "" {
		if options.Flags, err = c.authFlags(); err != nil {
			return err
		}
	}
	if c.cluster, err = etcdtest.Start(ctx, options); err != nil {
		return err
	}
	if c.user != "" {
		if err := authenticate(ctx, c.cluster.Endpoints()); err != nil {
			return err
		}
	}
	if c.etcd, err = dial(c.user, c.cluster.Endpoints()...); err != nil {
		return err
	}
	if c.observer, err = observe(c.user, c.cluster.Endpoints(), prefix); err != nil {
		return err
	}
	for _, endpoint := range c.cluster.Endpoints() {
		far, err := etcdtest.NewProxy(endpoint)
		if err != nil {
			return err
		}
		c.distances = append(c.distances, far)
		front, err := etcdtest.NewProxy(far.URL())
		if err != nil {
			return err
		}
		c.fronts = append(c.fronts, front)
	}
	c.calm()
	for i := range processes {
		s := &slot{number: i}
		c.slots = append(c.slots, s)
		for _, front := range c.fronts {
			p, err := etcdtest.NewProxy(front.URL())
			if err != nil {
				return err
			}
			s.proxies = append(s.proxies, p)
		}
	}
	return nil
}

// close takes down whatever is there.
func (c *campaign) close() error {
	for _, s := range c.slots {
		if s.now != nil {
			c.kill(s.now)
		}
		for _, p := range s.proxies {
			p.Close()
		}
	}
	for _, p := range c.fronts {
		p.Close()
	}
	c.distances.Each((*etcdtest.Proxy).Close)
	if c.observer != nil {
		c.observer.close()
	}
	errs := []error{c.life.close()}
	if c.etcd != nil {
		errs = append(errs, c.etcd.Close())
	}
	if c.cluster != nil {
		errs = append(errs, c.cluster.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// patience with what is left: a TTL, and what etcd takes to act on it.
const afterwards = ttl + 3*time.Second

// finish ends the work, with all faults over, and looks at what is left.
func (c *campaign) finish() error {
	if err := errors.Join(c.disarm(), c.sweep(prefix)); err != nil {
		return err
	}
	for _, s := range c.slots {
		s.now.in.write(order{Finish: true})
	}
	await := func(done func(*process) <-chan struct{}, within time.Duration) {
		end := time.After(within)
		for _, s := range c.slots {
			select {
			case <-done(s.now):
			case <-s.now.gone:
			case <-end:
				end = time.After(0)
				c.hung = append(c.hung, s.now)
				s.now.cmd.Process.Signal(syscall.SIGQUIT) // it tells where its goroutines are
			}
		}
	}
	await(func(p *process) <-chan struct{} { return p.idle }, 3*ttl+2*ttl+2*timeout)
	if err := c.look("while the clients live", false); err != nil {
		return err
	}
	for _, s := range c.slots {
		s.now.in.write(order{Close: true})
	}
	await(func(p *process) <-chan struct{} { return p.gone }, convergence+2*timeout)
	if err := c.look("at the end", true); err != nil {
		return err
	}
	c.lookForProcesses()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	last, err := c.etcd.Put(ctx, prefix+"end", "end")
	if err != nil {
		return err
	}
	if !c.observer.reach(ctx, last.Header.Revision) {
		return errors.New("the observer does not come to the end")
	}
	return nil
}

// look waits until no key is left, and no lease if these are to be gone, and notes what does not go.
func (c *campaign) look(when string, leases bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var left []string
	for end := time.Now().Add(afterwards); ; time.Sleep(50 * time.Millisecond) {
		left = nil
		keys, err := c.etcd.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range keys.Kvs {
			left = append(left, fmt.Sprintf("%s: key %s of lease %x, value %q, revision %d", when, kv.Key, kv.Lease, kv.Value, kv.ModRevision))
		}
		if leases {
			granted, err := c.etcd.Leases(ctx)
			if err != nil {
				return err
			}
			for _, l := range granted.Leases {
				left = append(left, fmt.Sprintf("%s: lease %x", when, l.ID))
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	c.leftover = append(c.leftover, left...)
	return nil
}
