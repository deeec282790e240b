package readme

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/go-co-op/gocron/v2"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// once runs a job for a tick, unless a replica has already finished it for this tick, or a later one.
func once(ctx context.Context, client locker.Client, etcd *clientv3.Client, job, tick string, run func(context.Context) error) (err error) {
	report := client.LockWait(ctx, job, locker.DefaultValue, nil)
	if report.Err != nil {
		return report.Err
	}
	defer func() { err = errors.Join(err, client.Unlock(job, nil)) }()

	marker := "finished/" + job
	last, err := etcd.Get(ctx, marker)
	if err != nil || last.Count > 0 && string(last.Kvs[0].Value) >= tick {
		return err
	}
	if err := run(ctx); err != nil {
		return err
	}
	resp, err := etcd.Txn(ctx).If(report.Guard()).Then(clientv3.OpPut(marker, tick)).Commit()
	if err == nil && !resp.Succeeded {
		err = locker.ErrLost // the next holder runs it again
	}
	return err
}

// cronLocker is a gocron.Locker.
type cronLocker struct{ client locker.Client }

// cronLock is a gocron.Lock.
type cronLock struct {
	client locker.Client
	name   string
}

var errElsewhere = errors.New("the job is running elsewhere")

func (l cronLocker) Lock(ctx context.Context, job string) (gocron.Lock, error) {
	switch report := l.client.Lock(job, locker.DefaultValue, nil); {
	case report.Err != nil:
		return nil, report.Err
	case report.Msg == locker.Fail:
		return nil, errElsewhere
	}
	return cronLock{l.client, job}, nil
}

func (l cronLock) Unlock(ctx context.Context) error { return l.client.Unlock(l.name, nil) }

func newClient(t *testing.T) locker.Client {
	t.Helper()
	c, err := locker.New(machines, 5, 15, context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// Three replicas on one clock run each tick once, one after the other: the lock is free again when the next one asks.
func TestOnce(t *testing.T) {
	etcd, job := etcdtest.Connect(t, machines), etcdtest.NewName()
	t.Cleanup(func() { _, _ = etcd.Delete(context.Background(), "finished/"+job) })
	replicas := []locker.Client{newClient(t), newClient(t), newClient(t)}
	var ran []string // by the holder of the lock
	for _, tick := range []string{"12:00", "12:05", "12:10"} {
		var all sync.WaitGroup
		for _, c := range replicas {
			all.Go(func() {
				err := once(t.Context(), c, etcd, job, tick, func(context.Context) error {
					ran = append(ran, tick)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	require.Equal(t, []string{"12:00", "12:05", "12:10"}, ran)
}

// A run whose lock was lost leaves no marker, so that the next one repeats it.
func TestOnce_Lost(t *testing.T) {
	etcd, job, c := etcdtest.Connect(t, machines), etcdtest.NewName(), newClient(t)
	t.Cleanup(func() { _, _ = etcd.Delete(context.Background(), "finished/"+job) })
	runs := 0
	err := once(t.Context(), c, etcd, job, "12:00", func(ctx context.Context) error {
		runs++
		_, err := etcd.Delete(ctx, job)
		return err
	})
	require.ErrorIs(t, err, locker.ErrLost)
	require.NoError(t, once(t.Context(), c, etcd, job, "12:00", func(context.Context) error {
		runs++
		return nil
	}))
	require.Equal(t, 2, runs)
}

// gocron runs a job of one name in one place at a time.
func TestCronLocker(t *testing.T) {
	job, running, finish := etcdtest.NewName(), make(chan bool), make(chan bool)
	here, there := cronLocker{newClient(t)}, cronLocker{newClient(t)}
	scheduler, err := gocron.NewScheduler(gocron.WithDistributedLocker(here))
	require.NoError(t, err)
	_, err = scheduler.NewJob(gocron.OneTimeJob(gocron.OneTimeJobStartImmediately()), gocron.NewTask(func() {
		running <- true
		<-finish
	}), gocron.WithName(job))
	require.NoError(t, err)
	scheduler.Start()
	etcdtest.ReceiveWithin(t, running, time.Minute)
	_, err = there.Lock(t.Context(), job)
	require.ErrorIs(t, err, errElsewhere)
	finish <- true
	require.NoError(t, scheduler.Shutdown())
	lock, err := there.Lock(t.Context(), job)
	require.NoError(t, err)
	require.NoError(t, lock.Unlock(t.Context()))
}
