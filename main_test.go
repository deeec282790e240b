package locker

import (
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

// machines are the members of the cluster that the tests share: LOCKER_ENDPOINTS, or three members of their own.
var machines []string

func TestMain(m *testing.M) { etcdtest.MainWithCluster(m, &machines) }
