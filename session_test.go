package locker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// All times here are those of a bubble of synctest, to the nanosecond. A bubble that a goroutine outlives panics.

// renewal is what a fakeLeases answers to renewals.
type renewal = func(ctx context.Context, stream int) (*pb.LeaseKeepAliveResponse, error)

// runSession runs a session until the end of the test.
func runSession(t *testing.T, ttl time.Duration, f *fakeLeases) (s *session, start time.Time) {
	return runSessionOn(t, new(fakeKV).newWire(t), ttl, f)
}

func runSessionOn(t *testing.T, w *wire, ttl time.Duration, f *fakeLeases) (s *session, start time.Time) {
	start = time.Now()
	s = newSession(t.Context(), w, f, ttl, func(*session) {})
	var running sync.WaitGroup
	running.Go(func() { s.run(5 * time.Second) })
	t.Cleanup(func() { // t.Context has ended
		running.Wait()
		require.False(t, s.alive())
	})
	return s, start
}

// lostAt is when a session is lost, and tells it, not a nanosecond earlier or later.
func lostAt(t *testing.T, s *session, start time.Time, at time.Duration) {
	t.Helper()
	time.Sleep(time.Until(start.Add(at - 1)))
	require.True(t, s.alive(), "lost early: %v", s.why())
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	require.True(t, isClosed(s.ctx.Done()), "not told")
	require.False(t, s.alive())
}

func TestDeadlineOfAGrant(t *testing.T) {
	answer := func(after time.Duration, ttl int64) func(context.Context, int) (*pb.LeaseGrantResponse, error) {
		return func(context.Context, int) (*pb.LeaseGrantResponse, error) {
			time.Sleep(after)
			return granted(ttl), nil
		}
	}
	then := func(first error, after time.Duration, second error) func(context.Context, int) (*pb.LeaseGrantResponse, error) {
		return func(ctx context.Context, n int) (*pb.LeaseGrantResponse, error) {
			switch {
			case n == 1 && first == nil:
				return never[*pb.LeaseGrantResponse](ctx)
			case n == 1:
				return nil, first
			}
			time.Sleep(after)
			return granted(5), second
		}
	}
	for _, c := range []struct {
		name  string
		ttl   time.Duration
		grant func(context.Context, int) (*pb.LeaseGrantResponse, error)
		lost  time.Duration
	}{
		{"as asked", 5 * time.Second, nil, 4500 * ms},
		{"long", time.Minute, nil, 54 * time.Second},
		{"the margin is at least 200 ms", time.Second, nil, 800 * ms},
		{"raised by the server", time.Second, answer(0, 2), 1800 * ms},
		{"counted from the sending", 5 * time.Second, answer(20*ms, 5), 4500 * ms},
		{"granted by the second try", 5 * time.Second, then(nil, 10*ms, nil), 4525 * ms},
		{"granted by the second try, after a fault", 5 * time.Second, then(rpctypes.ErrGRPCNoLeader, 10*ms, nil), 4510 * ms},
		{"granted to the first try, found by the second", 5 * time.Second, then(nil, 10*ms, rpctypes.ErrGRPCLeaseExist), 4500 * ms},
		{"granted to the first try, which failed", 5 * time.Second, then(rpctypes.ErrGRPCTimeout, 0, rpctypes.ErrGRPCLeaseExist), 4500 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeLeases{grant: c.grant, renew: func(ctx context.Context, _ int) (*pb.LeaseKeepAliveResponse, error) {
					return never[*pb.LeaseKeepAliveResponse](ctx)
				}}
				s, start := runSession(t, c.ttl, f)
				<-s.ready
				lostAt(t, s, start, c.lost)
				require.ErrorContains(t, s.why(), "the lease could not be renewed in time")
			})
		})
	}
}

