package command

import (
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A learner among the endpoints gives out no tokens; another member does.
func TestUserAndLearner(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.New(t, etcdtest.Options{Members: 3})
	require.NoError(t, cluster.Kill(2))
	require.NoError(t, cluster.Learner(2))
	root, ctx := etcdtest.Connect(t, cluster.Endpoints()[:1]), t.Context()
	_, err := root.UserAdd(ctx, "root", "secret")
	require.NoError(t, err)
	_, err = root.RoleAdd(ctx, "root")
	require.NoError(t, err)
	_, err = root.UserGrantRole(ctx, "root", "root")
	require.NoError(t, err)
	_, err = root.AuthEnable(ctx)
	require.NoError(t, err)
	for range 12 {
		p := start(t, cluster.Endpoints(), "--user", "root:secret", "run", "name", "--", "true")
		assert.Equal(t, 0, p.status(t), p.output.String())
	}
}
