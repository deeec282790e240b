package main

import (
	"encoding/json"
	"fmt"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker"
)

var getCommand = command{
	name: "get", synopsis: "[-json] NAME",
	summary: "print the value of a lock: who holds it",
	description: `
Prints the value that the holder of the lock has given it. The exit status is 1 if nobody holds it.`,
	setUp: func(in *invocation) func([]string) error {
		asJSON := in.own.Bool("json", false, "for scripts")
		return func(args []string) error {
			return in.look(args, func(_ *clientv3.Client, locks locker.Client, name string) error { return get(locks, name, *asJSON) })
		}
	},
}

func get(locks locker.Client, name string, asJSON bool) error {
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
