package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// operator is who all are. With an odd seed etcd asks for the password, and gives out tokens that do not live long: they
// expire while locks are held, while others wait, and under every Watch. The clients are made by NewFromClient then, and
// with an even seed by New, but for those with a prefix.
const (
	operator  = "root"
	password  = "not a secret"
	tokenLife = 2 * time.Second // from the granting, by whole seconds, however often it is used
)

// authentication are the faults that come with it. Tokens expire without anybody's doing: a client that finds that its
// own has done so says it.
var authentication = lane{"authentication", []kind{
	{authSwitched, (*campaign).switchAuth},
	{tokenExpired, nil},
}}

const (
	authSwitched = "authentication switched off and on"
	tokenExpired = "auth token expired"
)

// authFlags have etcd sign tokens with a key of the campaign's own.
func (c *campaign) authFlags() (flags []string, err error) {
	key := filepath.Join(c.dir, "key")
	return []string{"--bcrypt-cost=4", "--auth-token=jwt,sign-method=HS256,priv-key=" + key + ",ttl=" + tokenLife.String()},
		os.WriteFile(key, []byte(rand.Text()), 0o600)
}

// dial is a client of etcd's own; nobody's if no user is given.
func dial(user string, endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: endpoints, Username: user, Password: password,
		Logger: zap.NewNop(), DialOptions: quickRedial})
}

// authenticate has a new cluster ask who is there from now on.
func authenticate(ctx context.Context, endpoints []string) error {
	cli, err := dial("", endpoints...)
	if err != nil {
		return err
	}
	defer cli.Close()
	_, err1 := cli.UserAdd(ctx, operator, password)
	_, err2 := cli.RoleAdd(ctx, operator)
	_, err3 := cli.UserGrantRole(ctx, operator, operator)
	_, err4 := cli.AuthEnable(ctx)
	return errors.Join(err1, err2, err3, err4)
}

// switchAuth has etcd let everybody in for a while. No token from before is good afterwards.
func (c *campaign) switchAuth(ctx context.Context, f *fault) error {
	return c.withoutAuth(func() error {
		sleep(ctx, f.length/2)
		return nil
	})
}

// withoutAuth does something while etcd asks nobody who he is.
func (c *campaign) withoutAuth(do func() error) error {
	if c.user == "" {
		return do()
	}
	c.open.Lock()
	defer c.open.Unlock()
	err := insist(func(ctx context.Context) error {
		_, err := c.etcd.AuthDisable(ctx)
		return err
	})
	return errors.Join(err, do(), insist(func(ctx context.Context) error {
		_, err := c.etcd.AuthEnable(ctx)
		return err
	}))
}

// dial is the client that NewFromClient gets, as anybody would make it, and nil where New makes its own: that has no tap, for
// New takes nothing that could be one, and so its watches are never silenced.
func (c *client) dial() (*clientv3.Client, error) {
	if c.cfg.Subject == ours && c.cfg.User == "" && c.cfg.Prefix == "" {
		return nil, nil
	}
	cfg := clientv3.Config{Endpoints: c.cfg.Endpoints, Username: c.cfg.User, Password: password, DialTimeout: c.cfg.Timeout,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop()}
	if c.cfg.Prefix != "" && c.cfg.User == "" {
		cfg = locker.Config(c.cfg.Endpoints, c.cfg.Timeout)
	}
	t := c.newTap()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(t.call), grpc.WithChainStreamInterceptor(t.stream))
	return clientv3.New(cfg)
}

// expired notes that a client's token has expired. All its requests under way tell so.
func (c *campaign) expired(p *process, at instant) {
	if at.sub(p.refused) > tokenLife/2 {
		f := &fault{lane: authentication.name, kind: tokenExpired, slot: p.slot, target: fmt.Sprint("p", p.number)}
		c.faults.begin(f)
		c.faults.strike(func() { f.to = f.from })
	}
	p.refused = at
}
