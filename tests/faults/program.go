package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// program is the command locker, for the subject that has one.
func (c *campaign) program() string {
	if c.subject != ours {
		return ""
	}
	return filepath.Join(c.dir, "locker")
}

// prepareRuns builds the command locker, from the module that these tests replace, and makes the pipe that tells when the processes
// of all clients have ended.
func (c *campaign) prepareRuns() (err error) {
	if c.dir, err = os.MkdirTemp("", "locker-faults-"); err != nil {
		return err
	}
	if c.life.out, c.life.in, err = os.Pipe(); err != nil || c.program() == "" {
		return err
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/PumpkinSeed/locker").Output()
	if err != nil {
		return fmt.Errorf("where is the library: %w", err)
	}
	build := exec.Command("go", "build", "-C", strings.TrimSpace(string(root)), "-o", c.program(), "./cmd/locker")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build ./cmd/locker: %w\n%s", err, said)
	}
	return nil
}

// life is a pipe whose one end every client process has open, and everything that it starts: `locker run`, its guard, its job.
type life struct{ in, out *os.File }

func (l *life) close() error {
	if l.in == nil {
		return nil
	}
	l.in.Close() // already, at the end
	return l.out.Close()
}

// lookForProcesses notes it when something that a client has started is still there.
func (c *campaign) lookForProcesses() {
	c.life.in.Close()
	c.life.out.SetReadDeadline(time.Now().Add(afterwards))
	if _, err := c.life.out.Read(make([]byte, 1)); err != io.EOF {
		c.leftover = append(c.leftover, fmt.Sprint("at the end: a process of `locker run`: ", err))
	}
}
