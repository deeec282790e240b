package etcdtest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests of a package and exits. It is a failure, too, when they leave goroutines behind.
func Main(m *testing.M) { exit(m.Run()) }

// MainWithCluster is Main for tests that share a cluster, whose endpoints it puts into machines: the one that
// LOCKER_ENDPOINTS names, or else three members of their own.
func MainWithCluster(m *testing.M, machines *[]string) {
	if *machines = EndpointsFromEnv(); len(*machines) > 0 {
		exit(m.Run())
	}
	cluster, err := Start(context.Background(), Options{Members: 3})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	*machines = cluster.Endpoints()
	code := m.Run()
	if err := cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	exit(code)
}

// exit ends the program with the code of its tests. Tests that passed must have ended all goroutines, but some are
// still on their last instructions.
func exit(code int) {
	for deadline := time.Now().Add(10 * time.Second); code == 0; time.Sleep(5 * time.Millisecond) {
		left := otherGoroutines()
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "FAIL: %d goroutines outlive the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// otherGoroutines are the stacks of all goroutines but the caller's, and that which serves signals once a program has
// asked for one.
func otherGoroutines() (stacks []string) {
	buf := make([]byte, 64<<10)
	n := runtime.Stack(buf, true)
	for ; n == len(buf); n = runtime.Stack(buf, true) {
		buf = make([]byte, 2*len(buf))
	}
	for i, stack := range strings.Split(string(buf[:n]), "\n\n") { // the caller's is the first
		if i > 0 && !strings.Contains(stack, "\nos/signal.loop()") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
