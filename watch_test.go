package locker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watching starts a Watch; its result arrives on the second channel.
func watching(c Client, name string, quit <-chan bool) (<-chan string, <-chan error) {
	values, result := make(chan string), make(chan error, 1)
	go func() { result <- c.Watch(name, values, quit) }()
	return values, result
}

func TestWatch(t *testing.T) {
	t.Parallel()
	holder, c := newClient(t, 5, 5), newClient(t, 5, 5)
	name, quit := newName(), make(chan bool)
	values, result := watching(c, name, quit)
	require.Equal(t, "", receive(t, values, soon))
	for _, value := range []string{"one", "two", "two", "three"} {
		mustLock(t, holder, name, value, nil)
		require.Equal(t, value, receive(t, values, soon))
		require.NoError(t, holder.Unlock(name, nil))
		require.Equal(t, "", receive(t, values, soon))
	}
	mustLock(t, holder, name, "four", nil)
	require.Equal(t, "four", receive(t, values, soon))

	late, _ := watching(c, name, nil)
	require.Equal(t, "four", receive(t, late, soon), "the value is told first")
	send(t, quit, true)
	require.NoError(t, receive(t, result, soon))
}

// A lock that is handed on is never told to be free, and not at all if its value stays.
func TestWatchOfAHandOver(t *testing.T) {
	t.Parallel()
	holder, heir, c := newClient(t, 5, 5), newClient(t, 5, 5), newClient(t, 5, 5)
	name, etcd := newName(), etcdtest.Connect(t, machines)
	mustLock(t, holder, name, "equal", nil)
	values, _ := watching(c, name, nil)
	require.Equal(t, "equal", receive(t, values, soon))
	for _, value := range []string{"equal", "other"} {
		waiting := make(chan Report, 1)
		go func() { waiting <- heir.LockWait(t.Context(), name, value, nil) }()
		eventually(t, "it stands in the line", func() bool {
			return stored(t, etcd, placeKey(int64(heir.live[0].id), name)) != nil
		})
		require.NoError(t, holder.Unlock(name, nil))
		require.Equal(t, Success, receive(t, waiting, soon).Msg)
		holder, heir = heir, holder
	}
	require.Equal(t, "other", receive(t, values, soon))
	require.NoError(t, holder.Unlock(name, nil))
	require.Equal(t, "", receive(t, values, soon))
}

func TestWatchDelay(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := newName()
	values, _ := watching(c, name, nil)
	require.Equal(t, "", receive(t, values, soon))
	var delays []time.Duration
	for i := range 50 {
		put(t, etcd, name, fmt.Sprint(i))
		start := time.Now()
		require.Equal(t, fmt.Sprint(i), receive(t, values, soon))
		delays = append(delays, time.Since(start))
	}
	slices.Sort(delays)
	require.Less(t, delays[44], 200*time.Millisecond, "nine of ten: the machine may have other things to do")
}

func TestWatchWithASlowReader(t *testing.T) {
	t.Parallel()
	c, etcd := newClient(t, 5, 5), etcdtest.Connect(t, machines)
	name := newName()
	put(t, etcd, name, "start")
	slow, _ := watching(c, name, nil)
	fast, _ := watching(c, name, nil)
	require.Equal(t, "start", receive(t, slow, soon))
	const changes = 300
	go func() {
		for i := range changes {
			if i == changes/2 {
				etcd.Delete(t.Context(), name)
			}
			etcd.Put(t.Context(), name, fmt.Sprint(i))
		}
		etcd.Put(t.Context(), name, "end")
	}()
	for receive(t, fast, soon) != "end" {
	}
	var told []string
	for len(told) == 0 || told[len(told)-1] != "end" {
		told = append(told, receive(t, slow, soon))
	}
	require.Less(t, len(told), 20, "all values were kept")
	require.Contains(t, told, "", "it was free meanwhile")
}

