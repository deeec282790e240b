package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/PumpkinSeed/locker"
)

var watchCommand = command{
	name: "watch", synopsis: "[-json] NAME",
	summary: "print who holds a lock, and every change of that",
	description: `
Prints the value of the lock now, and then each time that it changes, until it is interrupted. Where changes come faster than they
are read, some may be left out, but never that the lock was free or changed hands.`,
	setUp: func(in *invocation) func([]string) error {
		asJSON := in.own.Bool("json", false, "for scripts: an object on a line for each change")
		return func(args []string) error {
			return in.look(args, func(_ *clientv3.Client, locks locker.Client, name string) error { return watch(locks, name, *asJSON) })
		}
	},
}

func watch(locks locker.Client, name string, asJSON bool) error {
	values, quit := make(chan string), make(chan bool)
	var failed error // guarded by watching
	var watching sync.WaitGroup
	watching.Go(func() {
		defer close(values)
		failed = locks.Watch(name, values, quit)
	})
	for value := range values {
		if err := printChange(name, value, asJSON); err != nil { // nobody reads on
			close(quit)
			watching.Wait()
			return err
		}
	}
	watching.Wait()
	return failed
}

func printChange(name, value string, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Time  time.Time `json:"time"`
			Name  string    `json:"name"`
			Held  bool      `json:"held"`
			Value string    `json:"value"`
		}{time.Now(), name, value != "", value})
	}
	text := "is free"
	if value != "" {
		text = "is held by " + shown(value)
	}
	_, err := fmt.Println(time.Now().Format(time.DateTime), shown(name), text)
	return err
}
