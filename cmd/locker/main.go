// Command locker runs commands under distributed locks on etcd, and shows who holds what.
//
//	locker run NAME... -- COMMAND ARG...
//	locker list [PREFIX]
//	locker watch NAME
//	locker get NAME
//	locker release -force NAME
//
// `locker help` has the rest.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker"
)

// The exit statuses that are not those of a command that was run. Those of 64 and more are from sysexits.h.
const (
	statusNotFound    = 1   // get, release: nobody holds the lock
	statusUsage       = 64  // the command line is wrong
	statusUnreachable = 69  // etcd does not answer
	statusOther       = 70  // anything else
	statusLost        = 74  // the lock was lost, and the command ended for it
	statusDenied      = 75  // somebody else has the lock
	statusNoRights    = 77  // etcd refuses the user
	statusNotRun      = 126 // the command can't be run, as in a shell
	statusNoCommand   = 127 // the command was not found, as in a shell
	statusSignal      = 128 // plus the number of the signal that ended the command, or the wait for the lock
)

// The commands that are not for people, but for `locker run`.
const (
	guardName = "guard-of-run"
	gateName  = "gate-of-run"
)

// A failure is an error with an exit status. One without a text is told by the status alone.
type failure struct {
	status int
	text   string
}

func (f failure) Error() string { return f.text }

func usage(format string, args ...any) error {
	return failure{statusUsage, fmt.Sprintf(format, args...)}
}

func main() { os.Exit(report(dispatch(os.Args[1:]), os.Stderr)) }

// report tells an error and returns the exit status for it.
func report(err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	if text := strings.TrimPrefix(err.Error(), "locker: "); text != "" {
		fmt.Fprintln(w, "locker: "+text)
	}
	return statusOf(err)
}

func statusOf(err error) int {
	if f := (failure{}); errors.As(err, &f) {
		return f.status
	}
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.As(err, new(locker.LockNotFound)):
		return statusNotFound
	case errors.As(err, new(locker.LockDenied)):
		return statusDenied
	case is(locker.ErrInvalidName, locker.ErrInvalidValue):
		return statusUsage
	case is(locker.ErrLost):
		return statusLost
	case is(locker.ErrNoAnswer):
		return statusUnreachable
	case is(rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken):
		return statusNoRights
	}
	return statusOther
}

// dispatch runs the command that the arguments name. Flags of the connection may come before it as well as after.
func dispatch(args []string) error {
	var conn connection
	flags := conn.flags()
	if err := conn.fromEnvironment(flags); err != nil {
		return err
	}
	if err := flags.Parse(args); err != nil {
		return helpOr(err, func() { overview(os.Stdout) })
	}
	args = flags.Args()
	if len(args) == 0 {
		overview(os.Stderr)
		return failure{status: statusUsage}
	}
	switch args[0] {
	case "help":
		return help(args[1:])
	case guardName:
		return guard(os.Stdin)
	case gateName:
		return gate(args[1:])
	}
	c, err := find(args[0])
	if err != nil {
		return err
	}
	in := c.prepare(&conn)
	return in.run(args[1:])
}

// helpOr shows a help that was asked for, or says what is wrong with a command line.
func helpOr(err error, show func()) error {
	if !errors.Is(err, flag.ErrHelp) {
		return usage("%v; see locker help", err)
	}
	show()
	return nil
}
