package etcdtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 10 * time.Second // far more than anything here takes

// server answers every byte with itself, and tells which it received.
type server struct {
	addr     string
	received chan byte
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String(), received: make(chan byte, 1<<20)}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				for buf := make([]byte, 1<<10); ; {
					n, err := c.Read(buf)
					for _, b := range buf[:n] {
						s.received <- b
					}
					if err != nil {
						return
					}
					c.Write(buf[:n])
				}
			})
		}
	})
	// Runs after the proxy's own clean-up, which ends its connections.
	t.Cleanup(func() { l.Close(); conns.Wait() })
	return s
}

func newProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got[:n], err, want)
	}
}

// expectSilence fails if the connection delivers anything, or ends, within a moment.
func expectSilence(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := c.Read(make([]byte, 1))
	var timeout net.Error
	if n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("got %d bytes, %v; want silence", n, err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
}

func expectReset(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %d bytes, %v; want a reset", n, err)
	}
}

func (s *server) expect(t *testing.T, want string) {
	t.Helper()
	for i := range len(want) {
		select {
		case b := <-s.received:
			if b != want[i] {
				t.Fatalf("the server received %q as byte %d; want %q", b, i, want)
			}
		case <-time.After(patience):
			t.Fatalf("the server has not received byte %d of %q", i, want)
		}
	}
}

func TestProxyPassesBothWaysAndItsEnd(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, "http://"+s.addr)
	if p.URL() != "http://"+p.Addr() {
		t.Fatalf("URL %q, Addr %q", p.URL(), p.Addr())
	}
	c := dial(t, p)
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	go c.Write(big)
	expect(t, c, string(big))
	c.(*net.TCPConn).CloseWrite()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("got %d bytes, %v; want the end", n, err)
	}
}

func TestSwallowToServer(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	send(t, c, "a")
	expect(t, c, "a")

	p.Swallow(ToServer)
	send(t, c, "b")
	expectSilence(t, c)
	p.Heal()
	expectReset(t, c)

	c = dial(t, p)
	send(t, c, "c")
	expect(t, c, "c")
	s.expect(t, "ac")
}

func TestSwallowToClient(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	p.Swallow(ToClient)
	c := dial(t, p)
	send(t, c, "a")
	s.expect(t, "a")
	expectSilence(t, c)
	send(t, c, "b") // still reaches the server, after an answer was lost
	s.expect(t, "b")
	expectSilence(t, c)
	p.Heal()
	expectReset(t, c)
}

func TestSwallowSparesConnectionsThatLostNothing(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	send(t, c, "a")
	expect(t, c, "a")
	p.Swallow()
	p.Heal()
	send(t, c, "b")
	expect(t, c, "b")
}

func TestSwallowNeedsNoTarget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p := newProxy(t, l.Addr().String())
	p.Swallow()
	c := dial(t, p)
	send(t, c, "a")
	expectSilence(t, c)
	p.Heal()
	expectReset(t, c)
	c = dial(t, p)
	send(t, c, "a")
	expectReset(t, c) // now it is the dead target that shows
}

func TestSwallowOpenSparesNewConnections(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	old, idle := dial(t, p), dial(t, p)
	for _, c := range []net.Conn{old, idle} {
		send(t, c, "a")
		expect(t, c, "a")
	}
	p.SwallowOpen()
	send(t, old, "b")
	expectSilence(t, old)
	fresh := dial(t, p)
	send(t, fresh, "c")
	expect(t, fresh, "c")
	p.Heal()
	expectReset(t, old)
	for _, c := range []net.Conn{idle, fresh} { // nothing was lost on these
		send(t, c, "d")
		expect(t, c, "d")
	}
	s.expect(t, "aacdd")
}

func TestHoldToServer(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	p.Hold(ToServer)
	c := dial(t, p)
	send(t, c, "a")
	send(t, c, "b")
	expectSilence(t, c)
	select {
	case b := <-s.received:
		t.Fatalf("the server received %q", b)
	default:
	}
	p.Heal()
	expect(t, c, "ab")
}

func TestHoldToClient(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	p.Hold(ToClient)
	send(t, c, "a")
	s.expect(t, "a")
	send(t, c, "b")
	s.expect(t, "b")
	expectSilence(t, c)
	p.Heal()
	expect(t, c, "ab")
	send(t, c, "c")
	expect(t, c, "c")
}

