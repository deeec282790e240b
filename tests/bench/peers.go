package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
)

// ours is the peer that the others are compared with.
const ours = "locker"

const (
	bare          = "bare transactions"
	mutexShared   = "Mutex, shared session"
	mutexEach     = "Mutex, a session each"
	serverSide    = "v3lock"
	forksProtocol = "the fork's protocol"
)

// ttl of all leases of all peers, in seconds: no measure of lock operations is to see one end.
const ttl = 60

// timeout of all calls that may fail for want of an answer: locker's own default.
const timeout = 5 * time.Second

// peer is one way to lock. open returns an operation for every name, which takes the lock and gives it back: each is
// for one goroutine, all are for use at once. All peers have one etcd client.
type peer struct {
	name string
	open func(ctx context.Context, endpoints []string, names []string) ([]operation, func() error, error)
}

type operation func(context.Context) error

var peers = []peer{
	{ours, openLocker},
	{bare, openBare},
	{mutexShared, openMutexShared},
	{mutexEach, openMutexEach},
	{serverSide, openServerSide},
	{forksProtocol, openFork},
}

var errTaken = errors.New("a lock that nobody else wants is taken")

// forEach makes the operations of names.
func forEach(names []string, make func(name string) operation) (ops []operation) {
	for _, name := range names {
		ops = append(ops, make(name))
	}
	return ops
}

func openLocker(ctx context.Context, endpoints, names []string) ([]operation, func() error, error) {
	c, err := locker.New(endpoints, 0, ttl, ctx)
	if err != nil {
		return nil, nil, err
	}
	return forEach(names, func(name string) operation {
		return lockerLock(c, name).pair
	}), c.Close, nil
}

func lockerLock(c locker.Client, name string) waiter {
	return waiter{
		lock: func(context.Context) error {
			if r := c.Lock(name, locker.DefaultValue, nil); r.Msg != locker.Success {
				return errors.Join(errTaken, r.Err)
			}
			return nil
		},
		unlock: func(context.Context) error { return c.Unlock(name, nil) },
	}
}

// openBare is what a lock costs at least that goes to etcd by itself: one transaction that puts the key if it is
// absent, and one that deletes it if it is the same still.
func openBare(ctx context.Context, endpoints, names []string) ([]operation, func() error, error) {
	cli, session, closeBoth, err := connectLeased(ctx, endpoints)
	if err != nil {
		return nil, nil, err
	}
	return forEach(names, func(name string) operation {
		return bareLock(cli, session.Lease(), name).pair
	}), closeBoth, nil
}

func bareLock(cli *clientv3.Client, lease clientv3.LeaseID, name string) waiter {
	var taken int64 // at which revision
	lock := func(ctx context.Context) error {
		resp, err := cli.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(name), "=", 0)).
			Then(clientv3.OpPut(name, locker.DefaultValue, clientv3.WithLease(lease))).
			Else(clientv3.OpGet(name)).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return errTaken
		}
		taken = resp.Header.Revision
		return nil
	}
	unlock := func(ctx context.Context) error {
		resp, err := cli.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(name), "=", taken)).
			Then(clientv3.OpDelete(name)).Commit()
		if err == nil && !resp.Succeeded {
			err = errTaken
		}
		return err
	}
	return waiter{lock, unlock}
}

// connectLeased is an etcd client with a lease that is kept alive until the closing of both.
func connectLeased(ctx context.Context, endpoints []string, opts ...grpc.DialOption) (*clientv3.Client, *concurrency.Session, func() error, error) {
	cli, err := connect(endpoints, opts...)
	if err != nil {
		return nil, nil, nil, err
	}
	session, err := concurrency.NewSession(cli, concurrency.WithTTL(ttl), concurrency.WithContext(ctx))
	if err != nil {
		return nil, nil, nil, errors.Join(err, cli.Close())
	}
	return cli, session, func() error { return errors.Join(session.Close(), cli.Close()) }, nil
}

// openMutexShared is the best that etcd's own package can do: one session, and one Mutex for each name, made once.
func openMutexShared(ctx context.Context, endpoints, names []string) ([]operation, func() error, error) {
	_, session, closeBoth, err := connectLeased(ctx, endpoints)
	if err != nil {
		return nil, nil, err
	}
	return forEach(names, func(name string) operation {
		mutex := concurrency.NewMutex(session, name)
		return waiter{mutex.Lock, mutex.Unlock}.pair
	}), closeBoth, nil
}

// openMutexEach opens a session for every lock and closes it with the lock, as is usual where locks are independent.
func openMutexEach(_ context.Context, endpoints, names []string) ([]operation, func() error, error) {
	cli, err := connect(endpoints)
	if err != nil {
		return nil, nil, err
	}
	return forEach(names, func(name string) operation {
		return func(ctx context.Context) error {
			session, err := concurrency.NewSession(cli, concurrency.WithTTL(ttl), concurrency.WithContext(ctx))
			if err != nil {
				return err
			}
			mutex := concurrency.NewMutex(session, name)
			if err = mutex.Lock(ctx); err == nil {
				err = mutex.Unlock(ctx)
			}
			return errors.Join(err, session.Close())
		}
	}), cli.Close, nil
}

// openServerSide calls the lock service that runs in every member, with a lease that the client keeps alive.
func openServerSide(ctx context.Context, endpoints, names []string) ([]operation, func() error, error) {
	cli, session, closeBoth, err := connectLeased(ctx, endpoints)
	if err != nil {
		return nil, nil, err
	}
	service := v3lockpb.NewLockClient(cli.ActiveConnection())
	return forEach(names, func(name string) operation {
		return func(ctx context.Context) error {
			lock, err := service.Lock(ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: int64(session.Lease())})
			if err != nil {
				return err
			}
			_, err = service.Unlock(ctx, &v3lockpb.UnlockRequest{Key: lock.Key})
			return err
		}
	}), closeBoth, nil
}

// openFork does what the fork does for a lock: read, grant a lease, put, and delete at the end. It leaves every lease
// to expire; here they are revoked after the measure, so that the next one does not pay for them.
func openFork(_ context.Context, endpoints, names []string) ([]operation, func() error, error) {
	cli, err := connect(endpoints)
	if err != nil {
		return nil, nil, err
	}
	leases := make([][]clientv3.LeaseID, len(names))
	var ops []operation
	for i, name := range names {
		ops = append(ops, func(ctx context.Context) error {
			got, err := cli.Get(ctx, name)
			if err != nil {
				return err
			}
			if len(got.Kvs) > 0 {
				return errTaken
			}
			lease, err := cli.Grant(ctx, ttl)
			if err != nil {
				return err
			}
			leases[i] = append(leases[i], lease.ID)
			if _, err := cli.Put(ctx, name, locker.DefaultValue, clientv3.WithLease(lease.ID)); err != nil {
				return err
			}
			_, err = cli.Delete(ctx, name)
			return err
		})
	}
	return ops, func() error { return errors.Join(revokeAll(cli, leases), cli.Close()) }, nil
}

func revokeAll(cli *clientv3.Client, leases [][]clientv3.LeaseID) error {
	return atOnce(leases, func(_ int, own []clientv3.LeaseID) error {
		for _, id := range own {
			if _, err := cli.Revoke(context.Background(), id); err != nil {
				return fmt.Errorf("revoke: %w", err)
			}
		}
		return nil
	})
}
