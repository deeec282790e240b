package locker_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/PumpkinSeed/locker"
)

// locks is what the shop needs of a locker.Client. A test gives it something else.
type locks interface {
	LockWait(ctx context.Context, name, value string, quit <-chan bool) locker.Report
}

type shop struct{ locks locks }

func (s shop) ship(ctx context.Context, order string, pack func(context.Context) error) error {
	report := s.locks.LockWait(ctx, "orders/"+order, "worker 7", nil)
	if report.Err != nil {
		return report.Err
	}
	ctx, cancel := report.Context(ctx)
	defer cancel()
	return errors.Join(pack(ctx), report.Unlock())
}

var _ = shop{locks: locker.Client{}}

// fakeLocks gives locks without etcd. Closing done is the loss of the one that was taken last.
type fakeLocks struct{ done chan struct{} }

func (f *fakeLocks) LockWait(context.Context, string, string, <-chan bool) locker.Report {
	f.done = make(chan struct{})
	return locker.Report{Msg: locker.Success, Token: 1, Done: f.done}
}

// A Report that was made by hand follows its Done, so services can be tested without etcd.
func Example_withoutEtcd() {
	fake := &fakeLocks{}
	err := shop{fake}.ship(context.Background(), "7", func(context.Context) error { return nil })
	fmt.Println("shipped:", err)

	err = shop{fake}.ship(context.Background(), "8", func(ctx context.Context) error {
		close(fake.done) // the lock is lost in the middle of the work
		<-ctx.Done()
		return context.Cause(ctx)
	})
	fmt.Println("lost:", errors.Is(err, locker.ErrLost))
	// Output:
	// shipped: <nil>
	// lost: true
}
