package network

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// The endpoints belong to two clusters, because the members never joined: a client says so, and no two have a lock.
func TestTwoClustersAmongTheEndpoints(t *testing.T) {
	var endpoints, ids []string
	for range 2 {
		cluster := etcdtest.New(t, etcdtest.Options{Members: 1})
		endpoints = append(endpoints, cluster.Endpoints()...)
		resp, err := etcdtest.Connect(t, cluster.Endpoints()).MemberList(t.Context())
		require.NoError(t, err)
		ids = append(ids, strconv.FormatUint(resp.Header.ClusterId, 16))
	}
	for kind, open := range map[string]func() (locker.Client, error){
		"New": func() (locker.Client, error) { return locker.New(endpoints, 2, 15, context.Background()) },
		"NewFromClient": func() (locker.Client, error) {
			return locker.NewFromClient(context.Background(), connect(t, configs["NewFromClient"](endpoints)), 15)
		},
	} {
		t.Run(kind, func(t *testing.T) {
			refused := 0
			for i := range 20 {
				owners := 0
				for range 2 {
					c, err := open()
					if err == nil {
						defer c.Close()
						r := c.Lock(fmt.Sprint(kind, i), "value", nil)
						if err = r.Err; r.Held() {
							owners++
						}
					}
					if err != nil {
						refused++
						for _, id := range ids {
							require.ErrorContains(t, err, id)
						}
					}
				}
				require.Less(t, owners, 2, "two clients have a lock")
			}
			t.Logf("%d of 40 clients were refused", refused)
			require.NotZero(t, refused)
		})
	}
}
