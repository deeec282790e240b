package locker_test

import (
	"context"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/stretchr/testify/require"
)

// What a program written for the fork may do with its functions, its constants and its types besides calling them.
var (
	_ func([]string, int64, int64, context.Context) (locker.Client, error) = locker.New

	_ func(locker.Client, string, string, <-chan bool) locker.Report  = locker.Client.Lock
	_ func(locker.Client, string, chan<- bool) error                  = locker.Client.Unlock
	_ func(locker.Client, string, chan<- string, <-chan bool) error   = locker.Client.Watch
	_ func(locker.Client, string) (string, error)                     = locker.Client.Get
	_ func(locker.Client, string) locker.Report                       = locker.Client.Inspect
	_ func(*locker.Client, string, string, <-chan bool) locker.Report = (*locker.Client).Lock
	_ func(locker.LockNotFound) string                                = locker.LockNotFound.Error
	_ func(locker.LockDenied) string                                  = locker.LockDenied.Error
	_ interface{ Inspect(string) locker.Report }                      = locker.Client{}
	_ error                                                           = locker.LockNotFound{}
	_ error                                                           = locker.LockDenied{}

	_        = locker.Report{Err: nil, Msg: locker.Fail}
	_ string = locker.Fail
	_ string = locker.Success
)

// DefaultValue is an untyped constant: it is good for any type of strings.
const _ label = locker.DefaultValue

type label string

// TestProgramOfTheFork makes the calls that the fork's README shows, with arguments of the same types.
func TestProgramOfTheFork(t *testing.T) {
	var machines = *locker.Machines
	var timeout = int64(5)
	var ttl = int64(5)
	var key = "fork/orders-7"

	client, err := locker.New(machines, timeout, ttl, context.Background())
	require.NoError(t, err)
	other, err := locker.New(machines, timeout, ttl, context.Background())
	require.NoError(t, err)
	defer client.Close()
	defer other.Close()

	valueChanges := make(chan string)
	go other.Watch(key, valueChanges, nil)
	changed := func() string {
		t.Helper()
		select {
		case change := <-valueChanges:
			return change
		case <-time.After(10 * time.Second):
			require.FailNow(t, "no change")
			return ""
		}
	}
	require.Empty(t, changed())

	_, err = client.Get(key)
	_, ok := err.(locker.LockNotFound)
	require.True(t, ok, "a type assertion, as programs written before Go 1.13 have it: %v", err)
	require.Contains(t, err.Error(), key)
	require.Equal(t, locker.Success, client.Inspect(key).Msg)

	quit := make(chan bool)
	report := client.Lock(key, locker.DefaultValue, quit)
	require.NoError(t, report.Err)
	require.Equal(t, "success", report.Msg)
	require.Equal(t, "ok", changed())

	require.Equal(t, locker.Fail, other.Inspect(key).Msg)
	value, err := other.Get(key)
	require.NoError(t, err)
	require.Equal(t, "ok", value)
	report = other.Lock(key, locker.DefaultValue, make(chan bool))
	require.NoError(t, report.Err)
	require.Equal(t, "fail", report.Msg)

	require.NoError(t, client.Unlock(key, quit))
	require.Empty(t, changed())

	report = other.Lock(key, "10.2.3.4:80", quit)
	require.Equal(t, locker.Success, report.Msg)
	require.Equal(t, "10.2.3.4:80", changed())
	select {
	case quit <- true:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "nobody takes what is pushed into quit")
	}
	require.Empty(t, changed())

	var denied error = locker.LockDenied{}
	_, ok = denied.(locker.LockDenied)
	require.True(t, ok)
}
