package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// connect is an etcd client as all peers have it: connected to every member.
func connect(endpoints []string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: 5 * time.Second,
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
	if !strings.Contains(leader, "://") {
		leader = "http://" + leader
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, leader+"/metrics", nil)
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
	return 0, fmt.Errorf("no %s at %s: %w", metric, leader, lines.Err())
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
