package locker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// watchCheck is how often a Watch asks whether it has missed anything: an etcd member that hangs keeps its watches
// open, and silent.
const watchCheck = 10 * time.Second

// Watch pushes the value of a lock into valueChanges, and then its changes, until it is told to quit. It blocks. An
// empty string stands for the lack of a lock. It may be any name, also of locks of clients that know no Watch.
//
// Changes come in order. A lock handed from one holder to another with an equal value is no change. For a reader that
// falls behind, values in between may be left out, but never the fact that the lock was free or changed hands
// meanwhile; at most two values are kept for it. What happens while etcd can't be reached is told afterwards in the
// same way. Where etcd has compacted that, a hand-over may be missed, but never that the lock was free.
//
// A value received on quit, close(quit), the end of the client's ctx, and Close end Watch with nil, also while nobody
// receives from valueChanges. quit may be nil. Watch does not close valueChanges. It returns an error if etcd does not
// answer within the client's timeout at the start, and later only for what will not heal, such as a right that was
// withdrawn.
func (c Client) Watch(name string, valueChanges chan<- string, quit <-chan bool) error {
	if err := c.checkName(name); err != nil {
		return told("watch lock", name, err)
	}
	if valueChanges == nil {
		return told("watch lock", name, errors.New("nil channel for value changes"))
	}
	ctx, cancel := context.WithCancel(c.ctx)
	seen := make(chan string)
	failed := make(chan error, 1)
	var observer sync.WaitGroup
	observer.Go(func() { failed <- c.observe(ctx, name, seen) })
	defer observer.Wait()
	defer cancel()
	var b backlog
	for {
		var out chan<- string
		var value string
		if len(b.pending) > 0 {
			out, value = valueChanges, b.pending[0]
		}
		select {
		case v := <-seen:
			b.add(v)
		case out <- value:
			b.told()
		case err := <-failed:
			return told("watch lock", name, err)
		case <-quit:
			return nil
		case <-c.ctx.Done():
			return nil
		}
	}
}

// backlog is what a Watch has yet to tell.
type backlog struct {
	any     bool     // something was told
	last    string   // what was told last
	pending []string // at most two, and never what the one before says already
}

func (b *backlog) add(v string) {
	n := len(b.pending)
	switch {
	case n == 0 && b.any && v == b.last, n > 0 && v == b.pending[n-1]:
	case n == 0, v == "" && b.last != "", b.pending[0] != "" && v != b.last:
		b.pending = []string{v}
	case v == b.pending[0]:
		b.pending = b.pending[:1]
	default: // it was free meanwhile, or changed hands and came back
		b.pending = []string{b.pending[0], v}
	}
}

func (b *backlog) told() {
	b.any, b.last, b.pending = true, b.pending[0], b.pending[1:]
}

// observe sends the value of a key, and then its changes, to seen. Whatever interrupts it, it begins again, until ctx
// ends.
func (c *core) observe(ctx context.Context, name string, seen chan<- string) error {
	var o observed
	for {
		err := c.observeOnce(ctx, name, seen, &o)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (o.at == 0 || !classify(err).passing):
			return err
		}
		sleep(ctx, maxPause)
	}
}

// observed is what was told of a key.
type observed struct {
	at  int64            // up to this revision; 0: nothing yet
	kv  *mvccpb.KeyValue // the key as it was then
	gap bool             // etcd has compacted what came next
}

