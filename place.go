package locker

import (
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/PumpkinSeed/locker/internal/lease"
	"github.com/PumpkinSeed/locker/internal/syncutil"
	"github.com/PumpkinSeed/locker/internal/watch"
)

// A placeWatcher tells what happens around this client's place in the queue for a lock.
//
// Its own place is always watched: it is deleted when the lock is handed over. Beside it a client watches only the place
// before its own, so that a crash wakes one client, whatever the length of the queue. The head of the queue watches the
// lock, and who comes to the queue: it sees the lock become free, and the put that hands it over; and while it holds the
// lock then, it knows its successor without a read.
//
// It is kept while this client uses the lock and a little longer: with open watches one transaction is enough to enter
// the queue again.
type placeWatcher struct {
	*releaser
	watches *watch.Watcher
	lease   *lease.Lease
	lock    string
	place   string
	changed chan struct{} // flag: the waiter should look at what follows

	mu     sync.Mutex // guards all below
	own    *watch.Watch
	before *watch.Watch // of the place before the own one
	prior  string       // which is that
	atHead *watch.Watch // of the lock, by the head of the queue
	queue  *watch.Watch // of all places, likewise
	idle   bool         // not used since closeIdle came by
	err    error        // why watching has failed for good

	lookAt  int64            // the revision at which something has happened that a read must explain
	lockAt  int64            // the revision of the last change of the lock that was told
	freed   int64            // the revision at which the lock was deleted; 0: it was put since
	put     *mvccpb.KeyValue // the lock as it was put last under the lease
	removed int64            // the revision at which the own place was deleted last

	successor successor
	crowded   bool // when the lock was given back, more than one client waited
}

func newPlaceWatcher(r *releaser, watches *watch.Watcher, l *lease.Lease, name string) *placeWatcher {
	p := &placeWatcher{releaser: r, watches: watches, lease: l, lock: name, place: placeKey(name, int64(l.ID)), changed: make(chan struct{}, 1)}
	p.own = watches.Open(p.place, watch.Options{Deletions: true}, p.handler(p.placeRemoved))
	return p
}

// placeRemoved and lockChanged note what happens to the own place and to the lock. A stream to a member that lags tells
// once more what was told before: it must not undo what has come since.

func (p *placeWatcher) placeRemoved(kv *mvccpb.KeyValue, _ bool) {
	p.removed = max(p.removed, kv.ModRevision)
}

func (p *placeWatcher) lockChanged(kv *mvccpb.KeyValue, deleted bool) {
	switch {
	case kv.ModRevision <= p.lockAt:
		return
	case deleted:
		p.freed = kv.ModRevision
	case kv.Lease == int64(p.lease.ID):
		p.freed, p.put = 0, kv
	default:
		p.freed = 0
	}
	p.lockAt = kv.ModRevision
}

// handler returns the handler of a watch whose changes go to f, with p.mu held.
func (p *placeWatcher) handler(f func(kv *mvccpb.KeyValue, deleted bool)) watch.Handler {
	return func(e watch.Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case e.Err != nil:
			p.err = e.Err
		case e.KV == nil:
			p.lookAt = max(p.lookAt, e.Opened)
		default:
			f(e.KV, e.Deleted)
		}
		syncutil.Notify(p.changed)
	}
}

// followHead watches what the head of the queue depends on.
func (p *placeWatcher) followHead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeBefore()
	if p.atHead != nil {
		return
	}
	p.queue = p.watches.Open(p.lock+queueInfix, watch.Options{Prefix: true}, p.handleQueue)
	p.atHead = p.watches.Open(p.lock, watch.Options{}, p.handler(p.lockChanged))
}

// follow watches the place before the own one.
func (p *placeWatcher) follow(place string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeHead()
	if p.before != nil && p.prior == place {
		return
	}
	p.closeBefore()
	p.prior = place
	p.before = p.watches.Open(place, watch.Options{Deletions: true}, p.handler(func(kv *mvccpb.KeyValue, _ bool) {
		p.lookAt = max(p.lookAt, kv.ModRevision)
	}))
}

func (p *placeWatcher) closeBefore() {
	if p.before != nil {
		p.before.Close()
		p.before = nil
	}
}

func (p *placeWatcher) closeHead() {
	if p.atHead != nil {
		p.atHead.Close()
		p.queue.Close()
		p.atHead, p.queue = nil, nil
		p.forget(0)
	}
}

func (p *placeWatcher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own.Close()
	p.closeBefore()
	p.closeHead()
}

