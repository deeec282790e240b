package readme

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

func production(t *testing.T) []byte {
	t.Helper()
	markdown, err := os.ReadFile(filepath.Join("..", "..", "docs", "production.md"))
	require.NoError(t, err)
	return markdown
}

// docs/production.md shows code of this package, and commands that TestOperator runs.
func TestProduction(t *testing.T) {
	commands := append([]string{list, look, waiting, force, quota}, steps(t, filepath.Join("..", ".."))...)
	for _, fault := range faults(production(t), ".", commands) {
		t.Error("docs/production.md: " + fault)
	}
}

// What the page tells an operator to do.
const (
	list    = "etcdctl get locks/ --prefix --keys-only"
	look    = "etcdctl get locks/orders/7 -w json"
	waiting = "etcdctl get locks/orders/7/.waiting/ --prefix --sort-by=CREATE"
	force   = "etcdctl del locks/orders/7"
	quota   = "etcdctl endpoint status --cluster -w table"
)

// An operator sees a lock and who waits for it. Deleting the key tells its holder, and the head of the queue has the lock.
func TestOperator(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(program, filepath.Join(dir, "etcdctl")))
	operator := func(command string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Env = append(os.Environ(), asEtcdctl+"=1", "PATH="+dir+":"+os.Getenv("PATH"), "ETCDCTL_ENDPOINTS="+strings.Join(machines, ","))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", command, out)
		return string(out)
	}
	connected := func() locker.Client {
		etcd, c, err := connect(machines, nil, "", "")
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, c.Close())
			require.NoError(t, etcd.Close())
		})
		return c
	}
	holder, waiter := connected(), connected()
	r := holder.Lock("7", "worker 1", nil)
	require.NoError(t, r.Err)
	got := make(chan locker.Report, 1)
	go func() { got <- waiter.LockWait(t.Context(), "7", "worker 2", nil) }()
	etcdtest.Eventually(t, "somebody waits", func() bool { return strings.Contains(operator(waiting), "worker 2") })

	require.Contains(t, operator(list), "locks/orders/7\n")
	require.Contains(t, operator(look), `"mod_revision"`)
	require.Equal(t, 3, strings.Count(operator(quota), "http://"))
	require.Equal(t, "1\n", operator(force))
	next := etcdtest.Receive(t, got)
	require.NoError(t, next.Err)
	require.True(t, next.Held())
	etcdtest.ReceiveWithin(t, r.Done, 15*time.Second) // a young hold is watched only after a third of the TTL
	require.False(t, r.Held())
}

// etcd has the metrics that the page names.
func TestMetrics(t *testing.T) {
	resp, err := http.Get(machines[0] + "/metrics")
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	named := regexp.MustCompile("`(etcd_[a-z_]+)`").FindAllSubmatch(production(t), -1)
	require.NotEmpty(t, named)
	for _, name := range named {
		require.Contains(t, string(metrics), "# TYPE "+string(name[1])+" ")
	}
}
