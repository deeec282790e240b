//go:build !linux

package locker

import "time"

// sinceBoot stands still where there is no clock that is known to run while the machine is suspended: the
// monotonic clock alone decides there.
func sinceBoot() time.Duration { return 0 }
