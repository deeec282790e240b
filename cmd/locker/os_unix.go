//go:build darwin || freebsd || openbsd || dragonfly

package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const guardClock = unix.CLOCK_MONOTONIC

// dieWithParent does nothing: only the guard kills the command of a program that was killed.
func dieWithParent(*syscall.SysProcAttr) {}
