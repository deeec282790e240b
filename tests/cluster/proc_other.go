//go:build !linux

package main

import (
	"context"
	"errors"
	"net"
	"os/exec"
)

var errLinuxOnly = errors.New("only on Linux")

// dieWithParent does nothing: here members outlive this process if it is killed with SIGKILL.
func dieWithParent(*exec.Cmd) {}

func (m *member) freeze(context.Context) error { return errLinuxOnly }

func (m *member) thaw(context.Context) error { return errLinuxOnly }

func dialler(net.Conn, []*member) int { return -1 }
