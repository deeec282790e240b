package locker

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// A Watch that begins again tells what it has missed, as far back as etcd knows it. Where that is compacted, or etcd was
// restored from a backup, it tells what it cannot rule out: that the lock was free.
func TestWatch_BeginsAgain(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		changes []string
		compact bool
		ahead   int64 // of what etcd is at: the revision that was seen last
		told    []string
	}{
		"nothing missed":         {told: nil},
		"handed over and back":   {changes: []string{"other", "one"}, told: []string{"other", "one"}},
		"freed":                  {changes: []string{""}, told: []string{""}},
		"freed, compacted":       {changes: []string{""}, compact: true, told: []string{""}},
		"taken anew":             {changes: []string{"", "one"}, told: []string{"", "one"}},
		"taken anew, compacted":  {changes: []string{"", "one"}, compact: true, told: []string{"", "one"}},
		"handed over, compacted": {changes: []string{"other", "third"}, compact: true, told: []string{"third"}},
		"restored":               {ahead: 1 << 40, told: []string{"", "one"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			endpoints := etcdtest.New(t, etcdtest.Options{Members: 1}).Endpoints()
			etcd := etcdtest.Connect(t, endpoints)
			client, err := New(endpoints, 5, 60, context.Background())
			require.NoError(t, err)
			defer client.Close()
			rev := put(t, etcd, "name", "one")
			kv, _, err := client.queue.read(etcdfake.Within(etcdtest.Soon), "name")
			require.NoError(t, err)
			values := make(chan string)
			f := &follower{observer: client.observe, name: "name", values: values, revision: rev + c.ahead, kv: kv}
			for _, value := range c.changes {
				if value == "" {
					remove(t, etcd, "name")
				} else {
					put(t, etcd, "name", value)
				}
			}
			rev = put(t, etcd, "another", "v")
			if c.compact {
				_, err := etcd.Compact(t.Context(), rev, clientv3.WithCompactPhysical())
				require.NoError(t, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var following sync.WaitGroup
			following.Go(func() {
				for ctx.Err() == nil {
					f.followOnce(ctx)
				}
			})
			defer following.Wait()
			defer cancel()
			for _, value := range c.told {
				require.Equal(t, value, etcdtest.Receive(t, values))
			}
			put(t, etcd, "name", "last")
			require.Equal(t, "last", etcdtest.Receive(t, values), "nothing else was told before")
		})
	}
}
