package main

import (
	"context"
	"fmt"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// connect is an etcd client as all peers have it: connected to every member.
func connect(endpoints []string, opts ...grpc.DialOption) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: timeout,
		DialOptions: opts,
		Logger:      clientv3.NewCtxClient(context.Background()).GetLogger(), // says nothing
	})
}

// gauge reads what etcd counts.
type gauge struct{ cli *clientv3.Client }

// proposals is the number of Raft proposals that the cluster has committed.
func (g *gauge) proposals(ctx context.Context) (float64, error) {
	return g.read(ctx, "etcd_server_proposals_committed_total")
}

// renewals is the number of lease renewals that the leader has made.
func (g *gauge) renewals(ctx context.Context) (float64, error) {
	return g.read(ctx, "etcd_debugging_lease_renewed_total")
}

// read is a metric of the leader.
func (g *gauge) read(ctx context.Context, metric string) (float64, error) {
	leader, err := g.leader(ctx)
	if err != nil {
		return 0, err
	}
	return etcdtest.Metric(ctx, metric, leader)
}

// sum is that of a metric of all members.
func (g *gauge) sum(ctx context.Context, metric string) (float64, error) {
	return etcdtest.Metric(ctx, metric, g.cli.Endpoints()...)
}

// keys is the number of keys that begin with prefix.
func (g *gauge) keys(ctx context.Context, prefix string) (int64, error) {
	resp, err := g.cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return resp.Count, nil
}

func (g *gauge) leader(ctx context.Context) (string, error) {
	for _, endpoint := range g.cli.Endpoints() {
		status, err := g.cli.Status(ctx, endpoint)
		if err != nil {
			return "", err
		}
		if status.Leader == status.Header.MemberId {
			return endpoint, nil
		}
	}
	return "", fmt.Errorf("no leader at %v", g.cli.Endpoints())
}
