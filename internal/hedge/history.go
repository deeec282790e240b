package hedge

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// ErrRolledBack says that etcd has lost what it had answered before: it was restored from a backup, or started on old data.
var ErrRolledBack = errors.New("the etcd cluster was rolled back")

// A history is what a cluster has committed since the client met it. It ends when the cluster is rolled back, and another
// begins.
type history struct {
	revision atomic.Int64 // the highest that is known to have been committed
}

// A Moment says how far the cluster was known to have come when a request was sent. Answers come out of order, so each is
// compared with the Moment of its own request.
type Moment struct {
	history  *history
	revision int64
}

// Now returns the Moment of a request that is about to be sent.
func (c *Conn) Now() Moment {
	h := c.history.Load()
	return Moment{h, h.revision.Load()}
}

// Committed records that a revision was seen that has been committed since m. It may be late: if the cluster was rolled
// back meanwhile, the record goes to the history that has ended.
func (m Moment) Committed(revision int64) {
	for {
		known := m.history.revision.Load()
		if revision <= known || m.history.revision.CompareAndSwap(known, revision) {
			return
		}
	}
}

// observeQuorum compares an answer that needed a quorum with the Moment at which its request was sent. etcd carries such
// a request out after everything that was committed before, so a lower revision proves that the cluster was rolled back.
// That is told before the caller has the answer, and once.
func (c *Conn) observeQuorum(h *pb.ResponseHeader, sent Moment) {
	revision := h.GetRevision()
	if revision == 0 || revision >= sent.revision {
		sent.Committed(revision)
		return
	}
	next := new(history)
	next.revision.Store(revision)
	if c.history.CompareAndSwap(sent.history, next) {
		c.dataLost(fmt.Errorf("%w: from revision %d to %d", ErrRolledBack, sent.revision, revision))
	}
}

// dataLost reports that nothing which etcd answered before can be relied on any more.
func (c *Conn) dataLost(err error) {
	if c.OnDataLost != nil {
		c.OnDataLost(err)
	}
}

// Doubt compares an answer that any member gives by itself with the Moment at which its request was sent. A lower revision
// is that of a member that lags, or of a cluster that was rolled back: OnDoubt is called to find out.
func (c *Conn) Doubt(h *pb.ResponseHeader, sent Moment) {
	lower := h.GetRevision() > 0 && h.GetRevision() < sent.revision
	if lower && c.OnDoubt != nil && c.verifying.CompareAndSwap(false, true) {
		c.OnDoubt()
	}
}

// Verify has etcd answer something that needs a quorum, so that a cluster that was rolled back is found out. OnDoubt has
// it called, once for each of its own calls.
func (c *Conn) Verify(limit Limit) {
	defer c.verifying.Store(false)
	// A transaction within a transaction goes through Raft, and an empty one needs no right on any key.
	empty := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{}}}}}
	Do(limit, c, func(ctx context.Context) (*pb.TxnResponse, error) { return c.KV.Txn(ctx, empty) })
}

// kvClient observes the answers to transactions.
type kvClient struct {
	pb.KVClient
	conn *Conn
}

func (k kvClient) Txn(ctx context.Context, t *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	sent := k.conn.Now()
	resp, err := k.KVClient.Txn(ctx, t, opts...)
	if err == nil && needsQuorum(t) {
		k.conn.observeQuorum(resp.Header, sent)
	}
	return resp, err
}

// needsQuorum reports whether a transaction is anything but serializable reads, which any member answers by itself.
func needsQuorum(t *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range ops {
			if !op.GetRequestRange().GetSerializable() {
				return true
			}
		}
	}
	return false
}

// leaseClient observes the answers to requests for leases. Grants and revocations go through Raft; renewals do not.
type leaseClient struct {
	pb.LeaseClient
	conn *Conn
}

func (l leaseClient) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest, opts ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	sent := l.conn.Now()
	resp, err := l.LeaseClient.LeaseGrant(ctx, r, opts...)
	if err == nil {
		l.conn.observeQuorum(resp.Header, sent)
	}
	return resp, err
}

func (l leaseClient) LeaseKeepAlive(ctx context.Context, opts ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	s, err := l.LeaseClient.LeaseKeepAlive(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &renewals{Lease_LeaseKeepAliveClient: s, conn: l.conn}, nil
}

// renewals is a stream of renewals, of which one is under way at a time.
type renewals struct {
	pb.Lease_LeaseKeepAliveClient
	conn *Conn
	sent Moment // of the last renewal
}

func (s *renewals) Send(r *pb.LeaseKeepAliveRequest) error {
	s.sent = s.conn.Now()
	return s.Lease_LeaseKeepAliveClient.Send(r)
}

func (s *renewals) Recv() (*pb.LeaseKeepAliveResponse, error) {
	resp, err := s.Lease_LeaseKeepAliveClient.Recv()
	if err == nil {
		s.conn.Doubt(resp.Header, s.sent)
	}
	return resp, err
}
