//go:build linux || darwin || freebsd || openbsd || dragonfly

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guard is another process of this program. It kills the command's process group when nobody has allowed it to go on: when
// `locker run` was killed, which closes a pipe, or was stopped.

type guardProcess struct {
	cmd *exec.Cmd
	in  *os.File
}

func startGuard() (*guardProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	defer out.Close()
	g := &guardProcess{cmd: exec.Command(program, guardName), in: in}
	g.cmd.Stdin = out
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of the way of signals to groups, and of the terminal's
	if err := g.cmd.Start(); err != nil {
		in.Close()
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return g, nil
}

// allow lets a group run until a deadline. It does not wait for a guard that does not read.
func (g *guardProcess) allow(group int, deadline time.Duration) {
	g.in.SetWriteDeadline(time.Now().Add(look / 10))
	fmt.Fprintln(g.in, group, int64(deadline))
}

// stop ends the guard, and leaves the group alone.
func (g *guardProcess) stop() {
	g.cmd.Process.Kill()
	g.in.Close()
	g.cmd.Wait()
}

// clock is one for all processes. Where there is such a one, it goes on while the machine is suspended.
func clock() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(guardClock, &t)
	return time.Duration(t.Nano())
}

// guard is what the process does.
func guard(in io.Reader) error {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	lines := make(chan string)
	go func() { // ends with the process
		defer close(lines)
		for read := bufio.NewScanner(in); read.Scan(); {
			lines <- read.Text()
		}
	}()
	var group int
	var deadline time.Duration
	for allowed := true; allowed; {
		wait := look // at most: a timer stands still while the machine is suspended
		if group != 0 {
			wait = min(look, deadline-clock())
		}
		select {
		case line, ok := <-lines:
			if allowed = ok; ok {
				fmt.Sscan(line, &group, (*int64)(&deadline))
			}
		case <-time.After(wait):
			allowed = group == 0 || clock() < deadline
		}
	}
	if group > 1 { // 1 would be everybody
		unix.Kill(-group, unix.SIGKILL)
	}
	return nil
}
