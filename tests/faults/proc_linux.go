package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill a process when this one ends, whatever the way: one that is frozen would stay.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
