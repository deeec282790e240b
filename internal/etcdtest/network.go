package etcdtest

import (
	"testing"
	"time"
)

// A Network is a client's own way to a cluster: one proxy in front of every member. What it does to the network, it does
// on the ways to all members.
type Network []*Proxy

// NewNetwork is a network without faults, for one test.
func NewNetwork(t testing.TB, endpoints []string) (n Network) {
	t.Helper()
	for _, endpoint := range endpoints {
		p, err := NewProxy(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		n = append(n, p)
	}
	return n
}

// Endpoints are where a client finds the members, by way of the network.
func (n Network) Endpoints() (urls []string) {
	for _, p := range n {
		urls = append(urls, p.URL())
	}
	return urls
}

// Each does the same to the ways to all members.
func (n Network) Each(f func(*Proxy)) {
	for _, p := range n {
		f(p)
	}
}

func (n Network) Swallow(dirs ...Direction) { n.Each(func(p *Proxy) { p.Swallow(dirs...) }) }
func (n Network) SwallowOpen()              { n.Each(func(p *Proxy) { p.SwallowOpen() }) }
func (n Network) Hold(dirs ...Direction)    { n.Each(func(p *Proxy) { p.Hold(dirs...) }) }
func (n Network) Cut()                      { n.Each((*Proxy).Cut) }
func (n Network) Heal()                     { n.Each((*Proxy).Heal) }

func (n Network) Delay(d time.Duration, dirs ...Direction) {
	n.Each(func(p *Proxy) { p.Delay(d, dirs...) })
}

func (n Network) Jitter(least, most time.Duration) {
	n.Each(func(p *Proxy) { p.Jitter(least, most) })
}

func (n Network) Throttle(rate int) { n.Each(func(p *Proxy) { p.Throttle(rate) }) }

// Partitions cut off a client whose lease has that TTL; the times in them are part of the fault.
var Partitions = map[string]func(n Network, ttl time.Duration){
	"both ways": func(n Network, _ time.Duration) { n.Swallow() },
	"answers only": func(n Network, _ time.Duration) { // its renewals still arrive
		n.Swallow(ToClient)
	},
	"answers delivered late": func(n Network, ttl time.Duration) {
		n.Hold(ToClient)
		time.Sleep(ttl / 2) // renewals go out
		n.Hold(ToServer)
		time.Sleep(ttl / 3)
		n.Delay(0, ToClient)
	},
	"slow answers, then none": func(n Network, ttl time.Duration) {
		n.Delay(ttl/9, ToClient)
		time.Sleep(ttl / 2) // a renewal, at least, is answered late, but not too late
		n.Swallow()
	},
}
