package watch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/PumpkinSeed/locker/internal/hedge"
)

// All times here are those of a bubble of synctest.

const ms = time.Millisecond

// members stands in for a cluster. Every stream is another member's; silent says which of them answer nothing.
type members struct {
	silent func(stream int) bool
	answer func(stream int, r *pb.WatchRequest) []*pb.WatchResponse // nil: what etcd answers

	mu       sync.Mutex // guards all below
	streams  []*fakeStream
	revision int64
}

type fakeStream struct {
	grpc.ClientStream
	m    *members
	n    int // from 1 on
	ctx  context.Context
	out  chan *pb.WatchResponse
	sent []*pb.WatchRequest // guarded by members.mu
}

func (m *members) Watch(ctx context.Context, _ ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &fakeStream{m: m, n: len(m.streams) + 1, ctx: ctx, out: make(chan *pb.WatchResponse, 10_000)}
	m.streams = append(m.streams, s)
	return s, nil
}

func (s *fakeStream) CloseSend() error { return nil }

func (s *fakeStream) Send(r *pb.WatchRequest) error {
	s.m.mu.Lock()
	s.sent = append(s.sent, r)
	header := &pb.ResponseHeader{Revision: s.m.revision}
	s.m.mu.Unlock()
	if s.m.silent != nil && s.m.silent(s.n) {
		return nil
	}
	var answers []*pb.WatchResponse
	if s.m.answer != nil {
		answers = s.m.answer(s.n, r)
	}
	if answers == nil {
		switch {
		case r.GetCreateRequest() != nil:
			answers = []*pb.WatchResponse{{Header: header, WatchId: r.GetCreateRequest().WatchId, Created: true}}
		case r.GetProgressRequest() != nil:
			answers = []*pb.WatchResponse{{Header: header, WatchId: -1}}
		}
	}
	for _, a := range answers {
		s.out <- a
	}
	return nil
}

func (s *fakeStream) Recv() (*pb.WatchResponse, error) {
	select {
	case resp := <-s.out:
		if resp == nil {
			return nil, io.EOF
		}
		return resp, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// stream returns the n-th stream, from 1 on.
func (m *members) stream(n int) *fakeStream {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.streams[n-1]
}

func (m *members) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// creates are the create requests of a stream.
func (s *fakeStream) creates() (creates []*pb.WatchCreateRequest) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for _, r := range s.sent {
		if c := r.GetCreateRequest(); c != nil {
			creates = append(creates, c)
		}
	}
	return creates
}

// change has a stream deliver a change of a key.
func (s *fakeStream) change(id int64, revision int64, deleted bool) {
	e := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("key"), ModRevision: revision}}
	if deleted {
		e.Type = clientv3.EventTypeDelete
	}
	s.out <- &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revision}, WatchId: id, Events: []*mvccpb.Event{e}}
}

// log is what the owner of a watch has been told.
type log struct {
	mu     sync.Mutex
	events []Event // guarded by mu
}

func (l *log) handle(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *log) take() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.events
	l.events = nil
	return events
}

// newWatcher returns a Watcher that ends, and is waited for, with the test. read is nil where all may be read.
func newWatcher(t *testing.T, m *members, read func() error) *Watcher {
	m.revision = 10
	ctx, cancel := context.WithCancel(t.Context())
	conn := hedge.NewConn(clientv3.NewCtxClient(ctx))
	conn.Watch = m
	w := New(ctx, conn, 20*time.Second, slog.New(slog.DiscardHandler), func(hedge.Limit, string, bool) error {
		if read == nil {
			return nil
		}
		return read()
	})
	t.Cleanup(func() {
		cancel()
		w.Wait()
	})
	return w
}

// All watches go out at once, without waiting for answers, and those first that somebody waits for.
func TestWatchesAreOpenedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		m := &members{silent: func(int) bool { return true }}
		w := newWatcher(t, m, nil)
		for range n {
			w.Open("held", Options{Relaxed: true}, func(Event) {})
		}
		w.Open("waited for", Options{}, func(Event) {})
		synctest.Wait()
		creates := m.stream(1).creates()
		require.Len(t, creates, n+1)
		ids := map[int64]bool{}
		for _, c := range creates {
			ids[c.WatchId] = true
			require.Zero(t, c.StartRevision, "what starts in the past is served late")
		}
		require.Len(t, ids, n+1)
		time.Sleep(minPatience + 50*ms)
		synctest.Wait()
		require.Equal(t, "waited for", string(m.stream(2).creates()[0].Key))
	})
}

