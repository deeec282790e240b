package locker

import (
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/PumpkinSeed/locker/internal/dial"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// An Option changes what NewFromClient returns.
type Option func(*options)

type options struct {
	prefix  string
	timeout time.Duration
	log     *slog.Logger // nil: newLogger's
}

// WithTimeout sets what bounds every request; it is 5 s otherwise. 0 or less changes nothing.
func WithTimeout(timeout time.Duration) Option {
	return func(o *options) {
		if timeout > 0 {
			o.timeout = timeout
		}
	}
}

// WithLogger sets the logger of the client. It gets, at the level Warn, renewals that fail, and locks that are lost, with the
// reason; at Info, sessions that begin and end, and watches that are moved to another member; at Debug, every lock that is taken
// or given back. Names of locks are logged; values and credentials never are. A client without it logs nothing, unless
// LOCKER_DEBUG=1 is set in the environment: then it logs everything to standard output.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithPrefix puts all keys of the client below a prefix: the lock NAME is the key prefix+NAME. With it, locks never meet
// the application's own keys. Clients with different prefixes do not see each other's locks; New has none.
//
// It takes the place of a namespace around the etcd client, which NewFromClient refuses.
func WithPrefix(prefix string) Option {
	return func(o *options) { o.prefix = prefix }
}

// Config is the configuration that New dials with, for those who add TLS or a user to it and give the client that they
// make of it to NewFromClient. Its connections are replaced about a second after they have gone silent, its back-off after
// an outage is short, and it logs nothing. timeout bounds the dialling of a connection.
func Config(machines []string, timeout time.Duration) clientv3.Config {
	return dial.Config(machines, timeout)
}

// plain returns an error if something is wrapped around a client's interfaces, which its connection does not have.
func plain(cli *clientv3.Client) error {
	for _, i := range []struct {
		name     string
		is, want any
	}{
		{"KV", cli.KV, clientv3.NewKVFromKVClient(nil, nil)},
		{"Watcher", cli.Watcher, clientv3.NewWatchFromWatchClient(nil, nil)},
		{"Lease", cli.Lease, clientv3.NewLeaseFromLeaseClient(nil, cli, 0)},
	} {
		if reflect.TypeOf(i.is) != reflect.TypeOf(i.want) {
			return fmt.Errorf("locker: the etcd client's %s is wrapped (%T), which its connection is not: give the plain client, "+
				"and WithPrefix in place of a namespace", i.name, i.is)
		}
	}
	return nil
}
