package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// waiting follows the name of a lock in the keys of those who stand in the queue for it.
const waiting = "/.waiting/"

// history are all changes to a lock and its line since a revision, in order.
func history(t *testing.T, etcd *clientv3.Client, name string, since int64) (events []*clientv3.Event) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	now, err := etcd.Get(ctx, name)
	require.NoError(t, err)
	// What was written last is there to tell where the history ends.
	end, err := etcd.Put(ctx, name+"/end", "")
	require.NoError(t, err)
	defer etcd.Delete(t.Context(), name+"/end")
	require.Greater(t, end.Header.Revision, now.Header.Revision)
	for resp := range etcd.Watch(ctx, name, clientv3.WithPrefix(), clientv3.WithRev(since)) {
		require.NoError(t, resp.Err())
		for _, e := range resp.Events {
			if e.Kv.ModRevision == end.Header.Revision {
				return events
			}
			events = append(events, e)
		}
	}
	t.Fatal("the watch has ended")
	return nil
}

// disorder says where a lock went to somebody who was not the first in the queue. entered are the tokens that anybody
// had the lock with.
func disorder(events []*clientv3.Event, name string, entered map[int64]string) (faults []string) {
	var lock *mvccpb.KeyValue
	line := map[string]*mvccpb.KeyValue{}
	first := func() (oldest *mvccpb.KeyValue) {
		for _, p := range line {
			if oldest == nil || p.CreateRevision < oldest.CreateRevision {
				oldest = p
			}
		}
		return oldest
	}
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Kv.ModRevision == events[0].Kv.ModRevision {
			n++
		}
		commit := events[:n]
		events = events[n:]
		for _, e := range commit {
			if string(e.Kv.Key) != name || e.Type != mvccpb.Event_PUT {
				continue
			}
			// A session may put again what it had put without getting an answer.
			again := lock != nil && lock.Lease == e.Kv.Lease && entered[lock.ModRevision] == ""
			own := name + waiting + strconv.FormatInt(e.Kv.Lease, 16)
			if oldest := first(); oldest != nil && string(oldest.Key) != own && !again {
				faults = append(faults, fmt.Sprintf("revision %d: %s got the lock, %s was first in the queue",
					e.Kv.ModRevision, e.Kv.Value, oldest.Value))
			}
		}
		for _, e := range commit {
			switch key := string(e.Kv.Key); {
			case key == name && e.Type == mvccpb.Event_PUT:
				lock = e.Kv
			case key == name:
				lock = nil
			case strings.HasPrefix(key, name+waiting) && e.Type == mvccpb.Event_PUT:
				line[key] = e.Kv
			default:
				delete(line, key)
			}
		}
		if lock != nil {
			if p := line[name+waiting+strconv.FormatInt(lock.Lease, 16)]; p != nil && entered[lock.ModRevision] != "" && p.CreateRevision < lock.ModRevision {
				faults = append(faults, fmt.Sprintf("revision %d: %s has the lock and kept its place", commit[0].Kv.ModRevision, lock.Value))
			}
		}
	}
	return faults
}

func event(revision int64, key, value string, lease, created int64) *clientv3.Event {
	kind := mvccpb.Event_PUT
	if value == "" {
		kind = mvccpb.Event_DELETE
	}
	return &clientv3.Event{Type: kind, Kv: &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), Lease: lease, ModRevision: revision, CreateRevision: created}}
}

// The check itself.
func TestDisorder(t *testing.T) {
	const a, b = "L/.waiting/a", "L/.waiting/b"
	start := []*clientv3.Event{
		event(1, "L", "holder", 1, 1), event(2, a, "A", 10, 2), event(3, b, "B", 11, 3),
	}
	for what, c := range map[string]struct {
		events  []*clientv3.Event
		entered int64
		faults  int
	}{
		"handed to the first":        {[]*clientv3.Event{event(4, "L", "A", 10, 1), event(4, a, "", 0, 0)}, 1, 0},
		"handed to the second":       {[]*clientv3.Event{event(4, "L", "B", 11, 1), event(4, b, "", 0, 0)}, 1, 1},
		"kept by the same process":   {[]*clientv3.Event{event(4, "L", "holder", 1, 1)}, 1, 1},
		"put again, never used":      {[]*clientv3.Event{event(4, "L", "holder", 1, 1)}, 0, 0},
		"taken by somebody else":     {[]*clientv3.Event{event(4, "L", "", 0, 0), event(5, "L", "thief", 2, 5)}, 1, 1},
		"claimed by the first":       {[]*clientv3.Event{event(4, "L", "", 0, 0), event(5, "L", "A", 10, 5), event(5, a, "", 0, 0)}, 1, 0},
		"the first leaves, then B":   {[]*clientv3.Event{event(4, a, "", 0, 0), event(5, "L", "B", 11, 1), event(5, b, "", 0, 0)}, 1, 0},
		"free, and nobody takes it":  {[]*clientv3.Event{event(4, "L", "", 0, 0)}, 1, 0},
		"handed over, place is kept": {[]*clientv3.Event{event(4, "L", "A", 10, 1)}, 4, 1},
	} {
		t.Run(what, func(t *testing.T) {
			events := append(start[:len(start):len(start)], c.events...)
			require.Len(t, disorder(events, "L", map[int64]string{c.entered: "somebody"}), c.faults)
		})
	}
}
