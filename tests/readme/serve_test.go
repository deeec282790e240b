package readme

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// serve runs until ctx ends, which is the signal of the end: the ctx of signal.NotifyContext.
func serve(ctx context.Context, machines []string, listener net.Listener, work func(context.Context, locker.Client) error) error {
	client, err := locker.New(machines, 5, 15, context.Background()) // not ctx, whose end would release the locks at once
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	failed := make(chan error, 2)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	tasks.Go(func() { failed <- server.Serve(listener) })
	tasks.Go(func() { failed <- work(ctx, client) })

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	drain, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = errors.Join(err, server.Shutdown(drain)) // first: no new requests, and the end of those under way
	stop()
	tasks.Wait()                            // then the workers, which release their locks
	return errors.Join(err, client.Close()) // then what is left, and the lease
}

// The lock is held until the work has ended, although the signal came before that, and is free as soon as serve returns.
func TestServe(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, signal := context.WithCancel(t.Context())
	name, locked, finish := etcdtest.NewName(), make(chan bool), make(chan bool)
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, machines, listener, func(ctx context.Context, client locker.Client) error {
			r := client.Lock(name, locker.DefaultValue, nil)
			locked <- r.Held()
			<-ctx.Done()
			<-finish
			locked <- r.Held()
			return r.Err
		})
	}()
	require.True(t, etcdtest.Receive(t, locked))
	signal()
	finish <- true
	require.True(t, etcdtest.Receive(t, locked), "the end of ctx takes no lock away")
	require.NoError(t, etcdtest.ReceiveWithin(t, served, time.Minute))
	resp, err := etcdtest.Connect(t, machines).Get(t.Context(), name)
	require.NoError(t, err)
	require.Zero(t, resp.Count)
}

// The end of a server that cannot listen is the end of its workers, and an error.
func TestServe_NoListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	require.ErrorIs(t, serve(t.Context(), machines, listener, func(ctx context.Context, _ locker.Client) error {
		<-ctx.Done()
		return nil
	}), net.ErrClosed)
}
