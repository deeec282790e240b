package locker

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
)

// island is a part of etcd's keys where nobody else writes, so that the names in it may be anything.
type island struct {
	etcd   *clientv3.Client
	prefix string
	a, b   Client
}

func newIsland(t testing.TB) *island {
	t.Helper()
	i := &island{etcd: etcdtest.Connect(t, machines), prefix: newName() + ":"}
	inner := etcdtest.Connect(t, machines)
	inner.KV = namespace.NewKV(inner.KV, i.prefix)
	inner.Watcher = namespace.NewWatcher(inner.Watcher, i.prefix)
	inner.Lease = namespace.NewLease(inner.Lease, i.prefix)
	for _, c := range []*Client{&i.a, &i.b} {
		var err error
		*c, err = NewFromClient(context.Background(), inner, 30)
		require.NoError(t, err)
		calm(*c) // what is sent twice may be applied late
		t.Cleanup(func() { require.NoError(t, c.Close()) })
	}
	return i
}

// keys are all that is written there.
func (i *island) keys(t testing.TB) []string {
	t.Helper()
	resp, err := i.etcd.Get(t.Context(), i.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	require.NoError(t, err)
	keys := []string{}
	for _, kv := range resp.Kvs {
		keys = append(keys, strings.TrimPrefix(string(kv.Key), i.prefix))
	}
	return keys
}

// Whatever two locks are called, they have nothing to do with each other, and write the keys that they may write and no
// others.
func FuzzName(f *testing.F) {
	f.Fuzz(func(t *testing.T, one, other string) {
		i := newIsland(t)
		if one == other {
			other += "'"
		}
		for _, name := range []string{one, other} {
			// Reserved is also what would become so with a slash: the line for it would lie in another's.
			if name == "" || strings.Contains(name+"/", waiting) {
				for _, what := range []string{"Lock", "LockWait", "Do", "Unlock", "Get", "Inspect", "Watch"} { // Lock first: it does not wait
					require.ErrorIs(t, calls[what](i.a, name, DefaultValue), ErrInvalidName, "%s %q", what, name)
				}
				require.Empty(t, i.keys(t))
				return
			}
		}
		mustLock(t, i.a, one, "of a", nil)
		require.Equal(t, Success, i.b.Inspect(other).Msg)
		mustLock(t, i.a, other, "of a", nil)
		require.ElementsMatch(t, []string{one, other}, i.keys(t))

		waiter := make(chan Report, 1)
		go func() { waiter <- i.b.LockWait(t.Context(), other, "of b", nil) }()
		place := placeKey(int64(i.b.live[0].id), other)
		eventually(t, "it stands in the line", func() bool { return slices.Contains(i.keys(t), place) })
		require.ElementsMatch(t, []string{one, other, place}, i.keys(t))

		require.NoError(t, i.a.Unlock(one, nil))
		require.ElementsMatch(t, []string{other, place}, i.keys(t), "the lock of the one, or the line for the other")
		require.NoError(t, i.a.Unlock(other, nil))
		require.Equal(t, Success, receive(t, waiter, soon).Msg)
		require.Equal(t, []string{other}, i.keys(t))
		mustLock(t, i.a, one, "of a", nil)
		require.NoError(t, i.b.Unlock(other, nil))
		require.Equal(t, []string{one}, i.keys(t))
		require.NoError(t, i.a.Unlock(one, nil))
		require.Empty(t, i.keys(t))
	})
}

// A value comes back as it was given, byte by byte.
func FuzzValue(f *testing.F) {
	f.Fuzz(func(t *testing.T, value, next string) {
		i := newIsland(t)
		const name = "name"
		if value == "" {
			for _, what := range []string{"Lock", "LockWait", "Do"} {
				require.ErrorIs(t, calls[what](i.a, name, value), ErrInvalidValue, what)
			}
			require.Empty(t, i.keys(t))
			return
		}
		mustLock(t, i.a, name, value, nil)
		got, err := i.b.Get(name)
		require.NoError(t, err)
		require.Equal(t, value, got)
		quit := make(chan bool)
		values, watched := watching(i.b, name, quit)
		require.Equal(t, value, receive(t, values, soon))
		require.Equal(t, []string{name}, i.keys(t))
		if next != "" && next != value { // handed over, it is still what the waiter gave
			waiter := make(chan Report, 1)
			go func() { waiter <- i.b.LockWait(t.Context(), name, next, nil) }()
			eventually(t, "it stands in the line", func() bool { return len(i.keys(t)) == 2 })
			require.NoError(t, i.a.Unlock(name, nil))
			require.Equal(t, Success, receive(t, waiter, soon).Msg)
			require.Equal(t, next, receive(t, values, soon))
			require.NoError(t, i.b.Unlock(name, nil))
		} else {
			require.NoError(t, i.a.Unlock(name, nil))
		}
		require.Equal(t, "", receive(t, values, soon))
		close(quit)
		require.NoError(t, receive(t, watched, soon))
		require.Empty(t, i.keys(t))
	})
}

// Whatever changes and however slow the reader: what it is told comes in order, never twice, never more than two values
// behind, and does not hide that the lock was free or changed hands.
//
// A byte is a change to a value, to "", or the reader that takes what is next.
func FuzzBacklog(f *testing.F) {
	const take = 4
	values := [take]string{"", "a", "b", "c"}
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), 100)] // a longer one shows no more, and takes long
		var b backlog
		var changes, told []string
		var since []string // the changes that the reader could not know of when it last was up to date
		for _, step := range append(slices.Clone(script), take, take) {
			if op := step % (take + 1); op < take {
				b.add(values[op])
				changes, since = append(changes, values[op]), append(since, values[op])
			} else if len(b.pending) > 0 {
				told = append(told, b.pending[0])
				b.told()
				if len(b.pending) == 0 {
					since = nil
				}
			}
			require.LessOrEqual(t, len(b.pending), 2)
			ahead := append(slices.Clone(told), b.pending...)
			if len(changes) == 0 {
				require.Empty(t, ahead)
				continue
			}
			require.Equal(t, changes[len(changes)-1], ahead[len(ahead)-1], "the newest value comes last")
			require.Len(t, slices.Compact(slices.Clone(ahead)), len(ahead), "told twice")
			rest := changes
			for _, v := range ahead {
				at := slices.Index(rest, v)
				require.GreaterOrEqual(t, at, 0, "%q are not told in order: %q", changes, ahead)
				rest = rest[at+1:]
			}
			if free := slices.Contains(since, ""); free && b.last != "" {
				require.Contains(t, b.pending, "", "it is hidden that the lock was free")
			}
			if moved := b.any && slices.ContainsFunc(since, func(v string) bool { return v != b.last }); moved {
				require.NotEmpty(t, b.pending, "it is hidden that the lock changed hands")
			}
		}
		require.Empty(t, b.pending)
	})
}

