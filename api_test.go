package locker_test

import (
	"context"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker"
)

// What this library has beside the API of the fork. It compiles as long as programs that use it do.
var (
	_ = func(ctx context.Context, cli *clientv3.Client) (locker.Client, error) {
		return locker.NewFromClient(ctx, cli, 15)
	}

	_ func(context.Context, *clientv3.Client, int64, ...locker.Option) (locker.Client, error) = locker.NewFromClient
	_ func([]string, time.Duration) clientv3.Config                                           = locker.Config
	_ func(string) locker.Option                                                              = locker.WithPrefix
	_ func(time.Duration) locker.Option                                                       = locker.WithTimeout
	_ func(*slog.Logger) locker.Option                                                        = locker.WithLogger

	_ func(locker.Client, context.Context, string, string, <-chan bool) locker.Report                        = locker.Client.LockWait
	_ func(locker.Client, context.Context, string, string, func(context.Context, int64) error) error         = locker.Client.Do
	_ func(locker.Client, context.Context, string, string, func(context.Context, int64) error) (bool, error) = locker.Client.TryDo
	_ func(locker.Client, context.Context, []string, string, func(context.Context, []int64) error) error     = locker.Client.DoAll
	_ func(locker.Client, context.Context, string, string, func(context.Context, int64) error) error         = locker.Client.Lead
	_ func(locker.Client, context.Context, string) ([]locker.Holder, error)                                  = locker.Client.Holders
	_ func(locker.Client) locker.Stats                                                                       = locker.Client.Stats
	_ func(locker.Client) error                                                                              = locker.Client.Close

	_ func(locker.Report) bool                                                   = locker.Report.Held
	_ func(locker.Report) error                                                  = locker.Report.Cause
	_ func(locker.Report) time.Duration                                          = locker.Report.Remaining
	_ func(locker.Report) error                                                  = locker.Report.Unlock
	_ func(locker.Report) clientv3.Cmp                                           = locker.Report.Guard
	_ func(locker.Report, context.Context) (context.Context, context.CancelFunc) = locker.Report.Context
	_                                                                            = locker.Report{Token: 1, Done: make(<-chan struct{})}

	_ = []error{locker.ErrNotHeld, locker.ErrLost, locker.ErrReleased, locker.ErrClosed, locker.ErrNoAnswer, locker.ErrInvalidName, locker.ErrInvalidValue}
	_ = [locker.MaxName + locker.MaxValue]struct{}{}
)
