package locker

import (
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// DefaultValue is a value for locks whose value does not matter.
const DefaultValue = "ok"

// The two values of Report.Msg.
const (
	Fail string = "fail"

	Success = "success" // untyped, as in the fork: good for any type of strings
)

// The errors that callers can test for with errors.Is. They arrive wrapped.
var (
	// ErrNotHeld says that this client does not hold the lock.
	ErrNotHeld = errors.New("locker: lock is not held by this client")

	// ErrLost says that the lock, or the place in the line for it, went before it was given back: its lease
	// expired or could not be renewed in time, or somebody else deleted or replaced the key.
	ErrLost = errors.New("locker: lock was lost")

	// ErrClosed says that the client was closed, that its ctx ended, or that it is the zero Client.
	ErrClosed = errors.New("locker: client is closed")

	// ErrInvalidName says that a name is empty, holds "/.waiting/", which is kept for the line of waiters, or ends in
	// "/.waiting".
	ErrInvalidName = errors.New("locker: invalid lock name")

	// ErrInvalidValue says that a value is empty: Watch could not tell it from the lack of a lock.
	ErrInvalidValue = errors.New("locker: invalid lock value")
)

// told is an error as callers get it.
func told(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("locker: %s %q: %w", what, name, err)
}

// LockNotFound is the error of Get for a name that nobody holds.
type LockNotFound struct{ name string }

// Error names the key.
func (e LockNotFound) Error() string { return fmt.Sprintf("locker: lock %q not found", e.name) }

// LockDenied is part of the error of a LockWait that ended while somebody else had the lock.
type LockDenied struct{ name string }

// Error names the key.
func (e LockDenied) Error() string {
	return fmt.Sprintf("locker: lock %q is held by somebody else", e.name)
}

// Report is the outcome of Lock, LockWait and Inspect. Test Msg for success: a nil Err alone does not say that
// the lock was taken.
type Report struct {
	// Err says what went wrong. It is nil when the key is simply locked by somebody else.
	Err error

	// Msg is Success or Fail.
	Msg string

	// Token is the fencing token of the hold: the ModRevision of the lock's key. It grows with every hold of a
	// name, so a store that refuses a token lower than the highest it has seen cannot be written by a late
	// holder. It is 0 when the lock was not taken.
	Token int64

	// Done is closed once the lock is not ours any more: at the start of its release, or when it is lost. Of a
	// Report that took no lock it is closed from the beginning, and nil in the zero Report.
	Done <-chan struct{}

	hold *hold
}

// Held reports whether the lock is ours at this moment. It compares the lease's deadline with the clock and asks
// nobody, so it is also right when the network is gone or the process has just been resumed. Once false, it stays
// false. What it can't foresee is in the package documentation, under "Limits".
func (r Report) Held() bool { return r.hold != nil && r.hold.held() }

// Guard is a comparison for the caller's own etcd transactions: If(r.Guard()) makes such a transaction fail once
// the lock is gone. The Guard of a Report that took no lock never holds.
func (r Report) Guard() clientv3.Cmp {
	if r.hold == nil {
		return clientv3.Compare(clientv3.ModRevision("\x00"), "=", -1)
	}
	return clientv3.Compare(clientv3.ModRevision(r.hold.name), "=", r.hold.token)
}

// over is the Done of every Report that took no lock.
var over = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
