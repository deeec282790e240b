package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// worker is a goroutine that uses locks as its seed says.
type worker struct {
	*user
	rng *rand.Rand
}

// repeat does something again and again, until the work ends.
func (w *worker) repeat(do func()) {
	for {
		select {
		case <-w.stop:
			return
		case <-time.After(w.upTo(40 * time.Millisecond)):
			do()
		}
	}
}

func (w *worker) run() {
	own, _ := w.subject.(lockers) // what only locker has is left out of other subjects' scripts
	w.repeat(func() {
		dice := w.rng.IntN(100)
		switch {
		case dice < 40:
			w.lock()
		case dice < 65 || own.Client == (locker.Client{}):
			w.wait()
		case dice < 72:
			w.do(own)
		case dice < 75:
			w.both(own)
		case dice < 78:
			w.lead(own)
		case dice < 90:
			w.read(own)
		case dice < 95:
			w.watch(own)
		case dice < 98:
			w.crowd()
		default:
			w.visit()
		}
	})
}

func (w *worker) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d)) + 1)
}

// name is one of the few that all want, or one of the many.
func (w *worker) name() string {
	if w.rng.IntN(3) > 0 {
		return w.cfg.Hot[w.rng.IntN(len(w.cfg.Hot))]
	}
	return w.cfg.Cold[w.rng.IntN(len(w.cfg.Cold))]
}

// kept are how many of the names that all want are mostly kept for long: the holder of one will meet the fault.
const kept = 2

// term is how long a lock is kept: mostly not long, now and then longer than its TTL.
func (w *worker) term(name string) time.Duration {
	dice := w.rng.IntN(100)
	if slices.Contains(w.cfg.Hot[:kept], name) {
		dice += 50
	}
	switch {
	case dice < 80:
		return w.upTo(30 * time.Millisecond)
	case dice < 95:
		return w.upTo(500 * time.Millisecond)
	default:
		return w.cfg.TTL/2 + w.upTo(3*w.cfg.TTL/2)
	}
}

// patience is how long a caller waits for its turn.
func (w *worker) patience() time.Duration {
	if w.rng.IntN(4) == 0 {
		return w.upTo(100 * time.Millisecond)
	}
	return w.upTo(3 * w.cfg.TTL)
}

// value is one that no other operation uses: what is read can be told from all else.
func (w *worker) value() string {
	return fmt.Sprintf("%s.%d", w.cfg.Value, w.client.values.Add(1))
}

func (w *worker) lock() {
	name, value, quit := w.name(), w.value(), make(chan bool)
	op := w.call("lock", name, value, 0, 0)
	g, err := w.subject.lock(name, value, quit)
	op.took(context.Background(), now(), g.token, err)
	if err == nil {
		w.use(w.sampler.hold(w.user, op.id, g), name, quit)
	}
}

func (w *worker) wait() {
	name, value, quit, patience := w.name(), w.value(), make(chan bool), w.patience()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	op := w.call("wait", name, value, now().add(patience), 0)
	g, err := w.subject.wait(ctx, name, value, quit)
	op.took(ctx, now(), g.token, err)
	if err == nil {
		w.use(w.sampler.hold(w.user, op.id, g), name, quit)
	}
}

// use keeps a lock for a while and gives it back, in one of the ways that there are.
func (w *worker) use(h *holding, name string, quit chan bool) {
	term, way := w.term(name), w.rng.IntN(4)
	w.keep(h, name, term, h.done)
	own, ok := w.subject.(lockers)
	if !ok {
		w.unlock(h, name)
		return
	}
	w.guarded(own, h, name)
	switch {
	case way == 0 && h.held(): // else another goroutine of this client may hold it by now, under the same name
		w.unlock(h, name)
	case way <= 1:
		op := w.call("unlock hold", name, "", 0, h.op)
		w.sampler.releasing(h)
		op.done(context.Background(), h.grip.unlock())
		<-h.over
	case way == 2:
		w.push(h, name, quit)
	default:
		w.quit([]*holding{h}, []string{name}, quit)
	}
	if w.rng.IntN(3) == 0 {
		w.again(own, h, name)
	}
}

// again uses the Report of a hold that is over, when another may hold the lock, another goroutine of this client perhaps.
func (w *worker) again(own lockers, h *holding, name string) {
	time.Sleep(w.upTo(20 * time.Millisecond))
	op := w.call(again, name, "", now(), h.op) // at once: it sends nothing
	op.done(context.Background(), h.grip.unlock())
	w.guarded(own, h, name)
}

// guarded writes to etcd under the guard of a hold, that may be over.
func (w *worker) guarded(own lockers, h *holding, name string) {
	if own.etcd == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	op := w.call(guarded, name, "", 0, h.op)
	resp, err := own.etcd.Txn(ctx).If(h.guard()).Then(clientv3.OpPut(guardedPrefix+name, w.cfg.Value)).Commit()
	if err != nil {
		op.done(ctx, err)
		return
	}
	if !resp.Succeeded {
		err = errDenied
	}
	op.took(ctx, now(), resp.Header.Revision, err)
}

// guardedPrefix is where guarded writes go.
const guardedPrefix = "guarded/"

func (u *user) unlock(h *holding, name string) {
	op := u.call("unlock", name, "", 0, h.op)
	u.sampler.releasing(h)
	op.done(context.Background(), u.subject.unlock(name, h.grip))
	<-h.over
}

