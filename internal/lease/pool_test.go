package lease

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
)

// newPool returns a Pool that ends with the test.
func newPool(t *testing.T, onLost func(*Lease)) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	p := NewPool(Config{
		Conn: newConn(t), Client: &etcdfake.Leases{}, TTL: time.Minute, Timeout: time.Second, Log: slog.New(slog.DiscardHandler),
		Open: ctx, Live: ctx, Attend: func(l *Lease) { <-l.Lost() }, OnLost: onLost,
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
