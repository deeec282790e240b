package network

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

func isPlace(key string) bool { return strings.Contains(key, "/.waiting/") }

// calls counts the unary calls of an etcd client that have returned, or those of one method.
type calls struct {
	atomic.Int64
	method string // "": all
}

func (c *calls) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if c.method == "" || method == c.method {
			defer c.Add(1)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}

// watchStreams knows the member that serves the watches of an etcd client.
type watchStreams struct {
	mu      sync.Mutex // guards what follows
	addr    string     // of the last that has answered
	streams int        // that were opened
	created int        // watches, on all streams
}

func (w *watchStreams) option() grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil || method != "/etcdserverpb.Watch/Watch" {
			return s, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.streams++
		return &watchStream{s, w}, nil
	})
}

type watchStream struct {
	grpc.ClientStream
	all *watchStreams
}

func (s *watchStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	p, ok := peer.FromContext(s.Context())
	if err == nil && ok {
		s.all.mu.Lock()
		defer s.all.mu.Unlock()
		s.all.addr = p.Addr.String()
		if m.(*pb.WatchResponse).Created {
			s.all.created++
		}
	}
	return err
}

// opened is how many watches were opened.
func (w *watchStreams) opened() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.created
}

// moved is how often the watches have gone to another stream.
func (w *watchStreams) moved() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.streams - 1
}

// way is the way to the member that serves the watches; nil if none does yet.
func (w *watchStreams) way(n etcdtest.Network) *etcdtest.Proxy {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range n {
		if p.Addr() == w.addr {
			return p
		}
	}
	return nil
}
