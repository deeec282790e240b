package command

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func (p *process) awaitOutput(t *testing.T, text string) {
	t.Helper()
	etcdtest.EventuallyWithin(t, soon, "it prints "+text, func() bool { return strings.Contains(p.output.String(), text) })
}

// Signals go to the command and to all that it has started in its group.
func TestSignals(t *testing.T) {
	t.Parallel()
	for s, name := range map[syscall.Signal]string{
		unix.SIGINT: "INT", unix.SIGTERM: "TERM", unix.SIGHUP: "HUP", unix.SIGQUIT: "QUIT", unix.SIGUSR1: "USR1", unix.SIGUSR2: "USR2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, machines, "run", etcdtest.NewName(), "--", "bash", "-c",
				fmt.Sprintf(`trap 'echo outer' %[1]s; bash -c 'trap "echo inner; exit" %[1]s; echo ready; while :; do sleep 0.05; done'; exit 9`, name))
			p.awaitOutput(t, "ready")
			require.NoError(t, p.Process.Signal(s))
			require.Equal(t, 9, p.status(t))
			require.Contains(t, p.all(t), "outer")
			require.Contains(t, p.all(t), "inner")
		})
	}
}

// A signal ends the wait for a lock, and nothing is left of it.
func TestSignals_Waiting(t *testing.T) {
	t.Parallel()
	name, l := etcdtest.NewName(), newLife(t)
	start(t, machines, "run", name, "--", "sh", "-c", l.script()+"sleep 300")
	etcdtest.ReceiveWithin(t, l.began, soon)
	p := start(t, machines, "run", "-value", "second", name, "--", "echo", "never")
	awaitList(t, name, `"waiters":[{"value":"second"`)
	require.NoError(t, p.Process.Signal(unix.SIGTERM))
	require.Equal(t, 128+15, p.status(t))
	require.Empty(t, p.all(t))
	awaitList(t, name, `"waiters":[]`)
}

// nohup's SIGHUP is ignored by the command, too.
func TestSignals_Ignored(t *testing.T) {
	t.Parallel()
	p := launch(t, exec.Command("sh", "-c", `trap '' HUP; exec "$0" run "$1" -- sh -c 'echo ready; sleep 0.5; kill -HUP $$; echo unharmed'`,
		program, etcdtest.NewName()), machines)
	p.awaitOutput(t, "ready")
	require.NoError(t, p.Process.Signal(unix.SIGHUP))
	require.Zero(t, p.status(t))
	require.Contains(t, p.all(t), "unharmed")
}

// The terminal is the command's: it reads what is typed, and gets Ctrl-C, and Ctrl-Z can't suspend it. Afterwards the terminal is
// the shell's again.
func TestTerminal(t *testing.T) {
	t.Parallel()
	master, slave := newTerminal(t)
	awake := filepath.Join(t.TempDir(), "awake")
	cmd := exec.Command("bash", "-c", `"$0" run "$1" -- bash -c '
		trap "echo interrupted; exit 5" INT
		echo started; until [ -e "$0" ]; do sleep 0.05; done
		read line; echo "command read $line"
		while :; do sleep 0.05; done' "$2"
		echo "status $?"; read line; echo "shell read $line"`, program, etcdtest.NewName(), awake)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := launch(t, cmd, machines)
	p.output.read(master)
	slave.Close()
	write := func(text string) {
		_, err := master.WriteString(text)
		require.NoError(t, err)
	}
	p.awaitOutput(t, "started")
	write("\x1a") // before the command has asked for the terminal
	p.awaitOutput(t, "can't be suspended")
	require.NoError(t, os.WriteFile(awake, nil, 0o600))
	write("one\n")
	p.awaitOutput(t, "command read one")
	write("\x03")
	p.awaitOutput(t, "interrupted")
	p.awaitOutput(t, "status 5")
	write("two\n")
	p.awaitOutput(t, "shell read two")
	require.Zero(t, p.status(t))
}

// A wait on a terminal says who holds the lock, and how many stand before us.
func TestTerminal_Waiting(t *testing.T) {
	t.Parallel()
	name, l := etcdtest.NewName(), newLife(t)
	start(t, machines, "run", "-value", "first", name, "--", "sh", "-c", l.script()+"sleep 300")
	etcdtest.ReceiveWithin(t, l.began, soon)
	start(t, machines, "run", "-value", "second", name, "--", "true")
	awaitList(t, name, `"waiters":[{"value":"second"`)
	master, slave := newTerminal(t)
	cmd := exec.Command(program, "run", name, "--", "true")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := launch(t, cmd, machines)
	p.output.read(master)
	slave.Close()
	p.awaitOutput(t, "held by first; before us in the queue: 1")
}

// newTerminal returns both ends of a pseudo terminal.
func newTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	return master, slave
}
