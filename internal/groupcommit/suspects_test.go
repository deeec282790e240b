package groupcommit

import (
	"fmt"
	"math/bits"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/PumpkinSeed/locker/internal/etcdfake"
)

const (
	crowd = 256         // callers in all
	learn = time.Second // for which they go on before operations are counted
	span  = time.Second // for which they go on after that
)

// throughput lets as many callers as a crowd has less those who are refused put keys again and again, and returns how many
// operations of theirs are done once the refused ones are known, how many of the refused callers' are answered, and how many transactions with operations of
// several callers were refused: these are what the others pay. key is how their keys begin, refusedKey the key of a refused caller in a round.
func throughput(t *testing.T, refused int, key string, refusedKey func(caller, round int) string) (done, refusals, wasted int64) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		var inVain atomic.Int64
		kv.Script = refusing(&kv, func(keys []string) error {
			for _, key := range keys {
				if strings.Contains(key, "denied") {
					if len(keys) > 1 {
						inVain.Add(1)
					}
					return rpctypes.ErrGRPCPermissionDenied
				}
			}
			return nil
		})
		c := newCallers(t, &kv)
		c.running.Wait()
		var counted, denied atomic.Int64
		start := time.Now()
		end := start.Add(learn + span)
		for i := range crowd {
			c.running.Go(func() {
				for round := 0; time.Now().Before(end); round++ {
					limit := etcdfake.Within(time.Minute)
					if i >= refused {
						r := c.Commit(limit, putIfAbsent(fmt.Sprint(key, i), "v"))
						if r.Err != nil {
							t.Error(r.Err)
						}
						if time.Since(start) > learn {
							counted.Add(1)
						}
						continue
					}
					if r := c.Commit(limit, putIfAbsent(refusedKey(i, round), "v")); r.Err != rpctypes.ErrPermissionDenied {
						t.Error(r.Err)
					}
					denied.Add(1)
				}
			})
		}
		c.running.Wait()
		done, refusals, wasted = counted.Load(), denied.Load(), inVain.Load()
	})
	return done, refusals, wasted
}

// Callers who are refused again and again cost the others no more than the search for them, whatever their keys are, and get
// their own answers all the same.
func TestSuspects_CostLittle(t *testing.T) {
	before, _, _ := throughput(t, 0, "key", nil)
	for _, c := range []struct {
		name, key  string
		refusedKey func(caller, round int) string
	}{
		{"the same key each time", "key", func(caller, _ int) string { return fmt.Sprint("denied", caller) }},
		{"the same key each time, among others", "app/key", func(caller, _ int) string { return fmt.Sprint("app/denied", caller) }},
		{"a tenant with new keys each time", "app/tenant/", func(caller, round int) string { return fmt.Sprintf("app/denied/%d/%d", caller, round) }},
		{"new keys each time, without slashes", "in-order-", func(caller, round int) string { return fmt.Sprintf("denied-%d-%d", caller, round) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, refused := range []int{4, 16} {
				alone := before * int64(crowd-refused) / crowd
				done, refusals, wasted := throughput(t, refused, c.key, c.refusedKey)
				t.Logf("%d of %d refused: %d operations of the others instead of %d; %d refusals, %d of groups", refused, crowd, done, alone, refusals, wasted)
				require.LessOrEqual(t, wasted, int64(2*bits.Len(MaxOps)*refused), "each is found once, by halving")
				require.Positive(t, done) // how many depends on how the callers happen to fall into groups
				require.Greater(t, refusals, int64((learn+span)/work), "they are answered")
			}
		})
	}
}

// A suspect that is not refused any more is an operation like any other.
func TestSuspects_RightIsGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		var granted atomic.Bool
		kv.Script = refusing(&kv, func(keys []string) error {
			if !granted.Load() && strings.HasPrefix(keys[len(keys)-1], "tenant/") {
				return rpctypes.ErrGRPCPermissionDenied
			}
			return nil
		})
		c := newCallers(t, &kv)
		c.running.Wait()
		c.call(etcdfake.Within(time.Second), "tenant/one", "v")
		c.running.Wait()
		require.ErrorIs(t, c.found["tenant/one"].Err, rpctypes.ErrPermissionDenied)
		require.Len(t, c.suspects, 2)

		granted.Store(true)
		for i := range 3 {
			c.call(etcdfake.Within(time.Second), fmt.Sprint("tenant/", i), "v")
		}
		c.running.Wait()
		c.applied(t, []string{"tenant/0", "tenant/1", "tenant/2"})
		require.False(t, c.suspects.has([]byte("tenant/two")))
	})
}

// An operation of more parts than etcd takes is refused by itself, and teaches nothing about groups. What was learnt is forgotten
// in time: the server may have been started with another limit.
func TestGroup_LimitRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kv etcdfake.KV
		var allowed atomic.Int64
		allowed.Store(MaxOps)
		kv.Script = refusing(&kv, func(keys []string) error {
			if len(keys) > int(allowed.Load()) || strings.Contains(strings.Join(keys, " "), "huge") {
				return rpctypes.ErrGRPCTooManyOps
			}
			return nil
		})
		c := newCallers(t, &kv)
		c.call(etcdfake.Within(time.Second), "huge", "v")
		keys := c.many(99)
		c.running.Wait()
		require.ErrorIs(t, c.found["huge"].Err, rpctypes.ErrTooManyOps)
		c.applied(t, keys)
		require.Equal(t, MaxOps, c.limit())

		gather := func() {
			for i := range MinLanes {
				c.call(etcdfake.Within(time.Second), fmt.Sprint("first", i), "v")
			}
			c.many(MaxOps)
			c.running.Wait()
		}
		allowed.Store(40)
		gather()
		low := c.limit()
		require.LessOrEqual(t, low, 40)
		require.Greater(t, low, 40/2)
		allowed.Store(MaxOps)
		time.Sleep(maxOpsLife / 2)
		gather()
		require.Equal(t, low, c.limit())
		for range 3 {
			time.Sleep(maxOpsLife)
			gather()
		}
		require.Equal(t, MaxOps, c.limit())
	})
}

func TestSuspects_Memory(t *testing.T) {
	s := suspects{}
	for i := range 10 * maxSuspects {
		s.add(fmt.Appendf(nil, "%d/%d", i, i))
		require.LessOrEqual(t, len(s), maxSuspects+maxPrefixes)
	}
	clear(s)
	s.add([]byte(strings.Repeat("a/", 1000)))
	require.Len(t, s, maxPrefixes+1)
}

func TestSuspects_Prefixes(t *testing.T) {
	s := suspects{}
	require.False(t, s.has([]byte("a/b-c")))
	s.add([]byte("a/b-c"))
	for _, key := range []string{"a/b-c", "a/b-d", "a/x"} {
		require.True(t, s.has([]byte(key)), key)
	}
	for _, key := range []string{"a", "b/b-c", "a:b"} {
		require.False(t, s.has([]byte(key)), key)
	}
	s.remove([]byte("a/b-d"))
	require.True(t, s.has([]byte("a/b-c")), "the key itself")
	require.False(t, s.has([]byte("a/b-e")))
	s.remove([]byte("a/b-c"))
	require.Empty(t, s)
}
