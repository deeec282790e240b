package etcdtest

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Soon bounds the wait for what has no time limit of its own.
const Soon = 10 * time.Second

// Receive returns the next value of ch, or the zero value once ch is closed. It fails the test if that takes longer
// than Soon.
func Receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	return ReceiveWithin(t, ch, Soon)
}

// ReceiveWithin is Receive with a limit of the caller's. A value that is there already is received even within no time.
func ReceiveWithin[T any](t testing.TB, ch <-chan T, limit time.Duration) (v T) {
	t.Helper()
	select {
	case v = <-ch:
		return v
	default:
	}
	select {
	case v = <-ch:
	case <-time.After(limit):
		require.FailNow(t, "nothing was received", "within %v", limit)
	}
	return v
}

// Send sends v. It fails the test if nobody receives v within Soon.
func Send[T any](t testing.TB, ch chan<- T, v T) {
	t.Helper()
	select {
	case ch <- v:
	case <-time.After(Soon):
		require.FailNow(t, "nobody received")
	}
}

// Eventually waits for a condition that no channel tells. It fails the test if cond does not hold within Soon.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	EventuallyWithin(t, Soon, what, cond)
}

// EventuallyWithin is Eventually with a limit of the caller's.
func EventuallyWithin(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(t, "this never happened: "+what)
		}
	}
}

var names atomic.Int64

// NewName returns the name of a lock that no other test uses, in this process or another.
func NewName() string {
	return fmt.Sprintf("test-%d-%d/%d", os.Getpid(), time.Now().UnixNano(), names.Add(1))
}
