package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/PumpkinSeed/locker"
)

// function is a function that a client calls while a lock is held. The moment at which it begins counts as the end of the
// taking of the lock, its end as the beginning of the release.
type function struct {
	*holding
	w       *worker
	name    string
	inner   context.Context // its own
	ended   atomic.Bool
	release call // once it has ended
}

// enter is called by a function when it begins: a lock was taken by that operation.
func (w *worker) enter(inner context.Context, taking call, at instant, name string, token int64) *function {
	taking.took(inner, at, token, nil)
	f := &function{w: w, name: name, inner: inner}
	f.holding = w.sampler.hold(w.user, taking.id, grip{token: token, held: func() bool {
		return !f.ended.Load() && !f.toldLoss() && !errors.Is(context.Cause(f.inner), locker.ErrClosed)
	}})
	return f
}

// toldLoss says whether the function's ctx has ended for a loss.
func (f *function) toldLoss() bool { return errors.Is(context.Cause(f.inner), locker.ErrLost) }

// end is called when the function ends; the release may take until then, 0: as long as any call.
func (f *function) end(until instant) {
	f.release = f.w.call("done", f.name, "", until, f.op)
	f.w.sampler.releasing(f.holding)
	f.ended.Store(true)
}

// released tells what came of the release.
func (f *function) released(ctx context.Context, err error) {
	f.release.done(ctx, err)
	<-f.over
}

// bounded is how long a worker waits at most, and works, in all.
func (w *worker) bounded() time.Duration { return w.patience() + 2*w.cfg.TTL }

// do takes a lock by Do.
func (w *worker) do(own lockers) {
	name, value, patience := w.name(), w.value(), w.bounded()
	term := w.term(name)
	ctx, cancel := context.WithTimeout(context.Background(), patience) // bounds fn too
	defer cancel()
	taking := w.call("do", name, value, now().add(patience), 0)
	var f *function
	err := own.Do(ctx, name, value, func(inner context.Context, token int64) error {
		f = w.enter(inner, taking, now(), name, token)
		w.keep(f.holding, name, term, inner.Done())
		f.end(0)
		return nil
	})
	if f == nil {
		taking.done(ctx, err)
		return
	}
	f.released(context.Background(), err)
}

// both takes two locks by DoAll.
func (w *worker) both(own lockers) {
	first := w.rng.IntN(len(w.cfg.Hot))
	names := []string{w.cfg.Hot[first], w.cfg.Hot[(first+1+w.rng.IntN(len(w.cfg.Hot)-1))%len(w.cfg.Hot)]}
	value, patience, term := w.value(), w.bounded(), w.term(names[0])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lesser, greater := 0, 1
	if names[0] > names[1] {
		lesser, greater = 1, 0
	}
	release := w.cfg.Timeout + grace // of one of the two, which comes after the ctx if the other is not to be had
	until := now().add(patience + release)
	var takings [2]call
	takings[lesser] = w.call(both, names[lesser], value, until, 0)
	takings[greater] = w.call(bothThen, names[greater], value, until, takings[lesser].id)
	var functions []*function
	err := own.DoAll(ctx, names, value, func(inner context.Context, tokens []int64) error {
		at := now()
		for i, token := range tokens {
			functions = append(functions, w.enter(inner, takings[i], at, names[i], token))
		}
		for i, f := range functions {
			w.keep(f.holding, names[i], term/2, inner.Done())
		}
		end := now()
		for _, f := range functions {
			f.end(end.add(2 * release))
		}
		return nil
	})
	if functions == nil {
		for _, taking := range takings {
			taking.done(ctx, err)
		}
	}
	for _, f := range functions {
		f.released(context.Background(), err)
	}
}

// lead leads for a term, once it was elected, and is elected again when it loses the lock before that. Every reign is a hold,
// and the next begins to be taken with the end of the one before.
func (w *worker) lead(own lockers) {
	name, value, patience := w.name(), w.value(), w.bounded()
	term := w.term(name)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	since := now()
	end := since.add(patience)
	leading := w.callAt(since, leads, name, value, 0, 0)
	limit := end       // of Lead
	var last *function // whose release has not been told
	err := own.Lead(ctx, name, value, func(inner context.Context, token int64) error {
		at := now()
		if last != nil { // it believed in the lock to its end, and yet Lead goes on
			last.released(context.Background(), locker.ErrLost)
		}
		f := w.enter(inner, w.callAt(since, reigns, name, value, max(at, end), 0), at, name, token)
		w.keep(f.holding, name, term, inner.Done())
		since = now()
		limit, last = max(since, end).add(w.cfg.Timeout+grace), f
		f.end(limit)
		if f.toldLoss() {
			f.released(context.Background(), locker.ErrLost)
			limit, last = max(since, end), nil
		}
		return nil
	})
	r := record{Kind: returned, At: now(), Op: leading.id, Outcome: outcome(ctx, err), From: limit}
	if err != nil {
		r.Error = err.Error()
	}
	if last != nil {
		last.released(ctx, err)
	}
	w.out.write(r)
}
