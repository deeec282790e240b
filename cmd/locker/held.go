package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker"
)

// held are the locks of one run.
type held struct {
	etcd    *clientv3.Client
	locks   locker.Client
	reports []locker.Report // in the order in which they were taken
	tokens  []int64         // in the order of the command line
	lost    context.Context // done when one of them is not held any more
	forget  []context.CancelFunc
}

// take connects to etcd and takes all locks. On an error nothing is held.
func (in *invocation) take(ctx context.Context, o runOptions) (*held, error) {
	etcd, locks, err := in.connect(context.Background(), o.ttl)
	if err != nil {
		return nil, err
	}
	h := &held{etcd: etcd, locks: locks, tokens: make([]int64, len(o.names)), lost: context.Background()}
	waiting := ctx
	if o.wait > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, o.wait)
		defer cancel()
	}
	for _, name := range slices.Sorted(slices.Values(o.names)) {
		if err := in.add(waiting, h, name, o); err != nil {
			return nil, errors.Join(err, h.giveBack())
		}
	}
	return h, nil
}

// add takes one more lock. The wait for it ends when one of those before is lost.
func (in *invocation) add(ctx context.Context, h *held, name string, o runOptions) error {
	r := h.takeOne(ctx, name, o)
	switch {
	case h.lost.Err() != nil:
		return context.Cause(h.lost)
	case r.Msg != locker.Success && (r.Err == nil || o.wait > 0 && errors.As(r.Err, new(locker.LockDenied))):
		return failure{statusDenied, h.deniedBy(name)}
	case r.Msg != locker.Success:
		return in.explain(r.Err)
	}
	h.reports = append(h.reports, r)
	var cancel context.CancelFunc
	h.lost, cancel = r.Context(h.lost)
	h.forget = append(h.forget, cancel)
	h.tokens[slices.Index(o.names, name)] = r.Token
	return nil
}

func (h *held) takeOne(ctx context.Context, name string, o runOptions) locker.Report {
	if o.try {
		return h.locks.Lock(name, o.value, nil)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.lost, cancel)()
	defer announce(ctx, h.locks, name, o.value)()
	return h.locks.LockWait(ctx, name, o.value, nil)
}

// deniedBy says who has a lock that was not to be had.
func (h *held) deniedBy(name string) string {
	if value, err := h.locks.Get(name); err == nil {
		return fmt.Sprintf("%s is held by %s", shown(name), shown(value))
	}
	return fmt.Sprintf("%s is held by somebody else", shown(name))
}

// remaining is how long all locks are certain to be held.
func (h *held) remaining() time.Duration {
	least := time.Duration(math.MaxInt64)
	for _, r := range h.reports {
		least = min(least, r.Remaining())
	}
	return least
}

// giveBack gives all locks back, within the client's timeout. Its error is that one was lost before. That etcd does not answer is
// no more than a warning: the locks come free with their lease.
func (h *held) giveBack() (lost error) {
	for _, forget := range slices.Backward(h.forget) {
		forget()
	}
	var unanswered error
	for _, r := range slices.Backward(h.reports) {
		err := r.Unlock()
		if errors.Is(err, locker.ErrLost) {
			lost = err
		} else if err != nil {
			unanswered = err
			break // and leave the rest to Close, which has nothing to give back by a lease that is over by then
		}
	}
	if err := cmp.Or(disconnect(h.etcd, h.locks), unanswered); err != nil && lost == nil {
		fmt.Fprintln(os.Stderr, "locker: the locks come free at the end of their lease:", strings.TrimPrefix(err.Error(), "locker: "))
	}
	return lost
}
