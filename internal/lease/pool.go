package lease

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/hedge"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// MaxHolds is how many locks are attached to one lease at most: etcd deletes the keys of an expired lease in one step, and
// answers nobody meanwhile.
const MaxHolds = 10_000

// Config says what a Pool needs.
type Config struct {
	Conn    *hedge.Conn
	Client  pb.LeaseClient
	TTL     time.Duration
	Timeout time.Duration // of a grant
	Log     *slog.Logger

	Open context.Context // the Pool grants no lease after its end
	Live context.Context // leases are renewed until its end

	Attend func(*Lease) // runs in a goroutine of its own beside every lease, until that is lost
	OnLost func(*Lease) // called, in another goroutine, when a lease is lost or given back
}

// A Pool has the leases of one client: as many as its locks need, which is one for most clients.
type Pool struct {
	Config
	running sync.WaitGroup // three goroutines for each lease

	mu     sync.Mutex // guards leases; not held while Attend or OnLost is called
	leases []*Lease   // those that are not lost
}

// NewPool returns a Pool without a lease.
func NewPool(c Config) *Pool { return &Pool{Config: c} }

// Get returns a lease for one more lock, or place in a queue, and reserves room for it there, until Unreserve is called. It
// waits for etcd only where a new lease must be granted.
func (p *Pool) Get(limit hedge.Limit) (*Lease, error) {
	for {
		l := p.pick()
		if l == nil {
			return nil, context.Cause(p.Open)
		}
		err := l.awaitGrant(limit)
		if err == nil {
			return l, nil
		}
		l.Unreserve()
		if !errors.Is(err, hedge.ErrTooLate) {
			return nil, err
		}
	}
}

// pick reserves room in the first lease that has any, or in a new one. It returns nil when the Pool is closed.
func (p *Pool) pick() *Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.leases, func(l *Lease) bool { return l.Holds.Load() < MaxHolds && l.usable() })
	if i < 0 && p.Open.Err() != nil {
		return nil
	}
	if i < 0 {
		l := newLease(p.Live, p.Conn, p.Client, p.TTL, p.Log)
		i, p.leases = len(p.leases), append(p.leases, l)
		p.running.Go(func() {
			l.run(p.Timeout)
			p.revokeLost(l)
		})
		p.running.Go(func() { p.Attend(l) })
		p.running.Go(func() {
			<-l.ctx.Done()
			p.lost(l)
		})
	}
	p.leases[i].Holds.Add(1)
	return p.leases[i]
}

// Unreserve takes back what Get has reserved: the lock is not attached to the lease, or a hold counts it now. It does nothing
// for nil.
func (l *Lease) Unreserve() {
	if l != nil {
		l.Holds.Add(-1)
	}
}

// usable reports whether a lease lives, or is yet to be granted. It sees that the deadline has passed before the watchdog
// does, and unlike Alive it tells nobody.
func (l *Lease) usable() bool {
	return l.ctx.Err() == nil && (!syncutil.Closed(l.granted) || !l.deadline.passed())
}

// awaitGrant waits until etcd has granted the lease. Its error is hedge.ErrTooLate where that was so late that another lease
// is needed.
func (l *Lease) awaitGrant(limit hedge.Limit) error {
	if syncutil.Closed(l.granted) {
		return nil
	}
	ctx, cancel := limit.Context()
	defer cancel()
	select {
	case <-l.granted:
		return nil
	case <-l.ctx.Done():
		return l.Err()
	case <-ctx.Done():
		return hedge.Cause(ctx, l.Err())
	}
}

// Owns reports whether id is the ID of a lease of this client that lives. The keys of one that has ended are those of a
// stranger, from that very moment. The lease l, of which that is likely, is looked at first.
func (p *Pool) Owns(l *Lease, id int64) bool {
	if id == int64(l.ID) {
		return l.usable()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.leases, func(o *Lease) bool { return int64(o.ID) == id && o.usable() })
}

// All returns the leases that are not lost.
func (p *Pool) All() []*Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.leases)
}

// Wait blocks until the goroutines of all leases have returned. The leases must be lost before, and Open at its end.
func (p *Pool) Wait() { p.running.Wait() }

// lost removes a lease from the Pool first, and reports its loss then. When a holder learns of the loss, nobody may take
// the key of the lock for one of this client any more.
func (p *Pool) lost(l *Lease) {
	p.mu.Lock()
	p.leases = slices.DeleteFunc(p.leases, func(o *Lease) bool { return o == l })
	p.mu.Unlock()
	p.OnLost(l)
}

// revokeLost gives a lease back that was lost, once etcd is heard of again: it may have received a renewal whose answer was lost,
// and would keep the keys from everybody, this client included, for another TTL. It waits until the lease would have expired
// without one, because the holders have been promised that time to stop.
func (p *Pool) revokeLost(l *Lease) {
	if errors.Is(l.Err(), rpctypes.ErrLeaseNotFound) {
		return
	}
	syncutil.Sleep(p.Open, margin(l.TTL()))
	if p.Open.Err() == nil {
		l.Revoke(hedge.Limit{Ctx: p.Open, Deadline: time.Now().Add(l.TTL())})
	}
}

// Stats are figures of the leases of a client.
type Stats struct {
	Leases       int           // that are not lost
	LastRenewal  time.Time     // when a renewal was answered last; zero if none was
	RenewalDelay time.Duration // how long that answer took
}

// Stats returns the figures of the leases that are not lost.
func (p *Pool) Stats() (s Stats) {
	leases := p.All()
	s.Leases = len(leases)
	for _, l := range leases {
		if r := l.renewal.Load(); r != nil && r.answered.After(s.LastRenewal) {
			s.LastRenewal, s.RenewalDelay = r.answered, r.took
		}
	}
	return s
}
