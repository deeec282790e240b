package watch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/hedge"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// newOpener returns an Opener of watches that w opens, for keys that may be read.
func newOpener(t *testing.T, w etcdfake.Watcher) *Opener {
	conn := new(etcdfake.KV).NewConn(t)
	conn.Etcd.Watcher = w
	return NewOpener(conn, time.Second, func(hedge.Limit, string) error { return nil })
}

// A watch that is refused for a reason that a read does not share is asked for again, but not at full speed.
func TestOpen_RefusedWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		o := newOpener(t, func(context.Context) bool { asked++; return false })
		_, err := o.Open(etcdfake.Within(2*time.Second), "name")
		require.Error(t, err)
		require.InDelta(t, 2*time.Second/hedge.MinBackoff, asked, 1)
		require.Zero(t, o.silent.Load(), "it was answered")
	})
}

// A stream is left for want of an answer to a watch that had its time for one, and for no other.
func TestOpen_SilentStream(t *testing.T) {
	for within, want := range map[time.Duration]int64{
		hedge.MaxBackoff - 1: 0, hedge.MaxBackoff: 1, 2 * hedge.MaxBackoff: 1, 4 * hedge.MaxBackoff: 2,
	} {
		synctest.Test(t, func(t *testing.T) {
			o := newOpener(t, func(ctx context.Context) bool { <-ctx.Done(); return false })
			_, err := o.Open(hedge.Limit{Ctx: t.Context(), Deadline: time.Now().Add(within)}, "name")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, want, o.silent.Load(), within)
		})
	}
}

// A watch that is answered lasts until its ctx ends.
func TestOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpener(t, func(context.Context) bool { time.Sleep(time.Millisecond); return true })
		ctx, cancel := context.WithCancel(t.Context())
		changes, err := o.Open(hedge.Limit{Ctx: ctx, Deadline: time.Now().Add(time.Second)}, "name", clientv3.WithFilterPut())
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Empty(t, changes)
		cancel()
		_, ok := <-changes
		require.False(t, ok)
	})
}
