// Command cluster runs real etcd members as processes on free loopback ports, for tests that must break a cluster.
//
//	cluster [-members 3] [-etcd a,b,c] [-dir D] [-heartbeat T] [-election T] [-partitions] [-- etcd's own flags]
//
// Without -etcd the members are the etcd that LOCKER_ETCD names, and the built-in one where it names none.
//
// When every member answers and has a leader, it prints one line of JSON: {"endpoints":[...],"pids":[...],"dir":...}.
// Then it obeys lines on standard input and answers each with one line of JSON, {"ok":true,...} or {"error":"..."},
// once the command has taken effect. I is a member's index, or several: 0,1,2.
//
//	kill I         SIGKILL
//	stop I         SIGTERM
//	freeze I       SIGSTOP
//	thaw I         SIGCONT
//	start I        start again with the data it had; a member answers only when a quorum is up
//	start I PATH   the same with another etcd binary ("self": the built-in one), which it keeps
//	wipe I         replace a dead member by a new one with an empty disk
//	learner I      the same, but the new one is a learner
//	isolate I      cut off from every other member, both ways (with -partitions)
//	join I         end of isolate
//	leader         wait for a leader that is neither frozen nor isolated: {"ok":true,"leader":I}
//	pid I          {"ok":true,"pid":P}
//
// When standard input ends, or on SIGINT or SIGTERM, every member is killed and the temporary directory removed.
// On Linux the members die with this process, whatever the way it ends.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

// startTimeout and commandTimeout are far more than a busy machine needs: they only end what would never come.
const (
	startTimeout   = 2 * time.Minute
	commandTimeout = time.Minute
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "member" {
		etcdmain.Main(append(os.Args[:1], os.Args[2:]...))
		return
	}
	// The kernel kills a member when the thread that started it ends; this one lasts as long as the process.
	runtime.LockOSThread()

	var opts options
	flag.IntVar(&opts.members, "members", 3, "number of members")
	etcd := flag.String("etcd", cmp.Or(os.Getenv("LOCKER_ETCD"), "self"), "etcd binaries, one for each member in turn; self is the built-in one")
	flag.StringVar(&opts.dir, "dir", "", "keep data and logs here (default: a temporary directory)")
	flag.DurationVar(&opts.heartbeat, "heartbeat", 100*time.Millisecond, "heartbeat interval")
	flag.DurationVar(&opts.election, "election", time.Second, "election timeout")
	flag.BoolVar(&opts.partitions, "partitions", false, "route peer traffic so that isolate and join work")
	flag.Parse()
	opts.etcd, opts.flags = strings.Split(*etcd, ","), flag.Args()

	if err := run(opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run starts a cluster, obeys standard input until it ends, and takes the cluster down.
func run(opts options) error {
	// When nobody reads our output any more, that is to be an error, not the end without any clean-up.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan string)
	go func() { // ends with the process: a read of standard input cannot be interrupted
		defer cancel()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			select {
			case lines <- in.Text():
			case <-ctx.Done():
				return
			}
		}
	}()

	c, err := start(ctx, opts)
	if err != nil {
		if ctx.Err() != nil {
			return nil // nobody waits for it any more
		}
		return err
	}
	out := json.NewEncoder(os.Stdout)
	err = out.Encode(c.describe())
	for err == nil {
		select {
		case line := <-lines:
			err = out.Encode(obey(ctx, c, line))
			continue
		case <-ctx.Done():
		}
		break
	}
	return errors.Join(err, c.close())
}

// obey carries out one command and returns what to print.
func obey(ctx context.Context, c *cluster, line string) map[string]any {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	result, err := c.do(ctx, line)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	if result == nil {
		result = map[string]any{}
	}
	result["ok"] = true
	return result
}
