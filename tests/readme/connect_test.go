package readme

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// connect returns the two clients of the order service. The caller closes the second, and then the first.
func connect(machines []string, security *tls.Config, user, password string) (*clientv3.Client, locker.Client, error) {
	config := locker.Config(machines, 5*time.Second)
	config.TLS, config.Username, config.Password = security, user, password
	etcd, err := clientv3.New(config)
	if err != nil {
		return nil, locker.Client{}, err
	}
	client, err := locker.NewFromClient(context.Background(), etcd, 15, locker.WithPrefix("locks/orders/"))
	if err != nil {
		etcd.Close()
		return nil, locker.Client{}, err
	}
	return etcd, client, nil
}

func TestConnect(t *testing.T) {
	etcd, client, err := connect(machines, nil, "", "")
	require.NoError(t, err)
	defer etcd.Close()
	defer client.Close()
	name := etcdtest.NewName()
	require.Equal(t, locker.Success, client.Lock(name, locker.DefaultValue, nil).Msg)
	resp, err := etcd.Get(t.Context(), "locks/orders/"+name)
	require.NoError(t, err)
	require.EqualValues(t, 1, resp.Count)

	_, _, err = connect([]string{"127.0.0.1:1"}, nil, "", "")
	require.Error(t, err, "and the etcd client is closed: the end of the tests looks for its goroutines")
}
