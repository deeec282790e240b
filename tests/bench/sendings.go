package main

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
)

// sendings counts the requests that clients send for keys. One that is sent again is the same value in memory.
type sendings struct {
	all, first atomic.Int64
	known      sync.Map // of all requests: kept, so that none can have the address of another
}

// count sees each attempt, those of clientv3's own retries included.
func (s *sendings) count() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if strings.HasPrefix(method, "/etcdserverpb.KV/") {
			s.all.Add(1)
			if _, again := s.known.LoadOrStore(req, nil); !again {
				s.first.Add(1)
			}
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}