func TestHeldEndComesAfterHeal(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	p.Hold(ToServer)
	send(t, c, "a")
	c.(*net.TCPConn).CloseWrite()
	expectSilence(t, c)
	p.Heal()
	expect(t, c, "a")
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("got %v; want the end", err)
	}
}

func TestDelayKeepsTheFlow(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	send(t, c, ".")
	expect(t, c, ".")

	const delay, packets = 200 * time.Millisecond, 50
	p.Delay(delay)
	start := time.Now()
	for range packets {
		send(t, c, "x")
		time.Sleep(time.Millisecond) // paces the packets apart; nothing waits for it
	}
	expect(t, c, "x")
	if d := time.Since(start); d < 2*delay {
		t.Fatalf("the first answer came after %v; both ways together take %v", d, 2*delay)
	}
	expect(t, c, strings.Repeat("x", packets-1))
	// One after the other they would need 50 times 400 ms.
	if d := time.Since(start); d > packets*delay/2 {
		t.Fatalf("%d packets took %v: each waited for the one before", packets, d)
	}
}

func TestJitterKeepsTheOrder(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	const least, most = 20 * time.Millisecond, 60 * time.Millisecond
	p.Jitter(least, most)
	var sent string
	start := time.Now()
	for i := range 20 {
		packet := string(rune('a' + i))
		send(t, c, packet)
		s.expect(t, packet) // so that each is a packet of its own
		sent += packet
	}
	expect(t, c, sent)
	if d := time.Since(start); d < 21*least {
		t.Fatalf("20 packets and the last answer took %v; they need %v", d, 21*least)
	}
}

func TestThrottleQueues(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	const rate = 1000
	p.Throttle(rate, ToServer)
	sent := strings.Repeat("0123456789", 30)
	start := time.Now()
	for i := range len(sent) / 10 {
		send(t, c, sent[10*i:10*i+10])
	}
	s.expect(t, sent)
	if d, least := time.Since(start), time.Duration(len(sent))*time.Second/rate; d < least {
		t.Fatalf("%d bytes took %v; at %d bytes a second they need %v", len(sent), d, rate, least)
	}
}

func TestDelivered(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	told := p.Delivered("needle")
	p.Hold(ToServer)
	send(t, c, "hay needle hay")
	expectSilence(t, c)
	select {
	case <-told:
		t.Fatal("it is told before it is delivered")
	default:
	}
	p.Heal()
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("it is not told")
	}
	expect(t, c, "hay needle hay")
}

func TestCutAndRefuse(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.addr)
	c := dial(t, p)
	send(t, c, "a")
	expect(t, c, "a")
	p.Refuse()
	send(t, c, "b")
	expect(t, c, "b") // an old connection lives on
	p.Cut()
	expectReset(t, c)

	refused := func() error {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		return err
	}
	if err := refused(); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v; want a reset", err)
	}
	p.Heal()
	c = dial(t, p)
	send(t, c, "c")
	expect(t, c, "c")
}

func TestCloseLeavesNothing(t *testing.T) {
	s := newServer(t)
	for _, fault := range []func(*Proxy){
		func(*Proxy) {},
		func(p *Proxy) { p.Swallow() },
		func(p *Proxy) { p.Hold(ToClient) },
		func(p *Proxy) { p.Delay(time.Hour) },
	} {
		p, err := NewProxy(s.addr)
		if err != nil {
			t.Fatal(err)
		}
		idle, busy := dial(t, p), dial(t, p)
		send(t, busy, "a")
		expect(t, busy, "a")
		fault(p)
		send(t, busy, "b")
		p.Close()
		expectEnd(t, idle)
		expectEnd(t, busy)
		if _, err := net.Dial("tcp", p.Addr()); err == nil {
			t.Fatal("the proxy still listens")
		}
		awaitGone(t, "etcdtest.(*Link)", "etcdtest.(*conn)", "etcdtest.NewProxy")
	}
}

// expectEnd reads to the end of a connection, which must be there.
func expectEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v; want the end", err)
	}
}

// awaitGone waits until no goroutine runs, or was started by, one of the functions: one that has nothing left to do
// may still be on its last instructions, of whose end there is no event. So it looks again, within a bound.
func awaitGone(t *testing.T, functions ...string) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		all := string(stacks[:runtime.Stack(stacks, true)])
		left := slices.ContainsFunc(functions, func(f string) bool { return strings.Contains(all, f) })
		if !left {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines left:\n%s", all)
		}
	}
}
