package lease

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/hedge"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// A term that a transaction has shown counts for renewals, too. A grant that was sent later resets the term, because a quorum
// has agreed to it: the cluster was restored from a backup.
func TestTermOfATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, start := runLease(t, 6*time.Second, &etcdfake.Leases{})
		<-l.granted
		require.NoError(t, l.conn.Observe(&pb.ResponseHeader{RaftTerm: 2}))
		lostAt(t, l, start, 5400*ms)
		require.ErrorIs(t, l.Err(), hedge.ErrStaleLeader)

		l, _ = runLeaseOn(t, l.conn, 6*time.Second, &etcdfake.Leases{})
		time.Sleep(time.Minute)
		require.True(t, l.Alive())
	})
}

// A grant whose answer comes late, after a new leader has been heard of, does not make the former leader believed again: its
// renewals extend no lease.
func TestTermOfAGrantThatIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, start := runLease(t, 6*time.Second, &etcdfake.Leases{}) // renewed by the leader of term 1
		<-first.granted
		second, _ := runLeaseOn(t, first.conn, 6*time.Second, &etcdfake.Leases{
			Grant: func(context.Context, int) (*pb.LeaseGrantResponse, error) {
				require.NoError(t, first.conn.Observe(&pb.ResponseHeader{RaftTerm: 2}))
				return etcdfake.Granted(6), nil
			},
			Renew: func(context.Context, int) (*pb.LeaseKeepAliveResponse, error) { return etcdfake.Renewed(6, 2), nil },
		})
		<-second.granted // a quorum has granted it, whoever is the leader now
		lostAt(t, first, start, 5400*ms)
		require.ErrorIs(t, first.Err(), hedge.ErrStaleLeader)
		time.Sleep(time.Minute)
		require.True(t, second.Alive())
	})
}

// Alive is right at the deadline though no goroutine of the lease gets to run, and tells the loss itself.
func TestAlive_NeedsNoGoroutine(t *testing.T) {
	errOther := errors.New("another cause")
	synctest.Test(t, func(t *testing.T) {
		l := newLease(t.Context(), newConn(t), &etcdfake.Leases{}, time.Second, slog.New(slog.DiscardHandler))
		require.NoError(t, l.extend(now(), 5*time.Second))
		synctest.Wait()
		require.True(t, l.watchdog.Stop())
		time.Sleep(4500*ms - 1)
		require.True(t, l.Alive())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.False(t, syncutil.Closed(l.ctx.Done()), "nobody has looked")
		require.False(t, l.Alive())
		require.True(t, syncutil.Closed(l.ctx.Done()))
		require.ErrorIs(t, l.extend(now(), 5*time.Second), hedge.ErrTooLate, "a lost lease stays lost")
		l.Lose(errOther)
		require.False(t, l.Alive())
		require.NotErrorIs(t, l.Err(), errOther, "the first cause counts")
	})
}

// A lease ends at once, whatever it is about to do, and waits for its stream.
func TestLose_EndsTheGoroutine(t *testing.T) {
	frozen := &etcdfake.Leases{Grant: func(ctx context.Context, _ int) (*pb.LeaseGrantResponse, error) {
		return etcdfake.Never[*pb.LeaseGrantResponse](ctx)
	}}
	silent := &etcdfake.Leases{Renew: func(ctx context.Context, _ int) (*pb.LeaseKeepAliveResponse, error) {
		defer time.Sleep(5 * ms)
		return etcdfake.Never[*pb.LeaseKeepAliveResponse](ctx)
	}}
	failing := &etcdfake.Leases{Renew: func(context.Context, int) (*pb.LeaseKeepAliveResponse, error) {
		return nil, rpctypes.ErrGRPCTimeout
	}}
	for _, c := range []struct {
		what   string
		leases *etcdfake.Leases
		after  time.Duration
		took   time.Duration
	}{
		{"during the grant", frozen, time.Second, 0},
		{"between renewals", &etcdfake.Leases{}, 4500 * ms, 0},
		{"while a renewal waits for its answer", silent, 2500 * ms, 5 * ms},
		{"between attempts at a renewal", failing, 2500 * ms, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLease(t.Context(), newConn(t), c.leases, 6*time.Second, slog.New(slog.DiscardHandler))
				ended := make(chan struct{})
				go func() { l.run(5 * time.Second); close(ended) }()
				time.Sleep(c.after)
				require.False(t, syncutil.Closed(l.ctx.Done()))
				start := time.Now()
				l.Lose(errors.New("given back"))
				<-ended
				require.Equal(t, c.took, time.Since(start))
				require.True(t, syncutil.Closed(l.ctx.Done()))
			})
		})
	}
}
