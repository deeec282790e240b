// Package locker takes distributed locks on etcd: a lock is held by one process at a time, on however many machines,
// and comes free by itself when its holder dies.
//
// What is promised:
//
//   - Of those who try to take a free lock, one gets it.
//   - A holder that can't renew its lease is told that the lock is lost, by Report.Done and Report.Held, at least
//     200 ms before etcd gives it to anybody else.
//   - The token of a lock is higher than that of every hold of the name before.
//   - A key is deleted or replaced only by its holder, by the end of its lease, or by somebody outside.
//   - Every call ends with its ctx, or within the client's timeout and half a second; Watch when it is told to.
//   - A lock survives a new leader, and one member that is dead, frozen or out of reach, for less than the TTL.
//   - Nothing is left behind: no key, no lease, no goroutine.
//   - Where etcd can't say whether a lock is free, the answer is an error and never Success.
//
// What is not promised: that a holder which has lost its lock stops. It is told, and must stop itself; between its
// last look and its next write it can be too late. See Limits, and Fencing for the remedy.
//
// # Limits
//
// A process that is frozen between its last look at Held and its write may wake up after its TTL, and nothing on its
// side can tell it in time. On Linux the time that a machine was suspended counts, and Held is right on waking; on
// other systems it may be wrong until the next renewal is answered.
//
// An operator can delete or overwrite the key, and revoke the lease. And etcd itself may revoke a lease that is being
// renewed, when its leader was stopped for longer than the lease's remaining life, replaced, and resumed: a TTL of 15 s
// or more makes that rare. In both cases a lock held for longer than a third of the TTL is told lost as soon as etcd
// tells it (where a client holds more than a thousand, within another third); a shorter hold learns of it from Unlock.
//
// With a user and password, a renewal that goes to another member needs a new token first, which etcd's client asks any
// member for: where one of them is silent, a busy client can lose its lease to that. It is rare, and told in time.
//
// The lock of a holder that died stays locked for its TTL and up to half a second more; after an election of a new
// leader, for an election timeout and another TTL. Clocks need not agree, but must run at about the same speed: the
// margin is a tenth of the TTL, at least 200 ms.
//
// Locks are neither reentrant nor shared. Clients of the fork whose API this is write without comparing, and promise
// none of this.
//
// # Fencing
//
// Report.Token guards what the lock alone can't: a store that refuses a token lower than the highest it has seen can't
// be written by a holder that is late. For data in the same etcd, Report.Guard is a condition for the caller's own
// transactions, which fails once the lock is gone.
//
// # Sessions
//
// The locks of a client are attached to a lease, its session, which is renewed three times in a TTL; every 10,000 locks
// have one of their own, for etcd answers nobody while it deletes the keys of a lease that has expired. A session
// counts as lost when the clock says so, from the moment at which the last answered renewal was sent, and all its locks
// with it. The next Lock begins a new one; a lost lock is never taken again behind the holder's back.
//
// # Waiting
//
// Lock never waits for another holder. LockWait and Do wait in a line that is kept in etcd under "NAME/.waiting/": first
// come, first served. Unlock hands the lock to the first in one commit, so that it is never free in between. Goroutines
// of one client wait for each other within the process and are one waiter to etcd; the client goes to the end of the
// line with each of them when others wait there.
//
// # Unknown outcomes
//
// A request that got no answer may still be carried out, even minutes later. After a Lock that failed for want of an
// answer the key may therefore appear; it is removed within a TTL. After such an Unlock the lock counts as not held, and
// the release goes on in the background.
package locker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	defaultSeconds = 5       // of a timeout or a TTL that is not given
	maxSeconds     = 1 << 30 // of both: larger numbers would overflow a time.Duration
)

// Client takes locks, and watches those of others. It is a small value: its copies share one state. All its methods
// may be called by many goroutines at once. The zero Client answers ErrClosed.
type Client struct{ *core }

// core is the state that the copies of a Client share.
type core struct {
	*wire
	batch   *batch
	leases  pb.LeaseClient
	dialled bool // cli was made by New, and is closed here
	timeout time.Duration
	ttl     time.Duration

	ctx      context.Context // ends when the client is closed: what takes, waits or reads ends with it
	cancel   context.CancelCauseFunc
	wireCtx  context.Context // ends after it: what gives back goes on under it
	hangUp   context.CancelCauseFunc
	sessions sync.WaitGroup // the goroutines of sessions, and their janitors
	tasks    tasks          // all others, but for those of batch
	closing  sync.Once
	closeErr error // guarded by closing

	opening     chan struct{} // whoever has taken what is in it may open a watch
	late, stale atomic.Int64  // streams for watches that were given up, for want of answers or for what they refuse

	mu        sync.Mutex  // guards all below, and what is said elsewhere to be guarded by it
	unbind    func() bool // ends the wait for the end of the caller's ctx
	live      []*session  // the first with room is that of new locks
	seats     seats
	listeners map[<-chan bool]*listener
	queues    map[string]*queue
}

