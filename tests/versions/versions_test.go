// Package versions tests locker on every etcd in use: 3.4, 3.5, 3.6 and 3.7. Each passes all tests of the library itself, on
// one member and on three, with each of etcd's clients that the library is for, and all of them share a cluster that is
// upgraded from one to the next. docs/versions.md has what ran.
//
// These servers are built from their modules. An etcd that the machine has installed, as Debian's etcd-server is, takes
// part beside them. Run it with -v to be told which servers there were.
package versions

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/version"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// server is an etcd.
type server struct {
	version string // as it tells it itself
	path    string // for etcdtest
}

// tools are modules that do nothing else than to name an old etcd as their tool. Go builds it, and keeps it in its cache.
var tools = []struct{ release, module, name string }{
	{"3.4.", "etcd34", "etcd"},
	{"3.5.", "etcd35", "server"},
	{"3.6.", "etcd36", "server"},
}

// servers are all that the client is for and that there are here, the oldest first.
func servers(t *testing.T) []server {
	t.Helper()
	all := []server{{version.Version, "self"}}
	for _, tool := range tools {
		path := output(t, filepath.Join("..", tool.module), "go", "tool", "-n", tool.name)
		s := server{versionOf(t, path), path}
		require.True(t, strings.HasPrefix(s.version, tool.release), "%+v is %+v", tool, s)
		all = append(all, s)
	}
	if path, err := exec.LookPath("etcd"); err == nil {
		all = append(all, server{versionOf(t, path), path})
	} else {
		t.Log("no etcd is installed on this machine:", err)
	}
	slices.SortFunc(all, func(a, b server) int { return slices.Compare(numbers(a.version), numbers(b.version)) })
	for _, s := range all {
		t.Logf("etcd %s: %s", s.version, s.path)
	}
	return all
}

// versionOf asks a program.
func versionOf(t *testing.T, path string) string {
	t.Helper()
	told := regexp.MustCompile(`etcd Version: (\S+)`).FindStringSubmatch(output(t, "", path, "--version"))
	require.NotNil(t, told, path)
	return told[1]
}

// numbers are what versions are compared by.
func numbers(version string) []int {
	n := make([]int, 3)
	fmt.Sscanf(version, "%d.%d.%d", &n[0], &n[1], &n[2])
	return n
}

// output is what a command prints.
func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return strings.TrimSpace(string(out))
}

// startCluster starts members with that server.
func startCluster(t *testing.T, members int, s server) *etcdtest.Cluster {
	t.Helper()
	cluster := etcdtest.New(t, etcdtest.Options{Members: members, Etcd: []string{s.path}})
	for member := range members {
		require.Equal(t, s.version, runningVersion(t, cluster, member))
	}
	return cluster
}

// clients are those of etcd that the library is built with: what its go.mod asks for, and the later ones, by the flags that
// choose them.
var clients = []struct{ release, flags string }{
	{"3.5", "-modfile=go.mod"},
	{"3.6", "-modfile=testdata/clients/etcd36.mod"},
	{"3.7", "-modfile=testdata/clients/etcd37.mod"},
}

func TestFunctional(t *testing.T) {
	all := servers(t)
	for _, client := range clients {
		tests := filepath.Join(t.TempDir(), "locker.test")
		output(t, filepath.Join("..", ".."), "go", "test", client.flags, "-c", "-o", tests, ".")
		for _, s := range all {
			for _, members := range []int{1, 3} {
				t.Run(fmt.Sprintf("client %s, etcd %s, members: %d", client.release, s.version, members), func(t *testing.T) {
					var skip []string
					if members == 1 {
						skip = append(skip, ownCluster) // first: what is skipped in part, by a later pattern, would be run
					}
					skip = append(skip, unfit(s.version)...)
					runFunctional(t, tests, strings.Join(skip, "|"), s, startCluster(t, members, s))
				})
			}
		}
	}
}

// ownCluster are the tests that start a cluster, of the server that LOCKER_ETCD names, to break it: once for each server
// is enough.
const ownCluster = "^(TestLock_GroupOnEtcd|TestMembersFrozen|TestHeld_Compaction|TestMembersKilled|TestUnlock_NoSpaceAlarm|" +
	"TestCost_Proposals|TestWatch_Compaction|TestWatch_BeginsAgain|TestWatch_AuthSwitchedOn)$"

// unfit are the tests of what an old etcd is not up to.
func unfit(version string) (skip []string) {
	n := numbers(version)
	if n[2] < map[int]int{4: 42, 5: 28, 6: 9}[n[1]] { // does not check the rights to what nested transactions do: CVE-2026-33343
		skip = append(skip, "^TestLock_GroupOnEtcd$")
	}
	if n[1] < 5 { // elects without --pre-vote: who cannot be elected may for seconds keep the other from it
		skip = append(skip, "^TestMembersFrozen$/^(each_in_turn|a_leader_for_longer_than_a_TTL)$")
	}
	return skip
}

// runFunctional runs the tests of the library against a cluster, all but those to skip.
func runFunctional(t *testing.T, tests, skip string, s server, cluster *etcdtest.Cluster) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tests, "-test.v", "-test.timeout=10m", "-test.skip="+skip)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "LOCKER_ENDPOINTS="+strings.Join(cluster.Endpoints(), ","), "LOCKER_ETCD="+s.path)
	out, err := cmd.CombinedOutput()
	told := "\n" + string(out)
	require.NoError(t, err, failures(told))
	require.NotContains(t, told, "--- SKIP")
	passed := strings.Count(told, "\n--- PASS: ")
	require.Greater(t, passed, 100, "the tests must be run")
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
