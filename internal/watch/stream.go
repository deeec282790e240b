package watch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/hedge"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

const (
	// maxSilence is how long a stream may be silent while somebody waits for an event; half of it is waited before it is
	// asked for a sign of life. On a network with a long round trip it is longer.
	maxSilence = 800 * time.Millisecond

	// minPatience is what a new stream has for its first answer; it doubles, up to maxPatience, with every stream that
	// gives none.
	minPatience = 250 * time.Millisecond
	maxPatience = 4 * time.Second
)

// stream is one stream of watches to one member.
type stream struct {
	*Watcher
	ctx    context.Context // done when the stream is left
	cancel context.CancelFunc
	wake   chan struct{} // flag: there is something to send

	patience time.Duration // for the first answer
	heard    atomic.Bool   // the stream has answered something
	since    hedge.Moment  // the start

	// Guarded by Watcher.mu:
	timer    *time.Timer // runs check
	last     time.Time   // of the last answer, or the start
	unused   time.Time   // since when there is no watch; zero while there is one
	create   []*Watch    // to be opened, those first that somebody waits for
	createRx []*Watch    // to be opened after them: the relaxed ones
	cancels  []int64     // to be cancelled
	ping     bool        // a sign of life is to be asked for
	sent     []int64     // creates that are not answered; etcd answers them in order
}

// serve carries all watches on a new stream until that must be left. It reports whether the stream has answered at all,
// and whether it was left because no watch was open.
func (w *Watcher) serve(patience time.Duration) (heard, idle bool) {
	s := &stream{Watcher: w, wake: make(chan struct{}, 1), patience: patience, last: time.Now(), since: w.conn.Now()}
	s.ctx, s.cancel = context.WithCancel(clientv3.WithRequireLeader(w.ctx))
	defer s.cancel()
	w.mu.Lock()
	w.stream = s
	for _, wa := range w.all() {
		s.enqueue(wa)
	}
	s.timer = time.AfterFunc(min(patience, maxSilence), s.check)
	w.mu.Unlock()

	var sending sync.WaitGroup
	client, err := w.conn.Watch.Watch(s.ctx, hedge.AnswerOfAnySize)
	if err == nil {
		sending.Go(func() { s.send(client) })
		s.receive(client)
	} else {
		s.failed(err)
	}
	s.cancel()
	sending.Wait()
	w.mu.Lock()
	s.timer.Stop()
	w.stream = nil
	idle = !s.unused.IsZero()
	moves := !idle && w.ctx.Err() == nil
	if moves {
		w.moves++
	}
	watches := len(w.watches)
	w.mu.Unlock()
	if moves {
		w.log.Info("locker: watches are moved", "watches", watches, "answered", s.heard.Load(), "err", w.Err())
	}
	return s.heard.Load(), idle
}

// enqueue has wa opened. w.mu is held.
func (s *stream) enqueue(wa *Watch) {
	s.unused = time.Time{}
	if wa.opts.Relaxed {
		s.createRx = append(s.createRx, wa)
	} else {
		s.create = append(s.create, wa)
		if s.urgent == 1 && s.timer != nil {
			s.timer.Reset(0) // it may have been set for relaxed watches
		}
	}
	syncutil.Notify(s.wake)
}

// cancelWatch has a watch cancelled. w.mu is held.
func (s *stream) cancelWatch(id int64) {
	s.cancels = append(s.cancels, id)
	if len(s.watches) == 0 {
		s.timer.Reset(0) // it is to end soon
	}
	syncutil.Notify(s.wake)
}

// send sends what is to be sent until the stream is left.
func (s *stream) send(client pb.Watch_WatchClient) {
	for {
		for r := s.next(); r != nil; r = s.next() {
			if client.Send(r) != nil {
				s.cancel()
				return
			}
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			client.CloseSend()
			return
		}
	}
}

// next is the next request to send; nil if there is none.
func (s *stream) next() *pb.WatchRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ping {
		s.ping = false
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	}
	for _, queue := range []*[]*Watch{&s.create, &s.createRx} {
		for len(*queue) > 0 {
			wa := (*queue)[0]
			(*queue)[0], *queue = nil, (*queue)[1:]
			if s.watches[wa.id] == wa {
				s.sent = append(s.sent, wa.id)
				return wa.request(wa.id)
			}
		}
	}
	if n := len(s.cancels); n > 0 {
		id := s.cancels[n-1]
		s.cancels = s.cancels[:n-1]
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
	}
	return nil
}

// silence is how long the stream may be silent. w.mu is held.
func (s *stream) silence() time.Duration {
	limit := max(maxSilence, 2*s.conn.Delay())
	if s.urgent == 0 && len(s.watches) > 0 {
		limit = max(limit, s.relaxed)
	}
	if !s.heard.Load() {
		limit = s.patience
	}
	return limit
}

