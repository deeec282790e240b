package hedge

import "sync/atomic"

// A budget limits hedges. Where one member is silent a hedge saves the call; where all are slow it is more work for
// those that have too much already. A hedge that is answered before the first attempt was of use, and earns more than it
// has cost; every answer to a first attempt earns a little, until all that was spent is earned again.
//
// It is a count of what is spent, in hundredths of a hedge. gRPC's retry throttling and Finagle's retry budgets work
// alike.
type budget struct{ spent atomic.Int64 }

const (
	costOfHedge     = 100
	maxSpent        = 300  // three hedges
	earnedByAnswer  = 10   // a hedge in ten requests is granted where hedges are of no use
	earnedByHedge   = 150  // more than it cost: one silent member never uses up the budget
	maxSavedByHedge = 3000 // how much useful hedges can save up
)

// spend takes a hedge out of the budget, and reports whether there was one left.
func (b *budget) spend() bool {
	if b.spent.Add(costOfHedge) <= maxSpent {
		return true
	}
	b.spent.Add(-costOfHedge)
	return false
}

// earn records that a first attempt, or a hedge, was the one that was answered.
func (b *budget) earn(byHedge bool) {
	earned, least := int64(earnedByAnswer), int64(0)
	if byHedge {
		earned, least = earnedByHedge, -maxSavedByHedge
	}
	for {
		spent := b.spent.Load()
		if spent <= least || b.spent.CompareAndSwap(spent, max(least, spent-earned)) {
			return
		}
	}
}
