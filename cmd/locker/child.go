//go:build linux || darwin || freebsd || openbsd || dragonfly

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A child is the command that runs under the locks, in a process group of its own. It waits at its gate until it may begin.
type child struct {
	group int              // also the process of the command
	gate  *os.File         // nil: it is open
	stops chan unix.Signal // those that have stopped it
	ended chan int         // its exit status, as a shell has it
}

// startChild has the command wait at its gate. It must be called by the goroutine that goes on until the program ends.
func startChild(argv, environment []string) (*child, error) {
	cmd, out, gate, err := gated(argv)
	if err != nil {
		return nil, err
	}
	defer unix.Close(out)
	cmd.Env = environment
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Foreground: ownsTerminal()}
	runtime.LockOSThread() // Linux kills the command when this thread ends, which is when the program does
	dieWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		gate.Close()
		return nil, err
	}
	signal.Ignore(unix.SIGTTOU) // which stops those that the command has put into the background, when they write
	c := &child{group: cmd.Process.Pid, gate: gate, stops: make(chan unix.Signal, 1), ended: make(chan int, 1)}
	cmd.Process.Release() // wait does what os/exec can't: it also tells of stops
	go c.wait()
	return c, nil
}

// begin opens the gate, if it comes before the deadline.
func (c *child) begin(deadline time.Duration) {
	if c.gate != nil {
		fmt.Fprintln(c.gate, int64(deadline)) // its error is that the gate was killed
		c.gate.Close()
		c.gate = nil
	}
}

// wait tells what becomes of the command. It returns when that has ended.
func (c *child) wait() {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(c.group, &status, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			c.ended <- statusOther
			return
		case status.Stopped():
			select {
			case c.stops <- status.StopSignal():
			default: // the last one is not dealt with yet
			}
		case status.Signaled():
			c.ended <- statusSignal + int(status.Signal())
			return
		default:
			c.ended <- status.ExitStatus()
			return
		}
	}
}

// signal sends a signal to the whole group. It is made to go on, so that one that is stopped gets it.
func (c *child) signal(s syscall.Signal) {
	if s == unix.SIGCONT && ownsTerminal() { // in the foreground again
		setForeground(c.group)
	}
	unix.Kill(-c.group, s)
	unix.Kill(-c.group, unix.SIGCONT)
}

// kill ends what is left of the group, and takes the terminal back from it.
func (c *child) kill() {
	unix.Kill(-c.group, unix.SIGKILL)
	if terminalGroup() == c.group {
		setForeground(unix.Getpgrp())
	}
}

// resume lets a command go on that was stopped by its terminal: locks are not held by what does nothing.
func (c *child) resume(stopped unix.Signal) {
	switch stopped {
	case unix.SIGTSTP:
		fmt.Fprintln(os.Stderr, "locker: a command that holds a lock can't be suspended")
	case unix.SIGTTIN, unix.SIGTTOU:
		if !ownsTerminal() {
			return // until the program is in the foreground
		}
		setForeground(c.group)
	default:
		return
	}
	unix.Kill(-c.group, unix.SIGCONT)
}

// terminalGroup is the process group in the foreground of the terminal that standard input is, or 0.
func terminalGroup() int {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}

// ownsTerminal reports whether this program is in the foreground of its terminal.
func ownsTerminal() bool { return terminalGroup() == unix.Getpgrp() }

func setForeground(group int) { unix.IoctlSetPointerInt(int(os.Stdin.Fd()), unix.TIOCSPGRP, group) }
