package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

const (
	// soon is what answers take that leave the library as impatient with a silent stream as moved is meant for. It waits for a
	// sign of life for as long as eight usual answers take, and what is usual follows the last answers.
	soon = 250 * time.Millisecond
	// settled is how many answers make the library forget the slow ones before them: by an eighth with each.
	settled = 60
	// moved is how long a stream may be kept that has gone silent, while answers come soon: eight of them, 0.8 s between two looks
	// at the stream, and the rest for what is left of slower answers.
	moved = 8*soon + 1500*time.Millisecond
)

// silence is an order to the streams that are open.
type silence struct {
	told chan struct{} // closed when it is given
	at   instant       // when that was; set before
}

func newSilence() *silence { return &silence{told: make(chan struct{})} }

func (s *silence) tell() {
	s.at = now()
	close(s.told)
}

// tap is between the library and a client of etcd's own.
type tap struct {
	c *client

	mu    sync.Mutex // guards all below
	quick int        // answers in a row that came soon, after one that did not
	calm  []span     // when the library could not know but that answers come soon; the last may go on
}

func (c *client) newTap() *tap { return &tap{c: c, calm: []span{{now(), endless}}} }

// call sees all requests and answers, also those that clientv3 keeps to itself when it gets another token.
func (t *tap) call(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	start := now()
	err := invoke(ctx, method, in, out, conn, opts...)
	switch {
	case err == nil:
		t.answered(now().sub(start))
	case errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken):
		t.c.out.write(record{Kind: refused, At: now()})
	}
	return err
}

// answered notes how long an answer took, before the library does.
func (t *tap) answered(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := &t.calm[len(t.calm)-1]
	switch {
	case took > soon:
		t.quick, last.to = 0, min(last.to, now())
	case last.to != endless:
		if t.quick++; t.quick == settled {
			t.calm = append(t.calm, span{now(), endless})
		}
	}
}

// kept tells that a stream which had gone silent was not left in that time, and only of the times when answers came soon.
func (t *tap) kept(s span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, calm := range t.calm {
		if calm.overlaps(s) {
			t.c.out.write(record{Kind: hushed, From: max(s.from, calm.from), At: min(s.to, calm.to)})
		}
	}
}

// stream has the streams of watches fall silent when the parent says so.
func (t *tap) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer,
	opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil || method != "/etcdserverpb.Watch/Watch" {
		return s, err
	}
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	return &watching{ClientStream: s, tap: t, silence: t.c.silence}, nil
}

// watching is a stream of watches, which receives nothing any more once the silence is told.
type watching struct {
	grpc.ClientStream
	tap     *tap
	silence *silence
	heard   bool // something came before: how long a new stream gets for its first answer is another matter
}

func (w *watching) RecvMsg(m any) error {
	err := w.ClientStream.RecvMsg(m)
	select {
	case <-w.silence.told:
	default:
		w.heard = w.heard || err == nil
		return err
	}
	<-w.Context().Done()
	if w.heard {
		w.tap.kept(span{w.silence.at, now()})
	}
	return status.FromContextError(w.Context().Err()).Err()
}
