package locker

import (
	"log/slog"
	"os"
)

// debug is the debug option: with LOCKER_DEBUG=1 in the environment the library tells on standard output what it
// does. Names of locks are told; values and credentials never are.
var debug = os.Getenv("LOCKER_DEBUG") == "1"

var debugLog = slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug}))

// l logs one event when the debug option is on. What is passed as args must not be a lock's value.
func l(what string, args ...any) {
	if debug {
		debugLog.Debug("locker: "+what, args...)
	}
}
