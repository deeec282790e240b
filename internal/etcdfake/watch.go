package etcdfake

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// SilentWatch takes watches and answers nothing.
type SilentWatch struct{}

// Watch implements pb.WatchClient.
func (SilentWatch) Watch(ctx context.Context, _ ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	return silentStream{ctx: ctx}, nil
}

type silentStream struct {
	grpc.ClientStream
	ctx context.Context
}

func (silentStream) CloseSend() error { return nil }

func (silentStream) Send(*pb.WatchRequest) error { return nil }

func (s silentStream) Recv() (*pb.WatchResponse, error) { return Never[*pb.WatchResponse](s.ctx) }
