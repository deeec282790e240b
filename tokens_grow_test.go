package locker

import (
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestGuard(t *testing.T) {
	t.Parallel()
	c, other, etcd := newClient(t, 5, 5), newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name, guarded := etcdtest.NewName(), etcdtest.NewName()
	defer remove(t, etcd, guarded)
	write := func(r Report) bool {
		t.Helper()
		resp, err := etcd.Txn(t.Context()).If(r.Guard()).Then(clientv3.OpPut(guarded, "written")).Commit()
		require.NoError(t, err)
		return resp.Succeeded
	}
	released := mustLock(t, c, name, DefaultValue, nil)
	require.True(t, write(released))
	require.False(t, write(other.Lock(name, DefaultValue, nil)), "of a Lock that was refused")
	require.NoError(t, c.Unlock(name, nil))
	require.False(t, write(released))
	held := mustLock(t, c, name, DefaultValue, nil)
	require.False(t, write(released), "of an earlier hold of the same client")
	require.True(t, write(held))
	remove(t, etcd, name)
	require.False(t, write(held), "of a lock that was taken away")
	require.False(t, write(Report{}))
	require.False(t, Report{}.Held())
}
