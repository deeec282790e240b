package locker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/holds"
)

// A put that was applied, and got no answer, is found by the second attempt. It is put once more: its first revision is
// known to the first attempt.
func TestPutIfAbsent_FindsItsEarlierEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		c, l := newFakeClient(t, &kv)
		kv.Script = func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			resp := kv.Apply(req)
			if n == 1 {
				return etcdfake.Never[*pb.TxnResponse](ctx)
			}
			return resp, nil
		}
		start := time.Now()
		g := holds.Grant{Name: "name", Lease: l}
		require.NoError(t, c.queue.putIfAbsent(etcdfake.Within(time.Second), &g, "v", false))
		require.Equal(t, 25*ms, time.Since(start))
		require.EqualValues(t, 2, g.Token)
		require.EqualValues(t, 2, kv.Keys["name"].ModRevision)
		require.Len(t, l.Unanswered(), 1, "the janitor is told of the attempt that got no answer")
	})
}

// etcd's client sends a transaction again by itself when a member answers Canceled. What was applied then must be found
// all the same, or the lock stays taken, by nobody, for as long as the lease lives.
func TestPutIfAbsent_ClientSendsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		c, l := newFakeClient(t, &kv)
		kv.Script = func(_ context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			if n == 1 {
				kv.Apply(req) // the answer was Canceled
			}
			return kv.Apply(req), nil
		}
		g := holds.Grant{Name: "name", Lease: l}
		require.NoError(t, c.queue.putIfAbsent(etcdfake.Within(time.Second), &g, "v", false))
		require.Positive(t, g.Token)
		require.Equal(t, g.Token, kv.Keys["name"].ModRevision)
	})
}

// The remains of an earlier attempt are found, and have gone when the key is to be put again.
func TestPutIfAbsent_RemainsAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		c, l := newFakeClient(t, &kv)
		kv.Script = func(_ context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			switch n {
			case 1:
				kv.Apply(req) // without an answer, before: remains that carry our lease
			case 2: // a late release by that attempt
				delete(kv.Keys, "name")
			}
			return kv.Apply(req), nil
		}
		g := holds.Grant{Name: "name", Lease: l}
		require.NoError(t, c.queue.putIfAbsent(etcdfake.Within(time.Second), &g, "v", false))
		require.Positive(t, g.Token, "nobody has the lock, but it was not taken")
	})
}

// A request that was surely refused had no effect. What the next one finds is not the effect of the first.
func TestRelease_RefusedIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		c, _ := newFakeClient(t, &kv)
		r := mustLock(t, c, "name", "v", nil)
		n := 0
		kv.Script = func(context.Context, int, *pb.TxnRequest) (*pb.TxnResponse, error) {
			if n++; n == 1 {
				delete(kv.Keys, "name") // by an operator
				return nil, rpctypes.ErrGRPCNoLeader
			}
			nothing := &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}}
			return &pb.TxnResponse{Header: &pb.ResponseHeader{}, Responses: []*pb.ResponseOp{nothing, nothing}}, nil
		}
		require.ErrorIs(t, c.queue.end(r.hold), ErrLost)
	})
}
