package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

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
	return metricAt(ctx, leader, metric)
}

// sum is that of a metric of all members.
func (g *gauge) sum(ctx context.Context, metric string) (all float64, err error) {
	for _, endpoint := range g.cli.Endpoints() {
		v, err := metricAt(ctx, endpoint, metric)
		if err != nil {
			return 0, err
		}
		all += v
	}
	return all, nil
}

// keys is the number of keys that begin with prefix.
func (g *gauge) keys(ctx context.Context, prefix string) (int64, error) {
	resp, err := g.cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return resp.Count, nil
}

func metricAt(ctx context.Context, endpoint, metric string) (float64, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, found := strings.CutPrefix(lines.Text(), metric+" "); found {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no %s at %s: %w", metric, endpoint, lines.Err())
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
