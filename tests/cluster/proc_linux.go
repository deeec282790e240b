package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// dieWithParent lets the kernel kill the process when the thread that starts it ends.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// freeze stops a member and waits until every one of its threads stands still.
func (m *member) freeze(ctx context.Context) error {
	m.frozen = true
	return m.signalThreads(ctx, syscall.SIGSTOP, true)
}

// thaw ends freeze.
func (m *member) thaw(ctx context.Context) error {
	m.frozen = false
	return m.signalThreads(ctx, syscall.SIGCONT, false)
}

func (m *member) signalThreads(ctx context.Context, sig syscall.Signal, stopped bool) error {
	if err := m.cmd.Process.Signal(sig); err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", m.pid.Load()))
		if err != nil {
			return false, err
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil {
				continue // the thread has ended
			}
			// The state follows the name, which is in parentheses and may hold anything.
			state := string(stat[strings.LastIndexByte(string(stat), ')')+2])
			if (state == "T") != stopped {
				return false, nil
			}
		}
		return len(threads) > 0, nil
	})
}

// dialler returns the index of the member whose process opened a connection that was accepted here, -1 if none did:
// the kernel's table of connections names the socket, and a process's open files name its sockets.
func dialler(accepted net.Conn, members []*member) int {
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		return -1
	}
	defer table.Close()
	local, remote := tableAddr(accepted.RemoteAddr()), tableAddr(accepted.LocalAddr())
	socket := ""
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 9 && f[1] == local && f[2] == remote {
			socket = "socket:[" + f[9] + "]"
		}
	}
	for i, m := range members {
		dir := fmt.Sprintf("/proc/%d/fd", m.pid.Load())
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // dead
		}
		for _, file := range files {
			if name, err := os.Readlink(filepath.Join(dir, file.Name())); err == nil && name == socket {
				return i
			}
		}
	}
	return -1
}

// tableAddr writes an IPv4 address as /proc/net/tcp does.
func tableAddr(a net.Addr) string {
	tcp := a.(*net.TCPAddr)
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(tcp.IP.To4()), tcp.Port)
}
