package locker

import (
	"context"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// sender sends a request.
type sender func(ctx context.Context, reply any) error

// tap is called for each request of a client, and passes it on to send, or not.
type tap func(ctx context.Context, req, reply any, send sender) error

// watchTap is called for each answer to a watch, before the client sees it.
type watchTap func(key string, resp *pb.WatchResponse)

// tapped returns an unhedged client whose requests and watches a test can see, stop and change. Both taps may be nil.
func tapped(t testing.TB, endpoints []string, ttl int64, requests tap, events watchTap) Client {
	t.Helper()
	cfg := clientv3.Config{Endpoints: endpoints, Logger: clientv3.NewCtxClient(context.Background()).GetLogger()}
	if requests != nil {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return requests(ctx, req, reply, func(ctx context.Context, reply any) error {
					return invoke(ctx, method, req, reply, cc, opts...)
				})
			}))
	}
	if events != nil {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				s, err := open(ctx, desc, cc, method, opts...)
				if err != nil || method != "/etcdserverpb.Watch/Watch" {
					return s, err
				}
				return newTappedStream(s, events), nil
			}))
	}
	cli, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	c, err := start(context.Background(), cli, settings{options: options{timeout: 30 * time.Second}, ttl: seconds(ttl)}) // gates may be shut for long
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return unhedged(c)
}

// tappedStream is a stream of watches. A tap that waits holds back the one watch that it is called for: answers to others,
// and signs of life, go on.
type tappedStream struct {
	grpc.ClientStream
	tap      watchTap
	answers  chan func(any) error // what RecvMsg returns next
	incoming sync.Once

	mu    sync.Mutex
	keys  map[int64]string                 // by watch ID; guarded by mu
	lanes map[int64]chan *pb.WatchResponse // likewise
}

func newTappedStream(s grpc.ClientStream, tap watchTap) *tappedStream {
	return &tappedStream{ClientStream: s, tap: tap, answers: make(chan func(any) error),
		keys: map[int64]string{}, lanes: map[int64]chan *pb.WatchResponse{}}
}

func (s *tappedStream) SendMsg(m any) error {
	if r := m.(*pb.WatchRequest).GetCreateRequest(); r != nil {
		s.mu.Lock()
		s.keys[r.WatchId] = string(r.Key)
		s.mu.Unlock()
	}
	return s.ClientStream.SendMsg(m)
}

func (s *tappedStream) RecvMsg(m any) error {
	s.incoming.Do(func() { go s.receive() })
	select {
	case next := <-s.answers:
		return next(m)
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

func (s *tappedStream) receive() {
	for {
		resp := &pb.WatchResponse{}
		if err := s.ClientStream.RecvMsg(resp); err != nil {
			s.answer(func(any) error { return err })
			return
		}
		s.lane(resp.WatchId) <- resp
	}
}

func (s *tappedStream) answer(f func(any) error) {
	select {
	case s.answers <- f:
	case <-s.Context().Done():
	}
}

// lane takes the answers to one watch, in order.
func (s *tappedStream) lane(id int64) chan<- *pb.WatchResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lanes[id] == nil {
		lane, key := make(chan *pb.WatchResponse, 1000), s.keys[id]
		s.lanes[id] = lane
		go func() {
			for {
				select {
				case resp := <-lane:
					if id >= 0 {
						s.tap(key, resp)
					}
					s.answer(func(m any) error {
						reflect.ValueOf(m).Elem().Set(reflect.ValueOf(resp).Elem())
						return nil
					})
				case <-s.Context().Done():
					return
				}
			}
		}()
	}
	return s.lanes[id]
}

// requests collects what a client sends.
type requests struct {
	mu   sync.Mutex
	sent []any // guarded by mu
}

func (r *requests) tap(ctx context.Context, req, reply any, send sender) error {
	r.mu.Lock()
	r.sent = append(r.sent, req)
	r.mu.Unlock()
	return send(ctx, reply)
}

// take returns the requests since the last call.
func (r *requests) take() []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sent
	r.sent = nil
	return sent
}