// Watch ends at once, also while nobody receives what it has to tell.
func TestWatchEndsWhileBlocked(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Connect(t, machines)
	name := newName()
	put(t, etcd, name, "start")
	ends := map[string]func(c Client, quit chan bool, cancel func()){
		"value on quit": func(_ Client, quit chan bool, _ func()) { quit <- true },
		"quit closed":   func(_ Client, quit chan bool, _ func()) { close(quit) },
		"ctx":           func(_ Client, _ chan bool, cancel func()) { cancel() },
		"Close":         func(c Client, _ chan bool, _ func()) { go c.Close() },
	}
	for kind, end := range ends {
		var took []time.Duration
		for range 5 {
			ctx, cancel := context.WithCancel(context.Background())
			c, err := New(machines, 5, 5, ctx)
			require.NoError(t, err)
			quit := make(chan bool)
			values, result := watching(c, name, quit)
			beside, _ := watching(c, name, nil)
			receive(t, values, soon)
			receive(t, beside, soon)
			put(t, etcd, name, fmt.Sprint("nobody receives ", len(took)))
			receive(t, beside, soon)
			start := time.Now()
			end(c, quit, cancel)
			require.NoError(t, receive(t, result, soon))
			took = append(took, time.Since(start))
			cancel()
			require.NoError(t, c.Close())
		}
		slices.Sort(took)
		require.Less(t, took[2], 100*time.Millisecond, kind)
	}
}

// What is missed during an outage is told after it, though etcd has forgotten it: the newest value, and whether the lock
// was free meanwhile. One that was only handed on, with an equal value, is nothing to tell.
func TestWatchSurvivesCompaction(t *testing.T) {
	t.Parallel()
	endpoints := etcdtest.New(t, etcdtest.Options{Members: 1}).Endpoints()
	n, etcd := etcdtest.NewNetwork(t, endpoints), etcdtest.Connect(t, endpoints)
	c, name := clientAt(t, n.Endpoints(), 5, 5), newName()

	put(t, etcd, name, "before")
	values, result := watching(c, name, nil)
	require.Equal(t, "before", receive(t, values, soon))
	for _, outage := range []struct {
		freed bool
		value string // after it
		told  []string
	}{
		{false, "before", nil},
		{false, "handed on", []string{"handed on"}},
		{true, "handed on", []string{"", "handed on"}},
		{true, "after", []string{"", "after"}},
	} {
		n.Each((*etcdtest.Proxy).Refuse)
		n.Cut()
		put(t, etcd, name, "meanwhile")
		if outage.freed {
			remove(t, etcd, name)
		}
		_, err := etcd.Compact(t.Context(), put(t, etcd, name, outage.value), clientv3.WithCompactPhysical())
		require.NoError(t, err)
		n.Heal()
		for _, v := range outage.told {
			require.Equal(t, v, receive(t, values, soon), "%v", outage)
		}
	}
	put(t, etcd, name, "last")
	require.Equal(t, "last", receive(t, values, soon))
	require.Empty(t, result)
}

func TestBacklog(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		told    []string // before; nothing if it is the first
		changes []string // since then
		pending []string
	}{
		{nil, []string{""}, []string{""}},
		{nil, []string{"a"}, []string{"a"}},
		{nil, []string{"a", ""}, []string{"a", ""}},
		{[]string{"a"}, []string{"a"}, nil}, // handed on, with an equal value
		{[]string{"a"}, []string{""}, []string{""}},
		{[]string{"a"}, []string{"b"}, []string{"b"}},
		{[]string{"a"}, []string{"b", "b"}, []string{"b"}},
		{[]string{"a"}, []string{"b", "c", "d"}, []string{"d"}},
		{[]string{"a"}, []string{"b", "a"}, []string{"b", "a"}}, // changed hands and came back
		{[]string{"a"}, []string{"", "a"}, []string{"", "a"}},   // was free
		{[]string{"a"}, []string{"", "b", "c"}, []string{"", "c"}},
		{[]string{"a"}, []string{"b", "", "c", "", "a"}, []string{"", "a"}},
		{[]string{"a"}, []string{"b", "", "c", ""}, []string{""}},
		{[]string{""}, []string{"a", ""}, []string{"a", ""}}, // was locked
		{[]string{""}, []string{"a", "", "b"}, []string{"b"}},
		{[]string{"", "a"}, []string{"", "b"}, []string{"", "b"}},
	} {
		var b backlog
		for _, v := range test.told {
			b.add(v)
			b.told()
		}
		for _, v := range test.changes {
			b.add(v)
		}
		require.Equal(t, test.pending, append([]string(nil), b.pending...), test)
	}
}

