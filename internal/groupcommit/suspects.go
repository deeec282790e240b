package groupcommit

import (
	"errors"
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// suspects are the operations that etcd is likely to refuse: they have a key that was refused of late, or that begins like one.
// etcd refuses a whole transaction for one of its operations, so these go alone, lest they cost the others.
//
// Rights are mostly given for a prefix. So what is remembered of a refused key is the key and its prefixes that end in a
// separator, and the prefixes of a key that was not refused are forgotten again. In the end what is left of a tenant without
// rights is its prefix, whatever names it comes up with, and of one key among others that are in order, that key alone.
//
// A suspect that etcd does not refuse any more is none: nothing else need be forgotten when a right is granted.
type suspects map[string]struct{}

const (
	// maxSuspects bounds the memory. All is forgotten when it is reached, and what is still refused is found again.
	maxSuspects = 1024

	// maxPrefixes is how many prefixes of a key count. A short one says most.
	maxPrefixes = 8
)

// refused reports whether etcd has refused an operation for what it is or where it leads. A lease that has ended is no such
// reason, for the next operation has another lease; and when etcd has no space, it refuses all alike.
func refused(err error) bool {
	return errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrRequestTooLarge) ||
		errors.Is(err, rpctypes.ErrTooManyOps)
}

func (s suspects) has(key []byte) bool {
	if len(s) == 0 {
		return false
	}
	for p := range prefixes(key) {
		if _, found := s[string(p)]; found {
			return true
		}
	}
	return false
}

// add remembers a key that was refused. If it is a suspect already, one of its prefixes says enough.
func (s suspects) add(key []byte) {
	if s.has(key) {
		return
	}
	if len(s) >= maxSuspects {
		clear(s)
	}
	for p := range prefixes(key) {
		s[string(p)] = struct{}{}
	}
}

// remove forgets what speaks against a key that was not refused.
func (s suspects) remove(key []byte) {
	if len(s) == 0 {
		return
	}
	for p := range prefixes(key) {
		delete(s, string(p))
	}
}

// prefixes are the prefixes of a key that end in a separator, from the shortest on, and the key itself.
func prefixes(key []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		n := 0
		for i, b := range key {
			if separates := b < '0' || b > '9' && b < 'A' || b > 'Z' && b < 'a' || b > 'z' && b < 0x80; !separates {
				continue
			}
			if n++; n > maxPrefixes {
				break
			}
			if !yield(key[:i+1]) {
				return
			}
		}
		yield(key)
	}
}

// subject is the longest key of an operation. Who may use a lock may not always see its queue, whose keys are longer.
func subject(t *pb.TxnRequest) (longest []byte) {
	for key := range keys(t) {
		if len(key) > len(longest) {
			longest = key
		}
	}
	return longest
}

// keys are those that a transaction compares, reads or writes; of a range, the first.
func keys(t *pb.TxnRequest) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, c := range t.Compare {
			if !yield(c.Key) {
				return
			}
		}
		for _, ops := range [][]*pb.RequestOp{t.Success, t.Failure} {
			for _, op := range ops {
				if !yield(keyOf(op)) {
					return
				}
			}
		}
	}
}

func keyOf(op *pb.RequestOp) []byte {
	switch r := op.Request.(type) {
	case *pb.RequestOp_RequestPut:
		return r.RequestPut.Key
	case *pb.RequestOp_RequestRange:
		return r.RequestRange.Key
	case *pb.RequestOp_RequestDeleteRange:
		return r.RequestDeleteRange.Key
	}
	return nil
}