// A silent stream is left within about a second, and another member takes all watches over. One that is to deliver every
// change goes on where it was, and delivers nothing twice.
func TestSilentStreamIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silenced int
		var mu sync.Mutex
		m := &members{silent: func(n int) bool { mu.Lock(); defer mu.Unlock(); return n <= silenced }}
		w := newWatcher(t, m, nil)
		var present, every log
		w.Open("present", Options{}, present.handle)
		w.Open("every", Options{EveryChange: true}, every.handle)
		synctest.Wait()
		require.Equal(t, []Event{{Opened: 10}}, present.take())
		require.Equal(t, []Event{{Opened: 10}}, every.take())
		id := m.stream(1).creates()[1].WatchId
		m.stream(1).change(id, 12, false)
		synctest.Wait()
		require.Len(t, every.take(), 1)

		time.Sleep(time.Minute)
		require.Equal(t, 1, m.count(), "it answers")
		mu.Lock()
		silenced = 2 // the next member is silent, too
		mu.Unlock()
		start := time.Now()
		for m.count() < 3 {
			time.Sleep(10 * ms)
		}
		require.Less(t, time.Since(start), 1500*ms)
		synctest.Wait()
		creates := m.stream(3).creates()
		require.Len(t, creates, 2)
		require.Zero(t, creates[0].StartRevision)
		require.EqualValues(t, 13, creates[1].StartRevision)
		require.Equal(t, []Event{{Opened: 10}}, present.take(), "its owner must read")
		every.take()
		m.stream(3).change(id, 12, false)
		m.stream(3).change(id, 14, true)
		synctest.Wait()
		events := every.take()
		require.Len(t, events, 1)
		require.EqualValues(t, 14, events[0].KV.ModRevision)
		require.True(t, events[0].Deleted)
		_, moves := w.Stats()
		require.EqualValues(t, 2, moves)
	})
}

// However patient an outage has made it, with slow answers or with streams that gave none: a silent stream is left within two
// seconds once answers come soon again.
func TestPatienceDoesNotOutliveItsReason(t *testing.T) {
	for _, reason := range []string{"slow answers", "silent streams"} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var silenced atomic.Int64 // streams up to this one
				m := &members{silent: func(n int) bool { return int64(n) <= silenced.Load() }}
				w := newWatcher(t, m, nil)
				switch reason {
				case "slow answers":
					w.Open("key", Options{}, func(Event) {})
					w.conn.SetLatency(5 * time.Second)
					time.Sleep(time.Second) // the next look is set by it
					w.conn.SetLatency(ms)
				case "silent streams":
					silenced.Store(6)
					w.Open("key", Options{}, func(Event) {})
					for m.count() < 7 {
						time.Sleep(ms)
					}
				}
				synctest.Wait() // the stream has answered
				last := m.count()
				silenced.Store(int64(last))
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.Greater(t, m.count(), last)
			})
		})
	}
}

// Where nobody waits a stream may be silent for longer; from the moment at which somebody does, it may not.
func TestSilenceOfRelaxedWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := make(chan struct{})
		m := &members{silent: func(n int) bool {
			select {
			case <-silent:
				return n == 1
			default:
				return false
			}
		}}
		w := newWatcher(t, m, nil)
		w.Open("held", Options{Relaxed: true}, func(Event) {})
		time.Sleep(time.Second)
		m.mu.Lock()
		before := len(m.streams[0].sent)
		m.mu.Unlock()
		require.LessOrEqual(t, before, 3, "few signs of life are asked for")
		close(silent)
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, m.count())
		w.Open("waited for", Options{}, func(Event) {})
		time.Sleep(time.Second)
		require.Equal(t, 2, m.count())
	})
}

// A stream that delivers something is not asked for signs of life, and one without watches is closed.
func TestStreamEndsWithItsUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{}
		w := newWatcher(t, m, nil)
		one := w.Open("one", Options{}, func(Event) {})
		other := w.Open("other", Options{}, func(Event) {})
		synctest.Wait()
		one.Close()
		one.Close()
		synctest.Wait()
		m.mu.Lock()
		last := m.streams[0].sent[len(m.streams[0].sent)-1]
		m.mu.Unlock()
		require.Equal(t, m.stream(1).creates()[0].WatchId, last.GetCancelRequest().GetWatchId())
		other.Close()
		time.Sleep(3 * time.Second)
		require.Error(t, m.stream(1).ctx.Err(), "the stream is closed")
		w.mu.Lock()
		require.False(t, w.running)
		w.mu.Unlock()
		_, moves := w.Stats()
		require.Zero(t, moves)

		var again log
		w.Open("again", Options{}, again.handle)
		synctest.Wait()
		require.Len(t, again.take(), 1)
	})
}

// refusing answers every create for a key like etcd does when a right, or a token, is missing: without an ID.
func refusing(key, reason string, streams func(int) bool) func(int, *pb.WatchRequest) []*pb.WatchResponse {
	return func(n int, r *pb.WatchRequest) []*pb.WatchResponse {
		if c := r.GetCreateRequest(); c != nil && string(c.Key) == key && streams(n) {
			return []*pb.WatchResponse{{Header: &pb.ResponseHeader{}, WatchId: -1, Created: true, Canceled: true, CancelReason: reason}}
		}
		return nil
	}
}

