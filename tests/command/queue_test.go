package command

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// Of many runs of one name each has its turn, and no two at once.
func TestQueue(t *testing.T) {
	t.Parallel()
	const runs = 50
	dir, name := t.TempDir(), etcdtest.NewName()
	inside := `mkdir inside || { echo not alone; exit 1; }; echo $LOCKER_TOKEN >> tokens; rmdir inside`
	var all []*process
	for range runs {
		all = append(all, start(t, machines, "run", name, "--", "sh", "-c", "cd "+dir+" && "+inside))
	}
	for _, p := range all {
		require.Zero(t, p.status(t))
	}
	text, err := os.ReadFile(filepath.Join(dir, "tokens"))
	require.NoError(t, err)
	var tokens []int
	for token := range strings.FieldsSeq(string(text)) {
		n, err := strconv.Atoi(token)
		require.NoError(t, err)
		tokens = append(tokens, n)
	}
	require.Len(t, slices.Compact(tokens), runs)
	require.True(t, slices.IsSorted(tokens), "%v", tokens)
}

// Runs with several names in different orders do not block each other, and hold all of them.
func TestQueue_SeveralNames(t *testing.T) {
	t.Parallel()
	dir, a, b := t.TempDir(), etcdtest.NewName()+"-a", etcdtest.NewName()+"-b"
	inside := `cd ` + dir + ` && mkdir inside && echo "$LOCKER_NAME $LOCKER_TOKEN" && rmdir inside`
	for _, names := range [][]string{{a, b}, {b, a}, {a}, {b, a}, {a, b}} {
		p := start(t, machines, append(append([]string{"run"}, names...), "--", "sh", "-c", inside)...)
		t.Cleanup(func() {
			require.Zero(t, p.status(t))
			words := strings.Fields(p.all(t))
			require.Len(t, words, 2*len(names))
			require.Equal(t, names, words[:len(names)])
		})
	}
}

// -wait takes a lock that comes free in time, and -try one that is free.
func TestQueue_WaitAndTry(t *testing.T) {
	t.Parallel()
	name, l := etcdtest.NewName(), newLife(t)
	start(t, machines, "run", name, "--", "sh", "-c", l.script()+"sleep 1")
	etcdtest.ReceiveWithin(t, l.began, soon)
	require.Zero(t, start(t, machines, "run", "-wait", "30s", name, "--", "true").status(t))
	require.Zero(t, start(t, machines, "run", "-try", name, "--", "true").status(t))
}
