package locker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wire is the way to the cluster: it knows how long an answer usually takes, and sends a request again when one
// is late.
type wire struct {
	cli   *clientv3.Client
	usual atomic.Int64  // smoothed time of an answer, in nanoseconds
	term  atomic.Uint64 // highest Raft term seen in an answer
	dial  atomic.Int64  // when connections were last told to dial at once, in Unix nanoseconds
}

const (
	minPatience = 25 * time.Millisecond
	firstPause  = 10 * time.Millisecond
	maxPause    = 250 * time.Millisecond
	maxWait     = time.Second
)

// patience is how long an answer may take before the request is sent again.
func (w *wire) patience() time.Duration {
	return max(minPatience, 4*time.Duration(w.usual.Load()))
}

// seen notes the term of an answer and reports whether it is up to date: a leader that was stopped and resumed
// answers with an older term than its successor's (see Limits in the package documentation).
func (w *wire) seen(h *pb.ResponseHeader) bool {
	for {
		known := w.term.Load()
		switch {
		case h.GetRaftTerm() < known:
			return false
		case h.GetRaftTerm() == known || w.term.CompareAndSwap(known, h.GetRaftTerm()):
			return true
		}
	}
}

// redial ends gRPC's back-off, which grows to two minutes, so that the client is back as soon as the cluster is.
func (w *wire) redial() {
	conn, last, now := w.cli.ActiveConnection(), w.dial.Load(), time.Now().UnixNano()
	if conn != nil && now-last > int64(maxPause) && w.dial.CompareAndSwap(last, now) {
		conn.ResetConnectBackoff()
	}
}

// answer is what came of a request.
type answer[T any] struct {
	resp   T
	err    error
	resent bool // another sending, or this one without an answer, may have been applied: what is found may be its own effect
	loose  bool // an attempt without an answer is out: it may still be applied, even minutes later
}

// after is the answer to a request that had been sent before in another shape.
func (a answer[T]) after(before answer[T]) answer[T] {
	a.resent, a.loose = a.resent || before.resent, a.loose || before.loose
	return a
}

// bound is what a call is bounded by: a ctx and a time. It is made into a ctx only where something waits for it; a
// request makes its own.
type bound struct {
	ctx   context.Context
	until time.Time
	every time.Duration // between tries, or twice that where answers usually take longer; 0: as is usual here
}

func (b bound) context() (context.Context, context.CancelFunc) {
	return context.WithDeadline(b.ctx, b.until)
}

// wait waits until c or d is closed.
func (b bound) wait(c, d <-chan struct{}) error {
	ctx, cancel := b.context()
	defer cancel()
	select {
	case <-c:
		return nil
	case <-d:
		return nil
	case <-ctx.Done():
		return ended(ctx, nil)
	}
}

// ask makes the call and makes it again, side by side with the first, when no answer comes; the first answer
// counts. The call must recognise its own earlier effect. A passing fault is tried again after a pause. All ends
// with the bound, whose error is then joined with the last fault.
//
// The first try runs in the caller's goroutine: a healthy cluster costs no goroutine and no hand-over.
func ask[T any](b bound, w *wire, call func(context.Context) (T, error)) answer[T] {
	ctx, cancel := context.WithCancelCause(b.ctx)
	wait := w.patience()
	if b.every > 0 {
		wait = min(max(wait, b.every), 2*b.every)
	}
	r := &request[T]{w: w, ctx: ctx, cancel: cancel, until: b.until, every: b.every, call: call, wait: wait, pause: firstPause}
	r.mu.Lock()
	r.timer = time.AfterFunc(min(r.wait, time.Until(b.until)), r.again)
	r.tries, r.open = 1, 1
	r.mu.Unlock()
	r.try()

	<-ctx.Done() // settled, or at the end of its bound
	r.mu.Lock()
	if !r.settled {
		r.settle(*new(T), ended(ctx, r.fault))
	}
	a := r.answer
	r.mu.Unlock()
	r.running.Wait()
	return a
}

// errSilent is of a request that had no answer until its time was over.
var errSilent = fmt.Errorf("no answer from etcd in time: %w", context.DeadlineExceeded)

