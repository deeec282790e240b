package hedge

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// answers stands in for etcd: each request waits for its answer, which has a revision of the test's.
type answers struct {
	pb.KVClient
	pb.LeaseClient
	sent chan chan int64
}

func (a answers) header() *pb.ResponseHeader {
	answer := make(chan int64)
	a.sent <- answer
	return &pb.ResponseHeader{Revision: <-answer}
}

func (a answers) Txn(context.Context, *pb.TxnRequest, ...grpc.CallOption) (*pb.TxnResponse, error) {
	return &pb.TxnResponse{Header: a.header()}, nil
}

func (a answers) LeaseGrant(context.Context, *pb.LeaseGrantRequest, ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return &pb.LeaseGrantResponse{Header: a.header()}, nil
}

func read(serializable bool) *pb.TxnRequest {
	r := &pb.RangeRequest{Key: []byte("key"), Serializable: serializable}
	return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: r}}}}
}

// historian is a Conn whose answers the test gives, and what it has told of lost data.
type historian struct {
	*Conn
	t    *testing.T
	etcd answers
	told []error
}

func newHistorian(t *testing.T) *historian {
	h := &historian{Conn: newConn(t), t: t, etcd: answers{sent: make(chan chan int64)}}
	h.KV, h.Lease = kvClient{h.etcd, h.Conn}, leaseClient{h.etcd, h.Conn}
	h.OnDataLost = func(err error) { h.told = append(h.told, err) }
	return h
}

// send sends a request. Its answer is given with the function that it returns, which also waits until it was taken.
func (h *historian) send(request func()) (answer func(revision int64)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		request()
	}()
	sent := <-h.etcd.sent
	return func(revision int64) {
		sent <- revision
		<-done
	}
}

func (h *historian) txn(t *pb.TxnRequest) func() {
	return func() { h.KV.Txn(h.t.Context(), t) }
}

func (h *historian) grant() { h.Lease.LeaseGrant(h.t.Context(), &pb.LeaseGrantRequest{}) }

func TestHistory_LowerRevision(t *testing.T) {
	for name, c := range map[string]struct {
		request func(h *historian) func()
		proof   bool
	}{
		"read":                {func(h *historian) func() { return h.txn(read(false)) }, true},
		"serializable read":   {func(h *historian) func() { return h.txn(read(true)) }, false},
		"nested transaction":  {func(h *historian) func() { return func() { h.Verify(within(ms * 1000)) } }, true},
		"grant":               {func(h *historian) func() { return h.grant }, true},
		"nothing is compared": {func(h *historian) func() { return h.txn(&pb.TxnRequest{}) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistorian(t)
			h.send(h.grant)(100)
			h.send(c.request(h))(100)
			require.Empty(t, h.told)
			h.send(c.request(h))(99)
			if !c.proof {
				require.Empty(t, h.told)
				return
			}
			require.Len(t, h.told, 1)
			require.ErrorIs(t, h.told[0], ErrRolledBack)
			h.send(h.grant)(99)
			h.send(h.grant)(100)
			require.Len(t, h.told, 1, "it counts anew")
			h.send(h.grant)(99)
			require.Len(t, h.told, 2, "a second time")
		})
	}
}

// Answers come in another order than that of the requests. What counts is what was known when a request was sent.
func TestHistory_LateAnswers(t *testing.T) {
	h := newHistorian(t)
	first, second := h.send(h.grant), h.send(h.grant)
	second(101)
	first(100)
	require.Empty(t, h.told, "the first was carried out before the second")

	late, later := h.send(h.grant), h.send(h.grant)
	h.send(h.grant)(50)
	require.Len(t, h.told, 1)
	late(51)   // proves what is known already
	later(102) // is of the history that has ended
	h.send(h.grant)(52)
	require.Len(t, h.told, 1)
}

// An event tells of what was committed, also of a history that has ended meanwhile.
func TestHistory_Events(t *testing.T) {
	h := newHistorian(t)
	stream := h.Now()
	stream.Committed(100)
	stream.Committed(90)
	h.send(h.grant)(99)
	require.Len(t, h.told, 1)
	stream.Committed(200)
	h.send(h.grant)(99)
	require.Len(t, h.told, 1)
}

// A member that answers with a lower revision may lag. Until that is found out it is not asked about again.
func TestDoubt(t *testing.T) {
	h := newHistorian(t)
	doubts := 0
	h.OnDoubt = func() { doubts++ }
	h.send(h.grant)(100)
	h.Doubt(&pb.ResponseHeader{Revision: 100}, h.Now())
	h.Doubt(&pb.ResponseHeader{}, h.Now())
	require.Zero(t, doubts)
	h.Doubt(&pb.ResponseHeader{Revision: 99}, h.Now())
	h.Doubt(&pb.ResponseHeader{Revision: 99}, h.Now())
	require.Equal(t, 1, doubts)
	h.send(func() { h.Verify(within(ms * 1000)) })(100)
	h.Doubt(&pb.ResponseHeader{Revision: 99}, h.Now())
	require.Equal(t, 2, doubts)
	require.Empty(t, h.told)
}
