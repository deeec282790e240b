package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// runs is the operation that runs a job under `locker run`. The job believes in the lock as long as any process of it lives.
	runs = "run"
	// starting is what it takes of a busy machine to start a process, or two, and to end them.
	starting = 500 * time.Millisecond
	// dialTimeout bounds what `locker run` takes to connect.
	dialTimeout = 2 * time.Second
)

// What becomes of `locker run` now and then, by its worker's doing.
const (
	runKilled  = "locker run killed"
	runStopped = "locker run stopped"
)

// running is a `locker run` and its job.
type running struct {
	name, value string
	patience    time.Duration // 0: it does not wait
	grace       time.Duration
	job         jobOrders
	strike      string // what is to become of it; "": nothing
	early       bool   // while it still waits, perhaps
	after       time.Duration
	pause       time.Duration // of what is stopped

	op     call
	called instant
	cmd    *exec.Cmd
	out    *os.File      // what all its processes print
	began  chan struct{} // closed when the job has begun
	over   chan struct{} // closed when none of its processes is left

	// The following are read when it is over.
	first, last, ended instant  // of the job, as it told
	said               []string // by `locker run`
	exited             instant  // when `locker run` had ended
}

// underRun has a job run, to its end.
func (w *worker) underRun() {
	time.Sleep(w.upTo(200 * time.Millisecond)) // for processes take more of the machine than calls
	r := w.plan()
	r.called = now()
	r.op = w.begin(record{At: r.called, What: runs, Name: r.name, Value: r.value, Until: w.limit(r).add(2 * w.cfg.Timeout), Grace: r.grace})
	if err := w.start(r); err != nil {
		r.op.done(context.Background(), err)
		return
	}
	w.accompany(r)
	switch {
	case r.first != 0:
		w.tellEnd(r)
	case r.cmd.ProcessState.Exited(): // else it was killed
		outcome, text := r.refusal()
		w.out.write(record{Kind: returned, At: r.exited, Op: r.op.id, Outcome: outcome, Error: text})
	}
}

// limit is when the job has begun at the latest: `locker run` connects, has a lease granted, and takes the lock. If it is not to be,
// two more requests may follow: who has the lock, and the end of the lease.
func (w *worker) limit(r *running) instant {
	limit := r.called.add(starting + dialTimeout + w.cfg.Timeout + cmp.Or(r.patience, w.cfg.Timeout))
	if r.strike == runStopped && r.early {
		limit = limit.add(r.pause)
	}
	return limit
}

// plan draws what a run is like. Those that are to be struck would go on for long enough to meet the next owner.
func (w *worker) plan() *running {
	r := &running{name: w.name(), value: w.value(), began: make(chan struct{}), over: make(chan struct{})}
	if w.rng.IntN(3) > 0 {
		r.patience = w.patience() + time.Second // which includes the time that it takes to connect
	}
	r.grace = []time.Duration{w.cfg.TTL / 10, w.cfg.TTL / 3, w.cfg.TTL * 2 / 5}[w.rng.IntN(3)]
	r.job = jobOrders{term: w.term(r.name), status: 3 * w.rng.IntN(2), stubborn: w.rng.IntN(2) == 0, forks: w.rng.IntN(2) == 0}
	if w.rng.IntN(3) == 0 {
		r.job.term = w.cfg.TTL/2 + w.upTo(3*w.cfg.TTL/2)
	}
	switch w.rng.IntN(5) {
	case 0:
		r.strike = runKilled
	case 1:
		r.strike = runStopped
	default:
		return r
	}
	r.patience = 3 * w.cfg.TTL
	r.name, r.job.term, r.job.stubborn = w.cfg.Hot[w.rng.IntN(len(w.cfg.Hot))], 3*w.cfg.TTL, true
	r.early, r.after, r.pause = w.rng.IntN(4) == 0, w.upTo(500*time.Millisecond), w.cfg.TTL+time.Second+w.upTo(w.cfg.TTL/2)
	return r
}

// start starts `locker run`, on the ways of this client process and as its user. It ends with this process, and its guard ends the
// job then.
func (w *worker) start(r *running) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"run", "-ttl", w.cfg.TTL.String(), "-grace", r.grace.String(), "-value", r.value, "-try"}
	if r.patience > 0 {
		args = append(args[:len(args)-1], "-wait", r.patience.String())
	}
	r.cmd = exec.Command(w.cfg.Program, append(append(args, w.cfg.Prefix+r.name, "--", self), r.job.args()...)...)
	r.cmd.Env = append(os.Environ(), "ETCDCTL_ENDPOINTS="+strings.Join(w.cfg.Endpoints, ","),
		"ETCDCTL_DIAL_TIMEOUT="+dialTimeout.String(), "ETCDCTL_COMMAND_TIMEOUT="+w.cfg.Timeout.String())
	if w.cfg.User != "" {
		r.cmd.Env = append(r.cmd.Env, "ETCDCTL_USER="+w.cfg.User, "ETCDCTL_PASSWORD="+password)
	}
	dieWithParent(r.cmd)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	r.out, r.cmd.Stdout, r.cmd.Stderr = out, in, in
	if err := r.cmd.Start(); err != nil {
		out.Close()
		return err
	}
	return nil
}

