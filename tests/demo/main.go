// Command demo shows what locker does, on three etcd members of its own or, with -endpoints, on those of a cluster
// that is there. Whatever it tells, it has checked: where anything comes out differently, it says so and ends with
// status 1. It leaves nothing behind, neither keys nor processes.
//
//	go run -C tests ./demo
//	go run -C tests ./demo -endpoints 127.0.0.1:2379,127.0.0.1:2380,127.0.0.1:2381
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	timeout  = 5 // seconds, as all TTLs
	ttl      = 8
	shortTTL = 2 // of the process that is killed

	// patience is far more than a slow machine needs: it only ends what would never come.
	patience = 45 * time.Second
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "holder" {
		exit(hold(strings.Split(os.Args[2], ","), os.Args[3]))
	}
	endpoints := flag.String("endpoints", "", "show it on this cluster: a,b,c (default: one of its own)")
	flag.Parse()
	if flag.NArg() > 0 {
		exit(fmt.Errorf("no such argument: %s", flag.Arg(0)))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, strings.FieldsFunc(*endpoints, func(r rune) bool { return r == ',' })))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// demo is one showing: two clients, A and B, on one cluster.
type demo struct {
	began     time.Time
	cluster   *etcdtest.Cluster // nil when it belongs to somebody else
	endpoints []string
	etcd      *clientv3.Client // to look behind the scenes
	a, b      locker.Client
	prefix    string // of all names; nobody else uses it
	tokens    []int64
}

// run shows everything in turn, up to the first thing that is not as it should be.
func run(ctx context.Context, endpoints []string) (err error) {
	d := &demo{endpoints: endpoints, prefix: fmt.Sprintf("locker-demo-%d-%d/", os.Getpid(), time.Now().UnixNano())}
	if len(endpoints) == 0 {
		fmt.Println("Starting three etcd members (the first time they are built: that takes a minute or two) ...")
		if d.cluster, err = etcdtest.Start(ctx, etcdtest.Options{Members: 3}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.cluster.Close()) }()
		d.endpoints = d.cluster.Endpoints()
	}
	d.began = time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	if d.etcd, err = clientv3.New(clientv3.Config{Endpoints: d.endpoints, Logger: zap.NewNop()}); err != nil {
		return err
	}
	defer d.etcd.Close()
	for _, client := range []*locker.Client{&d.a, &d.b} {
		if *client, err = locker.New(d.endpoints, timeout, ttl, ctx); err != nil {
			return err
		}
		defer client.Close()
	}
	d.say("two clients, A and B, on %s", strings.Join(d.endpoints, " "))

	for _, scene := range []func(context.Context) error{
		d.takenAndRefused, d.givenBack, d.handedOver, d.holderKilled, d.memberKilled, d.tokensGrew, d.nothingLeft,
	} {
		if err := scene(ctx); err != nil {
			return fmt.Errorf("after %.1f s: %w", time.Since(d.began).Seconds(), err)
		}
	}
	return nil
}

// scene tells what comes next.
func scene(title string) { fmt.Printf("\n%s\n", title) }

// say tells what has happened, and when.
func (d *demo) say(format string, args ...any) {
	fmt.Printf("%7.3f s  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}
