package locker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const ms = time.Millisecond

// try is what a test has a try answer: err, after a while. A silent one answers nothing; once the request is over it
// takes that while to leave.
type try struct {
	after  time.Duration
	err    error
	silent bool
}

func TestAsk(t *testing.T) {
	silent := try{silent: true}
	lost := try{err: rpctypes.ErrGRPCTimeout} // may have been applied
	for _, c := range []struct {
		name          string
		usual         time.Duration
		tries         []try           // the last one repeats
		sent          []time.Duration // when tries must have been sent
		took          time.Duration
		err           error
		resent, loose bool
	}{
		{"answered in time", 0, []try{{after: 25*ms - 1}}, []time.Duration{0}, 25*ms - 1, nil, false, false},
		{"answered in the usual time", 10 * ms, []try{{after: 40*ms - 1}}, []time.Duration{0}, 40*ms - 1, nil, false, false},
		{"second try", 0, []try{silent, {after: ms}}, []time.Duration{0, 25 * ms}, 26 * ms, nil, true, true},
		{"second try after four times the usual", 10 * ms, []try{silent, {}}, []time.Duration{0, 40 * ms}, 40 * ms, nil, true, true},
		{"the first answer counts", 0, []try{{after: 30 * ms}, silent}, []time.Duration{0, 25 * ms}, 30 * ms, nil, true, true},
		{"losers are waited for", 0, []try{{after: 5 * ms, silent: true}, {after: ms}}, []time.Duration{0, 25 * ms}, 31 * ms, nil, true, true},
		{"waits double", 0, []try{silent},
			[]time.Duration{0, 25 * ms, 75 * ms, 175 * ms, 375 * ms, 775 * ms, 1575 * ms, 2575 * ms, 3575 * ms}, 4 * time.Second,
			context.DeadlineExceeded, true, true},
		{"pauses double", 0, []try{lost},
			[]time.Duration{0, 10 * ms, 30 * ms, 70 * ms, 150 * ms, 310 * ms, 560 * ms, 810 * ms, 1060 * ms, 1310 * ms, 1560 * ms, 1810 * ms,
				2060 * ms, 2310 * ms, 2560 * ms, 2810 * ms, 3060 * ms, 3310 * ms, 3560 * ms, 3810 * ms}, 4 * time.Second,
			rpctypes.ErrTimeout, true, true},
		{"a fault passes", 0, []try{{err: rpctypes.ErrGRPCNoLeader}, {}}, []time.Duration{0, 10 * ms}, 10 * ms, nil, false, false},
		{"a fault passes, its effect may not", 0, []try{lost, {}}, []time.Duration{0, 10 * ms}, 10 * ms, nil, true, true},
		{"a fault beside a silent try", 0, []try{silent, {err: rpctypes.ErrGRPCNoLeader}, {}}, []time.Duration{0, 25 * ms, 35 * ms}, 35 * ms, nil, true, true},
		{"final", 0, []try{{err: rpctypes.ErrGRPCPermissionDenied}}, []time.Duration{0}, 0, rpctypes.ErrPermissionDenied, false, false},
		{"final, applied or not", 0, []try{{err: rpctypes.ErrGRPCNoSpace}}, []time.Duration{0}, 0, rpctypes.ErrNoSpace, true, true},
		{"final after a fault", 0, []try{lost, {err: rpctypes.ErrGRPCLeaseNotFound}}, []time.Duration{0, 10 * ms}, 10 * ms, rpctypes.ErrLeaseNotFound, true, true},
		{"final beside a silent try", 0, []try{silent, {err: rpctypes.ErrGRPCTooManyOps}}, []time.Duration{0, 25 * ms}, 25 * ms, rpctypes.ErrTooManyOps, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := new(fakeKV).newWire(t)
				w.usual.Store(int64(c.usual))
				start := time.Now()
				var n, inside atomic.Int64
				sent := make([]time.Duration, len(c.sent))
				a := ask(within(4*time.Second), w, func(ctx context.Context) (int, error) {
					inside.Add(1)
					defer inside.Add(-1)
					i := int(n.Add(1)) - 1
					if i < len(sent) {
						sent[i] = time.Since(start)
					}
					try := c.tries[min(i, len(c.tries)-1)]
					if try.silent {
						<-ctx.Done()
					}
					time.Sleep(try.after)
					if try.silent {
						return 0, ctx.Err()
					}
					if try.err != nil {
						return 0, rpctypes.Error(try.err)
					}
					return i + 1, nil
				})
				require.Equal(t, c.took, time.Since(start))
				require.Equal(t, c.sent, sent)
				require.EqualValues(t, len(c.sent), n.Load(), "tries")
				require.Zero(t, inside.Load(), "tries are out")
				require.ErrorIs(t, a.err, c.err)
				require.Equal(t, c.err == nil, a.resp > 0)
				require.Equal(t, c.resent, a.resent, "resent")
				require.Equal(t, c.loose, a.loose, "loose")
			})
		})
	}
}

