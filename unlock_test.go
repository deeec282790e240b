package locker

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestUnlockOfWhatIsNotHeld(t *testing.T) {
	t.Parallel()
	a, b, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	never, before, others, outsiders := newName(), newName(), newName(), newName()
	mustLock(t, a, before, DefaultValue, nil)
	require.NoError(t, a.Unlock(before, nil))
	held := mustLock(t, b, others, "of b", nil)
	mustFail(t, a, others)
	revision := put(t, etcd, outsiders, "of nobody")

	const calls = 100
	start := time.Now()
	for range calls {
		for _, name := range []string{never, before, others, outsiders} {
			err := a.Unlock(name, nil)
			require.ErrorIs(t, err, ErrNotHeld)
			require.Contains(t, err.Error(), name)
		}
	}
	require.Less(t, time.Since(start)/(4*calls), 10*time.Millisecond)

	require.Equal(t, held.Token, stored(t, etcd, others).ModRevision)
	require.Equal(t, "of b", string(stored(t, etcd, others).Value))
	require.True(t, held.Held())
	require.Equal(t, revision, stored(t, etcd, outsiders).ModRevision)
	require.NoError(t, b.Unlock(others, nil))
}

// Unlock needs no reader, nor even the channel of the Lock.
func TestUnlockWithAnyChannel(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name, quit := newName(), make(chan bool)
	for _, given := range []chan bool{nil, quit, make(chan bool)} {
		r := mustLock(t, c, name, DefaultValue, quit)
		require.NoError(t, c.Unlock(name, given))
		receive(t, r.Done, 0)
	}
}

// Of many who unlock at once, and have all found the lock held, one does it; the others are told that there was
// nothing to do.
func TestUnlockByMany(t *testing.T) {
	t.Parallel()
	c := newClient(t, 5, 5)
	name := newName()
	for range 10 {
		r := mustLock(t, c, name, DefaultValue, nil)
		errs := make(chan error)
		for range 4 {
			go func() { errs <- c.finish(r.hold) }()
		}
		done := 0
		for range 4 {
			if err := receive(t, errs, soon); err == nil {
				done++
			} else {
				require.ErrorIs(t, err, ErrNotHeld)
			}
		}
		require.Equal(t, 1, done)
	}
}

// An Unlock in the middle of which the client is closed, and one whose request arrives when Close has revoked the lease.
func TestUnlockMeetsClose(t *testing.T) {
	t.Parallel()
	for _, arrives := range []string{"never", "after the revocation"} {
		t.Run(arrives, func(t *testing.T) {
			t.Parallel()
			name, sent, over := newName(), newGate(), newGate()
			c := tapped(t, machines, 30, func(ctx context.Context, req, reply any, send sender) error {
				if deletes(req, name) {
					if err := sent.pass(ctx, nil); err != nil {
						return err
					}
				}
				err := send(ctx, reply)
				if _, revokes := req.(*pb.LeaseRevokeRequest); revokes && arrives != "never" {
					sent.open()
					return over.pass(ctx, err)
				}
				return err
			}, nil)
			mustLock(t, c, name, "v", nil)
			released, closed := make(chan error, 1), make(chan error, 1)
			go func() { released <- c.Unlock(name, nil) }()
			sent.awaitArrival(t)
			go func() { closed <- c.Close() }()
			err := receive(t, released, soon)
			over.open()
			require.NoError(t, receive(t, closed, soon))
			if arrives == "never" {
				require.ErrorIs(t, err, ErrClosed)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// The put for an heir is refused for want of room, but was carried out: Unlock says nil when the key is gone.
func TestNoSpaceForTheHeir(t *testing.T) {
	t.Parallel()
	ctx, name := limited(t), newName()
	leaving, leave := context.WithCancel(ctx)
	tidying := newGate()
	var once, full atomic.Bool
	c := tapped(t, machines, 30, func(ctx context.Context, req, reply any, send sender) error {
		if _, is := req.(*pb.LeaseTimeToLiveRequest); is {
			if err := tidying.pass(ctx, nil); err != nil {
				return err
			}
		}
		if puts(req, name) && compares(req, name, pb.Compare_MOD) && !once.Swap(true) {
			leave()
			require.NoError(t, send(ctx, reply))
			full.Store(true)
			return rpctypes.ErrGRPCNoSpace
		}
		if full.Load() && anyOp(req, func(op *pb.RequestOp) bool { return op.GetRequestPut() != nil }) {
			return rpctypes.ErrGRPCNoSpace
		}
		return send(ctx, reply)
	}, nil)
	other := newClient(t, 5, 30)
	mustLock(t, c, name, "v", nil)
	heir := wait(leaving, c, name, "heir")
	awaitLine(t, c, name, 1)
	require.NoError(t, c.Unlock(name, nil))
	outcomeOf(t, heir)
	r := other.Lock(name, "other", nil)
	tidying.open()
	require.NoError(t, r.Err)
	require.Equal(t, Success, r.Msg, "nil, and a Lock right after it fails")
}