// news is what has happened since a waiter has entered the queue at that revision, beside what it has seen at another.
type news struct {
	err    error
	handed *mvccpb.KeyValue // the lock, as it was handed to the waiter
	freed  bool             // the lock was deleted, and not put since
	gone   bool             // the place was deleted; whether to hand over the lock, is about to be told, or must be read
	look   bool             // a read is needed
	since  int64            // which must be of that revision at least: a view never goes back to what a slower member knows
}

func (p *placeWatcher) news(entered, seen int64) news {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := news{err: p.err, freed: p.freed > seen, gone: p.removed > entered, since: max(p.lookAt, p.removed, seen)}
	if n.gone && p.put != nil && p.put.ModRevision == p.removed {
		n.handed = p.put // in one commit with the deletion of the place: nobody else does that
	}
	n.look = p.lookAt > seen || n.gone && p.atHead == nil
	return n
}

// handleQueue keeps the successor up to date.
func (p *placeWatcher) handleQueue(e watch.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case e.Err != nil:
		p.err = e.Err
		syncutil.Notify(p.changed)
	case e.KV == nil:
		read := p.forget(e.Opened)
		p.tasks.Go(func() { p.readSuccessor(read) })
	case string(e.KV.Key) != p.place:
		p.successor.add(e)
	}
}

// readSuccessor reads the queue once its watch is open. From then on events tell who the successor is.
func (p *placeWatcher) readSuccessor(number int) {
	limit := p.limit(p.open)
	limit.Patience = p.timeout
	r := p.commits.Commit(limit, &pb.TxnRequest{Success: []*pb.RequestOp{getPlacesAfter(p.lock, 0, 3)}})
	if r.Err != nil {
		return // the release reads it
	}
	places := slices.DeleteFunc(r.Value.Responses[0].GetResponseRange().GetKvs(), func(kv *mvccpb.KeyValue) bool {
		return string(kv.Key) == p.place
	})
	p.rebase(number, r.Value.Header.Revision, places...)
}

// forgetSuccessor prepares for rebase, before the request whose answer that takes. The number that it returns is for that
// call: the answer to an earlier request does not count any more.
func (p *placeWatcher) forgetSuccessor() (number int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forget(p.successor.opened)
}

func (p *placeWatcher) forget(opened int64) (number int) {
	p.successor = successor{opened: opened, number: p.successor.number + 1}
	return p.successor.number
}

// rebase says who was behind the own place, or first in the queue if there is none, at a revision: the first two, or all
// if there are fewer.
func (p *placeWatcher) rebase(number int, revision int64, behind ...*mvccpb.KeyValue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if number == p.successor.number {
		p.successor.rebase(revision, behind)
	}
}

// Successor is that of holds.Queue.
func (p *placeWatcher) Successor() (place *mvccpb.KeyValue, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known = p.successor.asOf > 0
	p.crowded = p.successor.more || !known
	return p.successor.place, known
}

// HandedOver is that of holds.Queue. Where more wait than the one who has the lock now, this client will not be the head
// of the queue when it comes again: it stops watching what only that needs, for every event costs etcd something.
func (p *placeWatcher) HandedOver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.crowded {
		p.closeHead()
	}
}

// A successor is the place behind the own one, from a read and the events of the queue since.
type successor struct {
	number int              // of the request whose answer says who it is
	opened int64            // the revision as of which events are delivered; 0: none are
	asOf   int64            // the revision of the read; 0: the successor is not known
	place  *mvccpb.KeyValue // nil: there is none
	more   bool             // others were behind it
	early  []watch.Event    // those that came before the answer to the read
}

// maxEarly bounds the events that are kept for the answer to a read. If there are more the successor stays unknown.
const maxEarly = 64

func (s *successor) rebase(revision int64, behind []*mvccpb.KeyValue) {
	if s.opened == 0 || revision < s.opened || len(s.early) > maxEarly {
		return
	}
	early := s.early
	s.asOf, s.place, s.more, s.early = revision, nil, len(behind) > 1, nil
	if len(behind) > 0 {
		s.place = behind[0]
	}
	for _, e := range early {
		s.add(e)
	}
}

func (s *successor) add(e watch.Event) {
	same := s.place != nil && string(s.place.Key) == string(e.KV.Key)
	switch {
	case s.asOf == 0:
		if len(s.early) <= maxEarly {
			s.early = append(s.early, e)
		}
	case e.KV.ModRevision <= s.asOf:
	case e.Deleted && same && s.more: // who is behind it is not known
		*s = successor{opened: s.opened, number: s.number}
	case e.Deleted && same:
		s.place = nil
	case e.Deleted:
	case same || s.place == nil: // places are entered at the end: nobody is between
		s.place = e.KV
	default:
		s.more = true
	}
}
