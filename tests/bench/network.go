package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// networkCommand makes this program the network between clients and cluster until its standard input ends. It is a
// process of its own, so that what it allocates and keeps is not taken for that of a peer.
const networkCommand = "network"

// network prints its endpoints, and then obeys: each line is a round trip and its jitter.
func network(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: " + networkCommand + " ENDPOINTS")
	}
	var n etcdtest.Network
	defer func() { n.Each((*etcdtest.Proxy).Close) }()
	for endpoint := range strings.SplitSeq(args[0], ",") {
		p, err := etcdtest.NewProxy(endpoint)
		if err != nil {
			return err
		}
		n = append(n, p)
	}
	fmt.Println(strings.Join(n.Endpoints(), ","))
	calm := func() {}
	defer func() { calm() }()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		rtt, jitter, _ := strings.Cut(lines.Text(), " ")
		least, err := time.ParseDuration(rtt)
		more, err2 := time.ParseDuration(jitter)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		calm()
		calm = delay(n, least, more)
		fmt.Println("done")
	}
	return lines.Err()
}

// delay makes round trips take least, and up to more than that in addition, which changes all the time and from member to
// member. calm ends the changes.
func delay(n etcdtest.Network, least, more time.Duration) (calm func()) {
	n.Delay(least / 2) // each way
	if more == 0 {
		return func() {}
	}
	ended := make(chan struct{})
	var changing sync.WaitGroup
	for _, p := range n {
		changing.Go(func() {
			ticker := time.NewTicker(20 * time.Millisecond)
			defer ticker.Stop()
			for {
				p.Delay(least/2+rand.N(more), etcdtest.ToClient)
				select {
				case <-ticker.C:
				case <-ended:
					return
				}
			}
		})
	}
	return func() {
		close(ended)
		changing.Wait()
	}
}

// detour is a network as another process.
type detour struct {
	*child
	endpoints []string
}

// startNetwork starts one that does not touch what members send each other, and delays nothing yet.
func startNetwork(ctx context.Context, members []string) (*detour, error) {
	c, line, err := startSelf(ctx, networkCommand, strings.Join(members, ","))
	if err != nil {
		return nil, err
	}
	return &detour{c, strings.Split(line, ",")}, nil
}

func (d *detour) set(rtt, jitter time.Duration) error {
	_, err := d.ask(rtt.String() + " " + jitter.String())
	return err
}

// roundTrip is the median time of a read that a member answers by itself.
func roundTrip(ctx context.Context, endpoints []string) (time.Duration, error) {
	cli, err := connect(endpoints)
	if err != nil {
		return 0, err
	}
	defer cli.Close()
	const warmUp = 10
	var took []time.Duration
	for i := range warmUp + 51 {
		start := time.Now()
		if _, err := cli.Get(ctx, "bench/none", clientv3.WithSerializable()); err != nil {
			return 0, err
		}
		if i >= warmUp {
			took = append(took, time.Since(start))
		}
	}
	return quantile(took, 0.5), nil
}
