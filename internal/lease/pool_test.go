package lease

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/hedge"
)

// newPool returns a Pool that ends with the test.
func newPool(t *testing.T, onLost func(*Lease)) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	p := NewPool(Config{
		Conn: newConn(t), Client: &etcdfake.Leases{}, TTL: time.Minute, Timeout: time.Second, Log: slog.New(slog.DiscardHandler),
		Open: ctx, Live: ctx, Attend: func(l *Lease) { <-l.ctx.Done() }, OnLost: onLost,
	})
	t.Cleanup(func() {
		cancel()
		p.Wait()
	})
	return p
}

// The keys of a lease are those of a stranger from the moment at which it has ended, and not only when that was noticed:
// the next holder may own them by then.
func TestPool_OwnsNothingOfALeaseThatHasEnded(t *testing.T) {
	for name, end := range map[string]func(*Lease){
		"it was lost, and nobody was told yet":         func(l *Lease) { l.cancel(rpctypes.ErrLeaseNotFound) },
		"its deadline has passed, and nobody has seen": func(l *Lease) { l.deadline.monotonic.Store(int64(now().monotonic)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, func(*Lease) {})
				first, err := p.Get(etcdfake.Within(time.Second))
				require.NoError(t, err)
				first.Holds.Store(MaxHolds)
				second, err := p.Get(etcdfake.Within(time.Second))
				require.NoError(t, err)
				require.NotEqual(t, first.ID, second.ID)
				require.True(t, p.Owns(second, int64(first.ID)))
				end(first)
				require.False(t, p.Owns(second, int64(first.ID)))
				require.False(t, p.Owns(first, int64(first.ID)), "nor is it the asker's own")
				require.True(t, p.Owns(second, int64(second.ID)))
			})
		})
	}
}

// A lost lease leaves the pool before its loss is told, and no lock is held meanwhile.
func TestPool_LeaseLeavesBeforeItsLossIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *Pool
		lost := make(chan bool, 10)
		p = newPool(t, func(*Lease) { lost <- len(p.All()) == 0 })
		l, err := p.Get(etcdfake.Within(time.Second))
		require.NoError(t, err)
		l.Lose(rpctypes.ErrLeaseNotFound)
		require.True(t, <-lost)
	})
}

// Those who come at once share as few leases as those who come one after the other, and no lease has too many.
func TestPool_ManyAtOnce(t *testing.T) {
	const many = 25_000
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, func(*Lease) {})
		got := make(chan *Lease, many)
		var coming sync.WaitGroup
		for range many {
			coming.Go(func() {
				l, err := p.Get(etcdfake.Within(time.Second))
				if err != nil {
					t.Error(err)
				}
				got <- l
			})
		}
		coming.Wait()
		close(got)
		count := map[*Lease]int64{}
		for l := range got {
			count[l]++
		}
		require.Len(t, count, 3)
		for l, n := range count {
			require.LessOrEqual(t, n, int64(MaxHolds))
			require.Equal(t, n, l.Holds.Load())
		}
		first := p.All()[0]
		l, err := p.Get(etcdfake.Within(time.Second))
		require.NoError(t, err)
		require.NotSame(t, first, l)
		first.Unreserve()
		l, err = p.Get(etcdfake.Within(time.Second))
		require.NoError(t, err)
		require.Same(t, first, l, "there is room again")
	})
}

// Whoever goes without a lease leaves nothing reserved.
func TestPool_GetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, func(*Lease) {})
		answer := make(chan struct{})
		p.Client = &etcdfake.Leases{Grant: func(ctx context.Context, _ int) (*pb.LeaseGrantResponse, error) {
			<-answer
			return etcdfake.Granted(60), nil
		}}
		_, err := p.Get(etcdfake.Within(time.Millisecond))
		require.ErrorIs(t, err, hedge.ErrNoAnswer)
		require.Len(t, p.All(), 1)
		require.Zero(t, p.All()[0].Holds.Load())
		close(answer)
		l, err := p.Get(etcdfake.Within(time.Second))
		require.NoError(t, err)
		require.EqualValues(t, 1, l.Holds.Load())
	})
}

// A lease that is granted too late to be of use is replaced by another one.
func TestPool_GrantIsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, func(*Lease) {})
		p.Timeout = 10 * time.Second
		p.Client = &etcdfake.Leases{Grant: func(ctx context.Context, n int) (*pb.LeaseGrantResponse, error) {
			if n == 1 {
				time.Sleep(2 * time.Second)
				return etcdfake.Granted(2), nil
			}
			<-time.After(2500 * ms) // the hedges of the first grant find nothing else
			return etcdfake.Granted(60), nil
		}}
		l, err := p.Get(etcdfake.Within(10 * time.Second))
		require.NoError(t, err)
		require.Equal(t, []*Lease{l}, p.All())
		require.EqualValues(t, 1, l.Holds.Load())
	})
}

// Whoever notices the end of a lease waits for nobody who is told of it: Held and Cause must never wait.
func TestPool_TheLossIsToldByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan struct{})
		p := newPool(t, func(*Lease) { <-told })
		l, err := p.Get(etcdfake.Within(time.Second))
		require.NoError(t, err)
		l.Suspend(1)
		require.False(t, l.Alive())
		require.Error(t, l.Err())
		close(told)
	})
}

// A lease that was lost because etcd was silent may have been renewed all the same. It is given back once etcd answers again, not
// before the margin that its holders have to stop, and not if etcd does not know it any more.
func TestPool_RevokesALostLease(t *testing.T) {
	for name, c := range map[string]struct {
		cause   error
		revoked int64
	}{"silence": {context.DeadlineExceeded, 1}, "it is not known to etcd": {rpctypes.ErrLeaseNotFound, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, func(*Lease) {})
				leases := p.Client.(*etcdfake.Leases)
				l, err := p.Get(etcdfake.Within(time.Second))
				require.NoError(t, err)
				l.Lose(c.cause)
				time.Sleep(margin(l.TTL()) - 1)
				synctest.Wait()
				require.Zero(t, leases.Revokes.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.Equal(t, c.revoked, leases.Revokes.Load())
			})
		})
	}
}
