package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// order is what another process is to do; it gets it in the environment.
type order struct {
	Process    int
	Endpoints  []string
	TTL        int64
	Name       string
	Store      string        // where it is; none: take the lock, say so, and keep it
	Goroutines int           // which take turns
	Rounds     int           // of each
	For        time.Duration // if not 0: instead of Rounds
	Faults     bool          // a call may fail for want of an answer; it is made again
}

const orderKey = "LOCKER_LINE_ORDER"

// TestMain makes this binary the other process when there is an order.
func TestMain(m *testing.M) {
	text := os.Getenv(orderKey)
	if text == "" {
		etcdtest.Main(m)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin) // its end is the end of the parent
		os.Exit(2)
	}()
	var o order
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = o.obey()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "process %d: %v\n", o.Process, err)
		os.Exit(1)
	}
}

// process is another process that runs.
type process struct {
	cmd    *exec.Cmd
	stdout io.Reader
	stderr *bytes.Buffer
}

func start(t *testing.T, o order) *process {
	t.Helper()
	text, err := json.Marshal(o)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	p := &process{cmd: exec.CommandContext(t.Context(), self), stderr: new(bytes.Buffer)}
	p.cmd.Env = append(os.Environ(), orderKey+"="+string(text))
	p.cmd.Stderr = p.stderr
	_, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	p.stdout, err = p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

// obey is what the other process does.
func (o order) obey() error {
	if o.Store == "" {
		return o.hold()
	}
	client, err := rpc.Dial("tcp", o.Store)
	if err != nil {
		return err
	}
	store := visitor{client}
	before := runtime.NumGoroutine()
	c, err := locker.New(o.Endpoints, 10, o.TTL, context.Background())
	if err != nil {
		return err
	}
	if err := store.ready(); err != nil {
		return err
	}
	errs := make([]error, o.Goroutines)
	var running sync.WaitGroup
	for i := range errs {
		running.Go(func() { errs[i] = o.takeTurns(c, store, fmt.Sprintf("%d/%d", o.Process, i)) })
	}
	running.Wait()
	return errors.Join(append(errs, c.Close(), goroutinesLeft(before))...)
}

// hold takes the lock, says so, and keeps it until the process is killed.
func (o order) hold() error {
	c, err := locker.New(o.Endpoints, 5, o.TTL, context.Background())
	if err != nil {
		return err
	}
	if r := c.LockWait(context.Background(), o.Name, "held", nil); r.Msg != locker.Success {
		return r.Err
	}
	fmt.Println("held")
	select {}
}

func (o order) takeTurns(c locker.Client, store visitor, who string) error {
	began := time.Now()
	for round := 0; o.For == 0 && round < o.Rounds || o.For > 0 && time.Since(began) < o.For; round++ {
		r := c.LockWait(context.Background(), o.Name, who, nil)
		visit := Visit{Who: who, Token: r.Token, At: time.Now().UnixNano()}
		if r.Msg != locker.Success {
			if o.tolerable(r.Err) {
				continue
			}
			return fmt.Errorf("%s: %w", who, r.Err)
		}
		counter, err := store.enter(visit)
		if err != nil {
			return err
		}
		runtime.Gosched()
		visit.Counter, visit.Lost, visit.At = counter+1, !r.Held(), time.Now().UnixNano()
		if err := store.leave(visit); err != nil {
			return err
		}
		if err := c.Unlock(o.Name, nil); err != nil && !o.tolerable(err) {
			return fmt.Errorf("%s: %w", who, err)
		}
	}
	return nil
}

// tolerable are the errors that faults of the cluster excuse; a lost lease is none: the faults are shorter than a TTL.
func (o order) tolerable(err error) bool {
	if !o.Faults || errors.Is(err, locker.ErrLost) || errors.Is(err, locker.ErrNotHeld) {
		return false
	}
	fmt.Fprintf(os.Stderr, "process %d goes on after: %v\n", o.Process, err)
	return true
}

// goroutinesLeft is an error when a closed client has left goroutines behind.
func goroutinesLeft(before int) error {
	if own := stacks("github.com/PumpkinSeed/locker.", "go.etcd.io/etcd/client/"); own != "" {
		return fmt.Errorf("goroutines outlive Close:\n%s", own)
	}
	// gRPC's own end a moment later.
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks(""))
		}
	}
	return nil
}

// stacks are those of the goroutines that run code of one of these packages.
func stacks(packages ...string) string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var found []string
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		for _, p := range packages {
			if strings.Contains(stack, "\n"+p) {
				found = append(found, stack)
				break
			}
		}
	}
	return strings.Join(found, "\n\n")
}
