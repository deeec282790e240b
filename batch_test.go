package locker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// crew are callers of a batch, each with an operation of its own.
type crew struct {
	*batch
	kv      *fakeKV
	running sync.WaitGroup
	mu      sync.Mutex       // guards all below
	found   map[string]found // what came of the operation on a key
	took    map[string]time.Duration
}

func newCrew(t *testing.T, kv *fakeKV) *crew {
	ctx, cancel := context.WithCancel(context.Background())
	c := &crew{kv: kv, found: map[string]found{}, took: map[string]time.Duration{}}
	c.batch = &batch{wire: kv.newWire(t), ctx: ctx, limit: maxOps}
	t.Cleanup(func() { cancel(); c.batch.running.Wait() })
	return c
}

// create is the operation of all callers: put if absent.
func create(key, value string) txn {
	return txn{
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)},
		then: []clientv3.Op{clientv3.OpPut(key, value)},
		els:  []clientv3.Op{clientv3.OpGet(key)},
	}
}

// call lets a caller come. Its operation is on its way, or waits, when call returns.
func (c *crew) call(by bound, key, value string) {
	c.running.Go(func() {
		start := time.Now()
		f := c.do(by, create(key, value))
		c.mu.Lock()
		defer c.mu.Unlock()
		c.found[key], c.took[key] = f, time.Since(start)
	})
	synctest.Wait()
}

// slow answers after 10 ms: less than a second try waits for.
func (f *fakeKV) slow(context.Context, int, *pb.TxnRequest) (*pb.TxnResponse, error) { return nil, nil }

const fast, slow = 0, 10 * ms

// answering is a script: after that time everything is applied, but for transactions that refuse names an error for.
func answering(kv *fakeKV, after time.Duration, refuse func(keys []string) error) {
	kv.script = func(ctx context.Context, _ int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
		time.Sleep(after)
		if refuse != nil {
			if err := refuse(keysOf(req)); err != nil {
				return nil, err
			}
		}
		return kv.apply(req), nil
	}
}

func nested(req *pb.TxnRequest) bool { return req.Success[0].GetRequestTxn() != nil }