// What is too large for etcd meets an error, leaves nothing, and is nobody else's trouble.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	i := newIsland(t)
	for _, size := range []int{200 << 10, 300 << 10, 400 << 10, 500 << 10, 600 << 10, 1 << 20, 2 << 20, 4 << 20} {
		huge := strings.Repeat("x", size)
		for what, name := range map[string]string{"name": huge, "value": newName()} {
			value := DefaultValue
			if what == "value" {
				value = huge
			}
			locked := i.a.Lock(name, value, nil)
			if locked.Msg != Success {
				require.ErrorContains(t, locked.Err, "large", "%s of %d bytes", what, size)
				require.Greater(t, size, 400<<10, what)
			} else {
				require.NoError(t, i.a.Unlock(name, nil), "%s of %d bytes", what, size)
			}
			require.Empty(t, i.keys(t), "%s of %d bytes", what, size)

			waited := i.a.LockWait(t.Context(), name, value, nil)
			require.Equal(t, locked.Msg, waited.Msg, "%s of %d bytes", what, size)
			if waited.Msg == Success {
				require.NoError(t, i.a.Unlock(name, nil), "%s of %d bytes", what, size)
			} else {
				require.ErrorContains(t, waited.Err, "large", "%s of %d bytes", what, size)
			}
			eventually(t, "nothing is left", func() bool { return len(i.keys(t)) == 0 })
		}
	}
	require.ErrorContains(t, i.a.Lock("name", strings.Repeat("x", 4<<20), nil).Err, "large")
}

// He who waits with a value that is too large is refused when it is his turn; the holder does not notice.
func TestTooLargeToInherit(t *testing.T) {
	t.Parallel()
	i := newIsland(t)
	for kind, waiter := range map[string]Client{"the same client": i.a, "another client": i.b} {
		t.Run(kind, func(t *testing.T) {
			const name = "name"
			mustLock(t, i.a, name, DefaultValue, nil)
			reports := make(chan Report, 1)
			go func() { reports <- waiter.LockWait(t.Context(), name, strings.Repeat("x", 4<<20), nil) }()
			if waiter == i.a {
				eventually(t, "it waits for the seat", func() bool {
					i.a.mu.Lock()
					defer i.a.mu.Unlock()
					return len(i.a.seats[name].line) == 1
				})
			} else {
				require.ErrorContains(t, receive(t, reports, soon).Err, "large")
			}
			require.NoError(t, i.a.Unlock(name, nil))
			if waiter == i.a {
				require.ErrorContains(t, receive(t, reports, soon).Err, "large")
			}
			eventually(t, "nothing is left", func() bool { return len(i.keys(t)) == 0 })
			mustLock(t, i.b, name, DefaultValue, nil)
			require.NoError(t, i.b.Unlock(name, nil))
		})
	}
}
