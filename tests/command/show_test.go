package command

import (
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// awaitList waits until `locker list -json` of a name prints a text.
func awaitList(t *testing.T, name, text string) {
	t.Helper()
	etcdtest.EventuallyWithin(t, soon, "the list has "+text, func() bool {
		p := start(t, machines, "list", "-json", name)
		return p.status(t) == 0 && strings.Contains(p.all(t), text)
	})
}

func TestListGetWatchRelease(t *testing.T) {
	t.Parallel()
	name, l := etcdtest.NewName(), newLife(t)
	watching := start(t, machines, "watch", "-json", name)
	watching.awaitOutput(t, `"held":false`)
	forPeople := start(t, machines, "watch", name)
	forPeople.awaitOutput(t, "is free")

	// Its value would do something to a terminal.
	p := start(t, machines, "run", "-value", "a\x1b[31mlien", "-ttl", "3s", name, "--", "sh", "-c", stubborn(l))
	etcdtest.ReceiveWithin(t, l.began, soon)
	watching.awaitOutput(t, `"value":"a\u001b[31mlien"`)
	forPeople.awaitOutput(t, `is held by "a\x1b[31mlien"`)
	next := start(t, machines, "run", "-value", "next", name, "--", "true")
	awaitList(t, name, `"waiters":[{"value":"next"`)

	get := start(t, machines, "get", name)
	require.Zero(t, get.status(t))
	require.Equal(t, `"a\x1b[31mlien"`, strings.TrimSpace(get.all(t)))
	list := start(t, machines, "list", name)
	require.Zero(t, list.status(t))
	require.Contains(t, list.all(t), "HOLDER")
	require.NotContains(t, list.all(t), "\x1b")

	refused := start(t, machines, "release", name)
	require.Equal(t, 64, refused.status(t))
	require.Contains(t, refused.all(t), "and 1 wait for it; nothing was done")
	taken := start(t, machines, "release", "-force", name)
	require.Zero(t, taken.status(t))
	require.Contains(t, taken.all(t), "lien")
	require.Zero(t, next.status(t))
	require.Equal(t, 74, p.status(t)) // its command ignores SIGTERM, and is killed as soon as the deletion is seen
	etcdtest.ReceiveWithin(t, l.over, soon)
	watching.awaitOutput(t, `"value":"next"`)
	require.NoError(t, watching.Process.Signal(unix.SIGTERM))
}
