package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// child is this program once more, as another process: its memory, its garbage collection and its death are its own.
type child struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser // ends when this process does
	stdout *bufio.Reader
}

// startSelf starts this program with other arguments, and returns the first line that it prints once that is there.
func startSelf(ctx context.Context, args ...string) (c *child, line string, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	c = &child{name: args[0], cmd: exec.CommandContext(ctx, program, args...)}
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	c.stdout = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, "", err
	}
	if line, err = c.read(); err != nil {
		c.kill()
		return nil, "", err
	}
	return c, line, nil
}

// ask sends a line, and returns the line that it is answered with.
func (c *child) ask(line string) (string, error) {
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		return "", fmt.Errorf("%s: %w", c.name, err)
	}
	return c.read()
}

func (c *child) read() (string, error) {
	line, err := c.stdout.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s has ended: %q: %w", c.name, line, err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// kill is SIGKILL; it may be called twice.
func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}
