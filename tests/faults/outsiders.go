package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// outsiders are what an operator does: harmless work, and interference with the keys of locks.
var outsiders = lane{"outsiders", []kind{
	{compaction, (*campaign).compact},
	{defragmentation, (*campaign).defragment},
	{spaceAlarm, (*campaign).alarm},
	{leaseRevoked, (*campaign).revoke},
	{keyDeleted, (*campaign).deleteKey},
	{keyOverwritten, (*campaign).overwriteKey},
	{placeDeleted, (*campaign).deletePlace},
	{placeOverwritten, (*campaign).overwritePlace},
}}

// harmless are those that can be done to any kind of lock.
var harmless = lane{outsiders.name, outsiders.kinds[:3]}

const (
	compaction       = "compaction"
	defragmentation  = "defragmentation"
	spaceAlarm       = "no space"
	leaseRevoked     = "lease revoked"
	keyDeleted       = "key deleted"
	keyOverwritten   = "key overwritten"
	placeDeleted     = "place deleted"
	placeOverwritten = "place overwritten"
)

// outsideTimeout bounds a request of an outsider. One that had no answer by then may still have an effect: the rules ask
// what may have been struck, and not until when.
const outsideTimeout = 5 * time.Second

func (c *campaign) compact(ctx context.Context, f *fault) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outsideTimeout)
	defer cancel()
	c.observer.mu.Lock()
	rev := c.observer.rev
	c.observer.mu.Unlock()
	_, err := c.etcd.Compact(ctx, rev)
	c.faults.strike(func() { f.missed = err != nil })
	return nil
}

func (c *campaign) defragment(ctx context.Context, f *fault) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outsideTimeout)
	defer cancel()
	_, err := c.etcd.Defragment(ctx, c.cluster.Endpoints()[f.pick%3])
	c.faults.strike(func() { f.missed = err != nil })
	return nil
}

// alarm has etcd refuse all writes but deletions for a while.
func (c *campaign) alarm(ctx context.Context, f *fault) error {
	raise, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	status, err := c.etcd.Status(raise, c.cluster.Endpoints()[f.pick%3])
	if err == nil {
		_, err = pb.NewMaintenanceClient(c.etcd.ActiveConnection()).Alarm(raise, &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: status.Header.MemberId})
	}
	c.faults.strike(func() { f.missed = err != nil })
	sleep(ctx, f.length/2)
	return c.disarm()
}

// disarm ends all alarms, however long the cluster takes to do so.
func (c *campaign) disarm() error {
	return insist(func(ctx context.Context) error {
		_, err := c.etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{})
		return err
	})
}

// insist does what ends a fault, though the cluster may not be able to at first.
func insist(do func(context.Context) error) (err error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), outsideTimeout)
		err = do(ctx)
		cancel()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// interfere does what apply says with the first key that find finds of a hot name, unless it has changed meanwhile. It
// waits for such a key, not for ever.
func (c *campaign) interfere(ctx context.Context, f *fault, suffix string, apply func(*mvccpb.KeyValue) []clientv3.Op) {
	name := c.hot[f.pick%uint64(len(c.hot))]
	c.faults.strike(func() { f.name, f.target, f.missed = name, name+suffix, true })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outsideTimeout)
	defer cancel()
	var kv *mvccpb.KeyValue
	for kv == nil {
		get := []clientv3.OpOption{}
		if suffix != "" {
			get = clientv3.WithFirstCreate()
		}
		found, err := c.etcd.Get(ctx, name+suffix, get...)
		if ctx.Err() != nil {
			return
		}
		if err == nil && len(found.Kvs) > 0 && found.Kvs[0].Lease != 0 {
			kv = found.Kvs[0]
		} else {
			sleep(ctx, 20*time.Millisecond)
		}
	}
	c.faults.strike(func() {
		f.from = now()
		f.lease = kv.Lease
		if suffix == "" {
			f.token = kv.ModRevision
		}
	})
	resp, err := c.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)).
		Then(apply(kv)...).Commit()
	c.faults.strike(func() {
		f.missed = err == nil && !resp.Succeeded
	})
}

func outsideValue(f *fault) string { return fmt.Sprintf("outside%d", f.pick) }

func deletion(kv *mvccpb.KeyValue) []clientv3.Op {
	return []clientv3.Op{clientv3.OpDelete(string(kv.Key))}
}

func (c *campaign) deleteKey(ctx context.Context, f *fault) error {
	c.interfere(ctx, f, "", deletion)
	return nil
}

// overwriteKey puts a key of its own in place of a lock, and takes it away again after a while.
func (c *campaign) overwriteKey(ctx context.Context, f *fault) error {
	c.interfere(ctx, f, "", func(kv *mvccpb.KeyValue) []clientv3.Op {
		return []clientv3.Op{clientv3.OpPut(string(kv.Key), outsideValue(f))}
	})
	sleep(ctx, f.length/2)
	return c.sweep(f.name)
}

func (c *campaign) deletePlace(ctx context.Context, f *fault) error {
	c.interfere(ctx, f, waiting, deletion)
	return nil
}

// overwritePlace changes the value of a place in the line, or cuts it off from its lease as well.
func (c *campaign) overwritePlace(ctx context.Context, f *fault) error {
	c.interfere(ctx, f, waiting, func(kv *mvccpb.KeyValue) []clientv3.Op {
		var keep []clientv3.OpOption
		if f.pick%2 == 0 {
			keep = append(keep, clientv3.WithIgnoreLease())
		}
		return []clientv3.Op{clientv3.OpPut(string(kv.Key), outsideValue(f), keep...)}
	})
	sleep(ctx, f.length/2)
	return c.sweep(f.name + waiting)
}

// sweep removes what outsiders have put: it has no lease.
func (c *campaign) sweep(prefix string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		found, err := c.etcd.Get(ctx, prefix, clientv3.WithPrefix())
		if err == nil {
			for _, kv := range found.Kvs {
				if kv.Lease == 0 && strings.HasPrefix(string(kv.Value), "outside") {
					_, err = c.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)).
						Then(clientv3.OpDelete(string(kv.Key))).Commit()
				}
			}
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		sleep(ctx, 100*time.Millisecond)
	}
}

func (c *campaign) revoke(ctx context.Context, f *fault) error {
	name := c.hot[f.pick%uint64(len(c.hot))]
	c.faults.strike(func() { f.name, f.target, f.missed = name, "lease of "+name, true })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outsideTimeout)
	defer cancel()
	for ctx.Err() == nil {
		found, err := c.etcd.Get(ctx, name)
		if err == nil && len(found.Kvs) > 0 && found.Kvs[0].Lease != 0 {
			c.faults.strike(func() { f.from, f.lease, f.missed = now(), found.Kvs[0].Lease, false })
			c.etcd.Revoke(ctx, clientv3.LeaseID(found.Kvs[0].Lease))
			return nil
		}
		sleep(ctx, 20*time.Millisecond)
	}
	return nil
}
