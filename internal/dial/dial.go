// Package dial says how a client connects to etcd, and replaces connections that have gone silent.
//
// gRPC notices a connection that has gone silent after 13 s at the earliest, and keeps it in the rotation until then:
// every request that it carries is lost. Here a connection that was written to, and has delivered nothing for about a
// second since, is closed. gRPC dials another one then. Where there is one address for the whole cluster, or where a NAT
// has forgotten all connections, that is the only way to be heard again; and a member that is frozen is left out of the
// rotation until it completes a handshake.
package dial

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config is the configuration of an etcd client whose calls end within the timeout.
func Config(machines []string, timeout time.Duration) clientv3.Config {
	d := &dialer{conns: map[*conn]struct{}{}, patience: minPatience}
	return clientv3.Config{
		Endpoints:            machines,
		DialTimeout:          timeout,
		DialKeepAliveTime:    10 * time.Second, // gRPC allows no less
		DialKeepAliveTimeout: 3 * time.Second,
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				// gRPC's default would let an outage outlive its end by up to two minutes.
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
				MinConnectTimeout: 2 * time.Second,
			}),
			grpc.WithContextDialer(d.dial),
		},
		// A logger that says nothing: what the caller has to know is in the errors.
		Logger: clientv3.NewCtxClient(context.Background()).GetLogger(),
	}
}

const (
	// minPatience is how long a connection may deliver nothing although it was written to. It doubles, up to maxPatience,
	// when connections were closed for it and those that came after are silent as well: then it is the cluster that does
	// not answer, and new connections are no help.
	minPatience = time.Second
	maxPatience = 8 * time.Second

	// lookInterval is the least time between two looks at all connections.
	lookInterval = 100 * time.Millisecond

	// handshake is how long after dialling that which is read may be nothing but gRPC's handshake.
	handshake = 500 * time.Millisecond
)

// writeTimeout is how long a write may take: one that fills the buffers of a silent connection would block until gRPC's
// keepalive ends that.
const writeTimeout = 4 * time.Second

var errSilent = errors.New("locker: the connection has gone silent")

// A dialer dials the connections of one etcd client, and looks at all of them whenever one is written to. So it needs
// no goroutine, and no timer: while there is nothing to be sent nothing is missed, either.
type dialer struct {
	mu       sync.Mutex // guards all below, and the fields of all conns
	conns    map[*conn]struct{}
	looked   time.Time
	patience time.Duration
}

// conn is a connection that is closed when it has gone silent.
//
// Not all that is written is answered, so an old write alone says nothing. It is the second look that decides: if since
// the first, at which something was unanswered, more was written and still nothing has come, the connection is silent.
type conn struct {
	net.Conn
	dialer *dialer

	dialled   time.Time
	lastRead  time.Time
	lastWrite time.Time
	suspected time.Time // of the first look; zero: nothing is unanswered
}

func (d *dialer) dial(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	if path, is := strings.CutPrefix(address, "unix:"); is {
		network, address = "unix", strings.TrimPrefix(path, "//")
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return d.add(raw), nil
}

func (d *dialer) add(raw net.Conn) *conn {
	now := time.Now()
	c := &conn{Conn: raw, dialer: d, dialled: now, lastRead: now}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns[c] = struct{}{}
	return c
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.dialer.read(c)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if silent := c.dialer.wrote(c); len(silent) > 0 {
		for _, s := range silent {
			s.Close()
			if s == c {
				return 0, errSilent
			}
		}
	}
	c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

// read notes that a connection has delivered something.
func (d *dialer) read(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.lastRead, c.suspected = time.Now(), time.Time{}
	if c.lastRead.Sub(c.dialled) > handshake {
		d.patience = minPatience
	}
}

// wrote notes that a connection is written to, and returns those that have gone silent.
func (d *dialer) wrote(c *conn) (silent []*conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	c.lastWrite = now
	if now.Sub(d.looked) < lookInterval {
		return nil
	}
	d.looked = now
	for c := range d.conns {
		switch {
		case !c.lastWrite.After(c.lastRead):
		case c.suspected.IsZero():
			c.suspected = now
		case c.lastWrite.After(c.suspected) && now.Sub(c.suspected) >= d.patience:
			delete(d.conns, c)
			silent = append(silent, c)
		}
	}
	if len(silent) > 0 {
		d.patience = min(2*d.patience, maxPatience)
	}
	return silent
}