// accompany listens to the job, strikes `locker run` as planned, and ends it when the work ends. It returns when all is over.
func (w *worker) accompany(r *running) {
	var ending sync.WaitGroup
	ending.Go(func() { w.listen(r) })
	ending.Go(func() {
		r.cmd.Wait() // its error is the exit status
		r.exited = now()
	})
	go func() {
		ending.Wait()
		close(r.over)
	}()
	from, stop := r.began, w.stop
	if r.early {
		from = make(chan struct{})
		close(from)
	}
	var due <-chan time.Time
	for {
		select {
		case <-from:
			if from = nil; r.strike != "" {
				due = time.After(r.after)
			}
		case <-due:
			w.hit(r)
		case <-stop:
			stop = nil
			r.cmd.Process.Signal(syscall.SIGTERM)
		case <-r.over:
			return
		}
	}
}

// hit kills `locker run`, or stops it for longer than its lock can last.
func (w *worker) hit(r *running) {
	select {
	case <-r.over:
		return
	default:
	}
	w.out.write(record{Kind: struck, At: now(), Op: r.op.id, What: r.strike})
	if r.strike == runKilled {
		r.cmd.Process.Signal(syscall.SIGKILL)
		return
	}
	r.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(r.pause)
	r.cmd.Process.Signal(syscall.SIGCONT)
}

// listen reads what the job tells, and `locker run`, until none of their processes is left.
func (w *worker) listen(r *running) {
	defer r.out.Close()
	for lines := bufio.NewScanner(r.out); lines.Scan(); {
		words := strings.Fields(lines.Text())
		var at instant
		if len(words) > 1 {
			fmt.Sscan(words[len(words)-1], (*int64)(&at))
		}
		switch {
		case len(words) == 3 && words[0] == jobBegins:
			var token int64
			fmt.Sscan(words[1], &token)
			r.first, r.last = at, max(r.last, at)
			w.out.write(record{Kind: returned, At: at, Op: r.op.id, Outcome: ok, Token: token, From: w.limit(r)})
			close(r.began)
		case len(words) == 2 && words[0] == jobLives:
			r.last = max(r.last, at)
		case len(words) == 2 && words[0] == jobEnds:
			r.last, r.ended = max(r.last, at), at
		default:
			r.said = append(r.said, lines.Text())
		}
	}
}

// The exit statuses of `locker run` that are not those of its job.
const (
	statusLost   = 74
	statusDenied = 75
	statusTerm   = 128 + int(syscall.SIGTERM)
)

// refusal says what `locker run` has told by its exit status, when its job has not begun.
func (r *running) refusal() (outcome, text string) {
	text = strings.Join(r.said, "; ")
	switch status := r.cmd.ProcessState.ExitCode(); {
	case status == statusDenied && r.patience == 0:
		return denied, text
	case status == statusDenied || status == statusTerm:
		return expired, text
	case status == statusLost:
		return lost, text
	default:
		return failed, fmt.Sprintf("status %d: %s", status, text)
	}
}

// comesFree is what `locker run` says when it could not give a lock back, which is not worth an exit status.
const comesFree = "come free at the end of their lease"

// tellEnd tells of the end of a job. If that has ended by itself, the release began then.
func (w *worker) tellEnd(r *running) {
	if r.cmd.ProcessState.Exited() || r.ended != 0 {
		limit := r.last.add(2*w.cfg.Timeout + starting)
		if r.strike == runStopped {
			limit = limit.add(r.pause)
		}
		from := cmp.Or(r.ended, r.last)
		back := w.begin(record{At: from, What: "done", Name: r.name, Until: limit, Of: r.op.id})
		if r.cmd.ProcessState.Exited() {
			outcome, text := r.release()
			w.out.write(record{Kind: returned, At: r.exited, Op: back.id, Of: r.op.id, Outcome: outcome, Error: text})
		}
	}
	w.out.write(record{Kind: ended, At: r.last, Op: r.op.id, From: r.last, Lost: r.ended == 0})
}

// wrongStatus begins the error of a `locker run` whose exit status does not say what became of its job.
const wrongStatus = "wrong exit status"

// release says what `locker run` has told by its exit status, after its job.
func (r *running) release() (outcome, text string) {
	text = strings.Join(r.said, "; ")
	switch status := r.cmd.ProcessState.ExitCode(); {
	case status == statusLost:
		return lost, text
	case r.ended == 0 || status != r.job.status:
		return failed, fmt.Sprintf("%s %d: %s", wrongStatus, status, text)
	case strings.Contains(text, comesFree):
		return failed, text
	}
	return ok, ""
}
