package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker"
)

// A command is what a word on the command line does.
type command struct {
	name, synopsis string
	summary        string
	description    string // for -h

	// setUp adds the command's own flags, and returns what it does with the arguments after them.
	setUp func(*invocation) func(args []string) error
}

func commands() []command {
	return []command{runCommand, listCommand, watchCommand, getCommand, releaseCommand}
}

func find(name string) (command, error) {
	for _, c := range commands() {
		if c.name == name {
			return c, nil
		}
	}
	return command{}, usage("there is no command %q; see locker help", name)
}

// An invocation is a command with its flags.
type invocation struct {
	command
	*connection
	own *flag.FlagSet
	do  func(args []string) error
}

func (c command) prepare(conn *connection) *invocation {
	in := &invocation{command: c, connection: conn, own: newFlags()}
	in.do = c.setUp(in)
	return in
}

func newFlags() *flag.FlagSet {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags
}

// run parses the arguments after the name of the command, and does what it does.
func (in *invocation) run(args []string) error {
	all := newFlags()
	for _, flags := range []*flag.FlagSet{in.own, in.connection.flags()} {
		flags.VisitAll(func(f *flag.Flag) { all.Var(f.Value, f.Name, f.Usage) })
	}
	if err := all.Parse(args); err != nil {
		return helpOr(err, func() { in.help(os.Stdout) })
	}
	return in.do(all.Args())
}

// look connects, and calls f for the only argument of a command that looks at one lock.
func (in *invocation) look(args []string, f func(etcd *clientv3.Client, locks locker.Client, name string) error) error {
	if len(args) != 1 {
		return usage("locker %s takes one name, after its flags; see locker %[1]s -h", in.name)
	}
	etcd, locks, err := in.connect(context.Background(), readTTL)
	if err != nil {
		return err
	}
	defer disconnect(etcd, locks)
	return f(etcd, locks, args[0])
}

func help(args []string) error {
	if len(args) == 0 {
		overview(os.Stdout)
		return nil
	}
	c, err := find(args[0])
	if err == nil {
		c.prepare(&connection{}).help(os.Stdout)
	}
	return err
}

// help shows what a command does, in the manner of a manual page.
func (in *invocation) help(w io.Writer) {
	fmt.Fprintf(w, "NAME\n  locker %s - %s\n\nSYNOPSIS\n  locker %s %s\n\nDESCRIPTION\n%s\n", in.name, in.summary, in.name, in.synopsis,
		indented(in.description))
	fmt.Fprintf(w, "\nOPTIONS\n")
	in.own.SetOutput(w)
	in.own.PrintDefaults()
	fmt.Fprintf(w, "\nCONNECTION\n")
	flags := new(connection).flags() // with the defaults, and not with a password from the environment
	flags.SetOutput(w)
	flags.PrintDefaults()
	fmt.Fprint(w, "\n"+connectionHelp+"\n"+statusHelp)
}

// overview is the help of the whole program.
func overview(w io.Writer) {
	fmt.Fprint(w, "NAME\n  locker - distributed locks on etcd, at a shell\n\nSYNOPSIS\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  locker %s %s\n      %s\n", c.name, c.synopsis, c.summary)
	}
	fmt.Fprint(w, "  locker help COMMAND, locker COMMAND -h\n      tell more about a command, and list its flags\n\n"+
		connectionHelp+"\n"+statusHelp+"\n"+exampleHelp)
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  "), "\n  \n", "\n\n")
}

const connectionHelp = `ENVIRONMENT
  Every flag of the connection can be given in the environment, as for etcdctl: ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT,
  ETCDCTL_KEY, ETCDCTL_USER, ETCDCTL_PASSWORD and so on. A flag goes before the environment.
`

const statusHelp = `EXIT STATUS
  0    done; of run: that of COMMAND, whatever it is
  1    get, release: nobody holds the lock
  64   the command line is wrong
  69   etcd does not answer
  70   another error
  74   the lock was lost, or was about to be, and COMMAND was ended
  75   somebody else has the lock: -try, or -wait is over
  77   etcd refuses the user
  126  COMMAND can't be run
  127  COMMAND was not found
  128+N  signal N ended COMMAND, or the wait for the lock
`

const exampleHelp = `EXAMPLES
  locker run -try nightly-backup -- /usr/local/bin/backup --all
  locker run -wait 10m deploy/web deploy/db -- sh -c 'migrate --fence "$LOCKER_TOKEN" && roll-out'
  locker list deploy/
  locker watch -json leader
`