func TestAskEndsWithItsCtx(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(fakeKV).newWire(t)
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*ms, func() { cancel(why) })
		start := time.Now()
		var n atomic.Int64
		a := ask(bound{ctx: ctx, until: start.Add(time.Second)}, w, func(ctx context.Context) (int, error) {
			if n.Add(1) == 1 {
				return 0, rpctypes.ErrTimeout
			}
			return never[int](ctx)
		})
		require.Equal(t, 100*ms, time.Since(start))
		require.ErrorIs(t, a.err, why)
		require.ErrorIs(t, a.err, rpctypes.ErrTimeout, "the last fault")
		require.True(t, a.resent && a.loose)
	})
}

// The usual time of an answer is smoothed, and faults are no answers.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(fakeKV).newWire(t)
		answer := func(after time.Duration, err error) {
			ask(within(200*ms), w, func(context.Context) (int, error) { time.Sleep(after); return 0, err })
		}
		require.Equal(t, 25*ms, w.patience())
		answer(16*ms, nil)
		require.Equal(t, 2*ms, time.Duration(w.usual.Load()))
		require.Equal(t, 25*ms, w.patience(), "no less")
		for range 50 {
			answer(16*ms, nil)
			answer(ms, rpctypes.ErrPermissionDenied)
		}
		require.InDelta(t, 64*ms, w.patience(), float64(ms))
	})
}

// An unanswered put that was applied is found by the second try, and put anew: its revision is known to that try.
func TestPutFindsItsEarlierEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		kv.script = func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			resp := kv.apply(req)
			if n == 1 {
				return never[*pb.TxnResponse](ctx)
			}
			return resp, nil
		}
		c, s := newFakeCore(t, &kv)
		start := time.Now()
		h := &hold{s: s, name: "name"}
		require.NoError(t, c.put(within(time.Second), h, "v"))
		require.Equal(t, 25*ms, time.Since(start))
		require.EqualValues(t, 2, h.token)
		require.EqualValues(t, 2, kv.keys["name"].ModRevision)
		require.Len(t, s.untidy, 1, "the janitor is told of the try that got no answer")
	})
}

// clientv3 sends a transaction again by itself when a member answers Canceled: what was applied must be found all the
// same, or the lock stays taken, by nobody, as long as the session lives.
func TestResendUnseen(t *testing.T) {
	var kv fakeKV
	c, s := newFakeCore(t, &kv)
	kv.script = func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
		if n == 1 {
			kv.apply(req) // the answer was Canceled
		}
		return kv.apply(req), nil
	}
	h := &hold{s: s, name: "name"}
	require.NoError(t, c.put(within(time.Second), h, "v"))
	require.Positive(t, h.token)
	require.Equal(t, h.token, kv.keys["name"].ModRevision)
}

func TestSeenTerms(t *testing.T) {
	var w wire
	for _, c := range []struct {
		term     uint64
		upToDate bool
	}{{3, true}, {3, true}, {2, false}, {5, true}, {3, false}, {0, false}, {5, true}} {
		require.Equal(t, c.upToDate, w.seen(&pb.ResponseHeader{RaftTerm: c.term}), "term %d", c.term)
	}
	require.False(t, w.seen(nil))
}

