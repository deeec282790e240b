package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/PumpkinSeed/locker"
)

var listCommand = command{
	name: "list", synopsis: "[-json] [PREFIX]",
	summary: "list the locks whose names begin with PREFIX, who holds them, and how many wait",
	description: `
Lists locks in the order of their names: those that are held, and those that somebody waits for. LEASE is the holder's, by which
etcdctl knows it. With -json every lock is an object on a line of its own, with those who wait, first come first.`,
	setUp: func(in *invocation) func([]string) error {
		asJSON := in.own.Bool("json", false, "for scripts")
		return func(args []string) error {
			if len(args) > 1 {
				return usage("locker list takes one prefix, after its flags")
			}
			return in.list(strings.Join(args, ""), *asJSON)
		}
	},
}

// readTTL is that of the lease of a command that takes no lock.
const readTTL = 0

func (in *invocation) list(prefix string, asJSON bool) error {
	etcd, locks, err := in.connect(context.Background(), readTTL)
	if err != nil {
		return err
	}
	defer disconnect(etcd, locks)
	held, err := locks.Holders(context.Background(), prefix)
	if err != nil {
		return err
	}
	if asJSON {
		return listJSON(os.Stdout, held)
	}
	return listTable(os.Stdout, held)
}

type jsonLock struct {
	Name    string       `json:"name"`
	Held    bool         `json:"held"`
	Value   string       `json:"value"`
	Token   int64        `json:"token"`
	Lease   string       `json:"lease"`
	Waiters []jsonWaiter `json:"waiters"`
}

type jsonWaiter struct {
	Value string `json:"value"`
	Lease string `json:"lease"`
	Since int64  `json:"since"`
}

func listJSON(w io.Writer, held []locker.Holder) error {
	out := json.NewEncoder(w)
	for _, h := range held {
		lock := jsonLock{h.Name, h.Token != 0, h.Value, h.Token, hex(h.Lease), []jsonWaiter{}}
		for _, waiter := range h.Waiters {
			lock.Waiters = append(lock.Waiters, jsonWaiter{waiter.Value, hex(waiter.Lease), waiter.Since})
		}
		if err := out.Encode(lock); err != nil {
			return err
		}
	}
	return nil
}

func listTable(w io.Writer, held []locker.Holder) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tHOLDER\tTOKEN\tLEASE\tWAITING")
	for _, h := range held {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\n", shown(h.Name), shown(h.Value), h.Token, hex(h.Lease), len(h.Waiters))
	}
	return table.Flush()
}

// hex is a lease as etcdctl writes it.
func hex(lease int64) string { return strconv.FormatInt(lease, 16) }

// shown is a name or value for a terminal, which others have chosen: quoted if it holds anything that is more than text.
func shown(text string) string {
	if quoted := strconv.Quote(text); quoted[1:len(quoted)-1] != text {
		return quoted
	}
	return text
}