// push gives a lock back by a value on its quit channel. Whoever receives it, it must not take for ever.
func (u *user) push(h *holding, name string, quit chan<- bool) {
	op := u.call("push", name, "", 0, h.op)
	u.sampler.releasing(h)
	var err error
	select {
	case quit <- true:
	case <-u.closing: // nobody receives after Close
		err = locker.ErrClosed
	case <-time.After(2 * u.cfg.Timeout):
		err = errNobodyListens
	}
	op.done(context.Background(), err)
	<-h.over
}

// quit gives back all locks of a quit channel, by closing it.
func (u *user) quit(holds []*holding, names []string, quit chan<- bool) {
	ops := make([]call, len(holds))
	for i, h := range holds {
		ops[i] = u.call("quit", names[i], "", 0, h.op)
		u.sampler.releasing(h)
	}
	close(quit)
	for i, h := range holds {
		<-h.over
		ops[i].done(context.Background(), nil)
	}
}

// keep writes to the store, as long as the lock is held, until the time is over.
func (c *client) keep(h *holding, name string, term time.Duration, done <-chan struct{}) {
	end := time.After(term)
	for {
		looked, held := c.sampler.look(h)
		if !held {
			return
		}
		c.store(name, h.op, h.token, looked)
		select {
		case <-end:
			return
		case <-c.stop:
			return
		case <-done:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// crowd takes many locks at once, keeps them all, and gives them back together.
func (w *worker) crowd() {
	quit := make(chan bool)
	first, n, term, together := w.rng.IntN(len(w.cfg.Cold)), 20+w.rng.IntN(40), w.term(""), w.rng.IntN(2) == 0
	var mu sync.Mutex // guards the following two
	var holds []*holding
	var names []string
	var each sync.WaitGroup
	for i := range n {
		name, value := w.cfg.Cold[(first+i)%len(w.cfg.Cold)], w.value()
		each.Go(func() {
			op := w.call("lock", name, value, 0, 0)
			g, err := w.subject.lock(name, value, quit)
			op.took(context.Background(), now(), g.token, err)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				holds, names = append(holds, w.sampler.hold(w.user, op.id, g)), append(names, name)
			}
		})
	}
	each.Wait()
	select {
	case <-time.After(term):
	case <-w.stop:
	}
	if _, own := w.subject.(lockers); own && together {
		w.quit(holds, names, quit)
		return
	}
	for i, h := range holds {
		each.Go(func() { w.unlock(h, names[i]) })
	}
	each.Wait()
}

// read asks who has a lock, and whether it is free.
func (w *worker) read(own lockers) {
	name := w.name()
	if w.rng.IntN(2) == 0 {
		op := w.call("inspect", name, "", 0, 0)
		r := own.Inspect(name)
		at := now()
		switch {
		case r.Err != nil:
			op.took(context.Background(), at, 0, r.Err)
		case r.Msg == locker.Success:
			op.read(at, "")
		default:
			op.took(context.Background(), at, 0, errDenied)
		}
		return
	}
	op := w.call("get", name, "", 0, 0)
	value, err := own.Get(name)
	at := now()
	if err == nil || errors.As(err, new(locker.LockNotFound)) {
		op.read(at, value)
		return
	}
	op.took(context.Background(), at, 0, err)
}

// read tells what a reading has found: a value, or nothing.
func (o call) read(at instant, value string) {
	o.c.out.write(record{Kind: returned, At: at, Op: o.id, Outcome: ok, Value: value})
}

// watch watches a lock for a while; the reader is slow at times.
func (w *worker) watch(own lockers) {
	name, term, slow := w.cfg.Hot[w.rng.IntN(len(w.cfg.Hot))], w.upTo(time.Second), w.rng.IntN(3) == 0
	quit := make(chan bool)
	var at atomic.Int64
	time.AfterFunc(term, func() {
		at.Store(int64(now()))
		close(quit)
	})
	w.follow(own, "watch", name, quit, &at, func(string) {
		if slow {
			time.Sleep(30 * time.Millisecond)
		}
	})
}

// follow tells what a Watch tells, until quit, whose time is in at.
func (u *user) follow(own lockers, what, name string, quit <-chan bool, at *atomic.Int64, saw func(string)) {
	op := u.call(what, name, "", 0, 0)
	values, read := make(chan string), make(chan struct{})
	go func() {
		defer close(read)
		for v := range values {
			u.out.write(record{Kind: told, At: now(), Op: op.id, Name: name, Value: v})
			saw(v)
		}
	}()
	err := own.Watch(name, values, quit)
	r := record{Kind: returned, At: now(), Op: op.id, Outcome: outcome(context.Background(), err), From: instant(at.Load())}
	if err != nil {
		r.Error = err.Error()
	}
	close(values)
	<-read
	u.out.write(r)
}

// followToTheEnd watches a name as long as the process lives. At the end, when nothing is locked any more, it must have
// told so: it waits for that, though not for ever.
func (u *user) followToTheEnd(own lockers, name string, closing <-chan struct{}) {
	quit := make(chan bool)
	var at atomic.Int64
	var mu sync.Mutex
	last := "" // guarded by mu
	go func() {
		<-closing
		for end := time.Now().Add(convergence); time.Now().Before(end); time.Sleep(samplePeriod) {
			mu.Lock()
			free := last == ""
			mu.Unlock()
			if free {
				break
			}
		}
		at.Store(int64(now()))
		close(quit)
	}()
	for {
		u.follow(own, "watch to the end", name, quit, &at, func(v string) {
			mu.Lock()
			defer mu.Unlock()
			last = v
		})
		select {
		case <-quit:
			return
		case <-time.After(100 * time.Millisecond): // it had an error
		}
	}
}

// convergence is how long a Watch may be behind when nothing is wrong any more: a Watch at a member that hung looks
// whether it missed anything every 10 s.
const convergence = 15 * time.Second
