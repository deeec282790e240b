// Package versions tests locker on every etcd in use, from 3.4 to the newest.
package versions

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// version is a release of etcd.
type version struct {
	number string // as the server tells it
	module string // the folder that names it; "" for the one that the test cluster is made of
	tool   string // its name there
}

// versions are all that the client is for. Each of the older ones is a tool of a module of its own, which does nothing
// else than to name it; Go builds it and keeps it in its cache.
var versions = []version{
	{"3.4", "etcd34", "etcd"},
	{"3.5", "etcd35", "server"},
	{"3.6", "etcd36", "server"},
	{"3.7", "", ""},
}

// binary is the server's path, for etcdtest.
func (v version) binary(t *testing.T) string {
	t.Helper()
	if v.module == "" {
		return "self"
	}
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-n", v.tool)
	cmd.Dir = filepath.Join("..", v.module)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return strings.TrimSpace(string(out))
}

// startCluster starts members with these servers, in turn.
func startCluster(t *testing.T, members int, servers ...string) *etcdtest.Cluster {
	t.Helper()
	cluster, err := etcdtest.Start(t.Context(), etcdtest.Options{Members: members, Etcd: servers})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	return cluster
}

// notHere are the functional tests that bring a cluster of their own, need none, or measure this machine: the version of
// another cluster is nothing to them.
const notHere = "^(TestDeadCluster|TestNoSpaceAlarm|TestKilledMembers|TestFrozenMembers|TestProposals|TestBatch|TestMemory|" +
	"TestWatchDelay|TestCostOf|TestWatchSurvivesCompaction|TestHoldSurvivesCompaction|TestAsk|TestClassify|TestSeat|TestDeadline|TestBacklog|" +
	"Fuzz|Example)"

// functional builds the tests of the library itself.
func functional(t *testing.T) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "locker.test")
	out, err := exec.CommandContext(t.Context(), "go", "test", "-C", filepath.Join("..", ".."), "-c", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return binary
}

// runFunctional runs them against a cluster.
func runFunctional(t *testing.T, binary string, cluster *etcdtest.Cluster) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, "-test.v", "-test.timeout=5m", "-test.skip="+notHere)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "LOCKER_ENDPOINTS="+strings.Join(cluster.Endpoints(), ","))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, failures(string(out)))
	passed := strings.Count("\n"+string(out), "\n--- PASS: ")
	require.Greater(t, passed, 50, "the tests must be run")
	t.Log(passed, "passed")
}

// failures leaves out of a test's output what went well.
func failures(out string) string {
	var told []string
	for line := range strings.Lines(out) {
		if words := strings.TrimSpace(line); !strings.HasPrefix(words, "=== ") && !strings.HasPrefix(words, "--- PASS") {
			told = append(told, line)
		}
	}
	return strings.Join(told, "")
}

func TestFunctional(t *testing.T) {
	binary := functional(t)
	for _, v := range versions {
		server := v.binary(t)
		for _, members := range []int{1, 3} {
			if v.module == "" && members == 3 {
				continue // that is how they run anyway
			}
			t.Run(fmt.Sprintf("etcd %s, members: %d", v.number, members), func(t *testing.T) {
				t.Parallel()
				cluster := startCluster(t, members, server)
				require.Contains(t, serverVersion(t, cluster, 0), v.number+".")
				runFunctional(t, binary, cluster)
			})
		}
	}
}
