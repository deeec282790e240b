package peers

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A lockedSet is a set in a key of etcd. To add to it is to read it, and to write it back with one element more, under a
// lock, and takes a while. What etcd has confirmed counts as added.
type lockedSet struct {
	etcd      *clientv3.Client
	key       string
	withToken bool // a transaction writes only while the lock is held

	mu       sync.Mutex // guards what follows
	added    []string
	holds    []hold
	overlaps int // holds that began while an owner believed in an earlier one
}

// add adds an element under a lock that is held. Between the read and the write it calls meanwhile.
func (s *lockedSet) add(ctx context.Context, h hold, element string, meanwhile func()) error {
	s.began(h)
	read, err := s.etcd.Get(ctx, s.key)
	if err != nil {
		return err
	}
	meanwhile()
	elements := element
	if len(read.Kvs) > 0 {
		elements = string(read.Kvs[0].Value) + " " + element
	}
	txn := s.etcd.Txn(ctx)
	if s.withToken {
		txn = txn.If(h.guard)
	}
	resp, err := txn.Then(clientv3.OpPut(s.key, elements)).Commit()
	if err == nil && resp.Succeeded {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.added = append(s.added, element)
	}
	return err
}

func (s *lockedSet) began(h hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, earlier := range s.holds {
		if earlier.held() {
			s.overlaps++
		}
	}
	s.holds = append(s.holds, h)
}

// ended notes that an owner is about to give a lock back, and does not believe in it any more.
func (s *lockedSet) ended(h hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = slices.DeleteFunc(s.holds, func(other hold) bool { return other.token == h.token })
}

func (s *lockedSet) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.added)
}

// lost are the elements that were added and are not there.
func (s *lockedSet) lost(t testing.TB) (lost []string) {
	resp, err := s.etcd.Get(t.Context(), s.key)
	require.NoError(t, err)
	left := strings.Fields(string(resp.Kvs[0].Value))
	for _, element := range s.added {
		if !slices.Contains(left, element) {
			lost = append(lost, element)
		}
	}
	return lost
}

// Four add to a set under a lock, and one of them is cut off from the lock, and not from the set, between its read and its
// write; it does not look at its hold before the write, as if it had been frozen there. Without a token something that was
// added is lost, whatever the lock; with the token nothing is. And when a hold of ours begins, nobody believes in another.
func TestSetUnderALock(t *testing.T) {
	withEach(t, func(t *testing.T, subject string, newOwner func(testing.TB, []string, int) owner) {
		for how, withToken := range map[string]bool{"without token": false, "with token": true} {
			t.Run(how, func(t *testing.T) {
				t.Parallel()
				s := addBesideAFault(t, newOwner, withToken)
				lost := s.lost(t)
				t.Logf("%d added, %d lost, %d holds overlapped", s.size(), len(lost), s.overlaps)
				if withToken {
					require.Empty(t, lost)
				} else {
					require.NotEmpty(t, lost)
				}
				if subject == "locker" {
					require.Zero(t, s.overlaps)
				}
			})
		}
	})
}

// addBesideAFault is the run of TestSetUnderALock.
func addBesideAFault(t *testing.T, newOwner func(testing.TB, []string, int) owner, withToken bool) *lockedSet {
	name := etcdtest.NewName()
	s := &lockedSet{etcd: etcdtest.Connect(t, machines), key: "set of " + name, withToken: withToken}
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	for _, who := range []string{"a", "b", "c"} {
		o := newOwner(t, machines, 30)
		others.Go(func() {
			for element := who; ctx.Err() == nil; element += who {
				h, err := o.lock(ctx, name)
				if err != nil {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
				err = s.add(context.WithoutCancel(ctx), h, element, func() { time.Sleep(10 * time.Millisecond) })
				assert.NoError(t, err)
				s.ended(h)
				assert.NoError(t, h.unlock())
			}
		})
	}
	etcdtest.Eventually(t, "they add", func() bool { return s.size() >= 3 })
	net := etcdtest.NewNetwork(t, machines)
	h, err := newOwner(t, net.Endpoints(), 2).lock(ctx, name)
	require.NoError(t, err)
	err = s.add(ctx, h, "late", func() {
		size := s.size()
		net.Swallow()
		etcdtest.Eventually(t, "others have added something", func() bool { return s.size() > size })
	})
	require.NoError(t, err)
	size := s.size()
	etcdtest.Eventually(t, "others go on", func() bool { return s.size() > size+1 })
	net.Heal()
	return s
}
