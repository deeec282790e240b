package etcdtest

import "time"

// Loss is the end of a hold whose lease was not renewed.
type Loss struct {
	Deadline time.Time // from which on the clock says that it is not held; exact, whatever else the machine has to do
	Told     time.Time // when its holder heard of that
}

// FollowLoss follows a hold until done is closed, and tells its end then. remaining is how long it is certain to be held.
func FollowLoss(done <-chan struct{}, remaining func() time.Duration) <-chan Loss {
	told := make(chan Loss, 1)
	go func() {
		look := time.NewTicker(5 * time.Millisecond)
		defer look.Stop()
		for l := (Loss{}); ; {
			select {
			case <-done:
				l.Told = time.Now()
				told <- l
				return
			case <-look.C:
				at := time.Now() // before the look, so that a delay makes the deadline no later than it is
				if left := remaining(); left > 0 && at.Add(left).After(l.Deadline) {
					l.Deadline = at.Add(left)
				}
			}
		}
	}()
	return told
}