// ended is the error of a request whose ctx ended: the reason for that, and the last fault that was met.
func ended(ctx context.Context, fault error) error {
	err := context.Cause(ctx)
	if err == context.DeadlineExceeded {
		err = errSilent
	}
	if fault != nil {
		err = fmt.Errorf("%w (last attempt: %w)", err, fault)
	}
	return err
}

// request is one ask under way.
type request[T any] struct {
	w       *wire
	ctx     context.Context
	cancel  context.CancelCauseFunc
	until   time.Time
	every   time.Duration
	call    func(context.Context) (T, error)
	running sync.WaitGroup // the tries that run in goroutines of their own

	mu      sync.Mutex    // guards all below
	timer   *time.Timer   // the next try
	wait    time.Duration // until a try counts as late
	pause   time.Duration // after a passing fault
	tries   int           // sent, but for those that were surely not applied
	open    int           // sent, outcome not known
	fault   error         // the last passing one
	settled bool
	answer  answer[T]
}

// again is the timer's: one more try beside those that are out.
func (r *request[T]) again() {
	r.mu.Lock()
	left := time.Until(r.until)
	if left <= 0 {
		r.cancel(context.DeadlineExceeded)
	}
	if r.settled || r.ctx.Err() != nil {
		r.mu.Unlock()
		return
	}
	if r.every == 0 {
		r.wait = min(2*r.wait, maxWait)
	}
	r.timer.Reset(min(r.wait, left))
	r.tries++
	r.open++
	r.running.Add(1)
	r.mu.Unlock()
	defer r.running.Done()
	r.try()
}

func (r *request[T]) try() {
	start := time.Now()
	resp, err := r.call(r.ctx)
	took := time.Since(start)

	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.settled:
	case err == nil:
		if r.every == 0 { // a fault is not what is usual: there is a limit to what an answer teaches
			usual := r.w.usual.Load()
			r.w.usual.Store(usual + (int64(min(took, r.w.patience()))-usual)/8)
		}
		r.open--
		r.settle(resp, nil)
	case r.ctx.Err() != nil:
	default:
		class := classify(err)
		if class.refused { // as if it had never been sent
			r.open--
			r.tries--
		}
		if !class.passing {
			r.settle(resp, err)
			return
		}
		r.fault = err
		r.w.redial()
		r.timer.Reset(min(r.pause, time.Until(r.until)))
		r.pause = min(2*r.pause, maxPause)
	}
}

// settle ends the request with this answer. mu is held.
func (r *request[T]) settle(resp T, err error) {
	loose := r.open > 0
	r.answer = answer[T]{resp: resp, err: err, resent: r.tries > 1 || loose, loose: loose}
	r.settled = true
	r.timer.Stop()
	r.cancel(nil)
}

// class says what an error of etcd means for the request that got it.
type class struct {
	refused bool // surely not applied
	passing bool // worth another try
}

// watchErr is why a watch has ended.
func watchErr(resp clientv3.WatchResponse) error {
	err := resp.Err()
	switch {
	case err == nil || resp.CompactRevision != 0: // begun again, it starts at the present
		return errors.New("the watch has ended")
	case strings.Contains(err.Error(), rpctypes.ErrPermissionDenied.Error()):
		return rpctypes.ErrPermissionDenied // which arrives as the text of another error
	}
	return err
}

// classify goes by codes and by texts: some of etcd's errors arrive with code Unknown.
func classify(err error) class {
	text := err.Error()
	for _, passing := range []error{rpctypes.ErrNoLeader, rpctypes.ErrTooManyRequests, rpctypes.ErrNotCapable} {
		if errors.Is(err, passing) || strings.Contains(text, passing.Error()) {
			return class{refused: true, passing: true}
		}
	}
	code := status.Code(err)
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		code = known.Code()
	}
	if errors.Is(err, errLate) || code == codes.ResourceExhausted {
		return class{} // most puts that got ErrNoSpace were written, and so was what has too large an answer
	}
	switch code {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.FailedPrecondition,
		codes.NotFound, codes.OutOfRange, codes.Unimplemented:
		return class{refused: true}
	}
	return class{passing: true}
}
