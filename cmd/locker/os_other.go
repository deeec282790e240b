//go:build !(linux || darwin || freebsd || openbsd || dragonfly)

package main

import (
	"errors"
	"io"
)

func guard(io.Reader) error { return errNoRun }

func gate([]string) error { return errNoRun }

var errNoRun = errors.New("run needs process groups and their signals, which this system has not: it could not keep its word")

func (in *invocation) runUnderLocks(runOptions, []string) error { return errNoRun }