func always(int) bool { return true }

// A right that is missing for one watch of many is told to its owner alone, and so is that there is no user at all.
func TestMissingRight(t *testing.T) {
	for _, reason := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty} {
		testMissingRight(t, reason)
	}
}

func testMissingRight(t *testing.T, reason error) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{answer: refusing("secret", reason.Error(), always)}
		w := newWatcher(t, m, func() error { return reason })
		var secret, open log
		w.Open("open", Options{}, open.handle)
		w.Open("secret", Options{}, secret.handle)
		w.Open("open too", Options{}, open.handle)
		time.Sleep(time.Second)
		require.Equal(t, []Event{{Err: reason}}, secret.take())
		require.Equal(t, []Event{{Opened: 10}, {Opened: 10}}, open.take())
		require.Equal(t, 1, m.count())
		n, _ := w.Stats()
		require.Equal(t, 2, n)
	})
}

// What is refused though it may be read is the stream's fault: its token has expired, or is from before there were users.
func TestStreamThatRefusesWhatMayBeRead(t *testing.T) {
	for _, reason := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken} { // 3.4, and newer ones
		synctest.Test(t, func(t *testing.T) {
			m := &members{answer: refusing("new", reason.Error(), func(n int) bool { return n == 1 })}
			w := newWatcher(t, m, nil)
			var old, fresh log
			w.Open("old", Options{}, old.handle)
			synctest.Wait()
			w.Open("new", Options{}, fresh.handle)
			time.Sleep(time.Second)
			require.Equal(t, []Event{{Opened: 10}}, fresh.take())
			require.Equal(t, []Event{{Opened: 10}, {Opened: 10}}, old.take())
			require.Equal(t, 2, m.count())
		})
	}
}

// A watch that every stream refuses, though it may be read, is not asked for at full speed.
func TestRefusedWatchIsNotAskedForAtFullSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{answer: refusing("key", rpctypes.ErrGRPCPermissionDenied.Error(), always)}
		w := newWatcher(t, m, nil)
		w.Open("key", Options{}, func(Event) {})
		time.Sleep(10 * time.Second)
		require.Less(t, m.count(), 60)
		require.Greater(t, m.count(), 10)
	})
}

// Compaction costs a watch what it has not delivered yet: its owner is told, and it goes on at the present.
func TestCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{answer: func(_ int, r *pb.WatchRequest) []*pb.WatchResponse {
			if c := r.GetCreateRequest(); c != nil && c.StartRevision > 0 && c.StartRevision < 9 {
				return []*pb.WatchResponse{
					{Header: &pb.ResponseHeader{Revision: 10}, WatchId: c.WatchId, Created: true},
					{Header: &pb.ResponseHeader{Revision: 10}, WatchId: c.WatchId, Canceled: true, CompactRevision: 9},
				}
			}
			return nil
		}}
		w := newWatcher(t, m, nil)
		var l log
		w.Open("key", Options{EveryChange: true, After: 5}, l.handle)
		time.Sleep(100 * ms)
		require.Equal(t, []Event{{Opened: 10}, {Opened: 10, Gap: true}}, l.take())
		creates := m.stream(1).creates()
		require.EqualValues(t, 6, creates[0].StartRevision)
		require.Zero(t, creates[1].StartRevision)
		require.NotEqual(t, creates[0].WatchId, creates[1].WatchId)
		m.stream(1).change(creates[1].WatchId, 11, false)
		synctest.Wait()
		require.Len(t, l.take(), 1)
	})
}

// A stream that ends is followed by another, after a pause; its error is kept until one answers.
func TestStreamThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{}
		w := newWatcher(t, m, nil)
		var l log
		w.Open("key", Options{}, l.handle)
		synctest.Wait()
		m.stream(1).out <- nil
		synctest.Wait()
		require.ErrorIs(t, w.Err(), io.EOF)
		time.Sleep(100 * ms)
		require.NoError(t, w.Err())
		require.Equal(t, []Event{{Opened: 10}, {Opened: 10}}, l.take())
	})
}

// A client that is closed opens nothing any more.
func TestOpenAfterTheEnd(t *testing.T) {
	m := &members{}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("closed"))
	w := New(ctx, hedge.NewConn(clientv3.NewCtxClient(ctx)), time.Second, slog.New(slog.DiscardHandler), nil)
	w.Open("key", Options{}, func(Event) {}).Close()
	w.Wait()
	require.Zero(t, m.count())
}

func TestPrefixEnd(t *testing.T) {
	for prefix, end := range map[string]string{"a/": "a0", "a\xff": "b", "\xff\xff": "\x00", "": "\x00"} {
		require.Equal(t, end, string(PrefixEnd(prefix)), "%q", prefix)
	}
}