func (c *core) observeOnce(ctx context.Context, name string, seen chan<- string, o *observed) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tell := func(kv *mvccpb.KeyValue, at int64) {
		o.kv, o.at = kv, at
		select {
		case seen <- valueOf(kv):
		case <-ctx.Done():
		}
	}
	var from []clientv3.OpOption // the present: a watch that starts in the past is served only every 100 ms
	if o.at > 0 && !o.gap {
		from = append(from, clientv3.WithRev(o.at+1))
	}
	// First the watch, then the reading: nothing falls between them.
	by := c.bound(ctx)
	changes, err := c.open(by, name, from...)
	if err != nil {
		return err
	}
	kv, rev, err := c.read(by, name)
	if err != nil {
		return err
	}
	restored := rev < o.at // from a backup
	if o.at == 0 || o.gap || restored {
		if o.at > 0 && kv.GetCreateRevision() > o.at || restored {
			tell(nil, rev) // it was free while nobody watched, or may have been
		}
		tell(kv, rev)
		o.gap = false
	}
	if restored {
		return nil // this watch waits for a revision that is far ahead
	}
	check := time.NewTicker(watchCheck)
	defer check.Stop()
	for ctx.Err() == nil {
		select {
		case resp, ok := <-changes:
			if o.gap = resp.CompactRevision != 0; o.gap || !ok || resp.Err() != nil {
				return watchErr(resp)
			}
			for _, e := range resp.Events {
				if e.Kv.ModRevision > o.at {
					if kv = e.Kv; e.Type == clientv3.EventTypeDelete {
						kv = nil
					}
					tell(kv, e.Kv.ModRevision)
				}
			}
		case <-check.C:
			if is, _, err := c.read(c.bound(ctx), name); err == nil && is.GetModRevision() != o.kv.GetModRevision() {
				return nil
			}
		case <-ctx.Done():
		}
	}
	return nil
}

// valueOf is what Watch tells of a key; "" where there is none.
func valueOf(kv *mvccpb.KeyValue) string { return string(kv.GetValue()) }

// maxStreams is how many streams a client's watches may be spread over for want of answers: clientv3 keeps one open, for
// the next watch, whose watches were all called off before they had an answer.
const maxStreams = 8

// open opens a watch, which then lives until the ctx of by ends. clientv3 waits for the server's answer, and puts all
// watches with equal metadata on one stream, to one member. Where no answer comes, a stream with other metadata goes
// to another member, this watch and later ones with it. So it does where a stream refuses what a reading is granted:
// its token has expired, or is from before there were users, or its member has no leader. Its watches live on, but it
// takes no more.
//
// They open one at a time, which clientv3 would see to anyway: two that are refused at the same moment leave a stream of
// its in a deadlock (seen with v3.7.3), and its Close as well.
func (c *core) open(by bound, key string, opts ...clientv3.OpOption) (clientv3.WatchChan, error) {
	fault := errSilent
	opts = append(opts, clientv3.WithCreatedNotify())
	for wait := max(maxPause, c.patience()); ; wait = min(2*wait, c.timeout) {
		if err := by.wait(c.opening, nil); err != nil {
			return nil, err
		}
		late, stale := c.late.Load(), c.stale.Load()
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(
			clientv3.WithRequireLeader(by.ctx), "locker-stream", fmt.Sprint(stale, ".", late%maxStreams)))
		left := time.Until(by.until)
		timer := time.AfterFunc(min(wait, left), cancel)
		changes := c.cli.Watch(ctx, key, opts...)
		resp := <-changes // clientv3 has waited for it
		notify(c.opening)
		answered := timer.Stop()
		switch {
		case !answered && left < wait: // the time was over too soon to say anything of the stream
		case !answered:
			c.late.CompareAndSwap(late, late+1)
		case resp.Created && resp.Err() == nil:
			return changes, nil
		default:
			fault = watchErr(resp)
		}
		cancel()
		if by.ctx.Err() != nil {
			return nil, context.Cause(by.ctx)
		}
		left = time.Until(by.until)
		if left > 0 && (classify(fault).passing || errors.Is(fault, rpctypes.ErrPermissionDenied)) {
			// A watch does not tell why it does not open, and etcd 3.4 speaks of a right where a token is missing; a reading
			// tells.
			_, _, err := c.read(bound{ctx: by.ctx, until: time.Now().Add(min(wait, left))}, key)
			switch {
			case err != nil:
				fault = err
			case answered: // what is refused is this stream, for its token or its member
				c.stale.CompareAndSwap(stale, stale+1)
				// Not %w: no right is missing, whatever the watch said, and another try is worth it.
				fault = fmt.Errorf("a watch is refused, though a reading is not: %v", fault)
			}
			sleep(by.ctx, firstPause)
		}
		if left <= 0 || !classify(fault).passing {
			return nil, fault
		}
	}
}
