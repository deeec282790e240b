package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

const patience = 30 * time.Second // bounds what should take a second or two

// TestMain lets this test binary be the program, and so its members, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "member" || os.Args[1] == "-members=1") {
		main()
		return
	}
	if len(os.Args) > 1 && os.Args[1] == parentArg {
		parent()
		return
	}
	etcdtest.Main(m)
}

func startCluster(t *testing.T, opts etcdtest.Options) *etcdtest.Cluster {
	t.Helper()
	c, err := etcdtest.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func client(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	check(t, err)
	t.Cleanup(func() { cli.Close() })
	return cli
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func leader(t *testing.T, c *etcdtest.Cluster) int {
	t.Helper()
	l, err := c.Leader()
	check(t, err)
	return l
}

func put(t *testing.T, cli *clientv3.Client, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Safe to repeat, and must be: what a member that has just gone was asked gets no answer.
	for {
		_, err := cli.Put(ctx, "key", value)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("put: %v", err)
		}
	}
}

// local is the value as one member alone knows it.
func local(t *testing.T, endpoint string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	got, err := client(t, endpoint).Get(ctx, "key", clientv3.WithSerializable())
	if err != nil || len(got.Kvs) == 0 {
		return "", err
	}
	return string(got.Kvs[0].Value), nil
}

func awaitLocal(t *testing.T, endpoint, want string) {
	t.Helper()
	await(t, fmt.Sprintf("%s to know %q", endpoint, want), func() bool {
		got, err := local(t, endpoint)
		return err == nil && got == want
	})
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestKillStartFreezeThaw(t *testing.T) {
	c := startCluster(t, etcdtest.Options{})
	all := c.Endpoints()
	if len(all) != 3 {
		t.Fatalf("endpoints: %v", all)
	}
	put(t, client(t, all...), "1")

	first := leader(t, c)
	old, err := c.PID(first)
	check(t, err)
	check(t, c.Kill(first))
	if !gone(old) {
		t.Fatalf("process %d of the killed member is there", old)
	}
	if got, err := local(t, all[first]); err == nil {
		t.Fatalf("the killed member answers %q", got)
	}
	second := leader(t, c)
	if second == first {
		t.Fatalf("the dead member %d leads", first)
	}
	rest := slices.Delete(slices.Clone(all), first, first+1)
	put(t, client(t, rest...), "2")

	check(t, c.Start(first))
	awaitLocal(t, all[first], "2")
	if pid, err := c.PID(first); err != nil || pid == old {
		t.Fatalf("pid %d, %v after a restart of %d", pid, err, old)
	}

	check(t, c.Freeze(second))
	if got, err := local(t, all[second]); err == nil {
		t.Fatalf("the frozen member answers %q", got)
	}
	third := leader(t, c)
	if third == second {
		t.Fatalf("the frozen member %d leads", second)
	}
	check(t, c.Thaw(second))
	awaitLocal(t, all[second], "2")
	check(t, c.Freeze(second))
	check(t, c.Kill(second)) // frozen as it is
	check(t, c.Start(second))

	check(t, c.Stop(0))
	check(t, c.Start(0))
	check(t, c.Kill(0, 1, 2))
	check(t, c.Start(0, 1, 2))
	leader(t, c)
	for _, e := range all {
		awaitLocal(t, e, "2")
	}
}

func TestBadCommands(t *testing.T) {
	c := startCluster(t, etcdtest.Options{Members: 1})
	for what, err := range map[string]error{
		"start of a running member": c.Start(0),
		"wipe of a running member":  c.Wipe(0),
		"kill of a missing member":  c.Kill(1),
		"kill of no member":         c.Kill(),
		"kill of one member twice":  c.Kill(0, 0),
		"isolate without a fence":   c.Isolate(0),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	check(t, c.Kill(0))
	for what, err := range map[string]error{
		"kill of a dead member":    c.Kill(0),
		"freeze of a dead member":  c.Freeze(0),
		"start with a bad program": c.StartWith(0, filepath.Join(t.TempDir(), "none")),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	check(t, c.StartWith(0, "self"))
	if l := leader(t, c); l != 0 {
		t.Fatalf("leader %d", l)
	}
}

func TestIsolate(t *testing.T) {
	c := startCluster(t, etcdtest.Options{Partitions: true})
	all := c.Endpoints()
	put(t, client(t, all...), "1")
	for _, e := range all {
		awaitLocal(t, e, "1")
	}

	// A follower that is cut off learns nothing new, and all of it afterwards.
	first := leader(t, c)
	follower := (first + 1) % 3
	check(t, c.Isolate(follower))
	put(t, client(t, all[first]), "2")
	awaitLocal(t, all[3-first-follower], "2")
	if got, err := local(t, all[follower]); err != nil || got != "1" {
		t.Fatalf("the isolated follower knows %q, %v", got, err)
	}
	check(t, c.Join(follower))
	awaitLocal(t, all[follower], "2")

	// A leader that is cut off steps down, though it hears from its clients.
	first = leader(t, c)
	check(t, c.Isolate(first))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client(t, all[first]).Put(ctx, "key", "lost"); err == nil {
		t.Fatal("the isolated leader has committed a write")
	}
	next := leader(t, c)
	if next == first {
		t.Fatalf("the isolated member %d leads", first)
	}
	await(t, "the isolated leader to step down", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := client(t, all[first]).Status(ctx, all[first])
		return err == nil && s.Leader == 0
	})
	// Had the write reached anybody, the new leader would have committed it by now.
	got, err := client(t, all[next]).Get(t.Context(), "key")
	check(t, err)
	if value := string(got.Kvs[0].Value); value != "2" {
		t.Fatalf("the isolated leader's followers know %q", value)
	}
	put(t, client(t, all[next]), "3")
	if got, err := local(t, all[first]); err != nil || got != "2" {
		t.Fatalf("the isolated leader knows %q, %v", got, err)
	}

	// Two of three are cut off: nobody leads. The first to be let in again has somebody to talk to.
	check(t, c.Isolate(next))
	check(t, c.Join(first))
	last := 3 - first - next
	if l := leader(t, c); l == next {
		t.Fatalf("the isolated member %d leads", l)
	}
	put(t, client(t, all[first], all[last]), "4")
	if got, err := local(t, all[next]); err != nil || got != "3" {
		t.Fatalf("the isolated member knows %q, %v", got, err)
	}
	check(t, c.Join(next))
	awaitLocal(t, all[next], "4")
}

func TestWipe(t *testing.T) {
	c := startCluster(t, etcdtest.Options{Partitions: true})
	all := c.Endpoints()
	cli := client(t, all...)
	put(t, cli, "1")
	before, err := cli.Status(t.Context(), all[1])
	check(t, err)

	check(t, c.Kill(1))
	check(t, c.Wipe(1))
	awaitLocal(t, all[1], "1")
	after, err := cli.Status(t.Context(), all[1])
	check(t, err)
	if after.Header.MemberId == before.Header.MemberId {
		t.Fatalf("still the same member %x", after.Header.MemberId)
	}
	list, err := cli.MemberList(t.Context())
	check(t, err)
	if len(list.Members) != 3 {
		t.Fatalf("members: %v", list.Members)
	}
	check(t, c.Kill(1))
	check(t, c.Start(1))
	check(t, c.Isolate(1))
	put(t, client(t, all[0], all[2]), "2")
	if got, err := local(t, all[1]); err != nil || got != "1" {
		t.Fatalf("the isolated new member knows %q, %v", got, err)
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	c := startCluster(t, etcdtest.Options{
		Members:   1,
		Dir:       dir,
		Heartbeat: 50 * time.Millisecond,
		Election:  500 * time.Millisecond,
		Flags:     []string{"--quota-backend-bytes=12345678"},
	})
	cli := client(t, c.Endpoints()...)
	status, err := cli.Status(t.Context(), c.Endpoints()[0])
	check(t, err)
	if status.DbSizeQuota != 12345678 {
		t.Fatalf("quota %d", status.DbSizeQuota)
	}
	lease, err := cli.Grant(t.Context(), 1) // raised to 1.5 election timeouts, which is one second here
	check(t, err)
	if lease.TTL != 1 {
		t.Fatalf("granted %d s", lease.TTL)
	}
	if logs, _ := filepath.Glob(filepath.Join(dir, "*", "m0.log")); len(logs) != 1 {
		t.Fatalf("logs: %v", logs)
	}
}

func TestEtcdOfTheEnvironment(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("LOCKER_ETCD", none)
	if _, err := etcdtest.Start(t.Context(), etcdtest.Options{Members: 1}); err == nil || !strings.Contains(err.Error(), none) {
		t.Fatalf("started without that etcd: %v", err)
	}
	startCluster(t, etcdtest.Options{Members: 1, Etcd: []string{"self"}})
}

func TestTLS(t *testing.T) {
	c := startCluster(t, etcdtest.Options{Members: 1, Flags: []string{"--auto-tls"}})
	if e := c.Endpoints()[0]; !strings.HasPrefix(e, "https://") {
		t.Fatalf("endpoint %s", e)
	}
	check(t, c.Kill(0))
	check(t, c.Start(0))
}

func TestAuthentication(t *testing.T) {
	c := startCluster(t, etcdtest.Options{Members: 1})
	cli := client(t, c.Endpoints()...)
	_, err := cli.UserAdd(t.Context(), "root", "secret")
	check(t, err)
	_, err = cli.UserGrantRole(t.Context(), "root", "root")
	check(t, err)
	_, err = cli.AuthEnable(t.Context())
	check(t, err)
	if _, err := c.Leader(); err == nil || !strings.Contains(err.Error(), "user name is empty") {
		t.Fatalf("got %v; want what etcd says to strangers", err)
	}
	check(t, c.Kill(0))
	check(t, c.Start(0))
}

// TestOtherBinary uses this test binary as the other etcd.
func TestOtherBinary(t *testing.T) {
	self, err := os.Executable()
	check(t, err)
	other := filepath.Join(t.TempDir(), "etcd")
	check(t, os.WriteFile(other, []byte("#!/bin/sh\nexec '"+self+"' member \"$@\"\n"), 0o700))
	c := startCluster(t, etcdtest.Options{Members: 2, Etcd: []string{"self", other}})
	runs := func(i int) string {
		pid, err := c.PID(i)
		check(t, err)
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		check(t, err)
		return exe
	}
	if runs(0) == self || runs(1) != self {
		t.Fatalf("members run %s and %s", runs(0), runs(1))
	}
	check(t, c.Kill(0))
	check(t, c.StartWith(0, other))
	if runs(0) != self {
		t.Fatalf("member runs %s", runs(0))
	}
	check(t, c.Kill(0))
	check(t, c.Start(0))
	if runs(0) != self {
		t.Fatal("the binary was not kept")
	}
}

func TestClustersSideBySide(t *testing.T) {
	var all sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]bool)
	for range 4 {
		all.Go(func() {
			c, err := etcdtest.Start(t.Context(), etcdtest.Options{Members: 1})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			seen[c.Endpoints()[0]] = true
			mu.Unlock()
			t.Cleanup(func() { check(t, c.Close()) })
		})
	}
	all.Wait()
	if len(seen) != 4 {
		t.Fatalf("endpoints: %v", seen)
	}
}

func TestFailureShowsTheLog(t *testing.T) {
	c, err := etcdtest.Start(t.Context(), etcdtest.Options{Members: 1, Flags: []string{"--no-such-flag"}})
	if err == nil {
		c.Close()
		t.Fatal("started")
	}
	if !strings.Contains(err.Error(), "no-such-flag") {
		t.Fatalf("the error does not show etcd's own: %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c, err := etcdtest.Start(ctx, etcdtest.Options{})
	if err == nil {
		c.Close()
		t.Fatal("three members started in 100 ms")
	}
	if ctx.Err() == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Fatalf("got %v", err)
	}
}
