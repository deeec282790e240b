package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// openStream has the streams of watches fall silent when the parent says so.
func (c *client) openStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer,
	opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil || method != "/etcdserverpb.Watch/Watch" {
		return s, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return watching{s, c.silence}, nil
}

// watching is a stream of watches, which receives nothing any more once silence is closed.
type watching struct {
	grpc.ClientStream
	silence <-chan struct{}
}

func (w watching) RecvMsg(m any) error {
	err := w.ClientStream.RecvMsg(m)
	select {
	case <-w.silence:
		<-w.Context().Done()
		return status.FromContextError(w.Context().Err()).Err()
	default:
		return err
	}
}
