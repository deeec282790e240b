package main

import (
	"slices"
	"time"
)

var runCommand = command{
	name: "run", synopsis: "[-wait TIME | -try] [-value VALUE] [-ttl TIME] [-grace TIME] NAME... -- COMMAND ARG...",
	summary: "run a command while holding locks",
	description: `
Waits for the locks, first come first served, runs COMMAND while it holds them all, and gives them back. Several locks are taken in
the order of their names, so that two such runs can't block each other. COMMAND finds the fencing tokens in LOCKER_TOKEN and the
names in LOCKER_NAME, separated by spaces and in the order of the command line.

No process of COMMAND's process group runs when another can hold one of the locks. When the locks' lease could not be renewed and
would last for no longer than the time of -grace, the group gets SIGTERM. What is left of it gets SIGKILL at the end of that time,
which is before etcd gives the lock away: by a tenth of the TTL, and at least 200 ms. If somebody takes a lock away, another may have it
already, and SIGKILL comes at once. It comes, too, when this program is killed or stopped, and to processes that COMMAND has
left behind in its group when it ends. A process that leaves the group (setsid, a daemon, a container) is not reached.

INT, TERM, HUP, QUIT, USR1, USR2 and CONT are passed on to the group, which is in the foreground of the terminal if this program
was. A command that holds a lock can't be suspended with Ctrl-Z.`,
	setUp: func(in *invocation) func([]string) error {
		var o runOptions
		in.own.DurationVar(&o.wait, "wait", 0, "give up if the locks are not to be had within this `time`")
		in.own.BoolVar(&o.try, "try", false, "do not wait at all")
		in.own.StringVar(&o.value, "value", "", "`value` of the locks, for others to see (default HOST:PID)")
		in.own.DurationVar(&o.ttl, "ttl", 15*time.Second, "how long the locks outlive this program if it dies; whole seconds, and at least 2")
		in.own.DurationVar(&o.grace, "grace", 0, "what COMMAND has between SIGTERM and SIGKILL: a `time` of 2/5 of the TTL at most "+
			"(default a third of the TTL, and so 5s)")
		return func(args []string) error { return in.runUnderLocks(o, args) }
	},
}

// runOptions are the flags of run.
type runOptions struct {
	wait, ttl, grace time.Duration
	try              bool
	value            string

	names, argv []string
}

// complete checks the flags and the arguments, and fills in what was not given.
func (o *runOptions) complete(args []string, defaultValue string) error {
	for i, arg := range args {
		if arg == "--" {
			o.names, o.argv = args[:i], args[i+1:]
		}
		if o.argv != nil {
			break
		}
		if len(arg) > 0 && arg[0] == '-' {
			return usage("flags come before the names: %s", arg)
		}
	}
	if o.value == "" {
		o.value = defaultValue
	}
	if o.grace == 0 {
		o.grace = o.ttl / 3
	}
	switch {
	case len(o.names) == 0 || len(o.argv) == 0:
		return usage("run takes the names of locks, then --, then a command; see locker run -h")
	case len(slices.Compact(slices.Sorted(slices.Values(o.names)))) < len(o.names):
		return usage("a name is given twice")
	case o.try && o.wait != 0:
		return usage("-try and -wait contradict each other")
	case o.wait < 0:
		return usage("-wait %v is less than nothing", o.wait)
	case o.ttl < 2*time.Second || o.ttl%time.Second != 0:
		return usage("-ttl %v is not a number of whole seconds of at least 2", o.ttl)
	case o.grace < 0 || o.grace > o.ttl*2/5: // what is left must be enough for a renewal, and for another try
		return usage("-grace %v must be at most 2/5 of -ttl %v, which is %v", o.grace, o.ttl, o.ttl*2/5)
	}
	return nil
}
