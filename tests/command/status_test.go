package command

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/stretchr/testify/require"
)

// Every way to end has its exit status, and says why.
func TestStatus(t *testing.T) {
	t.Parallel()
	nowhere := []string{"http://127.0.0.1:1"}
	taken := etcdtest.NewName()
	l := newLife(t)
	start(t, machines, "run", "-value", "the holder", taken, "--", "sh", "-c", l.script()+"sleep 300")
	etcdtest.ReceiveWithin(t, l.began, soon)
	for what, c := range map[string]struct {
		endpoints []string
		args      string // NAME: one that nobody else uses
		status    int
		says      string
	}{
		"success":          {machines, "run NAME -- true", 0, ""},
		"the command's":    {machines, "run NAME -- sh -c 'exit 37'", 37, ""},
		"killed":           {machines, "run NAME -- sh -c 'kill -KILL $$'", 128 + 9, ""},
		"tried":            {machines, "run -try " + taken + " -- true", 75, "held by the holder"},
		"waited":           {machines, "run -wait 300ms " + taken + " -- true", 75, "held by the holder"},
		"one of two":       {machines, "run -try NAME " + taken + " -- true", 75, "held by the holder"},
		"not found":        {machines, "run NAME -- no-such-command", 127, "no-such-command"},
		"not executable":   {machines, "run NAME -- /dev/null", 126, "/dev/null"},
		"unreachable":      {nowhere, "--command-timeout 1s run NAME -- true", 69, "does not answer at http://127.0.0.1:1"},
		"no endpoints":     {nil, "--command-timeout 1s list", 69, "docker compose"},
		"no command":       {machines, "run NAME", 64, "then a command"},
		"no name":          {machines, "run -- true", 64, "names of locks"},
		"flag after name":  {machines, "run NAME -try -- true", 64, "flags come before"},
		"unknown flag":     {machines, "run -frob NAME -- true", 64, "frob"},
		"unknown command":  {machines, "frob", 64, "frob"},
		"nothing":          {machines, "", 64, "SYNOPSIS"},
		"try and wait":     {machines, "run -try -wait 1s NAME -- true", 64, "contradict"},
		"grace":            {machines, "run -grace 7s NAME -- true", 64, "at most"},
		"ttl":              {machines, "run -ttl 1500ms NAME -- true", 64, "whole seconds"},
		"name given twice": {machines, "run NAME NAME -- true", 64, "twice"},
		"invalid name":     {machines, "run NAME/.waiting/x -- true", 64, "invalid lock name"},
		"no certificate":   {machines, "--cacert /nonexistent list", 64, "/nonexistent"},
		"no password":      {machines, "--user somebody list", 64, "password"},
		"free lock":        {machines, "get NAME", 1, "not found"},
		"nothing to take":  {machines, "release -force NAME", 1, "nobody holds"},
		"help":             {nil, "help", 0, "EXIT STATUS"},
		"help run":         {nil, "run -h", 0, "LOCKER_TOKEN"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if conn, err := net.Dial("tcp", "127.0.0.1:2379"); c.endpoints == nil && err == nil {
				conn.Close()
				t.Skip("there is an etcd at the default address")
			}
			line := strings.ReplaceAll(c.args, "NAME", etcdtest.NewName())
			p := launch(t, exec.Command("sh", "-c", `exec "$0" `+line, program), c.endpoints)
			require.Equal(t, c.status, p.status(t))
			require.Contains(t, p.all(t), c.says)
		})
	}
}
