package locker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// A Holder is a lock with who holds it and who waits for it.
type Holder struct {
	Name  string
	Value string // "" if the lock is free, and somebody is about to take it
	Token int64  // 0 likewise
	Lease int64  // of the holding client, by which etcdctl knows it; 0 likewise

	Waiters []Waiter // first come first
}

// A Waiter is a client that waits for a lock.
type Waiter struct {
	Value string // the value that the lock is to have
	Lease int64  // of the waiting client
	Since int64  // the revision at which it came
}

// Holders returns the locks whose names begin with a prefix, in the order of their names: those that are held, and those that
// somebody waits for. It is for operators, and reads in pages, so a lock that changes hands meanwhile may be told as it was before
// or after. Keys without a lease are no locks, and are left out. It ends with ctx, and each page within the client's timeout.
//
// To force a lock free, delete its key: the holder is told that it has lost the lock, and the first who waits takes it.
func (c Client) Holders(ctx context.Context, prefix string) ([]Holder, error) {
	if c.client == nil || c.open.Err() != nil {
		return nil, fmt.Errorf("locker: list locks: %w", ErrClosed)
	}
	reading, cancel := c.queue.during(ctx)
	defer cancel()
	locks := map[string]*Holder{}
	for from := c.prefix + prefix; ; {
		kvs, more, err := c.queue.page(c.queue.limit(reading), from, c.prefix+prefix)
		if err != nil {
			return nil, wrap("list locks below", prefix, withErrOf(ctx, err))
		}
		for _, kv := range kvs {
			if kv.Lease != 0 {
				addTo(locks, strings.TrimPrefix(string(kv.Key), c.prefix), kv)
			}
		}
		if !more {
			return sorted(locks), nil
		}
		from = string(kvs[len(kvs)-1].Key) + "\x00"
	}
}

// addTo adds a key to the lock that it belongs to.
func addTo(locks map[string]*Holder, key string, kv *mvccpb.KeyValue) {
	name, _, waits := strings.Cut(key, queueInfix)
	lock := locks[name]
	if lock == nil {
		lock = &Holder{Name: name}
		locks[name] = lock
	}
	if waits {
		lock.Waiters = append(lock.Waiters, Waiter{Value: string(kv.Value), Lease: kv.Lease, Since: kv.CreateRevision})
	} else {
		lock.Value, lock.Token, lock.Lease = string(kv.Value), kv.ModRevision, kv.Lease
	}
}

func sorted(locks map[string]*Holder) []Holder {
	list := make([]Holder, 0, len(locks))
	for _, lock := range locks {
		slices.SortFunc(lock.Waiters, func(a, b Waiter) int { return cmp.Compare(a.Since, b.Since) })
		list = append(list, *lock)
	}
	slices.SortFunc(list, func(a, b Holder) int { return strings.Compare(a.Name, b.Name) })
	return list
}
