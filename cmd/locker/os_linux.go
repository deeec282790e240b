package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const guardClock = unix.CLOCK_BOOTTIME

// dieWithParent has the kernel kill a process when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
