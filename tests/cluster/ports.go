package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

const (
	blockSize  = 32 // ports that one cluster may use
	maxMembers = (blockSize - 1) / 3
	firstPort  = 10000
)

// ports is a block of ports below the range from which the kernel serves others, so that a member that was killed
// finds its ports free again. The first port of the block is kept open: it tells other clusters that the block is
// taken.
type ports struct {
	guard net.Listener
	next  int
}

func reservePorts() (*ports, error) {
	var low int
	if s, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(s), &low)
	}
	if low < firstPort+blockSize {
		low = 32768
	}
	blocks := (low - firstPort) / blockSize
	start := rand.IntN(blocks)
	for i := range blocks {
		first := firstPort + (start+i)%blocks*blockSize
		if guard, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first)); err == nil {
			return &ports{guard: guard, next: first + 1}, nil
		}
	}
	return nil, errors.New("no free ports")
}

// three returns the addresses that a member needs, the next in the block that nobody has now.
func (p *ports) three() (a, b, c string, err error) {
	var free [3]string
	for i := range free {
		for free[i] == "" {
			if p.next%blockSize == firstPort%blockSize {
				return "", "", "", fmt.Errorf("%w: a whole block of ports", errAddressInUse)
			}
			addr := fmt.Sprintf("127.0.0.1:%d", p.next)
			p.next++
			if l, err := net.Listen("tcp", addr); err == nil {
				l.Close()
				free[i] = addr
			}
		}
	}
	return free[0], free[1], free[2], nil
}

func (p *ports) release() { p.guard.Close() }
