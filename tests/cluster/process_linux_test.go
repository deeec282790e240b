package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// parentArg makes this test binary a process that runs a cluster, as a test does, and waits to be killed.
const parentArg = "parent"

func parent() {
	cmd, stdin, stdout := programCmd()
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	fmt.Print(line)
	select {}
}

// programCmd is this test binary as the program.
func programCmd() (*exec.Cmd, io.WriteCloser, io.ReadCloser) {
	cmd := exec.Command("/proc/self/exe", "-members=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		panic(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	return cmd, stdin, stdout
}

type described struct {
	Dir  string
	PIDs []int
}

func describedBy(t *testing.T, stdout io.Reader) described {
	t.Helper()
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	check(t, err)
	var d described
	check(t, json.Unmarshal(line, &d))
	if len(d.PIDs) != 1 || gone(d.PIDs[0]) {
		t.Fatalf("no member runs: %s", line)
	}
	if _, err := os.Stat(d.Dir); err != nil {
		t.Fatal(err)
	}
	return d
}

// gone says whether a process has ended; it may still wait for init to take note.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	state := stat[strings.LastIndexByte(string(stat), ')')+2]
	return state == 'Z' || state == 'X'
}

func removed(dir string) bool {
	_, err := os.Stat(dir)
	return errors.Is(err, fs.ErrNotExist)
}

func TestNothingSurvives(t *testing.T) {
	for name, end := range map[string]func(cmd *exec.Cmd, stdin io.Closer) error{
		"end of input": func(_ *exec.Cmd, stdin io.Closer) error { return stdin.Close() },
		"SIGTERM":      func(cmd *exec.Cmd, _ io.Closer) error { return cmd.Process.Signal(syscall.SIGTERM) },
		"SIGINT":       func(cmd *exec.Cmd, _ io.Closer) error { return cmd.Process.Signal(os.Interrupt) },
	} {
		t.Run(name, func(t *testing.T) {
			cmd, stdin, stdout := programCmd()
			check(t, cmd.Start())
			d := describedBy(t, stdout)
			check(t, end(cmd, stdin))
			check(t, cmd.Wait())
			if !gone(d.PIDs[0]) || !removed(d.Dir) {
				t.Fatalf("member gone: %t, directory removed: %t", gone(d.PIDs[0]), removed(d.Dir))
			}
		})
	}

	t.Run("SIGKILL of the program", func(t *testing.T) {
		cmd, _, stdout := programCmd()
		check(t, cmd.Start())
		d := describedBy(t, stdout)
		defer os.RemoveAll(d.Dir)
		check(t, cmd.Process.Kill())
		cmd.Wait()
		await(t, "the member's end", func() bool { return gone(d.PIDs[0]) })
	})

	t.Run("SIGKILL of the parent", func(t *testing.T) {
		cmd := exec.Command("/proc/self/exe", parentArg)
		stdout, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		d := describedBy(t, stdout)
		check(t, cmd.Process.Kill())
		cmd.Wait()
		await(t, "the member's end", func() bool { return gone(d.PIDs[0]) })
		await(t, "the directory's removal", func() bool { return removed(d.Dir) })
	})

	t.Run("end of output", func(t *testing.T) {
		cmd, stdin, stdout := programCmd()
		check(t, cmd.Start())
		d := describedBy(t, stdout)
		check(t, stdout.Close())
		_, err := io.WriteString(stdin, "leader\n")
		check(t, err)
		if err := cmd.Wait(); err == nil {
			t.Fatal("an answer that nobody could read is no error")
		}
		if !gone(d.PIDs[0]) || !removed(d.Dir) {
			t.Fatalf("member gone: %t, directory removed: %t", gone(d.PIDs[0]), removed(d.Dir))
		}
	})
}
