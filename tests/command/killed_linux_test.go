package command

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// guardOf returns the process that guards the command of a `locker run`.
func guardOf(t *testing.T, p *process) (pid int) {
	t.Helper()
	etcdtest.Eventually(t, "there is a guard", func() bool {
		all, err := filepath.Glob("/proc/[0-9]*/stat")
		require.NoError(t, err)
		for _, file := range all {
			stat, _ := os.ReadFile(file)
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			var parent int
			_, rest, _ := strings.Cut(string(stat), ") ")
			fmt.Sscanf(rest, "%s %d", new(string), &parent)
			if parent == p.Process.Pid && strings.Contains(string(cmdline), "guard-of-run") {
				pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(file)))
				return true
			}
		}
		return false
	})
	return pid
}

// Whatever becomes of `locker run`, no process of its command runs when another has the lock.
func TestKilled(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		command func(life) string
		strike  func(*testing.T, *process)
	}{
		"killed": {stubborn, func(t *testing.T, p *process) { require.NoError(t, p.Process.Kill()) }},
		"stopped": {stubborn, func(t *testing.T, p *process) {
			require.NoError(t, p.Process.Signal(unix.SIGSTOP))
		}},
		// The kernel is left to end the command.
		"killed, with a guard that hangs": {
			func(l life) string { return l.script() + "exec sleep 300" },
			func(t *testing.T, p *process) {
				guard := guardOf(t, p)
				require.NoError(t, unix.Kill(guard, unix.SIGSTOP))
				t.Cleanup(func() { unix.Kill(guard, unix.SIGKILL) })
				require.NoError(t, p.Process.Kill())
			},
		},
		// Here `locker run` itself has to end the command.
		"deprived of the lease, with a guard that is gone": {stubborn, func(t *testing.T, p *process) {
			require.NoError(t, unix.Kill(guardOf(t, p), unix.SIGKILL))
			p.network.Swallow()
		}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			n := etcdtest.NewNetwork(t, machines)
			l, name := newLife(t), etcdtest.NewName()
			p := start(t, n.Endpoints(), "run", "-ttl", "5s", name, "--", "sh", "-c", c.command(l))
			p.network = n
			etcdtest.ReceiveWithin(t, l.began, soon)
			taken := rival(t, name)
			c.strike(t, p)
			lead := leadOf(t, l, taken)
			t.Logf("the command was dead %v before another had the lock", lead)
			require.Positive(t, lead)
		})
	}
}

// What a command leaves behind in its group has ended before the lock is given back.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	l, name := newLife(t), etcdtest.NewName()
	p := start(t, machines, "run", name, "--", "sh", "-c", l.script()+"sleep 300 & sleep 1; exit 3")
	etcdtest.ReceiveWithin(t, l.began, soon)
	require.Positive(t, leadOf(t, l, rival(t, name)))
	require.Equal(t, 3, p.status(t))
}

// A command does not begin after the deadline of its locks, nor when `locker run` has gone.
func TestGate(t *testing.T) {
	var now unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	for what, c := range map[string]struct {
		input, says string
		status      int
	}{
		"in time":            {fmt.Sprintln(now.Nano() + int64(time.Hour)), "begun", 5},
		"too late":           {fmt.Sprintln(now.Nano()), "lost before sh began", 74},
		"without locker run": {"", "ended before sh began", 70},
	} {
		t.Run(what, func(t *testing.T) {
			gate := exec.Command(program, "gate-of-run", "0", "sh", "-c", "echo begun; exit 5")
			gate.Stdin = strings.NewReader(c.input)
			p := launch(t, gate, nil)
			require.Equal(t, c.status, p.status(t))
			require.Contains(t, p.all(t), c.says)
		})
	}
}

// childrenOf counts the processes that a process has started.
func childrenOf(p *process) (n int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
	for _, file := range tasks {
		children, _ := os.ReadFile(file)
		n += len(strings.Fields(string(children)))
	}
	return n
}

// A `locker run` that is stopped when its command is about to begin, and its guard may not know of it yet: the command does not
// begin, or has ended before another has the lock.
func TestStopped_AtTheStart(t *testing.T) {
	t.Parallel()
	for range 6 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			l, name := newLife(t), etcdtest.NewName()
			p := start(t, machines, "run", "-ttl", "5s", name, "--", "sh", "-c", stubborn(l))
			for childrenOf(p) < 2 { // the guard, and the other: it is a matter of a millisecond
				select {
				case <-p.ended:
					require.Fail(t, "it has ended")
				case <-time.After(100 * time.Microsecond):
				}
			}
			require.NoError(t, p.Process.Signal(unix.SIGSTOP))
			got := etcdtest.ReceiveWithin(t, rival(t, name), soon)
			select {
			case <-l.began:
				require.Positive(t, got.Sub(etcdtest.ReceiveWithin(t, l.over, soon)))
			default:
			}
			require.NoError(t, p.Process.Signal(unix.SIGCONT))
			require.Equal(t, 74, p.status(t))
		})
	}
}
