package locker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// What stands in for etcd where a test is about times and faults: what is answered, and when, is a script.

// within is a bound of a test.
func within(d time.Duration) bound { return bound{ctx: context.Background(), until: time.Now().Add(d)} }

// never is the answer of a member that is frozen.
func never[T any](ctx context.Context) (t T, err error) {
	<-ctx.Done()
	return t, ctx.Err()
}

// fakeKV takes transactions. script is called for each, with its number from 1 on; nil stands for apply.
type fakeKV struct {
	pb.KVClient
	script func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error)

	mu       sync.Mutex // guards all below
	sent     []*pb.TxnRequest
	revision int64
	next     int64 // revision of the transaction that is applied
	keys     map[string]*mvccpb.KeyValue
}

// newWire is the way to this fake.
func (f *fakeKV) newWire(t *testing.T) *wire {
	f.keys = map[string]*mvccpb.KeyValue{}
	cli := clientv3.NewCtxClient(t.Context())
	cli.KV = clientv3.NewKVFromKVClient(f, nil)
	return &wire{cli: cli}
}

func (f *fakeKV) Txn(ctx context.Context, req *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	f.mu.Lock()
	f.sent = append(f.sent, req)
	n := len(f.sent)
	f.mu.Unlock()
	if f.script != nil {
		return f.script(ctx, n, req)
	}
	return f.apply(req), nil
}

// requests are the transactions so far, each as the keys that it is about.
func (f *fakeKV) requests() (all [][]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, req := range f.sent {
		all = append(all, keysOf(req))
	}
	return all
}

func keysOf(req *pb.TxnRequest) (keys []string) {
	for _, op := range req.Success {
		switch {
		case op.GetRequestTxn() != nil:
			keys = append(keys, keysOf(op.GetRequestTxn())...)
		case op.GetRequestPut() != nil:
			keys = append(keys, string(op.GetRequestPut().Key))
		}
	}
	return keys
}

// apply does what etcd does: all comparisons first, those of nested transactions too, then the operations.
func (f *fakeKV) apply(req *pb.TxnRequest) *pb.TxnResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	holds := map[*pb.TxnRequest]bool{}
	f.compare(req, holds)
	f.next = f.revision + 1
	resp := f.run(req, holds)
	resp.Header = &pb.ResponseHeader{Revision: f.revision}
	return resp
}

func branch(req *pb.TxnRequest, holds map[*pb.TxnRequest]bool) []*pb.RequestOp {
	if holds[req] {
		return req.Success
	}
	return req.Failure
}

func (f *fakeKV) compare(req *pb.TxnRequest, holds map[*pb.TxnRequest]bool) {
	holds[req] = true
	for _, c := range req.Compare {
		kv, is, want := f.keys[string(c.Key)], int64(0), int64(0)
		switch {
		case c.Result != pb.Compare_EQUAL || c.RangeEnd != nil:
			panic(fmt.Sprint("no such comparison in this fake: ", c))
		case c.Target == pb.Compare_CREATE:
			is, want = kv.GetCreateRevision(), c.GetCreateRevision()
		case c.Target == pb.Compare_MOD:
			is, want = kv.GetModRevision(), c.GetModRevision()
		}
		holds[req] = holds[req] && is == want
	}
	for _, op := range branch(req, holds) {
		if t := op.GetRequestTxn(); t != nil {
			f.compare(t, holds)
		}
	}
}

func (f *fakeKV) run(req *pb.TxnRequest, holds map[*pb.TxnRequest]bool) *pb.TxnResponse {
	resp := &pb.TxnResponse{Succeeded: holds[req]}
	for _, op := range branch(req, holds) {
		out := &pb.ResponseOp{}
		switch {
		case op.GetRequestTxn() != nil:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: f.run(op.GetRequestTxn(), holds)}
		case op.GetRequestPut() != nil:
			p := op.GetRequestPut()
			kv := &mvccpb.KeyValue{Key: p.Key, Value: p.Value, Lease: p.Lease, CreateRevision: f.next, ModRevision: f.next}
			if old := f.keys[string(p.Key)]; old != nil {
				kv.CreateRevision = old.CreateRevision
			}
			f.keys[string(p.Key)], f.revision = kv, f.next
		case op.GetRequestRange() != nil:
			r := &pb.RangeResponse{}
			if kv := f.keys[string(op.GetRequestRange().Key)]; kv != nil {
				r.Kvs = append(r.Kvs, kv)
			}
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: r}
		default:
			panic(fmt.Sprint("no such operation in this fake: ", op))
		}
		resp.Responses = append(resp.Responses, out)
	}
	return resp
}

// fakeLeases grants and renews one lease. grant is called for each try, renew for each renewal, with the number of
// its stream; both numbers from 1 on. nil stands for an answer at once, with the TTL that was asked for.
type fakeLeases struct {
	pb.LeaseClient
	grant func(ctx context.Context, n int) (*pb.LeaseGrantResponse, error)
	renew func(ctx context.Context, stream int) (*pb.LeaseKeepAliveResponse, error)

	grants   atomic.Int64
	streams  atomic.Int64
	renewals atomic.Int64
	revokes  atomic.Int64
	asked    atomic.Int64 // TTL
}

func (f *fakeLeases) LeaseGrant(ctx context.Context, req *pb.LeaseGrantRequest, _ ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	f.asked.Store(req.TTL)
	n := f.grants.Add(1)
	if f.grant != nil {
		return f.grant(ctx, int(n))
	}
	return granted(req.TTL), nil
}

func (f *fakeLeases) LeaseRevoke(context.Context, *pb.LeaseRevokeRequest, ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	f.revokes.Add(1)
	return &pb.LeaseRevokeResponse{}, nil
}

func (f *fakeLeases) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse], error) {
	return &fakeStream{fakeLeases: f, ctx: ctx, n: int(f.streams.Add(1))}, nil
}

// fakeStream is a stream of renewals.
type fakeStream struct {
	grpc.ClientStream
	*fakeLeases
	ctx context.Context
	n   int
}

func (s *fakeStream) Send(*pb.LeaseKeepAliveRequest) error { return nil }

func (s *fakeStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	s.renewals.Add(1)
	if s.renew != nil {
		return s.renew(s.ctx, s.n)
	}
	return renewed(s.asked.Load(), 1), nil
}

// granted and renewed are answers of a leader: the grants are of term 1.
func granted(ttl int64) *pb.LeaseGrantResponse {
	return &pb.LeaseGrantResponse{TTL: ttl, Header: &pb.ResponseHeader{RaftTerm: 1}}
}

func renewed(ttl int64, term uint64) *pb.LeaseKeepAliveResponse {
	return &pb.LeaseKeepAliveResponse{TTL: ttl, Header: &pb.ResponseHeader{RaftTerm: term}}
}
