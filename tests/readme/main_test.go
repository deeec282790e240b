package readme

import (
	"os"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
)

// machines are the endpoints of a cluster for the code of docs/production.md.
var machines []string

// asEtcdctl in the environment makes this test program etcdctl.
const asEtcdctl = "LOCKER_TEST_ETCDCTL"

func TestMain(m *testing.M) {
	if os.Getenv(asEtcdctl) != "" {
		ctlv3.MustStart()
		return
	}
	etcdtest.MainWithCluster(m, &machines)
}
