package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// mutexes are concurrency.Mutex of etcd's own client, used as its documentation says: a session for each owner, for two
// Mutexes of one session would both hold a lock. The owner believes in its lock until session.Done is closed.
type mutexes struct {
	cli     *clientv3.Client
	ttl     int64
	timeout time.Duration

	mu   sync.Mutex
	free []*concurrency.Session // that nobody uses; guarded by mu
}

type mutex struct {
	*concurrency.Mutex
	session *concurrency.Session
	given   *atomic.Bool // back
}

func newMutexes(cfg config, cli *clientv3.Client) (subject, error) {
	return &mutexes{cli: cli, ttl: seconds(cfg.TTL), timeout: cfg.Timeout}, nil
}

// session is one that nobody uses.
func (m *mutexes) session(ctx context.Context) (*concurrency.Session, error) {
	m.mu.Lock()
	for len(m.free) > 0 {
		s := m.free[0]
		m.free = m.free[1:]
		if alive(s) {
			m.mu.Unlock()
			return s, nil
		}
	}
	m.mu.Unlock()
	lease, err := m.cli.Grant(ctx, m.ttl)
	if err != nil {
		return nil, err
	}
	return concurrency.NewSession(m.cli, concurrency.WithLease(lease.ID))
}

func alive(s *concurrency.Session) bool {
	select {
	case <-s.Done():
		return false
	default:
		return true
	}
}

func (m *mutexes) put(s *concurrency.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = append(m.free, s)
}

func (m *mutexes) take(ctx context.Context, name string, take func(*concurrency.Mutex, context.Context) error) (grip, error) {
	s, err := m.session(ctx)
	if err != nil {
		return grip{}, err
	}
	x := concurrency.NewMutex(s, name)
	if err = take(x, ctx); err != nil {
		m.put(s)
		if errors.Is(err, concurrency.ErrLocked) {
			err = errDenied
		}
		return grip{}, err
	}
	given := new(atomic.Bool)
	held := func() bool { return !given.Load() && alive(s) }
	return grip{token: x.Header().Revision, held: held, exact: true, own: mutex{x, s, given}}, nil
}

func (m *mutexes) lock(name, _ string, _ <-chan bool) (grip, error) {
	ctx, cancel := context.WithTimeout(context.Background(), m.timeout)
	defer cancel()
	return m.take(ctx, name, (*concurrency.Mutex).TryLock)
}

func (m *mutexes) wait(ctx context.Context, name, _ string, _ <-chan bool) (grip, error) {
	return m.take(ctx, name, (*concurrency.Mutex).Lock)
}

func (m *mutexes) unlock(_ string, g grip) error {
	x := g.own.(mutex)
	x.given.Store(true)
	defer m.put(x.session)
	ctx, cancel := context.WithTimeout(context.Background(), m.timeout)
	defer cancel()
	return x.Unlock(ctx)
}

func (m *mutexes) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var closing sync.WaitGroup
	for _, s := range m.free {
		closing.Go(func() { s.Close() })
	}
	closing.Wait()
	return m.cli.Close()
}
