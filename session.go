package locker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// moment is a point in time on two clocks: Go's monotonic one, and one that also runs while the machine is
// suspended.
type moment struct{ mono, boot time.Duration }

var epoch = time.Now()

func now() moment { return moment{time.Since(epoch), sinceBoot()} }

// session is one lease, shared by all locks of a client that were taken while it lives.
//
// A lease is trusted until its deadline: the moment before the Grant or renewal was SENT, plus the TTL that etcd
// granted, less a margin. etcd counts from a later moment, so it cannot give the key to anybody before that.
type session struct {
	id     clientv3.LeaseID
	w      *wire
	leases pb.LeaseClient
	ctx    context.Context // ends, with the cause, when the lease must be taken for lost, or is to be given back
	end    context.CancelCauseFunc
	gone   func(*session) // called then, perhaps more than once

	ready chan struct{} // closed when the lease is granted
	kick  chan struct{} // asks for a renewal at once; of capacity 1

	untidy  chan struct{} // tells the janitor of such a request; of capacity 1
	holds   int           // locks held; guarded by core.mu
	watched int           // held keys that are watched; guarded by core.mu

	mono, boot atomic.Int64           // the deadline
	idle       atomic.Pointer[stream] // has answered the last renewal, and waits for the next
	ttl        atomic.Int64           // granted, in nanoseconds

	mu       sync.Mutex // guards all below
	trouble  error      // what renewals met since the last success
	watchdog *time.Timer
}

// newSession starts a session; its ready channel or the end of its ctx tells how that went. run must be called.
func newSession(ctx context.Context, w *wire, leases pb.LeaseClient, ttl time.Duration, gone func(*session)) *session {
	var id [8]byte
	rand.Read(id[:])
	s := &session{
		// An ID of our own makes a repeated Grant harmless: etcd answers that the lease exists.
		id: clientv3.LeaseID(binary.BigEndian.Uint64(id[:])&(1<<63-1) | 1),
		w:  w, leases: leases, gone: gone,
		ready: make(chan struct{}), kick: make(chan struct{}, 1), untidy: make(chan struct{}, 1),
	}
	s.ctx, s.end = context.WithCancelCause(ctx)
	s.ttl.Store(int64(ttl))
	return s
}

func (s *session) granted() time.Duration  { return time.Duration(s.ttl.Load()) }
func (s *session) interval() time.Duration { return s.granted() / 3 }

// extend moves the deadline: the lease was granted or renewed by a request sent at that moment. It says errLate
// when the session is lost already, or would be.
func (s *session) extend(sent moment, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	trusted := ttl - max(ttl/10, 200*time.Millisecond)
	if n := now(); s.ctx.Err() != nil || s.watchdog != nil && s.passed() || max(n.mono-sent.mono, n.boot-sent.boot) >= trusted {
		return errLate
	}
	s.mono.Store(int64(sent.mono + trusted))
	s.boot.Store(int64(sent.boot + trusted))
	s.trouble = nil
	if s.watchdog == nil {
		s.watchdog = time.AfterFunc(0, s.watch) // it sets itself
	} else if ttl < s.granted() {
		s.watchdog.Reset(0)
	}
	s.ttl.Store(int64(ttl))
	return nil
}

// left is the time to the deadline, by whichever clock is ahead.
func (s *session) left() time.Duration {
	n := now()
	return min(time.Duration(s.mono.Load())-n.mono, time.Duration(s.boot.Load())-n.boot)
}

func (s *session) passed() bool { return s.left() <= 0 }

// watch is the watchdog's: it tells the loss at the deadline, whatever the other goroutines are stuck in. It looks
// once a second at least: its timer sleeps while the machine does.
func (s *session) watch() {
	if s.alive() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watchdog.Reset(max(0, min(s.left(), time.Second)))
	}
}

// alive reports whether the lease can be trusted now. It waits for no goroutine and no network.
func (s *session) alive() bool {
	if s.ctx.Err() != nil || !s.passed() {
		return s.ctx.Err() == nil
	}
	s.mu.Lock()
	renewed, fault := !s.passed(), s.trouble
	s.mu.Unlock()
	if !renewed {
		s.lose(errors.Join(errors.New("the lease could not be renewed in time"), fault))
	}
	return renewed
}

// lose is the end of the session; the first cause counts.
func (s *session) lose(cause error) {
	s.end(cause)
	s.gone(s)
}

