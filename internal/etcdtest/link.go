package etcdtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Direction is the way that bytes travel on a connection.
type Direction int

const (
	ToServer Direction = iota
	ToClient
)

// backlog is the number of packets that a direction holds back before it stops reading, as a full TCP window would.
const backlog = 256

// A Link carries connections to one target and does to them what a bad network does. Faults are set for each
// direction apart (none named: both), hold for connections that exist and for those to come, replace the fault that
// the direction had, and end with Heal. What is sent after such a call has returned is subject to it; what was
// under way at that moment may or may not be.
//
// The target is dialled when the first bytes of a connection reach it: to a silent link, it need not even exist.
type Link struct {
	target string
	conns  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	faults  [2]fault
	refuse  bool
	closed  bool
	changed chan struct{} // closed, and replaced, when a fault changes
	open    map[*conn]struct{}
	awaited map[string]chan struct{} // by what is to be delivered; closed once it is
}

type fault struct {
	hold    bool
	swallow bool
	delay   time.Duration
	jitter  time.Duration // at most so much longer
	rate    int           // bytes a second that a connection carries; 0: any number
}

// due is when a packet that arrives now may be delivered.
func (f fault) due() time.Time {
	d := f.delay
	if f.jitter > 0 {
		d += rand.N(f.jitter)
	}
	return time.Now().Add(d)
}

// NewLink returns a link without faults to target, a host:port.
func NewLink(target string) *Link {
	return &Link{target: target, changed: make(chan struct{}), open: make(map[*conn]struct{}), awaited: make(map[string]chan struct{})}
}

// Swallow loses all bytes sent; connections stay open. Heal resets those that lost some, as they could not go on
// with a gap in the middle.
func (l *Link) Swallow(dirs ...Direction) { l.set(fault{swallow: true}, dirs) }

// Hold keeps all bytes sent. Heal delivers them, in order: the retransmissions after a partition.
func (l *Link) Hold(dirs ...Direction) { l.set(fault{hold: true}, dirs) }

// Delay delivers whatever is sent d later, in order. Bytes that are on their way when it ends keep their time.
func (l *Link) Delay(d time.Duration, dirs ...Direction) { l.set(fault{delay: d}, dirs) }

// Jitter is Delay by another time for every packet. They stay in order.
func (l *Link) Jitter(least, most time.Duration, dirs ...Direction) {
	l.set(fault{delay: least, jitter: most - least}, dirs)
}

// Throttle lets every connection carry so many bytes a second, in order. What is sent faster queues up.
func (l *Link) Throttle(rate int, dirs ...Direction) { l.set(fault{rate: rate}, dirs) }

// Delivered returns a channel that is closed when the target is sent something with this text in it, in one piece.
func (l *Link) Delivered(text string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.awaited[text] == nil {
		l.awaited[text] = make(chan struct{})
	}
	return l.awaited[text]
}

// SwallowOpen loses all bytes sent on the connections that exist, both ways, as a router does that has lost its table. Those
// to come are not affected. Heal is as for Swallow.
func (l *Link) SwallowOpen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.silent = true
	}
	l.wake()
}

func (l *Link) set(f fault, dirs []Direction) {
	if len(dirs) == 0 {
		dirs = []Direction{ToServer, ToClient}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range dirs {
		l.faults[d] = f
	}
	l.wake()
}

// Refuse resets every new connection at once.
func (l *Link) Refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = true
}

// Cut resets every connection now.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.end(true)
	}
}

// Heal ends all faults.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		if c.lost[ToServer] || c.lost[ToClient] {
			c.end(true)
		}
		c.silent = false
	}
	l.faults, l.refuse = [2]fault{}, false
	l.wake()
}

// Close resets every connection, refuses new ones and waits until the link's goroutines are gone.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	for c := range l.open {
		c.end(true)
	}
	l.mu.Unlock()
	l.conns.Wait()
}

