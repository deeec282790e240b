//go:build linux || darwin || freebsd || openbsd || dragonfly

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The gate is the process in which a command begins: another one of this program, which becomes the command when it is told to. So
// the guard knows the group before anything of the command runs. Nothing does if `locker run` was killed before, nor if it was
// stopped until the locks were lost.

// gated is the command line of a command with a gate, and what opens it: a deadline that has not passed. The gate inherits the file
// descriptor out: one of its own, for those from 3 on may be meant for the command.
func gated(argv []string) (cmd *exec.Cmd, out int, gate *os.File, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, 0, nil, fmt.Errorf("start the command: %w", err)
	}
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		return nil, 0, nil, fmt.Errorf("start the command: %w", err)
	}
	unix.CloseOnExec(pipe[1])
	cmd = exec.Command(program, append([]string{gateName, strconv.Itoa(pipe[0])}, argv...)...)
	return cmd, pipe[0], os.NewFile(uintptr(pipe[1]), gateName), nil
}

// gate is what the process does.
func gate(args []string) error {
	if len(args) < 2 {
		return usage("%s is not for people", gateName)
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil {
		return usage("%s: %v", gateName, err)
	}
	in := os.NewFile(uintptr(fd), gateName)
	var deadline time.Duration
	if _, err := fmt.Fscanln(in, (*int64)(&deadline)); err != nil {
		return fmt.Errorf("`locker run` has ended before %s began: %w", args[1], err)
	}
	in.Close()
	if clock() >= deadline {
		return failure{statusLost, fmt.Sprintf("the locks were lost before %s began", args[1])}
	}
	path, err := exec.LookPath(args[1])
	if err != nil {
		return notRun(err)
	}
	return notRun(&os.PathError{Op: "run", Path: path, Err: syscall.Exec(path, args[1:], os.Environ())})
}
