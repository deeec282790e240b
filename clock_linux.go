package locker

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is a clock that runs on while the machine is suspended, which Go's monotonic clock does not
// (golang/go#24595).
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
