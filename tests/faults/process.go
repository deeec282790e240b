package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// slot is a place for a client process: its own way to the cluster, and the process that is there now.
type slot struct {
	number  int
	proxies []*etcdtest.Proxy // one for each member
	now     *process          // the lane of the clients changes it, with campaign.mu held; other lanes read it with that
}

// process is a client process, seen from the parent.
type process struct {
	*incarnation
	cmd     *exec.Cmd
	in      *lines
	pipe    io.Closer
	idle    chan struct{} // closed when it says that nothing is under way any more
	gone    chan struct{} // closed when its last line was read and it has ended
	refused instant       // when it last told that its token had expired; listen's
}

// spawn starts a client process.
func (c *campaign) spawn(s *slot, number int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, clientCommand)
	cmd.Stderr = os.Stderr
	dieWithParent(cmd)
	cmd.ExtraFiles = []*os.File{c.life.in}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{
		incarnation: &incarnation{slot: s.number, number: number, ops: map[int]*operation{}},
		cmd:         cmd, in: newLines(in), pipe: in, idle: make(chan struct{}), gone: make(chan struct{}),
	}
	c.mu.Lock()
	c.incarnations = append(c.incarnations, p.incarnation)
	s.now = p
	c.mu.Unlock()
	go func() { // ends with the process
		defer close(p.gone)
		c.listen(p, out)
		cmd.Wait()
	}()
	var endpoints []string
	for _, proxy := range s.proxies {
		endpoints = append(endpoints, proxy.URL())
	}
	cfg := config{
		Subject: c.subject, Endpoints: endpoints, User: c.user, TTL: ttl, Timeout: timeout,
		Seed: c.seed<<16 + uint64(number), Value: fmt.Sprintf("p%d", number), Hot: c.hot, Cold: c.cold,
		Program: c.program(),
	}
	if number%2 == 1 && c.subject == ours {
		cfg.Prefix, cfg.Hot, cfg.Cold = prefix, below(prefix, c.hot), below(prefix, c.cold)
	}
	return p.in.write(order{Config: &cfg})
}

// below are names as a client with a prefix knows them.
func below(prefix string, names []string) (short []string) {
	for _, name := range names {
		short = append(short, strings.TrimPrefix(name, prefix))
	}
	return short
}

// listen takes in what a process tells, to the end.
func (c *campaign) listen(p *process, out io.Reader) {
	lines := json.NewDecoder(bufio.NewReaderSize(out, 1<<16))
	for {
		var r record
		if lines.Decode(&r) != nil {
			return // it was killed, perhaps in the middle of a line
		}
		accepted := c.history.add(p.incarnation, r)
		switch r.Kind {
		case wrote:
			p.in.write(order{Answer: r.Of, Accepted: accepted}) // its error is that it was killed
		case idle:
			close(p.idle)
		case refused:
			c.expired(p, r.At)
		}
	}
}

// kill ends a process as SIGKILL does.
func (c *campaign) kill(p *process) {
	select {
	case <-p.gone: // by itself
	default:
		c.history.kill(p.incarnation)
	}
	p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.gone
	p.pipe.Close()
}