// why is the error of those who lost something with the session, or, while it lives, what renewals have met.
func (s *session) why() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// run grants the lease and renews it until the session ends.
func (s *session) run(timeout time.Duration) {
	if err := s.grant(bound{ctx: s.ctx, until: time.Now().Add(timeout)}); err != nil {
		s.lose(fmt.Errorf("granting a lease: %w", err))
	} else {
		l("session", "lease", int64(s.id), "ttl", s.granted())
		close(s.ready)
		s.renew()
		s.watchdog.Stop()
	}
	l("session over", "lease", int64(s.id), "cause", s.why())
}

func (s *session) grant(by bound) error {
	first := now()
	a := ask(by, s.w, func(ctx context.Context) (int64, error) {
		sent := now()
		resp, err := s.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{
			ID: int64(s.id), TTL: int64(s.granted().Seconds())})
		if err = rpctypes.Error(err); errors.Is(err, rpctypes.ErrLeaseExist) {
			// An earlier try was granted, at the first sending or after it.
			return s.ttl.Load(), s.extend(first, s.granted())
		}
		if err != nil {
			s.note(ctx, err)
			return 0, err
		}
		// A quorum stands behind this answer, whatever was seen before: a cluster restored from a backup counts anew.
		s.w.term.Store(resp.Header.GetRaftTerm())
		return resp.TTL, s.extend(sent, time.Duration(resp.TTL)*time.Second)
	})
	return a.err
}

// errFormer is of a leader that was stopped, replaced and resumed: it does not know yet.
var errFormer = errors.New("a former leader answered")

var errLate = errors.New("the answer came too late to be of use")

// revoke gives the lease back, and with it whatever is still attached to it.
func (s *session) revoke(by bound) error {
	a := ask(by, s.w, func(ctx context.Context) (*pb.LeaseRevokeResponse, error) {
		resp, err := s.leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(s.id)})
		return resp, rpctypes.Error(err)
	})
	if errors.Is(a.err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return a.err
}

// stream is a stream of renewals to one member.
type stream struct {
	pb.Lease_LeaseKeepAliveClient
	ctx    context.Context
	cancel context.CancelFunc
}

// renew renews the lease three times in a TTL, and when it is asked to.
func (s *session) renew() {
	timer := time.NewTimer(s.interval())
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.kick:
		case <-s.ctx.Done():
			return
		}
		a := ask(bound{ctx: s.ctx, until: time.Now().Add(s.left()), every: s.granted() / 16}, s.w, s.renewal)
		switch {
		case a.err == nil:
			timer.Reset(min(s.interval(), s.left()/2)) // a late answer leaves little time for the next
		case errors.Is(a.err, rpctypes.ErrLeaseNotFound):
			s.lose(a.err)
		default:
			timer.Reset(min(maxPause, s.granted()/20)) // a refusal: perhaps it is taken back in time
		}
	}
}

// renewal is one renewal, on the stream that answered last. Where another renewal is out on that, it opens a stream of
// its own, which gRPC's round robin sends to another member: neither a member that is silent nor one that takes its
// time over a password must cost the lease.
func (s *session) renewal(ctx context.Context) (struct{}, error) {
	st := s.idle.Swap(nil)
	if st == nil {
		st = &stream{}
		st.ctx, st.cancel = context.WithCancel(clientv3.WithRequireLeader(s.ctx))
	}
	stop := context.AfterFunc(ctx, st.cancel) // another has answered, or the session is over
	err := s.beat(st)
	if err != nil || !stop() {
		s.note(ctx, err)
		st.cancel()
	} else if other := s.idle.Swap(st); other != nil {
		other.cancel()
	}
	return struct{}{}, err
}

func (s *session) beat(st *stream) (err error) {
	if st.Lease_LeaseKeepAliveClient == nil {
		if st.Lease_LeaseKeepAliveClient, err = s.leases.LeaseKeepAlive(st.ctx); err != nil {
			return rpctypes.Error(err)
		}
	}
	sent := now()
	st.Send(&pb.LeaseKeepAliveRequest{ID: int64(s.id)}) // its error is also Recv's
	resp, err := st.Recv()
	switch {
	case err != nil:
		return rpctypes.Error(err)
	case !s.w.seen(resp.Header):
		return errFormer
	case resp.TTL <= 0:
		return rpctypes.ErrLeaseNotFound
	}
	return s.extend(sent, time.Duration(resp.TTL)*time.Second)
}

// note keeps the fault of a try for those who will want to know, unless the try was called off.
func (s *session) note(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	s.trouble = err
	s.mu.Unlock()
	s.w.redial()
	l("renewal failed", "lease", int64(s.id), "cause", err)
}

// hurry asks for a renewal now: it tells whether the lease still exists.
func (s *session) hurry() { notify(s.kick) }