// New returns a Client for the etcd cluster with these members ("http://127.0.0.1:2379" or "127.0.0.1:2379"). It
// asks the cluster for a lease, and so proves that a member answers: a cluster out of reach is an error within
// timeout.
//
// timeout bounds every request, ttl is how long a lock outlives a holder that has crashed or is cut off; both are
// seconds, and 0 or less means 5. etcd may grant a longer TTL than asked: not less than 1.5 times its election
// timeout, 2 s by default. A TTL of 15 s and more makes rare what "Limits" in the package documentation says of
// leaders that are paused.
//
// ctx bounds the client's life: its end is a Close.
func New(machines []string, timeout int64, ttl int64, ctx context.Context) (Client, error) {
	bound := seconds(timeout)
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:            machines,
		DialTimeout:          bound,
		DialKeepAliveTime:    10 * time.Second, // gRPC allows no less
		DialKeepAliveTimeout: 3 * time.Second,
		MaxUnaryRetries:      1, // ask sends again, and has the fault to tell
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// gRPC's own would let an outage outlive its end by up to two minutes.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		}), grpc.WithChainUnaryInterceptor(unready)},
		// A logger that says nothing: what the caller has to know is in the errors.
		Logger: clientv3.NewCtxClient(context.Background()).GetLogger(),
	})
	if err != nil {
		return Client{}, fmt.Errorf("locker: connect to etcd: %w", err)
	}
	return start(ctx, cli, true, bound, seconds(ttl))
}

// unready has a request fail while there is no connection, where clientv3 would have it wait: ask waits, and has the
// fault to tell.
func unready(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, conn, append(opts, grpc.WaitForReady(false))...)
}

// NewFromClient returns a Client that uses cli, for clusters that want more than addresses: TLS, users, or the
// interceptors and namespaces of the caller. The timeout is 5 s; ttl and ctx are as for New. Close leaves cli open, and
// cli must stay open until then.
func NewFromClient(ctx context.Context, cli *clientv3.Client, ttl int64) (Client, error) {
	if cli == nil {
		return Client{}, errors.New("locker: no etcd client given")
	}
	return start(ctx, cli, false, seconds(0), seconds(ttl))
}

func seconds(n int64) time.Duration {
	if n <= 0 {
		n = defaultSeconds
	}
	return time.Duration(min(n, maxSeconds)) * time.Second
}

func start(ctx context.Context, cli *clientv3.Client, dialled bool, timeout, ttl time.Duration) (Client, error) {
	if ctx == nil {
		return Client{}, errors.New("locker: no ctx given")
	}
	c := &core{
		wire: &wire{cli: cli}, leases: pb.NewLeaseClient(cli.ActiveConnection()), dialled: dialled,
		timeout: timeout, ttl: ttl,
		seats: seats{}, listeners: map[<-chan bool]*listener{}, queues: map[string]*queue{},
	}
	c.wireCtx, c.hangUp = context.WithCancelCause(context.WithoutCancel(ctx)) // giving back goes on after the caller's ctx
	c.ctx, c.cancel = context.WithCancelCause(c.wireCtx)
	c.batch = &batch{wire: c.wire, ctx: c.wireCtx, limit: maxOps}
	c.opening = make(chan struct{}, 1)
	notify(c.opening)
	client := Client{c}
	c.mu.Lock()
	c.unbind = context.AfterFunc(ctx, func() { client.Close() })
	c.mu.Unlock()

	if _, err := c.session(c.bound(c.ctx)); err != nil {
		err = fmt.Errorf("locker: no session with etcd at %v: %w", cli.Endpoints(), err)
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		c.hangUp(ErrClosed) // nothing is to be given back
		client.Close()      // which can't but complain of that
		return Client{}, err
	}
	return client, nil
}

// bound is the client's timeout, from now on.
func (c *core) bound(ctx context.Context) bound {
	return bound{ctx: ctx, until: time.Now().Add(c.timeout)}
}

// maxHolds is how many locks a session takes: etcd deletes the keys of an expired lease in one go, and answers nobody
// meanwhile.
const maxHolds = 10_000

