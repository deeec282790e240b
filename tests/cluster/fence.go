package main

import (
	"net"
	"sync"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// fence stands in front of every member's peer port. All members must know a member by one address, so one listener
// serves all that dial it; who dials is found out for each connection, which then goes through the link of that
// pair. No flag that every version of etcd knows tells the diallers apart.
type fence struct {
	members []*member
	links   [][]*etcdtest.Link // [from][to]
	out     []bool             // isolated; used by the main goroutine only
	fronts  []net.Listener
	accepts sync.WaitGroup // one goroutine for each front
}

// newFence makes the members' peer traffic pass through it.
func newFence(members []*member) (*fence, error) {
	f := &fence{members: members, out: make([]bool, len(members))}
	for range members {
		var row []*etcdtest.Link
		for _, to := range members {
			row = append(row, etcdtest.NewLink(to.peer))
		}
		f.links = append(f.links, row)
	}
	for to, m := range members {
		front, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			f.close()
			return nil, err
		}
		f.fronts = append(f.fronts, front)
		m.peerURL = "http://" + front.Addr().String()
		f.accepts.Go(func() { f.accept(front, to) })
	}
	return f, nil
}

func (f *fence) accept(front net.Listener, to int) {
	for {
		conn, err := front.Accept()
		if err != nil {
			return
		}
		from := -1
		if f.members[to].pid.Load() != 0 { // who dials one that is dead does so all the time, and it takes long to find out who it is
			from = dialler(conn, f.members)
		}
		if from >= 0 {
			f.links[from][to].Serve(conn.(*net.TCPConn))
			continue
		}
		conn.(*net.TCPConn).SetLinger(0) // refused, like by a port that nobody listens to
		conn.Close()
	}
}

// isolate cuts a member off from all others, both ways, or ends that.
func (f *fence) isolate(member int, out bool) {
	f.out[member] = out
	for from, row := range f.links {
		for to, link := range row {
			if f.out[from] || f.out[to] {
				link.Swallow()
			} else {
				link.Heal()
			}
		}
	}
}

func (f *fence) close() {
	for _, front := range f.fronts {
		front.Close()
	}
	f.accepts.Wait()
	for _, row := range f.links {
		for _, link := range row {
			link.Close()
		}
	}
}