func TestNoGrant(t *testing.T) {
	for _, c := range []struct {
		name  string
		grant func(context.Context, int) (*pb.LeaseGrantResponse, error)
		took  time.Duration
		errs  []error
	}{
		{"no answer", func(ctx context.Context, _ int) (*pb.LeaseGrantResponse, error) {
			return never[*pb.LeaseGrantResponse](ctx)
		},
			5 * time.Second, []error{context.DeadlineExceeded}},
		{"no quorum", func(context.Context, int) (*pb.LeaseGrantResponse, error) { return nil, rpctypes.ErrGRPCTimeout },
			5 * time.Second, []error{context.DeadlineExceeded, rpctypes.ErrTimeout}},
		{"no right", func(context.Context, int) (*pb.LeaseGrantResponse, error) { return nil, rpctypes.ErrGRPCAuthFailed },
			0, []error{rpctypes.ErrAuthFailed}},
		{"the answer is too late", func(ctx context.Context, n int) (*pb.LeaseGrantResponse, error) {
			if n > 1 {
				return never[*pb.LeaseGrantResponse](ctx)
			}
			time.Sleep(1800 * ms)
			return granted(2), nil
		}, 1800 * ms, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, start := runSession(t, 10*time.Second, &fakeLeases{grant: c.grant})
				<-s.ctx.Done()
				require.Equal(t, c.took, time.Since(start))
				synctest.Wait()
				require.False(t, isClosed(s.ready))
				for _, err := range c.errs {
					require.ErrorIs(t, s.why(), err)
				}
			})
		})
	}
}

// Renewals of a lease with a TTL of 6 s: the first two are due at 2 s and 4 s.
func TestDeadlineOfARenewal(t *testing.T) {
	// until answers like that before a moment, and never from then on.
	until := func(end time.Duration, answer func() (*pb.LeaseKeepAliveResponse, error)) func(time.Time) renewal {
		return func(start time.Time) renewal {
			return func(ctx context.Context, _ int) (*pb.LeaseKeepAliveResponse, error) {
				if time.Since(start) >= end {
					return never[*pb.LeaseKeepAliveResponse](ctx)
				}
				return answer()
			}
		}
	}
	good := func(after time.Duration, ttl int64, term uint64) func() (*pb.LeaseKeepAliveResponse, error) {
		return func() (*pb.LeaseKeepAliveResponse, error) { time.Sleep(after); return renewed(ttl, term), nil }
	}
	bad := func(err error) func() (*pb.LeaseKeepAliveResponse, error) {
		return func() (*pb.LeaseKeepAliveResponse, error) { return nil, err }
	}
	const always = time.Hour
	for _, c := range []struct {
		name   string
		answer func(time.Time) renewal
		lost   time.Duration
		cause  error
	}{
		{"renewed twice", until(5*time.Second, good(0, 6, 1)), 9400 * ms, nil},
		{"counted from the sending", until(5*time.Second, good(300*ms, 6, 1)), (2300 + 2000 + 5400) * ms, nil},
		{"the TTL grows", until(3*time.Second, good(0, 12, 1)), 12800 * ms, nil},
		{"the TTL shrinks", until(2200*ms, good(100*ms, 1, 1)), 2800 * ms, nil},
		{"a new leader", until(3*time.Second, good(0, 6, 2)), 7400 * ms, nil},
		{"a former leader", until(always, good(0, 6, 0)), 5400 * ms, errFormer},
		{"a former leader that knows no lease", until(always, good(0, 0, 0)), 5400 * ms, errFormer},
		{"the lease is gone", until(always, good(0, 0, 1)), 2000 * ms, rpctypes.ErrLeaseNotFound},
		{"the lease is gone, says a new leader", until(always, good(0, 0, 2)), 2000 * ms, rpctypes.ErrLeaseNotFound},
		{"no right", until(always, bad(rpctypes.ErrGRPCPermissionDenied)), 5400 * ms, rpctypes.ErrPermissionDenied},
		{"no token", until(always, bad(rpctypes.ErrGRPCInvalidAuthToken)), 5400 * ms, rpctypes.ErrInvalidAuthToken},
		{"no leader", until(always, bad(rpctypes.ErrGRPCNoLeader)), 5400 * ms, rpctypes.ErrNoLeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeLeases{renew: c.answer(time.Now())}
				s, start := runSession(t, 6*time.Second, f)
				<-s.ready
				if c.cause == rpctypes.ErrLeaseNotFound {
					<-s.ctx.Done()
					require.Equal(t, c.lost, time.Since(start))
				} else {
					lostAt(t, s, start, c.lost)
					require.Greater(t, f.renewals.Load(), int64(3), "it is tried to the end")
				}
				if c.cause != nil {
					require.ErrorIs(t, s.why(), c.cause)
				}
				if c.cause != rpctypes.ErrLeaseNotFound {
					require.NotErrorIs(t, s.why(), rpctypes.ErrLeaseNotFound)
				}
			})
		})
	}
}

