// Package command tests the command locker: real processes, on real etcd.
package command

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"golang.org/x/sys/unix"
)

var (
	machines []string
	program  string // the command locker
)

const asEtcdctl = "LOCKER_TEST_ETCDCTL" // in the environment makes this binary etcdctl

func TestMain(m *testing.M) {
	if os.Getenv(asEtcdctl) != "" {
		ctlv3.MustStart()
		return
	}
	flag.Parse()
	flag.Set("test.parallel", "24") // tests mostly wait here
	var err error
	if program, err = build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	etcdtest.MainWithCluster(m, &machines)
}

// build makes the command, which is kept for the next run. It appears under its name in one step, for another run may be under way.
func build() (program string, err error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	program = filepath.Join(cache, "locker-tests", fmt.Sprintf("locker-%x", sha256.Sum256([]byte(root)))[:24])
	fresh := fmt.Sprint(program, ".", os.Getpid())
	defer os.Remove(fresh)
	if out, err := exec.Command("go", "build", "-C", root, "-o", fresh, "./cmd/locker").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/locker: %w\n%s", err, out)
	}
	return program, os.Rename(fresh, program)
}

// process is a process that runs, and the leader of its group.
type process struct {
	*exec.Cmd
	network etcdtest.Network // for a test to break
	output  output           // on standard output and standard error
	ended   chan struct{}    // closed when it has ended, and its status can be read
}

// start starts `locker` with these arguments and cluster. It is killed, and nothing else, at the end of the test.
func start(t *testing.T, endpoints []string, args ...string) *process {
	t.Helper()
	return launch(t, exec.Command(program, args...), endpoints)
}

// etcdctl starts `etcdctl` likewise.
func etcdctl(t *testing.T, endpoints []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = []string{asEtcdctl + "=1"}
	return launch(t, cmd, endpoints)
}

func launch(t *testing.T, cmd *exec.Cmd, endpoints []string) *process {
	t.Helper()
	p := &process{Cmd: cmd, ended: make(chan struct{})}
	list := ""
	for i, e := range endpoints {
		if i > 0 {
			list += ","
		}
		list += e
	}
	p.Env = append(p.Env, "PATH="+os.Getenv("PATH"), "ETCDCTL_ENDPOINTS="+list)
	if p.Stdout == nil {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		p.Stdout, p.Stderr = w, w
		p.output.read(r)
		defer w.Close()
	}
	if p.SysProcAttr == nil {
		p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	require.NoError(t, p.Start())
	go func() {
		defer close(p.ended)
		p.Wait()
	}()
	t.Cleanup(func() {
		p.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%v printed:\n%s", p.Args, p.output.String())
		}
	})
	return p
}

// status waits for the end of a process and returns its exit status.
func (p *process) status(t *testing.T) int {
	t.Helper()
	etcdtest.ReceiveWithin(t, p.ended, soon)
	return p.ProcessState.ExitCode()
}

// all waits for all that a process, and those that it has started, print.
func (p *process) all(t *testing.T) string {
	t.Helper()
	etcdtest.ReceiveWithin(t, p.output.end, soon)
	return p.output.String()
}

// soon bounds the wait for what has no time limit of its own.
const soon = 30 * time.Second

// output collects what processes print.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
	end  chan struct{}
}

// read reads a pipe or a terminal to its end.
func (o *output) read(r *os.File) {
	o.end = make(chan struct{})
	go func() {
		defer close(o.end)
		defer r.Close()
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			o.mu.Lock()
			o.text.Write(buf[:n])
			o.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// A life is that of a shell, and of all processes that it starts: they have a pipe open.
type life struct {
	path  string
	began chan struct{}
	over  chan time.Time // when the last of them has ended
}

// script begins a script for the shell.
func (l life) script() string { return "exec 3>" + l.path + "; echo $$ >&3; " }

func newLife(t *testing.T) life {
	t.Helper()
	l := life{filepath.Join(t.TempDir(), "life"), make(chan struct{}), make(chan time.Time, 1)}
	require.NoError(t, unix.Mkfifo(l.path, 0o600))
	shell, finished := 0, make(chan struct{})
	go func() {
		defer close(finished)
		pipe, err := os.Open(l.path) // which waits for the first
		if err != nil {
			close(l.began)
		} else {
			fmt.Fscan(pipe, &shell)
			close(l.began)
			io.Copy(io.Discard, pipe)
			pipe.Close()
		}
		l.over <- time.Now()
	}()
	t.Cleanup(func() {
		if pipe, err := os.OpenFile(l.path, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil { // there may never have been one
			pipe.Close()
		}
		<-l.began
		if t.Failed() && shell != 0 {
			unix.Kill(-shell, unix.SIGKILL)
		}
		<-finished
	})
	return l
}

// rival takes the lock when it is free, or is handed over, and tells when.
func rival(t *testing.T, name string) <-chan time.Time {
	t.Helper()
	c, err := locker.New(machines, 5, 60, t.Context())
	require.NoError(t, err)
	got := make(chan time.Time, 1)
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		if r := c.LockWait(t.Context(), name, "rival", nil); r.Msg == locker.Success {
			got <- time.Now()
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-waiting
	})
	return got
}

// leadOf is the time from the end of a life to the moment at which another has the lock.
func leadOf(t *testing.T, l life, taken <-chan time.Time) time.Duration {
	t.Helper()
	got := etcdtest.ReceiveWithin(t, taken, soon)
	return got.Sub(etcdtest.ReceiveWithin(t, l.over, soon))
}