// However changes and readings follow each other: the reader ends with the newest value, is never told the same twice,
// and gets to know when the lock was free or changed hands.
func TestBacklogHidesNoChange(t *testing.T) {
	t.Parallel()
	var walk func(b backlog, newest string, moved, freed bool, steps int)
	walk = func(b backlog, newest string, moved, freed bool, steps int) {
		require.LessOrEqual(t, len(b.pending), 2)
		last := b.last
		for i, v := range b.pending {
			require.False(t, (b.any || i > 0) && v == last, "told twice")
			last = v
		}
		require.Equal(t, newest, last)
		require.False(t, moved && len(b.pending) == 0, "it is not told that the lock changed hands")
		require.False(t, freed && b.last != "" && !slices.Contains(b.pending, ""), "it is not told that the lock was free")
		if steps == 0 {
			return
		}
		for _, v := range []string{"", "a", "b"} {
			next := b
			next.pending = slices.Clone(b.pending)
			next.add(v)
			walk(next, v, moved || b.any && v != b.last, freed || v == "", steps-1)
		}
		if len(b.pending) > 0 {
			b.told()
			walk(b, newest, len(b.pending) > 0, slices.Contains(b.pending, ""), steps-1)
		}
	}
	walk(backlog{}, "", false, false, 7)
}

// Watch has one timeout at its start, for all that it asks.
func TestWatchThatDoesNotBegin(t *testing.T) {
	t.Parallel()
	var silent atomic.Bool
	c := tapped(t, machines, 30, func(ctx context.Context, _, reply any, send sender) error {
		if silent.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		return send(ctx, reply)
	}, func(string, *clientv3.WatchResponse) { time.Sleep(900 * time.Millisecond) }) // nearly the timeout
	c.timeout = time.Second
	silent.Store(true)
	start := time.Now()
	require.ErrorIs(t, c.Watch(newName(), make(chan string), nil), context.DeadlineExceeded)
	require.Less(t, time.Since(start), time.Second+slack)
	silent.Store(false)
}

// A client with a password watches from before there were users: its stream has no token. It goes to another.
func TestWatchWhenAuthIsSwitchedOn(t *testing.T) {
	t.Parallel()
	endpoints := etcdtest.New(t, etcdtest.Options{Members: 1}).Endpoints()
	etcd := etcdtest.Connect(t, endpoints)
	_, err := etcd.RoleAdd(t.Context(), "root")
	require.NoError(t, err)
	_, err = etcd.UserAdd(t.Context(), "root", "secret")
	require.NoError(t, err)
	_, err = etcd.UserGrantRole(t.Context(), "root", "root")
	require.NoError(t, err)
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Username: "root", Password: "secret", Logger: etcd.GetLogger()})
	require.NoError(t, err)
	t.Cleanup(func() { cli.Close() })
	c, err := NewFromClient(context.Background(), cli, 5)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.usual.Store(int64(2 * time.Second)) // a busy machine is no silent member
	before, _ := watching(c, "before", nil)
	require.Equal(t, "", receive(t, before, soon))
	mustLock(t, c, "before", "v", nil)
	require.Equal(t, "v", receive(t, before, soon), "the watch is open")
	_, err = etcd.AuthEnable(t.Context())
	require.NoError(t, err)
	after, _ := watching(c, "after", nil)
	require.Equal(t, "", receive(t, after, soon))
	mustLock(t, c, "after", "v", nil)
	require.Equal(t, "v", receive(t, after, soon))
	require.Zero(t, c.late.Load())
	require.EqualValues(t, 1, c.stale.Load(), "one refusal is enough")
}

