package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/PumpkinSeed/locker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (d *demo) takenAndRefused(context.Context) error {
	scene("A lock has one holder")
	name := d.prefix + "orders"
	if _, err := d.takes("A", d.a, name, nil); err != nil {
		return err
	}
	if err := d.refused("B", d.b, name); err != nil {
		return err
	}
	return d.refused("A, a second time,", d.a, name)
}

// givenBack begins with A holding the lock.
func (d *demo) givenBack(ctx context.Context) error {
	scene("B watches the lock, A gives it back in three ways")
	name := d.prefix + "orders"
	values, stop, ended := make(chan string), make(chan bool), make(chan error, 1)
	go func() { ended <- d.b.Watch(name, values, stop) }()
	sees := func(want string, since time.Time) error {
		select {
		case value := <-values:
			if value != want {
				return fmt.Errorf("client B sees %q instead of %q", value, want)
			}
			if d.say("B sees %q after %s", value, took(since)); want == "" {
				return d.free(name)
			}
			return nil
		case err := <-ended:
			return fmt.Errorf("the Watch has ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("client B sees nothing, where %q should come: %w", want, ctx.Err())
		}
	}
	if err := sees("A", time.Now()); err != nil {
		return err
	}
	for i, way := range []struct {
		what string
		do   func(quit chan bool) error
	}{
		{"A calls Unlock", func(chan bool) error { return d.a.Unlock(name, nil) }},
		{"A pushes into quit", func(quit chan bool) error {
			select {
			case quit <- true:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("nobody takes what is pushed into quit: %w", ctx.Err())
			}
		}},
		{"A closes quit", func(quit chan bool) error { close(quit); return nil }},
	} {
		quit := make(chan bool)
		if i > 0 {
			began := time.Now()
			if _, err := d.takes("A", d.a, name, quit); err != nil {
				return err
			}
			if err := sees("A", began); err != nil {
				return err
			}
		}
		began := time.Now()
		d.say("%s", way.what)
		if err := way.do(quit); err != nil {
			return err
		}
		if err := sees("", began); err != nil {
			return err
		}
	}
	close(stop)
	return <-ended
}

func (d *demo) handedOver(ctx context.Context) error {
	scene("B waits for the lock, and has it as soon as A is done")
	name := d.prefix + "orders"
	old, err := d.takes("A", d.a, name, nil)
	if err != nil {
		return err
	}
	line := d.etcd.Watch(ctx, name+"/", clientv3.WithPrefix(), clientv3.WithRev(old.Token+1))
	reports := make(chan locker.Report, 1)
	go func() { reports <- d.b.LockWait(ctx, name, "B", nil) }()
	resp, ok := <-line
	if !ok || resp.Err() != nil || len(resp.Events) == 0 {
		return fmt.Errorf("client B does not stand in the line: %w", errors.Join(resp.Err(), ctx.Err()))
	}
	d.say("B waits: the line for the lock is a key of etcd, %q", strings.TrimPrefix(string(resp.Events[0].Kv.Key), d.prefix))

	began := time.Now()
	if err := d.a.Unlock(name, nil); err != nil {
		return err
	}
	report := <-reports
	if report.Msg != locker.Success {
		return fmt.Errorf("client B was not handed the lock: %s", told(report))
	}
	d.tokens = append(d.tokens, report.Token)
	d.say("A calls Unlock; B has the lock %s later, with token %d", took(began), report.Token)

	for _, write := range []struct {
		who  string
		r    locker.Report
		want bool
	}{{"B, who holds it,", report, true}, {"A, who held it,", old, false}} {
		resp, err := d.etcd.Txn(ctx).If(write.r.Guard()).Then(clientv3.OpGet(name)).Commit()
		if err != nil {
			return err
		}
		if resp.Succeeded != write.want {
			return fmt.Errorf("a transaction of %s guarded by token %d: succeeded is %t", write.who, write.r.Token, resp.Succeeded)
		}
		d.say("a transaction of %s guarded by its token: %s", write.who, map[bool]string{true: "applied", false: "refused"}[write.want])
	}
	return d.b.Unlock(name, nil)
}

func (d *demo) holderKilled(ctx context.Context) error {
	scene("A process that holds a lock is killed, and the lock comes free")
	name := d.prefix + "orders"
	holder, token, err := startHolder(ctx, strings.Join(d.endpoints, ","), name)
	if err != nil {
		return err
	}
	kill := sync.OnceFunc(func() {
		holder.Process.Kill()
		holder.Wait() // its error is that it was killed
	})
	defer kill()
	d.tokens = append(d.tokens, token)
	granted, err := d.grantedTTL(ctx, name)
	if err != nil {
		return err
	}
	d.say("process %d takes the lock: token %d, TTL %s", holder.Process.Pid, token, granted)
	if err := d.refused("B", d.b, name); err != nil {
		return err
	}
	began := time.Now()
	kill()
	d.say("process %d is killed with SIGKILL; B waits", holder.Process.Pid)
	report := d.b.LockWait(ctx, name, "B", nil)
	if report.Msg != locker.Success {
		return fmt.Errorf("client B has not got the lock of the dead process: %s", told(report))
	}
	waited := time.Since(began)
	if waited > granted+2*time.Second {
		return fmt.Errorf("the lock of the dead process came free only after %s", waited)
	}
	d.tokens = append(d.tokens, report.Token)
	d.say("B has the lock %.1f s after the kill: token %d", waited.Seconds(), report.Token)
	return d.b.Unlock(name, nil)
}

// grantedTTL is the TTL of the lease that a key is attached to.
func (d *demo) grantedTTL(ctx context.Context, key string) (time.Duration, error) {
	found, err := d.etcd.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	if len(found.Kvs) == 0 {
		return 0, fmt.Errorf("no key %q in etcd", key)
	}
	lease, err := d.etcd.TimeToLive(ctx, clientv3.LeaseID(found.Kvs[0].Lease))
	if err != nil {
		return 0, err
	}
	return time.Duration(lease.GrantedTTL) * time.Second, nil
}

func (d *demo) memberKilled(ctx context.Context) error {
	if d.cluster == nil {
		scene("(A member of etcd is killed: not on a cluster that is not the demo's own)")
		return nil
	}
	scene("A member of etcd is killed, and the lock is held")
	name := d.prefix + "orders"
	report, err := d.takes("A", d.a, name, nil)
	if err != nil {
		return err
	}
	leader, err := d.cluster.Leader()
	if err != nil {
		return err
	}
	if err := d.cluster.Kill(leader); err != nil {
		return err
	}
	const while = (ttl + 1) * time.Second
	d.say("member %d, the leader, is killed with SIGKILL; now for %s, more than the TTL", leader, while)
	select {
	case <-time.After(while):
	case <-report.Done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if !report.Held() {
		return errors.New("client A has lost the lock")
	}
	d.say("A still holds the lock: token %d", report.Token)
	if err := d.refused("B", d.b, name); err != nil {
		return err
	}
	if err := d.a.Unlock(name, nil); err != nil {
		return err
	}
	d.say("A calls Unlock")
	if _, err := d.takes("B", d.b, name, nil); err != nil {
		return err
	}
	return d.b.Unlock(name, nil)
}

func (d *demo) tokensGrew(context.Context) error {
	scene("Whoever had the lock, and however it ended: the tokens grew")
	for i, token := range d.tokens[1:] {
		if token <= d.tokens[i] {
			return fmt.Errorf("the tokens did not grow each time: %d", d.tokens)
		}
	}
	d.say("%s", strings.ReplaceAll(strings.Trim(fmt.Sprint(d.tokens), "[]"), " ", " < "))
	return nil
}

func (d *demo) nothingLeft(ctx context.Context) error {
	scene("Nothing is left")
	if err := errors.Join(d.a.Close(), d.b.Close()); err != nil {
		return err
	}
	found, err := d.etcd.Get(ctx, d.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if found.Count > 0 {
		return fmt.Errorf("%d keys are left in etcd", found.Count)
	}
	d.say("A and B are closed; no key of theirs is in etcd")
	return nil
}

// takes has a client take a free lock.
func (d *demo) takes(who string, client locker.Client, name string, quit <-chan bool) (locker.Report, error) {
	began := time.Now()
	report := client.Lock(name, who, quit)
	if report.Msg != locker.Success || report.Err != nil || !report.Held() {
		return report, fmt.Errorf("%s does not get a free lock: %s", who, told(report))
	}
	d.tokens = append(d.tokens, report.Token)
	d.say("%s takes the lock in %s: %s, token %d", who, took(began), report.Msg, report.Token)
	return report, nil
}

// refused has a client try to take a lock that is held.
func (d *demo) refused(who string, client locker.Client, name string) error {
	began := time.Now()
	report := client.Lock(name, who, nil)
	if report.Msg != locker.Fail || report.Err != nil {
		return fmt.Errorf("%s should find the lock held: %s", who, told(report))
	}
	d.say("%s is refused in %s: %s, no error", who, took(began), report.Msg)
	return nil
}

// free checks that a lock is free.
func (d *demo) free(name string) error {
	if report := d.b.Inspect(name); report.Msg != locker.Success || report.Err != nil {
		return fmt.Errorf("the lock should be free: %s", told(report))
	}
	return nil
}

func told(report locker.Report) string { return fmt.Sprintf("%s, error: %v", report.Msg, report.Err) }

func took(since time.Time) time.Duration { return time.Since(since).Round(time.Microsecond) }
