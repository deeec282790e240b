package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// networkCommand makes this program the network between clients and cluster until its standard input ends. It is a
// process of its own, so that what it allocates and keeps is not taken for that of a peer.
const networkCommand = "network"

func network(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: " + networkCommand + " ENDPOINTS RTT")
	}
	rtt, err := time.ParseDuration(args[1])
	if err != nil {
		return err
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
	n.Delay(rtt / 2) // each way
	fmt.Println(strings.Join(n.Endpoints(), ","))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startNetwork returns the endpoints of a network with that round trip. It does not touch what members send each other.
func startNetwork(ctx context.Context, endpoints []string, rtt time.Duration) (delayed []string, stop func(), err error) {
	line, stop, err := startSelf(ctx, networkCommand, strings.Join(endpoints, ","), rtt.String())
	if err != nil {
		return nil, nil, err
	}
	return strings.Split(line, ","), stop, nil
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
