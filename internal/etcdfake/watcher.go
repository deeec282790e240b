package etcdfake

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watcher opens a watch, or refuses it, when the function returns; ctx is that of the watch. No change is ever seen on
// such a watch.
type Watcher func(ctx context.Context) (opened bool)

// Watch implements clientv3.Watcher.
func (w Watcher) Watch(ctx context.Context, _ string, _ ...clientv3.OpOption) clientv3.WatchChan {
	changes := make(chan clientv3.WatchResponse, 1)
	if w(ctx) {
		changes <- clientv3.WatchResponse{Created: true}
		context.AfterFunc(ctx, func() { close(changes) })
	} else {
		close(changes)
	}
	return changes
}

// RequestProgress implements clientv3.Watcher.
func (Watcher) RequestProgress(context.Context) error { return nil }

// Close implements clientv3.Watcher.
func (Watcher) Close() error { return nil }