// A watch that is refused, for a reason that a reading does not share, is asked for again, but not at full speed.
func TestRefusedWatchIsNotAskedForAtFullSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newFakeCore(t, &fakeKV{})
		asked := 0
		c.cli.Watcher = fakeWatcher(func(context.Context) bool { asked++; return false })
		_, err := c.open(within(2*time.Second), "name")
		require.Error(t, err)
		require.InDelta(t, 2*time.Second/firstPause, asked, 1)
		require.Zero(t, c.late.Load(), "it was answered")
	})
}

// A stream is given up for want of an answer to a watch that had its time for it, and for no other.
func TestSilentStreamIsGivenUp(t *testing.T) {
	for within, want := range map[time.Duration]int64{maxPause - 1: 0, maxPause: 1, 2 * maxPause: 1, 4 * maxPause: 2} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := newFakeCore(t, &fakeKV{})
			c.cli.Watcher = fakeWatcher(func(ctx context.Context) bool { <-ctx.Done(); return false })
			_, err := c.open(bound{ctx: t.Context(), until: time.Now().Add(within)}, "name")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, want, c.late.Load(), within)
		})
	}
}

// fakeWatcher opens or refuses a watch when it returns. Nothing is to be seen there.
type fakeWatcher func(ctx context.Context) (open bool)

func (w fakeWatcher) Watch(ctx context.Context, _ string, _ ...clientv3.OpOption) clientv3.WatchChan {
	changes := make(chan clientv3.WatchResponse, 1)
	if w(ctx) {
		changes <- clientv3.WatchResponse{Created: true}
		context.AfterFunc(ctx, func() { close(changes) })
	} else {
		close(changes)
	}
	return changes
}

func (fakeWatcher) RequestProgress(context.Context) error { return nil }
func (fakeWatcher) Close() error                          { return nil }

// A Watch that begins again tells what it has missed, as far back as etcd knows it; where that is compacted, or etcd was
// restored from a backup, it tells what it can't rule out: that the lock was free.
func TestWatchThatBeginsAgain(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]struct {
		changes []string
		compact bool
		ahead   int64
		told    []string
	}{
		"nothing missed":         {told: nil},
		"handed over and back":   {changes: []string{"other", "one"}, told: []string{"other", "one"}},
		"freed":                  {changes: []string{""}, told: []string{""}},
		"freed, compacted":       {changes: []string{""}, compact: true, told: []string{""}},
		"taken anew":             {changes: []string{"", "one"}, told: []string{"", "one"}},
		"taken anew, compacted":  {changes: []string{"", "one"}, compact: true, told: []string{"", "one"}},
		"handed over, compacted": {changes: []string{"other", "third"}, compact: true, told: []string{"third"}},
		"restored":               {ahead: 1 << 40, told: []string{"", "one"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoints := etcdtest.New(t, etcdtest.Options{Members: 1}).Endpoints()
			etcd := etcdtest.Connect(t, endpoints)
			c, err := New(endpoints, 5, 60, context.Background())
			require.NoError(t, err)
			defer c.Close()
			rev := put(t, etcd, "name", "one")
			kv, _, err := c.read(within(soon), "name")
			require.NoError(t, err)
			o := &observed{at: rev + begin.ahead, kv: kv}
			for _, value := range begin.changes {
				if value == "" {
					_, err := etcd.Delete(t.Context(), "name")
					require.NoError(t, err)
				} else {
					put(t, etcd, "name", value)
				}
			}
			rev = put(t, etcd, "another", "v")
			if begin.compact {
				_, err := etcd.Compact(t.Context(), rev, clientv3.WithCompactPhysical())
				require.NoError(t, err)
			}
			seen := make(chan string)
			ctx, cancel := context.WithCancel(t.Context())
			var observer sync.WaitGroup
			observer.Go(func() {
				for ctx.Err() == nil {
					c.observeOnce(ctx, "name", seen, o)
				}
			})
			defer observer.Wait()
			defer cancel()
			for _, value := range begin.told {
				require.Equal(t, value, receive(t, seen, soon))
			}
			put(t, etcd, "name", "last")
			require.Equal(t, "last", receive(t, seen, soon), "nothing else was told before")
		})
	}
}
