package peers

import (
	"context"
	"errors"
	"testing"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// An owner takes locks in a session of its own.
type owner interface {
	lock(ctx context.Context, name string) (hold, error) // waits for it
	try(name string) (h hold, taken bool, err error)
}

// A hold is a lock that an owner has taken.
type hold struct {
	token  int64
	guard  clientv3.Cmp // holds in a transaction for as long as the lock is held
	done   <-chan struct{}
	held   func() bool // what the owner believes
	unlock func() error
}

// subjects make owners: locker, and its peer.
var subjects = map[string]func(t testing.TB, endpoints []string, ttl int) owner{
	"locker": func(t testing.TB, endpoints []string, ttl int) owner {
		return clientOwner{newClient(t, endpoints, 5, int64(ttl))}
	},
	"Mutex": func(t testing.TB, endpoints []string, ttl int) owner {
		return mutexOwner{newSession(t, endpoints, ttl)}
	},
}

// withEach runs a test with each subject.
func withEach(t *testing.T, test func(t *testing.T, subject string, newOwner func(t testing.TB, endpoints []string, ttl int) owner)) {
	t.Parallel()
	for subject, newOwner := range subjects {
		t.Run(subject, func(t *testing.T) {
			t.Parallel()
			test(t, subject, newOwner)
		})
	}
}

type clientOwner struct{ locker.Client }

func (o clientOwner) lock(ctx context.Context, name string) (hold, error) {
	r := o.LockWait(ctx, name, locker.DefaultValue, nil)
	return holdOf(r), r.Err
}

func (o clientOwner) try(name string) (hold, bool, error) {
	r := o.Lock(name, locker.DefaultValue, nil)
	return holdOf(r), r.Msg == locker.Success, r.Err
}

func holdOf(r locker.Report) hold {
	return hold{r.Token, r.Guard(), r.Done, r.Held, r.Unlock}
}

type mutexOwner struct{ *concurrency.Session }

func (o mutexOwner) lock(ctx context.Context, name string) (hold, error) {
	m := concurrency.NewMutex(o.Session, name)
	if err := m.Lock(ctx); err != nil {
		return hold{}, err
	}
	return o.holdOf(m), nil
}

func (o mutexOwner) try(name string) (hold, bool, error) {
	m := concurrency.NewMutex(o.Session, name)
	err := m.TryLock(o.Ctx())
	if errors.Is(err, concurrency.ErrLocked) {
		return hold{}, false, nil
	}
	if err != nil {
		return hold{}, false, err
	}
	return o.holdOf(m), true, nil
}

func (o mutexOwner) holdOf(m *concurrency.Mutex) hold {
	held := func() bool {
		select {
		case <-o.Done():
			return false
		default:
			return true
		}
	}
	unlock := func() error { return m.Unlock(o.Client().Ctx()) }
	return hold{m.Header().Revision, m.IsOwner(), o.Done(), held, unlock}
}

// outcome is how a lock that was waited for ended.
type outcome struct {
	hold
	err error
}

// startLock starts to wait for a lock.
func startLock(ctx context.Context, o owner, name string) <-chan outcome {
	turn := make(chan outcome, 1)
	go func() {
		h, err := o.lock(ctx, name)
		turn <- outcome{h, err}
	}()
	return turn
}
