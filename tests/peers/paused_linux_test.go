package peers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// With this in the environment, naming a subject, TestPausedHolder is a process that holds a lock.
const asHolder = "LOCKER_TEST_HOLDER"

// holdForParent takes a lock, says its token, waits for a line, and says whether it still believes in the lock.
func holdForParent(t testing.TB, subject string) {
	o := subjects[subject](t, machines, 2)
	h, err := o.lock(context.Background(), os.Getenv("LOCKER_TEST_NAME"))
	require.NoError(t, err)
	fmt.Println("token", h.token)
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	require.NoError(t, err)
	fmt.Println("held", h.held())
}

// A register is a number outside etcd. It may be told to refuse whoever comes with a token lower than it has seen.
type register struct {
	value   int
	highest int64
	fenced  bool
}

func (r *register) write(token int64, value int) (written bool) {
	if r.fenced && token < r.highest {
		return false
	}
	r.value, r.highest = value, max(r.highest, token)
	return true
}

// A process takes the lock, and reads the registers; it is stopped until somebody else has the lock and has written to
// them; then it writes what it had in mind. A register that knows no tokens loses the other's write, whatever the lock; one
// that does refuses the late one. And a holder of ours that looks first knows, the moment it goes on, that it may not.
func TestPausedHolder(t *testing.T) {
	if subject := os.Getenv(asHolder); subject != "" {
		holdForParent(t, subject)
		return
	}
	withEach(t, func(t *testing.T, subject string, newOwner func(testing.TB, []string, int) owner) {
		name := etcdtest.NewName()
		blind, fenced := register{}, register{fenced: true}
		process, stdin, lines := startHolder(t, subject, name)
		late := say[int64](t, lines, "token")
		read := blind.value

		require.NoError(t, process.Signal(syscall.SIGSTOP))
		h := etcdtest.Receive(t, startLock(t.Context(), newOwner(t, machines, 60), name))
		require.NoError(t, h.err)
		require.Greater(t, h.token, late)
		for _, r := range []*register{&blind, &fenced} {
			require.True(t, r.write(h.token, r.value+1))
		}
		_, err := io.WriteString(stdin, "go on\n") // first, so that it looks before anything has reached it
		require.NoError(t, err)
		require.NoError(t, process.Signal(syscall.SIGCONT))
		held := say[bool](t, lines, "held")
		t.Log("believes in its lock after the pause:", held)
		if subject == "locker" {
			require.False(t, held)
		}
		require.True(t, blind.write(late, read+1))
		require.Equal(t, 1, blind.value, "of two writes, one is lost")
		require.False(t, fenced.write(late, read+1))
		require.Equal(t, h.token, fenced.highest)
		require.NoError(t, h.unlock())
	})
}

// startHolder starts this program as the process that holds a lock; the test ends it.
func startHolder(t testing.TB, subject, name string) (*os.Process, io.Writer, *bufio.Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // bounds say, too
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestPausedHolder$")
	cmd.Env = append(os.Environ(), asHolder+"="+subject, "LOCKER_TEST_NAME="+name, "LOCKER_ENDPOINTS="+strings.Join(machines, ","))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel() // kills it
		cmd.Wait()
	})
	return cmd.Process, stdin, bufio.NewReader(stdout)
}

// say is what the process says under that heading.
func say[T any](t testing.TB, lines *bufio.Reader, heading string) (v T) {
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		if text, ok := strings.CutPrefix(line, heading+" "); ok {
			_, err := fmt.Sscan(text, &v)
			require.NoError(t, err)
			return v
		}
	}
}