// The clock's edge: the answer to the first renewal is held back until a moment about the deadline, which is 9 s.
func TestRenewalAtTheLastMoment(t *testing.T) {
	const deadline = 9 * time.Second
	for _, c := range []struct {
		name string
		at   time.Duration
		term uint64
	}{
		{"in time", deadline - 1, 1},
		{"in time, by a new leader", deadline - 1, 2},
		{"by a former leader", deadline - 1, 0},
		{"at the deadline", deadline, 1},
		{"too late", deadline + 1, 1},
		{"much too late", deadline + 200*ms, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var sent atomic.Int64 // the renewal that is answered
				s, _ := runSession(t, 10*time.Second, &fakeLeases{renew: func(ctx context.Context, stream int) (*pb.LeaseKeepAliveResponse, error) {
					now := time.Since(start)
					if now < c.at && stream == 1 {
						select {
						case <-time.After(c.at - now):
							sent.Store(int64(now))
							return renewed(10, c.term), nil
						case <-ctx.Done():
							return nil, ctx.Err()
						}
					}
					return never[*pb.LeaseKeepAliveResponse](ctx)
				}})
				if c.at >= deadline || c.term == 0 {
					lostAt(t, s, start, deadline)
					return
				}
				time.Sleep(time.Until(start.Add(c.at + 1)))
				lostAt(t, s, start, time.Duration(sent.Load())+deadline)
			})
		})
	}
}

// A term that a transaction has told of counts for renewals, too. A grant begins anew, for a quorum has agreed to it:
// the cluster was restored from a backup.
func TestTermOfATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, start := runSession(t, 6*time.Second, &fakeLeases{})
		<-s.ready
		require.True(t, s.w.seen(&pb.ResponseHeader{RaftTerm: 2}))
		lostAt(t, s, start, 5400*ms)
		require.ErrorIs(t, s.why(), errFormer)

		s, _ = runSessionOn(t, s.w, 6*time.Second, &fakeLeases{})
		time.Sleep(time.Minute)
		require.True(t, s.alive())
	})
}

// Beside a silent stream another is opened: after a sixteenth of the TTL, or an eighth where answers usually take longer.
func TestSilentStream(t *testing.T) {
	for _, c := range []struct{ usual, next time.Duration }{
		{0, 3*time.Second + 9*time.Second/16},
		{time.Second, 3*time.Second + 9*time.Second/8},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			second := make(chan time.Duration, 1)
			s, _ := runSession(t, 9*time.Second, &fakeLeases{renew: func(ctx context.Context, stream int) (*pb.LeaseKeepAliveResponse, error) {
				if stream == 1 {
					return never[*pb.LeaseKeepAliveResponse](ctx)
				}
				if stream == 2 {
					second <- time.Since(start)
				}
				return renewed(9, 1), nil
			}})
			s.w.usual.Store(int64(c.usual))
			<-s.ready
			s.w.usual.Store(int64(c.usual))
			require.Equal(t, c.next, <-second)
			require.True(t, s.alive())
		})
	}
}

// Two members of three are silent, and even the third answers once only: a lease must survive it.
func TestEveryThirdStreamAnswers(t *testing.T) {
	for _, ttl := range []int64{2, 5, 60} {
		synctest.Test(t, func(t *testing.T) {
			var answered sync.Map
			d := time.Duration(ttl) * time.Second
			f := &fakeLeases{renew: func(ctx context.Context, stream int) (*pb.LeaseKeepAliveResponse, error) {
				if _, again := answered.LoadOrStore(stream, true); again || stream%3 != 0 {
					return never[*pb.LeaseKeepAliveResponse](ctx)
				}
				return renewed(ttl, 1), nil
			}}
			s, _ := runSession(t, d, f)
			select {
			case <-s.ctx.Done():
				require.NoError(t, s.why(), "TTL %v", d)
			case <-time.After(20 * d):
			}
			require.Greater(t, f.streams.Load(), int64(60))
		})
	}
}

// One stream is enough as long as it answers, for three renewals in a TTL.
func TestRenewalsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLeases{}
		s, _ := runSession(t, 6*time.Second, f)
		time.Sleep(time.Minute + 1)
		require.True(t, s.alive())
		require.EqualValues(t, 30, f.renewals.Load())
		require.EqualValues(t, 1, f.streams.Load())
		require.EqualValues(t, 1, f.grants.Load())
	})
}

func TestHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, start := runSession(t, 6*time.Second, &fakeLeases{renew: func(context.Context, int) (*pb.LeaseKeepAliveResponse, error) {
			return renewed(0, 1), nil
		}})
		<-s.ready
		time.Sleep(100 * ms)
		s.hurry()
		s.hurry()
		<-s.ctx.Done()
		require.Equal(t, 100*ms, time.Since(start))
	})
}

// While a machine is suspended only CLOCK_BOOTTIME goes on: for a session that is a deadline on that clock which has
// come nearer. The loss must be seen at once, and be told within a second.
func TestSuspendedMachine(t *testing.T) {
	for _, c := range []struct {
		name        string
		after, jump time.Duration
		lost        bool
	}{
		{"short", 10 * time.Second, 30 * time.Second, false},
		{"long, after the grant", 10 * time.Second, 44 * time.Second, true},
		{"long, after renewals", 70 * time.Second, 44 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := runSession(t, time.Minute, &fakeLeases{})
				time.Sleep(c.after)
				require.True(t, s.alive())
				sent := now()
				s.boot.Store(int64(sent.boot + s.left() - c.jump))
				require.Equal(t, c.lost, s.passed())
				sent.boot -= c.jump
				require.Equal(t, c.lost, s.extend(sent, time.Minute) != nil, "by a renewal that was sent before, and is answered now")
				time.Sleep(time.Second)
				synctest.Wait()
				require.Equal(t, c.lost, isClosed(s.ctx.Done()), "told")
				require.Equal(t, c.lost, !s.alive())
			})
		})
	}
}

// Held is right at the deadline though no goroutine of the session gets to run, and tells the loss itself.
func TestHeldNeedsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		s := newSession(t.Context(), new(fakeKV).newWire(t), &fakeLeases{}, time.Second, func(*session) { told++ })
		require.NoError(t, s.extend(now(), 5*time.Second))
		synctest.Wait()
		require.True(t, s.watchdog.Stop())
		h := &hold{s: s}
		time.Sleep(4500*ms - 1)
		require.True(t, h.held())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.False(t, isClosed(s.ctx.Done()), "nobody has looked")
		require.False(t, h.held())
		require.True(t, isClosed(s.ctx.Done()))
		require.Equal(t, 1, told)
		require.ErrorIs(t, s.extend(now(), 5*time.Second), errLate, "lost is lost")
		s.lose(ErrClosed)
		require.False(t, s.alive())
		require.NotErrorIs(t, s.why(), ErrClosed)
	})
}

// Whoever was frozen for longer than the TTL, and gives back first of all, is told of the loss; it asks etcd nothing.
func TestUnlockAfterTheDeadline(t *testing.T) {
	var kv fakeKV
	c, s := newFakeCore(t, &kv)
	h := c.begin(&hold{s: s, name: "name", token: 1}, nil)
	s.mono.Store(int64(now().mono) - 1)
	require.ErrorIs(t, c.unlock("name"), ErrLost)
	require.Empty(t, kv.sent)
	<-h.done
}

// Held is false from the moment at which a session ends; all that ends with it is told a little later. What is given back
// between the two was lost: nothing is sent, which could let another have the lock at once.
func TestUnlockAtTheEndOfASession(t *testing.T) {
	var kv fakeKV
	c, s := newFakeCore(t, &kv)
	h := c.begin(&hold{s: s, name: "name", token: 1}, nil)
	s.end(rpctypes.ErrLeaseNotFound)
	require.False(t, h.held())
	require.ErrorIs(t, c.unlock("name"), ErrLost)
	require.Empty(t, kv.sent)
	<-h.done
	s.gone(s)
	require.ErrorIs(t, c.unlock("name"), ErrNotHeld)
}