// wake makes every held packet look at the faults again; l.mu is held.
func (l *Link) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Serve takes over a connection that a client opened; it does not block.
func (l *Link) Serve(client *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &conn{link: l, sockets: []*net.TCPConn{client}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if l.refuse || l.closed {
		c.end(true)
		return
	}
	l.open[c] = struct{}{}
	l.conns.Go(func() {
		c.run(client)
		l.mu.Lock()
		defer l.mu.Unlock()
		c.end(false)
		delete(l.open, c)
	})
}

// conn is one client's connection and its continuation to the target.
type conn struct {
	link   *Link
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	// Guarded by link.mu:
	sockets []*net.TCPConn
	lost    [2]bool // the direction has swallowed bytes
	silent  bool    // both directions swallow bytes, whatever the link does
}

// packet is what one read returned: bytes, or the end of the stream.
type packet struct {
	data []byte
	err  error
	due  time.Time
}

// end closes the sockets, with a reset when asked to; link.mu is held.
func (c *conn) end(reset bool) {
	c.cancel()
	for _, s := range c.sockets {
		if reset {
			s.SetLinger(0)
		}
		s.Close()
	}
	c.sockets = nil
}

func (c *conn) reset() {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.end(true)
}

// run moves bytes both ways until both senders are done, or the connection is reset.
func (c *conn) run(client *net.TCPConn) {
	var parts sync.WaitGroup
	defer parts.Wait()

	up := make(chan packet, backlog)
	parts.Go(func() { c.read(ToServer, client, up) })
	first, ok := c.next(ToServer, up)
	if !ok || first.err != nil {
		c.reset()
		return
	}
	server := c.dial()
	if server == nil {
		c.reset()
		return
	}
	down := make(chan packet, backlog)
	parts.Go(func() { c.read(ToClient, server, down) })
	parts.Go(func() {
		for p, ok := c.next(ToClient, down); ok && c.deliver(p, client); p, ok = c.next(ToClient, down) {
		}
	})
	for p, ok := first, true; ok && c.deliver(p, server); p, ok = c.next(ToServer, up) {
		c.link.delivered(p.data)
	}
}

// delivered tells those who await what the target was sent.
func (l *Link) delivered(data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for text, told := range l.awaited {
		if bytes.Contains(data, []byte(text)) {
			close(told)
			delete(l.awaited, text)
		}
	}
}

// dial connects to the target; nil when that fails or the connection has ended meanwhile.
func (c *conn) dial() *net.TCPConn {
	s, err := new(net.Dialer).DialContext(c.ctx, "tcp", c.link.target)
	if err != nil {
		return nil
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.ctx.Err() != nil {
		s.Close()
		return nil
	}
	c.sockets = append(c.sockets, s.(*net.TCPConn))
	return s.(*net.TCPConn)
}

// read queues what arrives from a socket, its end included.
func (c *conn) read(d Direction, from *net.TCPConn, queue chan<- packet) {
	buf := make([]byte, 32<<10)
	var busy time.Time // until then, by what was sent before
	for {
		n, err := from.Read(buf)
		c.link.mu.Lock()
		f := c.link.faults[d]
		c.link.mu.Unlock()
		due := f.due()
		if f.rate > 0 {
			if busy.Before(due) {
				busy = due
			}
			busy = busy.Add(time.Duration(n) * time.Second / time.Duration(f.rate))
			due = busy
		}
		if n > 0 && !c.queue(queue, packet{data: append([]byte(nil), buf[:n]...), due: due}) {
			return
		}
		if err != nil {
			c.queue(queue, packet{err: err, due: due})
			return
		}
	}
}

func (c *conn) queue(queue chan<- packet, p packet) bool {
	select {
	case queue <- p:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// next returns the next packet once it may be delivered; false when the connection has ended.
func (c *conn) next(d Direction, queue <-chan packet) (packet, bool) {
	var p packet
	select {
	case p = <-queue:
	case <-c.ctx.Done():
		return p, false
	}
	if wait := time.Until(p.due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return p, false
		}
	}
	for {
		c.link.mu.Lock()
		f, changed := c.link.faults[d], c.link.changed
		c.lost[d] = c.lost[d] || f.swallow || c.silent
		passes := !f.hold && !c.lost[d]
		c.link.mu.Unlock()
		if passes {
			return p, true
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return p, false
		}
	}
}

// deliver hands a packet to the receiver's socket; false when it was the last.
func (c *conn) deliver(p packet, to *net.TCPConn) bool {
	if errors.Is(p.err, io.EOF) {
		to.CloseWrite()
		return false
	}
	if p.err != nil {
		c.reset()
		return false
	}
	if _, err := to.Write(p.data); err != nil {
		c.reset()
		return false
	}
	return true
}
