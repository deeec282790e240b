package locker_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// connect is ExampleNew with the cluster of the tests.
func connect() locker.Client {
	client, err := locker.New(*locker.Machines, 5, 15, context.Background())
	if err != nil {
		panic(err)
	}
	return client
}

func ExampleNew() {
	machines := []string{"http://127.0.0.1:2379", "http://127.0.0.1:2380", "http://127.0.0.1:2381"}
	timeout, ttl := int64(5), int64(15) // seconds

	client, err := locker.New(machines, timeout, ttl, context.Background())
	if err != nil {
		log.Fatal(err) // no member has answered within the timeout
	}
	defer client.Close()
}

func ExampleNewFromClient() {
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints: *locker.Machines,
		// TLS, Username and Password go here.
	})
	if err != nil {
		log.Fatal(err)
	}
	defer etcd.Close()
	client, err := locker.NewFromClient(context.Background(), etcd, 15)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	fmt.Println(client.Inspect("example/from-client").Msg)
	// Output:
	// success
}

func ExampleClient_Lock() {
	client := connect()
	defer client.Close()

	key := "example/lock"
	quit := make(chan bool)
	report := client.Lock(key, locker.DefaultValue, quit)
	switch {
	case report.Err != nil:
		fmt.Println("not locked:", report.Err)
	case report.Msg == locker.Fail:
		fmt.Println("somebody else has it")
	default:
		fmt.Println("it is ours")
	}

	again := client.Lock(key, locker.DefaultValue, nil)
	fmt.Println(again.Msg, again.Err)

	if err := client.Unlock(key, quit); err != nil {
		fmt.Println(err)
	}

	fmt.Println(client.Inspect(key).Msg)
	// Output:
	// it is ours
	// fail <nil>
	// success
}

func ExampleClient_Lock_quit() {
	client := connect()
	defer client.Close()

	key := "example/quit"
	quit := make(chan bool)
	report := client.Lock(key, locker.DefaultValue, quit)
	if report.Msg == locker.Success {
		quit <- true // or close(quit)
		<-report.Done
	}

	fmt.Println(report.Held())
	fmt.Println(client.Lock(key, locker.DefaultValue, nil).Msg)
	// Output:
	// false
	// success
}

func ExampleClient_Unlock() {
	client := connect()
	defer client.Close()

	err := client.Unlock("example/unlock", nil)
	fmt.Println(errors.Is(err, locker.ErrNotHeld))
	// Output:
	// true
}

func ExampleClient_Watch() {
	client, holder := connect(), connect()
	defer client.Close()
	defer holder.Close()

	valueChanges := make(chan string)
	quit := make(chan bool)
	go client.Watch("example/watch", valueChanges, quit)
	defer close(quit)

	fmt.Printf("%q\n", <-valueChanges) // the value at the start; "" is no lock
	holder.Lock("example/watch", "10.1.1.1", nil)
	fmt.Printf("%q\n", <-valueChanges)
	holder.Unlock("example/watch", nil)
	fmt.Printf("%q\n", <-valueChanges)
	// Output:
	// ""
	// "10.1.1.1"
	// ""
}

func ExampleClient_Get() {
	client := connect()
	defer client.Close()

	_, err := client.Get("example/get")
	fmt.Println(errors.As(err, new(locker.LockNotFound)))

	client.Lock("example/get", "10.1.1.1", nil)
	fmt.Println(client.Get("example/get"))
	// Output:
	// true
	// 10.1.1.1 <nil>
}

func ExampleClient_LockWait() {
	client := connect()
	defer client.Close()
	client.Lock("example/wait", "the first", nil)

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	report := client.LockWait(ctx, "example/wait", "the second", nil)
	if errors.Is(report.Err, context.DeadlineExceeded) {
		fmt.Println("waited long enough")
	}

	go client.Unlock("example/wait", nil)
	fmt.Println(client.LockWait(context.Background(), "example/wait", "the second", nil).Msg)
	// Output:
	// waited long enough
	// success
}

func ExampleClient_Do() {
	client := connect()
	defer client.Close()

	err := client.Do(context.Background(), "example/do", "worker 7", func(ctx context.Context, token int64) error {
		fmt.Println("in turn, one at a time") // end early when ctx ends: the lock was lost
		return nil
	})
	fmt.Println(err)
	// Output:
	// in turn, one at a time
	// <nil>
}

func ExampleReport_Held() {
	client := connect()
	defer client.Close()

	report := client.Lock("example/held", locker.DefaultValue, nil)
	for part := 1; part <= 3; part++ {
		if !report.Held() {
			fmt.Println("lost, or never ours: stop")
			return
		}
		fmt.Println("part", part)
	}
	// Output:
	// part 1
	// part 2
	// part 3
}

func ExampleReport_Guard() {
	client := connect()
	defer client.Close()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: *locker.Machines})
	if err != nil {
		panic(err)
	}
	defer etcd.Close()
	defer etcd.Delete(context.Background(), "example/state")

	report := client.Lock("example/guard", locker.DefaultValue, nil)
	write := func(state string) {
		resp, err := etcd.Txn(context.Background()).
			If(report.Guard()).
			Then(clientv3.OpPut("example/state", state)).
			Commit()
		fmt.Println("written:", err == nil && resp.Succeeded)
	}
	write("in time")
	client.Unlock("example/guard", nil)
	write("too late")
	// Output:
	// written: true
	// written: false
}
