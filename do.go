package locker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/hedge"
	"github.com/PumpkinSeed/locker/internal/syncutil"
)

// Do waits for the lock like LockWait, runs fn while it is held, and gives the lock back, also when fn panics.
//
// ctx bounds both the wait and the work: fn's ctx is made of it. To bound the wait alone, call LockWait with a ctx of its own,
// and Report.Context for the work. fn's ctx ends, too, when the lock is lost, with a cause that is ErrLost, and when the client
// is closed, with ErrClosed. Do waits for fn to return all the same. token is the fencing token. The error joins fn's with what
// went wrong around it.
func (c Client) Do(ctx context.Context, name, value string, fn func(ctx context.Context, token int64) error) error {
	r := c.LockWait(ctx, name, value, nil)
	if r.Msg != Success {
		return r.Err
	}
	return r.do(ctx, name, fn)
}

// do runs fn while the lock is held, and gives it back.
func (r Report) do(ctx context.Context, name string, fn func(ctx context.Context, token int64) error) (err error) {
	inner, cancel := r.Context(ctx)
	defer func() {
		cancel()
		if e := r.owner.end(r.hold); e != nil {
			err = errors.Join(err, wrap("release lock", name, e))
		}
	}()
	return fn(inner, r.Token)
}

// TryDo is Do for a lock that is free: it does not wait for another holder. ran reports whether fn was called. If somebody else
// has the lock, ran is false and err is nil.
func (c Client) TryDo(ctx context.Context, name, value string, fn func(ctx context.Context, token int64) error) (ran bool, err error) {
	if err = c.checkCall(ctx, name, value); err != nil {
		return false, wrap("lock", name, err)
	}
	trying, cancel := c.queue.during(ctx)
	defer cancel()
	h, err := c.queue.tryLock(c.queue.limit(trying), c.prefix+name, value, nil)
	r := c.report(h, wrap("lock", name, withErrOf(ctx, err)))
	if r.Msg != Success {
		return false, r.Err
	}
	return true, r.do(ctx, name, fn)
}

// DoAll is Do with several locks. It takes them one after the other in the order of their keys, not in that of names, so that two
// calls can't block each other. It calls fn when all are held; the tokens are in the order of names. fn's ctx ends when one of
// the locks is lost. All are given back in the end, those that were taken when another was not to be had included.
//
// Each name may be given once.
func (c Client) DoAll(ctx context.Context, names []string, value string, fn func(ctx context.Context, tokens []int64) error) error {
	if len(names) == 0 {
		return fmt.Errorf("locker: %w: no name given", ErrInvalidName)
	}
	order := make([]int, len(names))
	for i, name := range names {
		order[i] = i
		if err := c.checkCall(ctx, name, value); err != nil {
			return wrap("lock", name, err)
		}
		if slices.Contains(names[:i], name) {
			return wrap("lock", name, fmt.Errorf("%w: it is given twice", ErrInvalidName))
		}
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(names[a], names[b]) })
	tokens := make([]int64, len(names))
	var next func(context.Context, []int) error
	next = func(ctx context.Context, order []int) error {
		if len(order) == 0 {
			return fn(ctx, tokens)
		}
		return c.Do(ctx, names[order[0]], value, func(ctx context.Context, token int64) error {
			tokens[order[0]] = token
			return next(ctx, order[1:])
		})
	}
	return next(ctx, order)
}

// Lead runs fn whenever this client holds the lock, which makes it the leader: of all that call Lead with this name, one at a
// time. It blocks.
//
// fn's ctx ends when the lock is lost, and with ctx. When fn returns while the lock is held, Lead gives the lock back at once, so
// that another can lead, and returns fn's error, or nil. When fn returns after the lock was lost, whatever it returns, Lead waits
// for the lock again, with another token. An error in taking the lock that may heal, such as a network that is down, does not end
// Lead. It ends with ctx, whose error it returns then, or the error of fn if that was running; and with what will not heal, such
// as a missing permission, or ErrClosed.
//
// Watch tells others who leads, if that is the value.
func (c Client) Lead(ctx context.Context, name, value string, fn func(ctx context.Context, token int64) error) error {
	for {
		r := c.LockWait(ctx, name, value, nil)
		if r.Msg != Success {
			if ctx == nil || ctx.Err() != nil || !heals(r.Err) {
				return r.Err
			}
			syncutil.Sleep(ctx, hedge.MaxBackoff)
			continue
		}
		if err := r.do(ctx, name, fn); !errors.Is(r.Cause(), ErrLost) || ctx.Err() != nil {
			return err
		}
	}
}

// heals reports whether an attempt to take a lock that has failed may succeed later. It may after the end of the lease that it
// was made with, whatever ended that; and an operator can give etcd room.
func heals(err error) bool {
	for _, final := range []error{ErrClosed, ErrInvalidName, ErrInvalidValue} {
		if errors.Is(err, final) {
			return false
		}
	}
	return errors.Is(err, ErrLost) || errors.Is(err, rpctypes.ErrNoSpace) || hedge.Classify(err).Transient
}
