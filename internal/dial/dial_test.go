package dial

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

// newConns returns n connections of one dialer, and their other ends, which take all that is written to them.
func newConns(t *testing.T, n int) (conns []*conn, servers []net.Conn) {
	d := &dialer{conns: map[*conn]struct{}{}, patience: minPatience}
	for range n {
		conns = append(conns, d.add(pipe(t, &servers)))
	}
	return conns, servers
}

func pipe(t *testing.T, servers *[]net.Conn) net.Conn {
	client, server := net.Pipe()
	*servers = append(*servers, server)
	go io.Copy(io.Discard, server)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client
}

func write(t *testing.T, c *conn) {
	t.Helper()
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
}

// answer has a connection deliver something.
func answer(t *testing.T, c *conn, server net.Conn) {
	go server.Write([]byte("y"))
	_, err := c.Read(make([]byte, 1))
	require.NoError(t, err)
}

// What is written to and delivers nothing is closed after a second; what answers stays, and so does what is idle.
func TestSilentConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns, servers := newConns(t, 3)
		silent, healthy, idle := conns[0], conns[1], conns[2]
		write(t, idle) // the last word needs no answer
		time.Sleep(600 * ms)
		start := time.Now()
		var err error
		for err == nil {
			if _, err = silent.Write([]byte("x")); err == nil {
				write(t, healthy)
				answer(t, healthy, servers[1])
				time.Sleep(150 * ms)
			}
		}
		require.ErrorIs(t, err, errSilent)
		require.InDelta(t, minPatience, time.Since(start), float64(300*ms))
		_, err = silent.Conn.Write([]byte("x"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		write(t, healthy)
		write(t, idle)
	})
}

// Where new connections are silent as well they are given more and more time; the first answer ends that.
func TestPatienceWithASilentCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns, _ := newConns(t, 1)
		d := conns[0].dialer
		var took []time.Duration
		for range 5 {
			var servers []net.Conn
			c := d.add(pipe(t, &servers))
			start := time.Now()
			for {
				if _, err := c.Write([]byte("x")); err != nil {
					break
				}
				time.Sleep(lookInterval)
			}
			took = append(took, time.Since(start).Round(time.Second))
		}
		require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 8 * time.Second}, took)
		var servers []net.Conn
		c := d.add(pipe(t, &servers))
		time.Sleep(handshake + ms)
		answer(t, c, servers[0])
		require.Equal(t, minPatience, d.patience)
	})
}

func TestDialOfASocket(t *testing.T) {
	d := &dialer{conns: map[*conn]struct{}{}, patience: minPatience}
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	for _, address := range []string{"unix:" + path, "unix://" + path} {
		c, err := d.dial(context.Background(), address)
		require.NoError(t, err, address)
		c.Close()
	}
	require.Empty(t, d.conns)
}
