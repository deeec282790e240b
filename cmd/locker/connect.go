package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/hedge"
)

// connection is how etcd is reached. Its flags and environment are those of etcdctl.
type connection struct {
	endpoints, cacert, cert, key, user, password string
	insecure, skipVerify                         bool
	dialTimeout, timeout                         time.Duration
}

const defaultEndpoints = "127.0.0.1:2379"

// flags are set to what the connection has already.
func (c *connection) flags() *flag.FlagSet {
	if *c == (connection{}) {
		*c = connection{insecure: true, dialTimeout: 2 * time.Second, timeout: 5 * time.Second}
	}
	f := newFlags()
	f.StringVar(&c.endpoints, "endpoints", c.endpoints, "addresses of members, with commas (default "+defaultEndpoints+")")
	f.StringVar(&c.cacert, "cacert", c.cacert, "`file` of the authorities that sign the servers' certificates")
	f.StringVar(&c.cert, "cert", c.cert, "`file` of the client's certificate")
	f.StringVar(&c.key, "key", c.key, "`file` of its key")
	f.StringVar(&c.user, "user", c.user, "`name[:password]` of an etcd user")
	f.StringVar(&c.password, "password", c.password, "password of the user; the name may hold a colon then")
	f.BoolVar(&c.insecure, "insecure-transport", c.insecure, "no TLS where no certificate is given and no address begins with https")
	f.BoolVar(&c.skipVerify, "insecure-skip-tls-verify", c.skipVerify, "do not check the servers' certificates")
	f.DurationVar(&c.dialTimeout, "dial-timeout", c.dialTimeout, "bounds the dialling of a member")
	f.DurationVar(&c.timeout, "command-timeout", c.timeout, "bounds every request")
	return f
}

// fromEnvironment sets flags by the variables that etcdctl reads.
func (c *connection) fromEnvironment(flags *flag.FlagSet) (err error) {
	flags.VisitAll(func(f *flag.Flag) {
		name := "ETCDCTL_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value := os.Getenv(name); value != "" && err == nil {
			if e := f.Value.Set(value); e != nil {
				err = usage("%s=%q: %v", name, value, e)
			}
		}
	})
	return err
}

// connect returns a client of etcd and one of locks. ctx bounds the life of both; disconnect must be called before.
func (c *connection) connect(ctx context.Context, ttl time.Duration) (etcd *clientv3.Client, locks locker.Client, err error) {
	endpoints := strings.Split(cmp.Or(c.endpoints, defaultEndpoints), ",")
	config := locker.Config(endpoints, c.dialTimeout)
	config.Username, config.Password = c.user, c.password
	if name, password, ok := strings.Cut(c.user, ":"); ok && c.password == "" {
		config.Username, config.Password = name, password
	}
	if config.Username != "" && config.Password == "" {
		return nil, locks, usage("user %q needs a password: --user NAME:PASSWORD, or ETCDCTL_PASSWORD", config.Username)
	}
	if config.TLS, err = c.tls(endpoints); err != nil {
		return nil, locks, err
	}
	if etcd, err = dial(config); err == nil {
		if locks, err = locker.NewFromClient(ctx, etcd, int64(ttl.Seconds()), locker.WithTimeout(c.timeout)); err == nil {
			return etcd, locks, nil
		}
		etcd.Close()
	}
	return nil, locks, c.explain(err)
}

// dial tries again what may heal: a user's token is asked of any member, and a learner among them refuses it.
func dial(config clientv3.Config) (etcd *clientv3.Client, err error) {
	for end := time.Now().Add(config.DialTimeout); ; time.Sleep(hedge.MinBackoff) {
		etcd, err = clientv3.New(config)
		if err == nil || !hedge.Classify(err).Transient || time.Now().After(end) {
			return etcd, err
		}
	}
}

// disconnect gives back what is held, within the timeout.
func disconnect(etcd *clientv3.Client, locks locker.Client) error {
	return errors.Join(locks.Close(), etcd.Close())
}

// explain says what to do about a cluster that does not answer.
func (c *connection) explain(err error) error {
	status := statusOf(err)
	switch {
	case status != statusUnreachable && !(status == statusOther && errors.Is(err, context.DeadlineExceeded)):
		return err
	case c.endpoints != "":
		return failure{statusUnreachable, fmt.Sprintf("etcd does not answer at %s: %v", c.endpoints, err)}
	}
	return failure{statusUnreachable, fmt.Sprintf("no endpoints were given, and etcd does not answer at %s: %v\n"+
		"Give those of a cluster with --endpoints or ETCDCTL_ENDPOINTS. To start one, in the repository of locker:\n"+
		"  docker compose -f docker/docker-compose.yml up -d --wait\n"+
		"or without docker, which prints the endpoints:\n"+
		"  go run -C tests ./cluster", defaultEndpoints, err)}
}

// tls returns nil where none is wanted.
func (c *connection) tls(endpoints []string) (*tls.Config, error) {
	wanted := !c.insecure || c.cacert != "" || c.cert != "" || c.key != ""
	for _, endpoint := range endpoints {
		wanted = wanted || strings.HasPrefix(endpoint, "https://")
	}
	if !wanted {
		return nil, nil
	}
	config := &tls.Config{InsecureSkipVerify: c.skipVerify}
	if c.cacert != "" {
		pem, err := os.ReadFile(c.cacert)
		if err != nil {
			return nil, usage("--cacert: %v", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usage("--cacert: there is no certificate in %s", c.cacert)
		}
	}
	if c.cert != "" || c.key != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, usage("--cert and --key: %v", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
