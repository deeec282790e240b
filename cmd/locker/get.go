package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

var getCommand = command{
	name: "get", synopsis: "[-json] NAME",
	summary: "print the value of a lock: who holds it",
	description: `
Prints the value that the holder of the lock has given it. The exit status is 1 if nobody holds it.`,
	setUp: func(in *invocation) func([]string) error {
		asJSON := in.own.Bool("json", false, "for scripts")
		return func(args []string) error { return in.get(args, *asJSON) }
	},
}

func (in *invocation) get(args []string, asJSON bool) error {
	name, err := in.one(args)
	if err != nil {
		return err
	}
	etcd, locks, err := in.connect(context.Background(), readTTL)
	if err != nil {
		return err
	}
	defer disconnect(etcd, locks)
	value, err := locks.Get(name)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]string{"name": name, "value": value})
	}
	_, err = fmt.Println(shown(value))
	return err
}
