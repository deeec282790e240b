package queue

import (
	"fmt"
	"net"
	"net/rpc"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Visit is one stay inside, as the visitor tells it.
type Visit struct {
	Who     string
	Token   int64
	At      int64 // the visitor's clock, in Unix nanoseconds: as soon as it has the lock, and just before it gives it back
	Counter int   // what it has made of the counter
	Lost    bool  // it does not hold the lock any more
}

// Store is what the lock guards: a counter that is read, and written back later. It stands outside etcd, and judges
// everybody who comes. Its exported methods are called by other processes.
type Store struct {
	missing sync.WaitGroup // processes that are not ready yet

	mu      sync.Mutex // guards all below
	inside  string
	token   int64
	left    int64
	counter int
	entered map[int64]string // by token
	turns   map[string]int
	faults  []string
}

// newStore serves a Store to that many processes, and returns where.
func newStore(t *testing.T, processes int) (*Store, string) {
	s := &Store{entered: map[int64]string{}, turns: map[string]int{}}
	s.missing.Add(processes)
	server := rpc.NewServer()
	require.NoError(t, server.Register(s))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go server.ServeConn(conn) // until the other process closes it, at its end at the latest
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-served
	})
	return s, listener.Addr().String()
}

// Ready is called once by each process; it returns when all have called.
func (s *Store) Ready(_, _ *struct{}) error {
	s.missing.Done()
	s.missing.Wait()
	return nil
}

// Enter is the beginning of a visit, and says what the counter is.
func (s *Store) Enter(v Visit, counter *int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.inside != "":
		s.fault("%s enters while %s is inside", v.Who, s.inside)
	case v.Token <= s.token:
		s.fault("%s enters with token %d after token %d", v.Who, v.Token, s.token)
	case v.At < s.left:
		s.fault("%s had the lock %d ns before the last one gave it back", v.Who, s.left-v.At)
	}
	s.inside, s.token = v.Who, v.Token
	s.entered[v.Token] = v.Who
	*counter = s.counter
	return nil
}

// Leave is the end of a visit.
func (s *Store) Leave(v Visit, _ *struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case v.Lost:
		s.fault("%s has lost the lock while it was inside", v.Who)
	case s.inside != v.Who:
		s.fault("%s leaves, but %q is inside", v.Who, s.inside)
	case v.Counter != s.counter+1:
		s.fault("%s writes %d over %d", v.Who, v.Counter, s.counter)
	}
	s.inside, s.left, s.counter = "", v.At, v.Counter
	s.turns[v.Who]++
	return nil
}

// fault notes what must not happen. mu is held.
func (s *Store) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// visitor is a process's way to the Store.
type visitor struct{ *rpc.Client }

func (v visitor) ready() error { return v.Call("Store.Ready", &struct{}{}, &struct{}{}) }

func (v visitor) enter(visit Visit) (counter int, err error) {
	err = v.Call("Store.Enter", visit, &counter)
	return counter, err
}

func (v visitor) leave(visit Visit) error { return v.Call("Store.Leave", visit, &struct{}{}) }