// withholdFirst is a tap that keeps back the first request of that kind. The test receives a function that delivers it.
func withholdFirst(kind func(req any) bool) (deliver <-chan func() error, _ tap) {
	kept := make(chan func() error, 1)
	var once sync.Once
	return kept, func(ctx context.Context, req, reply any, send sender) error {
		lost := false
		if kind(req) {
			once.Do(func() {
				lost = true
				later := context.WithoutCancel(ctx)
				kept <- func() error { return send(later, new(pb.TxnResponse)) }
			})
		}
		if lost {
			<-ctx.Done()
			return ctx.Err()
		}
		return send(ctx, reply)
	}
}

// entering returns a tap, and a gate at which the client arrives when it knows that it has a place in the queue.
func entering(name string) (*gate, tap) {
	entered := newGate()
	return entered, func(ctx context.Context, req, reply any, send sender) error {
		err := send(ctx, reply)
		if err == nil && enters(req, name) {
			entered.arrive()
		}
		return err
	}
}

// hearing is a tap that keeps events from a client until the gate is open.
func hearing(ctx context.Context, g *gate) watchTap {
	return func(_ string, resp *pb.WatchResponse) {
		if len(resp.Events) > 0 {
			g.pass(ctx, nil)
		}
	}
}

// gateBefore is a tap that sends requests of that kind only once the gate is open.
func gateBefore(g *gate, kind func(req any) bool) tap {
	return func(ctx context.Context, req, reply any, send sender) error {
		if kind(req) {
			if err := g.pass(ctx, nil); err != nil {
				return err
			}
		}
		return send(ctx, reply)
	}
}

// gateAfter is a tap that lets a client have the answers to requests of that kind only once the gate is open.
func gateAfter(g *gate, kind func(req any) bool) tap {
	return func(ctx context.Context, req, reply any, send sender) error {
		err := send(ctx, reply)
		if kind(req) {
			return g.pass(ctx, err)
		}
		return err
	}
}

// puts reports whether a request may put that key.
func puts(req any, key string) bool {
	return anyOp(req, func(op *pb.RequestOp) bool { return string(op.GetRequestPut().GetKey()) == key })
}

// deletes reports whether a request may delete that key. A key that ends in queueInfix stands for every place in a queue.
func deletes(req any, key string) bool {
	return anyOp(req, func(op *pb.RequestOp) bool {
		deleted := string(op.GetRequestDeleteRange().GetKey())
		return deleted == key || strings.HasSuffix(key, queueInfix) && strings.HasPrefix(deleted, key)
	})
}

// enters reports whether a request may enter the queue for a lock.
func enters(req any, name string) bool {
	return anyOp(req, func(op *pb.RequestOp) bool {
		return strings.HasPrefix(string(op.GetRequestPut().GetKey()), name+queueInfix)
	})
}

// writes reports whether a request may write anything.
func writes(req any) bool {
	return anyOp(req, func(op *pb.RequestOp) bool { return op.GetRequestRange() == nil })
}

// compares reports whether a request has a comparison of that property of a key.
func compares(req any, key string, target pb.Compare_CompareTarget) bool {
	txn, _ := req.(*pb.TxnRequest)
	for _, c := range txn.GetCompare() {
		if string(c.Key) == key && c.Target == target {
			return true
		}
	}
	return false
}

func anyOp(req any, is func(*pb.RequestOp) bool) bool {
	txn, _ := req.(*pb.TxnRequest)
	for _, ops := range [][]*pb.RequestOp{txn.GetSuccess(), txn.GetFailure()} {
		for _, op := range ops {
			if is(op) {
				return true
			}
		}
	}
	return false
}

// gate blocks those who pass until it is opened.
type gate struct {
	arrived, opened      chan struct{}
	arriveOnce, openOnce sync.Once
}

func newGate() *gate { return &gate{arrived: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) arrive() { g.arriveOnce.Do(func() { close(g.arrived) }) }

func (g *gate) open() { g.openOnce.Do(func() { close(g.opened) }) }

// pass waits until the gate is open, and returns err. If ctx ends first, it returns the error of ctx.
func (g *gate) pass(ctx context.Context, err error) error {
	g.arrive()
	select {
	case <-g.opened:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) awaitArrival(t testing.TB) {
	t.Helper()
	select {
	case <-g.arrived:
	case <-time.After(15 * time.Second):
		t.Fatal("nobody has come to the gate")
	}
}
