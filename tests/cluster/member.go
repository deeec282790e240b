package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// askTimeout bounds one question to one member, which may be frozen.
const askTimeout = 500 * time.Millisecond

var errAddressInUse = errors.New("address already in use")

// member is one etcd process, or the place of one that is down.
type member struct {
	name    string
	etcd    string // binary, or "self"
	dir     string
	client  string // host:port for clients
	admin   string // host:port for this program, never with TLS
	peer    string // host:port for other members
	peerURL string // where other members dial; differs from peer with -partitions
	frozen  bool
	pid     atomic.Int64 // of the process, 0 when that has ended; the fence reads it from its own goroutines

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
}

// url is the endpoint for clients.
func (m *member) url(flags []string) string {
	for _, f := range flags {
		if name := strings.TrimLeft(f, "-"); strings.HasPrefix(name, "cert-file") || strings.HasPrefix(name, "auto-tls") {
			return "https://" + m.client
		}
	}
	return "http://" + m.client
}

// launch starts the process. All flags are known to etcd 3.4 and later.
func (m *member) launch(flags []string) error {
	args := append([]string{
		"--name=" + m.name,
		"--data-dir=" + m.dir,
		"--listen-client-urls=" + m.url(flags) + ",http://" + m.admin,
		"--advertise-client-urls=" + m.url(flags),
		"--listen-peer-urls=http://" + m.peer,
		"--initial-advertise-peer-urls=" + m.peerURL,
		"--logger=zap",
		"--log-outputs=stderr",
		"--log-level=warn",
	}, flags...)
	program := m.etcd
	if program == "self" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		program, args = self, append([]string{"member"}, args...)
	}
	log, err := os.OpenFile(m.dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// etcd takes settings from variables of this name too.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ETCD_") })
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start member %s: %w", m.name, err)
	}
	m.pid.Store(int64(cmd.Process.Pid))
	exited := make(chan struct{})
	go func() { // ends with the process, which close kills
		defer close(exited)
		cmd.Wait()
		m.pid.Store(0)
	}()
	m.cmd, m.exited, m.frozen = cmd, exited, false
	return nil
}

func (m *member) running() bool {
	if m.exited == nil {
		return false
	}
	select {
	case <-m.exited:
		return false
	default:
		return true
	}
}

// end sends a signal and waits until the process has ended.
func (m *member) end(ctx context.Context, sig syscall.Signal) error {
	if err := m.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-m.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("member %s has not ended: %w", m.name, ctx.Err())
	}
}

// kill is not bounded by a ctx: the kernel always does it.
func (m *member) kill() error { return m.end(context.Background(), syscall.SIGKILL) }

// diedOf says why a process has ended by itself.
func (m *member) diedOf() error {
	if bytes.Contains(m.logTail(), []byte(errAddressInUse.Error())) {
		return errAddressInUse
	}
	return fmt.Errorf("%s: %s", m.cmd.ProcessState, m.logTail())
}

func (m *member) logTail() []byte {
	log, err := os.ReadFile(m.dir + ".log")
	if err != nil {
		return []byte(err.Error())
	}
	return log[max(0, len(log)-2000):]
}

// ask calls f with a client of this member alone.
func (m *member) ask(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + m.admin}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return f(ctx, cli)
}

// answers says whether the member answers and has a leader. With authentication on, it only says that it answers.
func (m *member) answers(ctx context.Context) bool {
	a := statuses(ctx, []*member{m})[0]
	if a.err != nil {
		return errors.Is(a.err, rpctypes.ErrUserEmpty)
	}
	return a.status.Leader != 0
}

type answer struct {
	member *member
	status *clientv3.StatusResponse
	err    error
}

// statuses asks members side by side.
func statuses(ctx context.Context, members []*member) []answer {
	answers := make([]answer, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() {
			answers[i].member = m
			answers[i].err = m.ask(ctx, func(ctx context.Context, cli *clientv3.Client) (err error) {
				answers[i].status, err = cli.Status(ctx, "http://"+m.admin)
				return err
			})
		})
	}
	all.Wait()
	return answers
}
