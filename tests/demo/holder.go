package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/PumpkinSeed/locker"
)

// hold is the whole life of the process that is killed: it takes a lock, prints the token, and keeps the lock until
// its standard input ends, which it also does with the demo, whatever way that ends.
func hold(endpoints []string, name string) error {
	client, err := locker.New(endpoints, timeout, shortTTL, context.Background())
	if err != nil {
		return err
	}
	report := client.Lock(name, "holder", nil)
	if report.Msg != locker.Success {
		return errors.Join(fmt.Errorf("lock: %s", report.Msg), report.Err, client.Close())
	}
	fmt.Println(report.Token)
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, client.Close())
}

// startHolder starts this program as a process that holds a lock, and returns it with its token. The caller must
// kill it, and wait for its end.
func startHolder(ctx context.Context, endpoints string, name string) (*exec.Cmd, int64, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	cmd := exec.CommandContext(ctx, self, "holder", endpoints, name)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, 0, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	var token int64
	if _, err := fmt.Fscan(stdout, &token); err != nil {
		cmd.Process.Kill()
		return nil, 0, errors.Join(fmt.Errorf("the other process took no lock: %w", err), cmd.Wait())
	}
	return cmd, token, nil
}