// A session ends at once, whatever it is about to do, and waits for its stream.
func TestEndOfASession(t *testing.T) {
	frozen := &fakeLeases{grant: func(ctx context.Context, _ int) (*pb.LeaseGrantResponse, error) {
		return never[*pb.LeaseGrantResponse](ctx)
	}}
	silent := &fakeLeases{renew: func(ctx context.Context, _ int) (*pb.LeaseKeepAliveResponse, error) {
		defer time.Sleep(5 * ms)
		return never[*pb.LeaseKeepAliveResponse](ctx)
	}}
	failing := &fakeLeases{renew: func(context.Context, int) (*pb.LeaseKeepAliveResponse, error) { return nil, rpctypes.ErrGRPCTimeout }}
	for _, c := range []struct {
		name   string
		leases *fakeLeases
		after  time.Duration
		took   time.Duration
	}{
		{"granting", frozen, time.Second, 0},
		{"idle", &fakeLeases{}, 4500 * ms, 0},
		{"waiting for an answer", silent, 2500 * ms, 5 * ms},
		{"pausing", failing, 2500 * ms, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSession(t.Context(), new(fakeKV).newWire(t), c.leases, 6*time.Second, func(*session) {})
				over := make(chan struct{})
				go func() { s.run(5 * time.Second); close(over) }()
				time.Sleep(c.after)
				require.False(t, isClosed(s.ctx.Done()))
				start := time.Now()
				s.lose(ErrClosed)
				<-over
				require.Equal(t, c.took, time.Since(start))
				require.True(t, isClosed(s.ctx.Done()))
			})
		})
	}
}

// A lease is given back by a client that closes, also if it is lost meanwhile. One that was lost before is left to expire.
func TestLeaseIsGivenBack(t *testing.T) {
	for name, c := range map[string]struct {
		before, meanwhile bool // lost
		revokes           int64
	}{
		"closed":             {false, false, 1},
		"lost while closing": {false, true, 1},
		"lost before":        {true, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeLeases{}
				core, first := newFakeCore(t, new(fakeKV))
				core.leases, core.live = f, nil
				first.lose(ErrClosed)
				s, err := core.session(within(time.Second))
				require.NoError(t, err)
				if c.before {
					s.lose(rpctypes.ErrLeaseNotFound)
				}
				core.tasks.start(func() { // Close waits for it
					<-core.ctx.Done()
					synctest.Wait()
					if c.meanwhile {
						s.lose(rpctypes.ErrLeaseNotFound)
					}
				})
				require.NoError(t, core.close())
				require.Equal(t, c.revokes, f.revokes.Load())
			})
		})
	}
}

// An outage that ends just in time; the renewal that was sent first is answered first, as late as that.
func TestLateAnswerLeavesTimeForTheNext(t *testing.T) {
	for _, back := range []time.Duration{7900 * ms, 8000 * ms, 8050 * ms} {
		t.Run(fmt.Sprint(back), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s, _ := runSession(t, 9*time.Second, &fakeLeases{renew: func(ctx context.Context, stream int) (*pb.LeaseKeepAliveResponse, error) {
					if out := back - time.Since(start); out > 0 && time.Since(start) > 0 {
						select {
						case <-time.After(out + time.Duration(stream)*ms/10): // in the order of the sending
						case <-ctx.Done():
							return nil, ctx.Err()
						}
					} else {
						time.Sleep(60 * ms) // the network
					}
					return renewed(9, 1), nil
				}})
				select {
				case <-s.ctx.Done():
					require.NoError(t, s.why(), "lost %v after the network was back", time.Since(start)-back)
				case <-time.After(time.Minute):
				}
			})
		})
	}
}

// What requests have taken, in an election perhaps, does not make renewals wait for a member that is silent.
func TestPatienceOfRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLeases{renew: func(ctx context.Context, stream int) (*pb.LeaseKeepAliveResponse, error) {
			if stream == 1 { // one member of three
				return never[*pb.LeaseKeepAliveResponse](ctx)
			}
			return renewed(5, 1), nil
		}}
		w := new(fakeKV).newWire(t)
		var busy sync.WaitGroup
		for range 50 {
			busy.Go(func() {
				ask(within(5*time.Second), w, func(context.Context) (int, error) { time.Sleep(1500 * ms); return 0, nil })
			})
		}
		busy.Wait()
		s, _ := runSessionOn(t, w, 5*time.Second, f)
		select {
		case <-s.ctx.Done():
			require.NoError(t, s.why())
		case <-time.After(time.Minute):
		}
	})
}

// A Lock before the watchdog has noticed that the machine was suspended begins a new session.
func TestLockAfterASuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv fakeKV
		c, s := newFakeCore(t, &kv)
		c.leases = &fakeLeases{}
		ctx, cancel := context.WithCancel(t.Context())
		c.wireCtx = ctx
		defer func() { cancel(); c.sessions.Wait() }()
		time.Sleep(100 * ms)
		s.boot.Store(int64(now().boot - time.Second))
		r := Client{c}.Lock("name", "v", nil)
		require.NoError(t, r.Err)
		require.True(t, r.Held())
	})
}
