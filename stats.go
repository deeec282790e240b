package locker

import "time"

// Stats are figures of a client at a moment, for its metrics. Those that count only grow.
type Stats struct {
	Held    int // locks that are held
	Waiting int // goroutines that wait for another goroutine of this client
	Queued  int // places of this client in the queues in etcd

	Acquired  int64         // locks that were taken
	Refused   int64         // calls that took no lock, for whatever reason
	Released  int64         // locks that were given back, with those of Close
	LostLease int64         // locks that were lost with their lease: it was not renewed in time, or is not known to etcd
	LostKey   int64         // locks that were lost alone: the key was deleted or replaced
	WaitTime  time.Duration // that LockWait and Do took, all calls together

	Sessions     int           // leases that are alive
	LastRenewal  time.Time     // when a renewal of a lease was answered last; zero if none was
	RenewalDelay time.Duration // how long that answer took

	Requests     int64 // that were sent to etcd: transactions, and renewals and grants of leases
	Hedges       int64 // of these, those that were sent beside one that was late
	Transactions int64 // that were sent, however often
	Operations   int64 // of locks, in these transactions

	Watches      int   // that are open
	StreamsMoved int64 // times that all watches were taken to another stream, because theirs was silent or broken
}

// Stats returns the client's figures. It waits for nothing and is cheap enough to be called for every scrape. The zero Client
// has none.
func (c Client) Stats() Stats {
	if c.client == nil {
		return Stats{}
	}
	counts, leases := &c.holds.Counts, c.leases.Stats()
	requests, hedges := c.queue.conn.Stats()
	transactions, operations := c.commits.Stats()
	watches, moves := c.watches.Stats()
	return Stats{
		Held: int(counts.Held.Load()), Waiting: int(counts.Waiting.Load()), Queued: int(c.queue.queued.Load()),
		Acquired: counts.Acquired.Load(), Refused: c.refused.Load(), Released: counts.Released.Load(),
		LostLease: counts.LostLease.Load(), LostKey: counts.LostKey.Load(), WaitTime: time.Duration(c.waitTime.Load()),
		Sessions: leases.Leases, LastRenewal: leases.LastRenewal, RenewalDelay: leases.RenewalDelay,
		Requests: requests, Hedges: hedges, Transactions: transactions, Operations: operations,
		Watches: watches, StreamsMoved: moves,
	}
}
