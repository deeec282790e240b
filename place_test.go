package locker

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/PumpkinSeed/locker/internal/lease"
	"github.com/PumpkinSeed/locker/internal/watch"
)

// A watch that goes on at a member that lags tells once more what came before. That undoes nothing.
func TestPlaceWatcher_MemberThatLags(t *testing.T) {
	const ours, another = 7, 8
	at := func(revision, lease int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{ModRevision: revision, Lease: lease}
	}
	p := &placeWatcher{lease: &lease.Lease{ID: ours}, changed: make(chan struct{}, 1)}
	place, lock := p.handler(p.placeRemoved), p.handler(p.lockChanged)

	lock(watch.Event{KV: at(20, 0), Deleted: true})
	require.True(t, p.news(10, 10).freed)
	lock(watch.Event{KV: at(15, another)})
	require.True(t, p.news(10, 10).freed, "it was put before it was freed")

	place(watch.Event{KV: at(30, 0), Deleted: true})
	lock(watch.Event{KV: at(30, ours)})
	require.EqualValues(t, 30, p.news(10, 20).handed.GetModRevision())
	place(watch.Event{KV: at(5, 0), Deleted: true})
	lock(watch.Event{KV: at(4, ours)})
	n := p.news(10, 20)
	require.True(t, n.gone)
	require.EqualValues(t, 30, n.handed.GetModRevision())
	require.EqualValues(t, 30, n.since)
}
