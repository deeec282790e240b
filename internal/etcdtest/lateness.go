package etcdtest

import "time"

// Lateness watches how late a busy machine is in waking up a goroutine by way of a timer and a channel. What it returns
// ends that, and tells the worst.
func Lateness() (worst func() time.Duration) {
	stop, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		var worst time.Duration
		for {
			const wait = 5 * time.Millisecond
			due, woken := time.Now().Add(wait), make(chan struct{})
			time.AfterFunc(wait, func() { close(woken) })
			select {
			case <-woken:
				worst = max(worst, time.Since(due))
			case <-stop:
				result <- worst
				return
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-result
	}
}