// session is the session of new locks: one that lives and has room, or a new one.
func (c *core) session(by bound) (*session, error) {
	c.mu.Lock()
	var s *session
	if i := slices.IndexFunc(c.live, func(s *session) bool {
		return s.holds < maxHolds && s.ctx.Err() == nil && !(isClosed(s.ready) && s.passed()) // which nobody may have noticed yet
	}); i >= 0 {
		s = c.live[i]
	} else if c.ctx.Err() == nil {
		s = newSession(c.wireCtx, c.wire, c.leases, c.ttl, c.sessionOver)
		c.live = append(c.live, s)
		c.sessions.Go(func() { s.run(c.timeout) })
		c.sessions.Go(func() { c.janitor(s) })
	}
	c.mu.Unlock()
	if s == nil {
		return nil, ErrClosed
	}
	if isClosed(s.ready) {
		return s, nil
	}
	ctx, cancel := by.context()
	defer cancel()
	select {
	case <-s.ready:
		return s, nil
	case <-s.ctx.Done():
		if errors.Is(s.why(), errLate) && ctx.Err() == nil {
			return c.session(by) // granted, but too late to be of use: another lease
		}
		return nil, s.why()
	case <-ctx.Done():
		return nil, ended(ctx, s.why())
	}
}

// ours reports whether a lease is s or another session of this client. Whoever has the seat of a name and meets it there has
// found what was left of an attempt that got no answer.
func (c *core) ours(s *session, lease int64) bool {
	if lease == int64(s.id) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.live, func(o *session) bool { return int64(o.id) == lease })
}

// sessionOver ends all that was held in a session.
func (c *core) sessionOver(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = slices.DeleteFunc(c.live, func(o *session) bool { return o == s })
	for _, seat := range c.seats {
		if seat.hold != nil && seat.hold.s == s {
			c.loseLocked(seat.hold)
		}
	}
}

// Get returns the value of a lock, as of now: LockNotFound if nobody holds it.
func (c Client) Get(name string) (string, error) {
	err := c.checkName(name)
	var kv *mvccpb.KeyValue
	if err == nil {
		kv, _, err = c.read(c.bound(c.ctx), name)
	}
	if err == nil && kv == nil {
		return "", LockNotFound{name}
	}
	return valueOf(kv), told("get lock", name, err)
}

// read is the key of a lock, nil if there is none, and the revision at which that is so.
func (c *core) read(by bound, name string) (*mvccpb.KeyValue, int64, error) {
	f := c.batch.send(by, txn{then: []clientv3.Op{clientv3.OpGet(name)}})
	if f.err != nil {
		return nil, 0, f.err
	}
	return kvOf(f.resp, 0), f.resp.Header.Revision, nil
}

// Inspect reports whether a lock could be taken: Msg is Fail when it is locked and Success when it is free. When
// etcd cannot say, Msg is Fail and Err says why. Nothing is taken: by the time the answer is read, it may have changed.
func (c Client) Inspect(name string) Report {
	_, err := c.Get(name)
	if errors.As(err, new(LockNotFound)) {
		return Report{Msg: Success, Done: over}
	}
	return report(nil, err)
}

// Close ends the client: calls under way end, every lock is given back, to those who wait for it if there are any,
// and the lease is revoked. It returns within the client's timeout, with an error if etcd did not confirm that: what
// was held is then free when the lease expires. Further calls answer ErrClosed, and another Close what the first did.
func (c Client) Close() error {
	if c.core == nil {
		return fmt.Errorf("locker: close: %w", ErrClosed)
	}
	c.closing.Do(func() { c.closeErr = c.close() })
	return c.closeErr
}

func (c *core) close() error {
	end := time.Now().Add(c.timeout)
	last := time.AfterFunc(c.timeout, func() { c.hangUp(errSilent) }) // from here on everything is under wireCtx
	defer last.Stop()
	c.cancel(ErrClosed)

	c.mu.Lock()
	c.unbind()
	live := slices.Clone(c.live) // a lease that is lost from now on is given back all the same: nobody holds anything by it
	var held []*hold
	for _, seat := range c.seats {
		if h := seat.hold; h != nil && c.retire(h) == nil {
			held = append(held, h)
		}
	}
	for _, n := range c.listeners {
		for h := range n.holds { // lost ones, all others are retired
			c.unlisten(h)
		}
	}
	c.mu.Unlock()
	each(held, func(h *hold) { c.giveBack(h) })
	c.tasks.wait()

	for _, s := range live {
		s.lose(ErrClosed)
	}
	c.sessions.Wait()
	var err error
	for _, s := range live {
		if e := s.revoke(c.bound(c.wireCtx)); e != nil {
			err = errors.Join(err, fmt.Errorf("locker: close: %w", e))
		}
	}
	c.batch.running.Wait()
	c.hangUp(ErrClosed)
	if c.dialled {
		err = errors.Join(err, c.disconnect(max(maxPause, time.Until(end))))
	}
	return err
}

// disconnect closes etcd's client. That may hang for ever where watches have been refused, see open; the connections are
// closed all the same.
func (c *core) disconnect(within time.Duration) error {
	closed := make(chan error, 1)
	go func() { closed <- c.cli.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(within):
		return errors.Join(errors.New("locker: close: etcd's client does not end"), c.cli.ActiveConnection().Close())
	}
}