// check leaves the stream if it is silent, or not used, and asks it for a sign of life before. The timer calls it.
func (s *stream) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, silent := s.silence(), time.Since(s.last)
	switch {
	case s.ctx.Err() != nil:
		return
	case len(s.watches) == 0 && s.unused.IsZero():
		s.unused = time.Now()
	case len(s.watches) == 0 && time.Since(s.unused) > maxSilence, silent >= limit:
		s.cancel()
		return
	}
	if silent >= limit/2 {
		s.ping = true
		syncutil.Notify(s.wake)
	}
	// The next look is not as late as a long limit would have it: that is over with the next answers.
	s.timer.Reset(min(max(limit/4, time.Millisecond), maxSilence))
}

// receive hands what the stream answers to the owners of the watches, until it ends.
func (s *stream) receive(client pb.Watch_WatchClient) {
	for {
		resp, err := client.Recv()
		if err != nil {
			s.failed(err)
			return
		}
		if !s.heard.Swap(true) {
			s.setErr(nil)
			s.conn.Doubt(resp.Header, s.since)
		}
		s.conn.Answered()
		if errors.Is(s.conn.Observe(resp.Header), hedge.ErrTwoClusters) {
			return
		}
		s.handle(resp)
	}
}

// failed notes why a stream has ended, unless it was left.
func (s *stream) failed(err error) {
	if s.ctx.Err() == nil {
		s.setErr(rpctypes.Error(err))
		s.conn.Redial()
	}
}

// handle hands one answer to the owner of its watch.
func (s *stream) handle(resp *pb.WatchResponse) {
	id := resp.WatchId
	s.mu.Lock()
	s.last = time.Now()
	if resp.Created && len(s.sent) > 0 {
		id = s.sent[0] // a refusal has no ID
		s.sent = s.sent[1:]
	}
	wa := s.watches[id]
	s.mu.Unlock()
	switch {
	case wa == nil: // a sign of life, or for a watch that was closed
		return
	case resp.Canceled:
		s.canceled(wa, resp)
		return
	case resp.Created:
		s.opened(wa, resp.Header.GetRevision())
		wa.handler(Event{Opened: resp.Header.GetRevision(), Gap: wa.gap})
		wa.failed, wa.gap = 0, false
	}
	for _, e := range resp.Events {
		s.since.Committed(e.Kv.ModRevision)
		if s.isNew(wa, e.Kv.ModRevision) {
			wa.handler(Event{KV: e.Kv, Deleted: e.Type == clientv3.EventTypeDelete})
		}
	}
}

// opened notes the revision from which on every change is to be delivered.
func (s *stream) opened(wa *Watch, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wa.opts.EveryChange && wa.after == 0 {
		wa.after = revision
	}
}

// isNew reports whether a change was not delivered before, on another stream.
func (s *stream) isNew(wa *Watch, revision int64) bool {
	if !wa.opts.EveryChange {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision <= wa.after { // of one key, which changes at most once in a revision
		return false
	}
	wa.after = revision
	return true
}

// canceled acts on the refusal or the end of one watch.
func (s *stream) canceled(wa *Watch, resp *pb.WatchResponse) {
	if resp.CompactRevision != 0 { // it begins anew, at the present
		wa.gap = true
		s.reopen(wa, true)
		return
	}
	wa.failed++
	pause := min(hedge.MinBackoff<<min(wa.failed, 5), hedge.MaxBackoff)
	s.tasks.Go(func() { s.explain(wa, pause) })
}

// explain reads what could not be watched. If that fails for good, so does the watch; if not, the stream is to blame: its
// token is not what it was.
func (s *stream) explain(wa *Watch, pause time.Duration) {
	syncutil.Sleep(s.ctx, pause)
	err := s.read(hedge.Limit{Ctx: s.ctx, Deadline: time.Now().Add(maxPatience)}, wa.key, wa.opts.Prefix)
	switch {
	case s.ctx.Err() != nil: // another stream, another answer
	case err == nil:
		s.cancel()
	case hedge.Classify(err).Transient:
		s.reopen(wa, false)
	default:
		s.mu.Lock()
		known := s.remove(wa)
		s.mu.Unlock()
		if known {
			wa.handler(Event{Err: err})
		}
	}
}

// reopen opens a watch once more, with another ID, and if so told at the present.
func (s *stream) reopen(wa *Watch, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[wa.id] != wa || s.ctx.Err() != nil {
		return
	}
	if present {
		wa.after = 0
	}
	delete(s.watches, wa.id)
	s.lastID++
	wa.id = s.lastID
	s.watches[wa.id] = wa
	s.enqueue(wa)
}
