package versions

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

const (
	ttl  = 10 // seconds: longer than a member takes to come back
	soon = time.Minute
)

// runningVersion is what a member says that it is.
func runningVersion(t *testing.T, cluster *etcdtest.Cluster, member int) string {
	t.Helper()
	endpoint := cluster.Endpoints()[member]
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	status, err := etcdtest.Connect(t, []string{endpoint}).Status(ctx, endpoint)
	require.NoError(t, err)
	return status.Version
}

// A cluster is upgraded member by member, through all versions, in front of clients that hold, wait, hand over and
// watch. Nobody notices.
func TestRollingUpgrade(t *testing.T) {
	all := servers(t)
	cluster := startCluster(t, 3, all[0])
	newClient := func() locker.Client {
		c, err := locker.New(cluster.Endpoints(), 10, ttl, context.Background())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	}
	holder, waiter, busy := newClient(), newClient(), newClient()
	held := map[string]locker.Report{}
	for i := range 20 {
		name := fmt.Sprint("held/", i)
		r := holder.Lock(name, "value", nil)
		require.NoError(t, r.Err)
		held[name] = r
	}
	values, watched := make(chan string), make(chan error, 1)
	quit := make(chan bool)
	go func() { watched <- waiter.Watch("held/0", values, quit) }()
	require.Equal(t, "value", etcdtest.ReceiveWithin(t, values, soon))
	waited := make(chan locker.Report, 1)
	go func() { waited <- waiter.LockWait(t.Context(), "held/1", "next", nil) }()

	// Hand-overs go on all the time.
	ctx, stop := context.WithCancel(t.Context())
	type outcome struct {
		turns int
		last  int64
		err   error
	}
	outcomes := make(chan outcome, 2)
	for _, c := range []locker.Client{busy, waiter} {
		go func() {
			var o outcome
			for ctx.Err() == nil && o.err == nil {
				r := c.LockWait(t.Context(), "busy", "value", nil)
				if o.err = r.Err; o.err == nil {
					if r.Token <= o.last {
						o.err = fmt.Errorf("token %d after %d", r.Token, o.last)
					}
					o.last = r.Token
					o.turns++
					if err := c.Unlock("busy", nil); o.err == nil {
						o.err = err
					}
				}
			}
			outcomes <- o
		}()
	}

	for i, s := range all {
		for member := range 3 {
			if i > 0 {
				require.NoError(t, cluster.Stop(member))
				require.NoError(t, cluster.StartWith(member, s.path))
			}
			require.Equal(t, s.version, runningVersion(t, cluster, member))
			for name, r := range held {
				require.True(t, r.Held(), "%s with member %d at etcd %s", name, member, s.version)
			}
			r := busy.Lock("held/2", "other", nil)
			require.NoError(t, r.Err)
			require.Equal(t, locker.Fail, r.Msg)
		}
		_, err := cluster.Leader()
		require.NoError(t, err)
	}

	stop()
	for range 2 {
		o := etcdtest.ReceiveWithin(t, outcomes, soon)
		require.NoError(t, o.err)
		t.Log(o.turns, "turns")
		require.Greater(t, o.turns, 20)
	}
	require.Empty(t, waited)
	require.Empty(t, watched)
	require.NoError(t, holder.Unlock("held/1", nil))
	r := etcdtest.ReceiveWithin(t, waited, soon)
	require.NoError(t, r.Err)
	require.Greater(t, r.Token, held["held/1"].Token)
	require.NoError(t, holder.Unlock("held/0", nil))
	require.Equal(t, "", etcdtest.ReceiveWithin(t, values, soon), "the next that it tells")
	close(quit)
	require.NoError(t, etcdtest.ReceiveWithin(t, watched, soon))
}
