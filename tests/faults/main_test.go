package main

import (
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }
