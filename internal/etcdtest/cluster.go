// Package etcdtest gives the tests what they run against: real etcd clusters, and bad networks on the way to them.
package etcdtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// EndpointsFromEnv returns the cluster that LOCKER_ENDPOINTS=a,b,c names, nil when there is none.
func EndpointsFromEnv() []string {
	return strings.FieldsFunc(os.Getenv("LOCKER_ENDPOINTS"), func(r rune) bool { return r == ',' || r == ' ' })
}

// Options of a cluster; the zero value is three members with etcd's own defaults.
type Options struct {
	Members    int
	Etcd       []string // the servers' binaries, in turn; "self" is the built-in one, and the default
	Dir        string   // where data and logs go, and stay; default: a temporary directory
	Heartbeat  time.Duration
	Election   time.Duration
	Partitions bool     // Isolate and Join will be used
	Flags      []string // further flags for every member
}

func (o Options) args() []string {
	var args []string
	add := func(name, value string, isSet bool) {
		if isSet {
			args = append(args, "-"+name+"="+value)
		}
	}
	add("members", strconv.Itoa(o.Members), o.Members != 0)
	add("etcd", strings.Join(o.Etcd, ","), len(o.Etcd) != 0)
	add("dir", o.Dir, o.Dir != "")
	add("heartbeat", o.Heartbeat.String(), o.Heartbeat != 0)
	add("election", o.Election.String(), o.Election != 0)
	add("partitions", "true", o.Partitions)
	return append(append(args, "--"), o.Flags...)
}

// Cluster is a running cluster of real etcd members on loopback ports. Its methods return once their effect is
// there. They may be called from several goroutines; one runs at a time.
type Cluster struct {
	cmd       *exec.Cmd
	stderr    *bytes.Buffer // read only after cmd.Wait
	stdin     io.WriteCloser
	endpoints []string

	mu     sync.Mutex // held for one command and its answer
	stdout *bufio.Reader
}

// answer is a line that the program prints.
type answer struct {
	Endpoints []string `json:"endpoints"`
	Leader    int      `json:"leader"`
	PID       int      `json:"pid"`
	Error     string   `json:"error"`
}

// Start builds and starts a cluster. ctx bounds the start, and not the build before it, which takes a minute or two
// the first time. Close takes the cluster down, and so does the end of this process, whatever the way it ends.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	program, err := build()
	if err != nil {
		return nil, fmt.Errorf("neither LOCKER_ENDPOINTS nor a buildable ./tests/cluster: set LOCKER_ENDPOINTS=a,b,c to a running "+
			"cluster, or make `go build -C tests ./cluster` work in the repository: %w", err)
	}
	c := &Cluster{cmd: exec.Command(program, opts.args()...), stderr: new(bytes.Buffer)}
	c.cmd.Stderr = c.stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	c.stdout = bufio.NewReader(stdout)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { c.stdin.Close() })
	up, err := c.read()
	if !stop() || err != nil {
		return nil, fmt.Errorf("start cluster: %w", errors.Join(ctx.Err(), err, c.Close()))
	}
	c.endpoints = up.Endpoints
	return c, nil
}

// New is a cluster for one test.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Connect is an etcd client for one test, which logs nothing.
func Connect(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: clientv3.NewCtxClient(context.Background()).GetLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	return cli
}

// build makes the program ./tests/cluster, once for each process. It is kept for the next ones; each works on a link
// of its own, so that none ever runs or replaces a file that is half written.
var build = sync.OnceValues(func() (program string, err error) {
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "locker-tests")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	program = filepath.Join(cache, fmt.Sprintf("cluster-%x", sha256.Sum256([]byte(root)))[:24])
	fresh := program + "." + strconv.Itoa(os.Getpid())
	defer os.Remove(fresh)
	os.Link(program, fresh) // go build leaves what is up to date; without the link it builds anew

	if out, err := exec.Command("go", "build", "-C", filepath.Join(root, "tests"), "-o", fresh, "./cluster").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build -C %s/tests ./cluster: %w\n%s", root, err, out)
	}
	return program, os.Rename(fresh, program)
})

// Endpoints are the client URLs of all members, in order.
func (c *Cluster) Endpoints() []string { return c.endpoints }

// Kill ends members as SIGKILL does.
func (c *Cluster) Kill(members ...int) error { return c.do("kill", members...) }

// Stop lets members shut down in order, as SIGTERM does.
func (c *Cluster) Stop(members ...int) error { return c.do("stop", members...) }

// Freeze stops the processes of members where they are (SIGSTOP).
func (c *Cluster) Freeze(members ...int) error { return c.do("freeze", members...) }

// Thaw lets frozen members go on.
func (c *Cluster) Thaw(members ...int) error { return c.do("thaw", members...) }

// Start starts members that are down, with the data they had, and waits until they answer. A member answers only
// when a quorum is up: start what it needs together.
func (c *Cluster) Start(members ...int) error { return c.do("start", members...) }

// StartWith is Start with another etcd binary, which the member keeps.
func (c *Cluster) StartWith(member int, path string) error {
	_, err := c.ask(fmt.Sprintf("start %d %s", member, path))
	return err
}

// Wipe replaces a member that is down by a new one with an empty disk and the same addresses.
func (c *Cluster) Wipe(member int) error { return c.do("wipe", member) }

// Learner is Wipe, but the new member is a learner.
func (c *Cluster) Learner(member int) error { return c.do("learner", member) }

// Isolate cuts members off from every other member, both ways; clients still reach them. Needs Options.Partitions.
func (c *Cluster) Isolate(members ...int) error { return c.do("isolate", members...) }

// Join ends Isolate.
func (c *Cluster) Join(members ...int) error { return c.do("join", members...) }

// Leader waits until a member that is neither frozen nor isolated leads, and returns it. Not while
// authentication is on: etcd then keeps it a secret.
func (c *Cluster) Leader() (int, error) {
	a, err := c.ask("leader")
	return a.Leader, err
}

// PID is the process of a running member.
func (c *Cluster) PID(member int) (int, error) {
	a, err := c.ask("pid " + strconv.Itoa(member))
	return a.PID, err
}

func (c *Cluster) do(verb string, members ...int) error {
	var list []string
	for _, m := range members {
		list = append(list, strconv.Itoa(m))
	}
	_, err := c.ask(verb + " " + strings.Join(list, ","))
	return err
}

func (c *Cluster) ask(command string) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.stdin, command+"\n"); err != nil {
		return answer{}, fmt.Errorf("cluster: %s: %w", command, err)
	}
	a, err := c.read()
	if err != nil {
		return answer{}, fmt.Errorf("cluster: %s: %w", command, err)
	}
	return a, nil
}

func (c *Cluster) read() (answer, error) {
	line, err := c.stdout.ReadBytes('\n')
	if err != nil {
		return answer{}, fmt.Errorf("the cluster is gone: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return answer{}, fmt.Errorf("not an answer: %q: %w", line, err)
	}
	if a.Error != "" {
		return answer{}, errors.New(a.Error)
	}
	return a, nil
}

// Close takes the cluster down and waits until its processes are gone.
func (c *Cluster) Close() error {
	c.stdin.Close()
	// The members die with the program, so killing one that hangs is safe.
	timer := time.AfterFunc(30*time.Second, func() { c.cmd.Process.Kill() })
	defer timer.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("cluster: %w\n%s", err, c.stderr)
	}
	return nil
}
