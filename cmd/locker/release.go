package main

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker"
)

var releaseCommand = command{
	name: "release", synopsis: "-force NAME",
	summary: "take a lock from its holder",
	description: `
Says who holds the lock, and with -force takes it away: the first who waits gets it. Its holder is told, but works on until it
hears of that, with the next holder beside it. Force a lock free only where its holder is known to be gone or stuck. A holder that
is dead loses its lock by itself, at the end of its lease.`,
	setUp: func(in *invocation) func([]string) error {
		force := in.own.Bool("force", false, "really do it")
		return func(args []string) error {
			return in.look(args, func(etcd *clientv3.Client, locks locker.Client, name string) error {
				return in.release(etcd, locks, name, *force)
			})
		}
	},
}

func (in *invocation) release(etcd *clientv3.Client, locks locker.Client, name string, force bool) error {
	h, err := holderOf(context.Background(), locks, name)
	switch {
	case err != nil:
		return err
	case h.Token == 0:
		return failure{statusNotFound, fmt.Sprintf("nobody holds %s", shown(name))}
	case !force:
		return usage("%s; nothing was done, for that needs -force", described(h))
	}
	if err := in.takeAway(etcd, h); err != nil {
		return err
	}
	_, err = fmt.Printf("%s; it was taken away\n", described(h))
	return err
}

func described(h locker.Holder) string {
	return fmt.Sprintf("%s is held by %s (token %d, lease %s), and %d wait for it", shown(h.Name), shown(h.Value), h.Token, hex(h.Lease),
		len(h.Waiters))
}

// takeAway deletes a lock, if it is still the holder's that it was.
func (in *invocation) takeAway(etcd *clientv3.Client, h locker.Holder) error {
	ctx, cancel := context.WithTimeout(context.Background(), in.timeout)
	defer cancel()
	resp, err := etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(h.Name), "=", h.Token)).Then(clientv3.OpDelete(h.Name)).Commit()
	if err != nil {
		return in.explain(err)
	}
	if !resp.Succeeded {
		return failure{statusDenied, fmt.Sprintf("%s has changed hands meanwhile, and was not touched", shown(h.Name))}
	}
	return nil
}

// holderOf returns who holds a lock and who waits for it.
func holderOf(ctx context.Context, locks locker.Client, name string) (locker.Holder, error) {
	all, err := locks.Holders(ctx, name)
	for _, h := range all {
		if h.Name == name {
			return h, nil
		}
	}
	return locker.Holder{Name: name}, err
}
