package locker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/PumpkinSeed/locker/internal/groupcommit"
)

// gateKV is the way to a real etcd. It keeps back the transactions that put a key of its gates, and with them the lane
// of a group commit, until that gate is opened. It counts the operations of all others.
type gateKV struct {
	pb.KVClient
	gates map[string]chan struct{}

	mu      sync.Mutex
	sent    []int           // guarded by mu
	arrived map[string]bool // at the gates; guarded by mu
}

// newGateKV puts a gateKV between a client and the cluster.
func newGateKV(c Client) *gateKV {
	kv := &gateKV{KVClient: c.queue.conn.KV, gates: map[string]chan struct{}{}, arrived: map[string]bool{}}
	c.queue.conn.KV = kv
	return kv
}

func (k *gateKV) Txn(ctx context.Context, req *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	keys := etcdfake.KeysOf(req)
	name := strings.Join(keys, " ")
	k.mu.Lock()
	gate := k.gates[name]
	if gate == nil {
		k.sent = append(k.sent, len(keys))
	} else {
		k.arrived[name] = true
	}
	k.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return k.KVClient.Txn(ctx, req, opts...)
}

// group lets the operations that calls begin gather, each in a goroutine of its own, and then sends them all as one
// group. names are those of locks that the client may take meanwhile. It returns how many operations each transaction
// carried.
func (k *gateKV) group(t *testing.T, c Client, names []string, calls []func()) (sent []int) {
	t.Helper()
	require.Len(t, names, groupcommit.MinLanes)
	c.queue.conn.SetLatency(0) // no network: there are no more lanes than that
	var gates, running sync.WaitGroup
	for _, name := range names {
		gate := make(chan struct{})
		k.mu.Lock()
		k.gates[name] = gate
		k.mu.Unlock()
		gates.Go(func() {
			mustLock(t, c, name, "v", nil)
		})
	}
	etcdtest.Eventually(t, "all lanes are busy", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.arrived[names[0]] && k.arrived[names[1]]
	})
	for _, call := range calls {
		running.Go(call)
	}
	etcdtest.Eventually(t, "all operations wait", func() bool { return c.commits.Waiting() == len(calls) })
	k.mu.Lock()
	k.sent = nil
	first := k.gates[names[0]]
	k.mu.Unlock()
	close(first)
	running.Wait()
	k.mu.Lock()
	sent = slices.Clone(k.sent)
	second := k.gates[names[1]]
	k.mu.Unlock()
	close(second)
	gates.Wait()
	for _, name := range names {
		require.NoError(t, c.Unlock(name, nil)) // not earlier: it would join the group
		k.mu.Lock()
		delete(k.gates, name)
		delete(k.arrived, name)
		k.mu.Unlock()
	}
	return sent
}

// Operations in one group on an etcd that allows few operations in a transaction, by a user who may not lock one name of
// many: each caller gets the answer to its own operation, and what etcd allows is learnt.
func TestLock_GroupOnEtcd(t *testing.T) {
	t.Parallel()
	endpoints := etcdtest.New(t, etcdtest.Options{Members: 1, Flags: []string{"--max-txn-ops=16"}}).Endpoints()
	root := etcdtest.Connect(t, endpoints)
	ctx := t.Context()
	errOf := func(_ any, err error) error { return err }
	for _, err := range []error{
		errOf(root.RoleAdd(ctx, "root")), errOf(root.UserAdd(ctx, "root", "secret")), errOf(root.UserGrantRole(ctx, "root", "root")),
		errOf(root.RoleAdd(ctx, "some")), errOf(root.UserAdd(ctx, "user", "secret")), errOf(root.UserGrantRole(ctx, "user", "some")),
		errOf(root.RoleGrantPermission(ctx, "some", "ok/", clientv3.GetPrefixRangeEnd("ok/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		errOf(root.AuthEnable(ctx)),
	} {
		require.NoError(t, err)
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Username: "user", Password: "secret", Logger: root.GetLogger()})
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	c, err := NewFromClient(context.Background(), cli, 5)
	require.NoError(t, err)
	kv := newGateKV(c)
	t.Cleanup(func() { require.NoError(t, c.Close()) })

	names := []string{"denied"}
	for i := range 20 {
		names = append(names, fmt.Sprint("ok/", i))
	}
	for round, most := range []int{21, 10} {
		names := names[round:] // once it was refused, what is denied goes alone
		var mu sync.Mutex
		reports := map[string]Report{}
		var calls []func()
		for _, name := range names {
			calls = append(calls, func() {
				r := c.Lock(name, "v", nil)
				mu.Lock()
				defer mu.Unlock()
				reports[name] = r
			})
		}
		sent := kv.group(t, c, []string{"ok/gate0", "ok/gate1"}, calls)
		require.Equal(t, most, slices.Max(sent), "round %d: %v", round, sent)
		require.Len(t, reports, len(names))
		for name, r := range reports {
			if name == "denied" {
				require.ErrorIs(t, r.Err, rpctypes.ErrPermissionDenied)
				continue
			}
			require.NoError(t, r.Err)
			require.True(t, r.Held())
			require.NoError(t, c.Unlock(name, nil))
		}
	}
}

// An answer to a group may be larger than gRPC's default limit of 4 MiB: no caller is held up by the values of others.
func TestLock_LargeAnswer(t *testing.T) {
	t.Parallel()
	c, other := newClient(t, 5, 60), newClient(t, 5, 60)
	kv := newGateKV(c)
	mine := etcdtest.NewName()
	mustLock(t, c, mine, "v", nil)
	var unlockErr error
	calls := []func(){func() { unlockErr = c.Unlock(mine, nil) }}
	reports := make([]Report, 10)
	for i := range reports {
		name := etcdtest.NewName()
		mustLock(t, other, name, strings.Repeat("v", MaxValue), nil)
		calls = append(calls, func() { reports[i] = c.Lock(name, "v", nil) })
	}
	sent := kv.group(t, c, []string{etcdtest.NewName(), etcdtest.NewName()}, calls)
	require.Equal(t, len(reports), slices.Min(sent), "all in one transaction, which may be sent twice")
	for _, r := range reports {
		require.NoError(t, r.Err)
		require.Equal(t, Fail, r.Msg)
	}
	require.NoError(t, unlockErr)
}
