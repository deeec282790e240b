package queue

import (
	"bufio"
	"context"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	shortTTL = 2 // of those who are killed
	inTime   = (shortTTL + 2) * time.Second
)

// The holder is killed, alone or together with those who are first in the queue.
func TestKilledProcesses(t *testing.T) {
	for _, c := range []struct {
		what    string
		waiters int // processes in the queue that are killed
	}{
		{"the holder", 0},
		{"the holder and the first in the queue", 1},
		{"the holder and two in the queue", 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cluster, etcd := newCluster(t)
			o := order{Endpoints: cluster.Endpoints(), TTL: shortTTL, Name: "lock"}
			victims := []*process{start(t, o)}
			line, err := bufio.NewReader(victims[0].stdout).ReadString('\n')
			require.NoError(t, err, "%s", victims[0].stderr)
			require.Equal(t, "held\n", line)
			for i := range c.waiters {
				victims = append(victims, start(t, o))
				awaitPlaces(ctx, t, etcd, o.Name, i+1)
			}
			type turn struct {
				locker.Report
				at time.Time
			}
			turns := make([]chan turn, 2)
			for i := range turns {
				survivor, err := locker.New(cluster.Endpoints(), 5, 30, context.Background())
				require.NoError(t, err)
				defer func() { require.NoError(t, survivor.Close()) }()
				turns[i] = make(chan turn, 1)
				go func() {
					r := survivor.LockWait(ctx, o.Name, "survivor", nil)
					turns[i] <- turn{r, time.Now()}
				}()
				awaitPlaces(ctx, t, etcd, o.Name, c.waiters+i+1)
			}
			require.Empty(t, turns[0])

			began := time.Now()
			for _, v := range victims {
				require.NoError(t, v.cmd.Process.Kill())
			}
			first := <-turns[0]
			require.Equal(t, locker.Success, first.Msg, "%v", first.Err)
			require.Less(t, first.at.Sub(began), inTime)
			require.Empty(t, turns[1], "the second in the queue is in as well")
		})
	}
}

func awaitPlaces(ctx context.Context, t *testing.T, etcd *clientv3.Client, name string, n int) {
	t.Helper()
	for range etcd.Watch(ctx, name+waiting, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
		resp, err := etcd.Get(ctx, name+waiting, clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		if resp.Count == int64(n) {
			return
		}
	}
	t.Fatalf("there are never %d in the queue", n)
}
