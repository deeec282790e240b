package etcdtest

import (
	"fmt"
	"net"
	"strings"
)

// A Proxy is a Link with a listener in front of it.
type Proxy struct {
	*Link
	scheme   string
	listener net.Listener
	done     chan struct{} // closed when the accepting goroutine has ended
}

// NewProxy listens on a free loopback port and passes what arrives there on to target, an endpoint of a cluster
// ("http://host:port") or a plain host:port.
func NewProxy(target string) (*Proxy, error) {
	scheme, addr, found := strings.Cut(target, "://")
	if !found {
		scheme, addr = "http", target
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy for %s: %w", target, err)
	}
	p := &Proxy{Link: NewLink(addr), scheme: scheme, listener: listener, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			p.Serve(c.(*net.TCPConn))
		}
	}()
	return p, nil
}

// Addr is the host:port where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL is Addr with the target's scheme: an endpoint for a client.
func (p *Proxy) URL() string { return p.scheme + "://" + p.Addr() }

// Close stops listening, resets every connection and waits until all goroutines of the proxy are gone.
func (p *Proxy) Close() {
	p.listener.Close()
	<-p.done
	p.Link.Close()
}
