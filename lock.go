package locker

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/hedge"
	"github.com/PumpkinSeed/locker/internal/holds"
)

// acquirer takes locks that are free.
type acquirer struct {
	*store
	holds   *holds.Table
	timeout time.Duration
}

// limit bounds a call by ctx and the client's timeout.
func (a *acquirer) limit(ctx context.Context) hedge.Limit {
	return hedge.Limit{Ctx: ctx, Deadline: time.Now().Add(a.timeout)}
}

// tryLock takes the lock if it is free. It returns nil if somebody else has it.
func (a *acquirer) tryLock(limit hedge.Limit, name, value string, quit <-chan bool) (*holds.Hold, error) {
	for {
		ok, pending := a.holds.TryReserve(name)
		if ok {
			break
		}
		if pending == nil {
			return nil, nil
		}
		if err := limit.Wait(pending.Done, nil); err != nil {
			return nil, err
		}
		if pending.Refused { // so etcd has said while this call waited
			return nil, nil
		}
	}
	g := holds.Grant{Name: name}
	defer func() { g.Lease.Unreserve() }()
	err := a.acquire(limit, &g, value, false)
	if err != nil || g.Token == 0 {
		if err == nil {
			a.holds.Refused(name)
		}
		a.holds.Yield(name, nil)
		return nil, err
	}
	return a.checked(a.holds.Begin(g, quit))
}

// acquire takes the lock of a reserved name if it is free, and if so asked, only if nobody waits for it: g gets a lease,
// and a token unless somebody else has the lock, or is to have it. The caller must call Unreserve for the lease.
func (a *acquirer) acquire(limit hedge.Limit, g *holds.Grant, value string, inTurn bool) (err error) {
	for {
		g.Lease.Unreserve() // of the attempt before
		if g.Lease, err = a.leases.Get(limit); err != nil {
			return err
		}
		err = a.putIfAbsent(limit, g, value, inTurn)
		switch {
		case errors.Is(err, rpctypes.ErrPermissionDenied) && inTurn:
			inTurn = false // the queue may not be seen: it can't be waited in either
		case !errors.Is(err, rpctypes.ErrLeaseNotFound):
			return err
		}
	}
}

// checked returns h if its lease is alive: it may have been lost before it knew of the hold.
func (a *acquirer) checked(h *holds.Hold) (*holds.Hold, error) {
	if h.Lease.Alive() {
		return h, nil
	}
	return nil, a.holds.End(h)
}
