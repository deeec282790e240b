package main

import (
	"bytes"
	"os"
	"runtime"
	"time"
)

// vitals are how a client process is.
type vitals struct {
	Heap        uint64        `json:"heap"` // bytes in use after a collection
	Goroutines  int           `json:"goroutines"`
	Files       int           `json:"files"`
	Age         time.Duration `json:"age"`
	Leaked      int           `json:"leaked,omitempty"`      // at the end: goroutines of the library
	LeakedFiles int           `json:"leakedFiles,omitempty"` // and open files, beyond those at the start
}

// vitalsPeriod is how often they are taken.
const vitalsPeriod = 10 * time.Second

var born = time.Now()

func measure() vitals {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, _ := os.ReadDir("/proc/self/fd")
	return vitals{Heap: m.HeapAlloc, Goroutines: runtime.NumGoroutine(), Files: len(files), Age: time.Since(born)}
}

// ownGoroutines counts those that run code of the library.
func ownGoroutines() (n int) {
	buf := make([]byte, 8<<20)
	for stack := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		if bytes.Contains(stack, []byte("\ngithub.com/PumpkinSeed/locker.")) {
			n++
		}
	}
	return n
}
