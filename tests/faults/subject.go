package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// grip is a lock that was taken.
type grip struct {
	token int64
	held  func() bool
	// exact says that held answers for itself. The ctx of Do does not: it is cancelled by a goroutine, which takes its
	// time when the process has just been resumed. There no holder can know, and the token has to do.
	exact bool
	done  <-chan struct{}
	own   any // the subject's

	// What else a Report does; nil where there is none.
	unlock func() error
	cause  func() error
	guard  func() clientv3.Cmp
}

// subject is what the campaign tries.
type subject interface {
	lock(name, value string, quit <-chan bool) (grip, error) // errDenied when somebody else has it
	wait(ctx context.Context, name, value string, quit <-chan bool) (grip, error)
	unlock(name string, g grip) error
	close() error
}

// errDenied says that somebody else has the lock.
var errDenied = errors.New("somebody else has the lock")

// subjects are what -subject may name.
var subjects = map[string]func(config, *clientv3.Client) (subject, error){
	"locker":      newLocker,
	"concurrency": newMutexes,
}

// outcome is what an error means for the history.
func outcome(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return ok
	case errors.Is(err, errDenied):
		return denied
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return expired
	case errors.Is(err, locker.ErrLost):
		return lost
	case errors.Is(err, locker.ErrReleased):
		return released
	case errors.Is(err, locker.ErrNotHeld):
		return notHeld
	case errors.Is(err, locker.ErrClosed):
		return closed
	}
	return failed
}

// lockers is this package's own client.
type lockers struct {
	locker.Client
	etcd *clientv3.Client // nil with New
}

func newLocker(cfg config, cli *clientv3.Client) (subject, error) {
	var c locker.Client
	var err error
	if cli == nil {
		c, err = locker.New(cfg.Endpoints, seconds(cfg.Timeout), seconds(cfg.TTL), context.Background())
	} else {
		c, err = locker.NewFromClient(context.Background(), cli, seconds(cfg.TTL), locker.WithPrefix(cfg.Prefix))
	}
	return lockers{c, cli}, err
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func (l lockers) lock(name, value string, quit <-chan bool) (grip, error) {
	return gripOf(l.Lock(name, value, quit))
}

func (l lockers) wait(ctx context.Context, name, value string, quit <-chan bool) (grip, error) {
	return gripOf(l.LockWait(ctx, name, value, quit))
}

func gripOf(r locker.Report) (grip, error) {
	switch {
	case r.Msg == locker.Success && r.Err == nil:
		return grip{token: r.Token, held: r.Held, exact: true, done: r.Done,
			unlock: r.Unlock, cause: r.Cause, guard: r.Guard}, nil
	case r.Msg == locker.Fail && r.Err != nil:
		return grip{}, r.Err
	case r.Msg == locker.Fail:
		return grip{}, errDenied
	}
	return grip{}, fmt.Errorf("a report of no meaning: %+v", r)
}

func (l lockers) unlock(name string, _ grip) error { return l.Unlock(name, nil) }

func (l lockers) close() error {
	err := l.Close()
	if l.etcd != nil {
		err = errors.Join(err, l.etcd.Close())
	}
	return err
}