func TestClassify(t *testing.T) {
	for want, errs := range map[class][]error{
		{true, false}: {
			rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken, rpctypes.ErrUserEmpty,
			rpctypes.ErrAuthOldRevision, rpctypes.ErrLeaseNotFound, rpctypes.ErrLeaseExist, rpctypes.ErrLeaseTTLTooLarge,
			rpctypes.ErrTooManyOps, rpctypes.ErrRequestTooLarge, rpctypes.ErrDuplicateKey, rpctypes.ErrCompacted,
			status.Error(codes.Unimplemented, "unknown service"),
		},
		{true, true}: {
			rpctypes.ErrNoLeader, rpctypes.ErrTooManyRequests, status.Error(codes.Unknown, "etcdserver: too many requests"),
			errors.New("etcdserver: no leader"), rpctypes.ErrNotCapable,
		},
		{false, false}: {rpctypes.ErrNoSpace, errLate, status.Error(codes.ResourceExhausted, "message larger than max")},
		{false, true}: {
			rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost,
			rpctypes.ErrTimeoutWaitAppliedIndex, rpctypes.ErrLeaderChanged, rpctypes.ErrStopped, rpctypes.ErrUnhealthy,
			status.Error(codes.Unavailable, "error reading from server: EOF"), status.Error(codes.Internal, "stream terminated"),
			status.Error(codes.Canceled, "grpc: the client connection is closing"), status.Error(codes.DeadlineExceeded, "by the server"),
			rpctypes.ErrGRPCCorrupt, context.DeadlineExceeded, context.Canceled, errors.New("etcdserver: raft proposal dropped"),
			errFormer,
		},
	} {
		for _, err := range errs {
			require.Equal(t, want, classify(err), "%v", err)
			require.Equal(t, want, classify(fmt.Errorf("wrapped: %w", err)), "wrapped %v", err)
		}
	}
}

// newFakeCore is a client of this fake, with a session that lives for an hour.
func newFakeCore(t *testing.T, kv *fakeKV) (*core, *session) {
	w := kv.newWire(t)
	c := &core{wire: w, timeout: time.Second, ttl: time.Hour, seats: seats{}, queues: map[string]*queue{}, unbind: func() bool { return true }}
	c.wireCtx, c.hangUp = context.WithCancelCause(t.Context())
	c.ctx, c.cancel = context.WithCancelCause(c.wireCtx)
	c.batch = &batch{wire: w, ctx: t.Context(), limit: maxOps}
	c.opening = make(chan struct{}, 1)
	notify(c.opening)
	s := newSession(t.Context(), w, &fakeLeases{}, time.Hour, c.sessionOver)
	c.live = []*session{s}
	require.NoError(t, s.extend(now(), time.Hour))
	close(s.ready)
	t.Cleanup(func() { s.watchdog.Stop() })
	return c, s
}

// What is left of an earlier attempt is found, and gone when it is to be put again.
func TestPutAfterItsRemainsAreGone(t *testing.T) {
	var kv fakeKV
	c, s := newFakeCore(t, &kv)
	kv.script = func(ctx context.Context, n int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
		switch n {
		case 1:
			kv.apply(req) // unanswered before: remains, with our lease
		case 2: // a late Unlock of that attempt, or the end of an earlier request: the key is gone
			delete(kv.keys, "name")
		}
		return kv.apply(req), nil
	}
	h := &hold{s: s, name: "name"}
	require.NoError(t, c.put(within(time.Second), h, "v"))
	require.Positive(t, h.token, "Fail, though nobody has the lock")
}

// A request that was surely refused had no effect: what is found by the next is not its own doing.
func TestRefusedIsNotResent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		c, s := newFakeCore(t, &kv)
		h := &hold{s: s, name: "name"}
		require.NoError(t, c.put(within(time.Second), h, "v"))
		c.begin(h, nil)
		n := 0
		kv.script = func(ctx context.Context, _ int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			if n++; n == 1 {
				delete(kv.keys, "name") // an operator
				return nil, rpctypes.ErrGRPCNoLeader
			}
			return &pb.TxnResponse{Header: &pb.ResponseHeader{}, Responses: []*pb.ResponseOp{
				{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}},
				{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}},
			}}, nil
		}
		require.ErrorIs(t, c.finish(h), ErrLost)
	})
}
