package locker

import (
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// machines are the endpoints of the cluster that the tests share: those of LOCKER_ENDPOINTS, or three members of their own.
var machines []string

func TestMain(m *testing.M) { etcdtest.MainWithCluster(m, &machines) }
