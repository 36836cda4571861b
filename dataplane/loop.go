package dataplane

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"corewire/conntrack"
)

// sleepBound is the longest sleep of an idle worker. It bounds what a lost wake-up costs, and keeps the heartbeat far
// below any sensible limit; shorter costs CPU on an idle wire.
const sleepBound = time.Millisecond

// PanicError is a panic in a worker. The engine has stopped; the XDP program's fail mode decides about the wire.
type PanicError struct {
	Worker int
	Value  any
	Stack  []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("worker %d panicked: %v (the wire is left to its fail mode; please report this stack)\n%s", e.Worker, e.Value, e.Stack)
}

// run is the worker's goroutine: one thread, pinned to its core, until the engine stops or a port fails.
func (e *Engine) run(w *Worker) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Worker: w.id, Value: v, Stack: debug.Stack()}
		}
	}()
	runtime.LockOSThread() // never unlocked: the pinned thread ends with the goroutine
	if w.id < len(e.cpus) {
		var set unix.CPUSet
		set.Set(e.cpus[w.id])
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pin worker %d to cpu %d: %w (is the cpu online and allowed?)", w.id, e.cpus[w.id], err)
		}
	}
	last := e.clock()
	for now := last; !e.stop.Load(); now = e.clock() {
		n, err := w.Step(e.tick(now))
		if err != nil {
			return fmt.Errorf("worker %d: %w", w.id, err)
		}
		e.beat(w.id, now)
		w.turns.Add(1)
		w.serve()
		end := e.clock()
		if n > 0 {
			w.c.MaxTurn = max(w.c.MaxTurn, uint64(end-now))
			last = end
			continue
		}
		if end-last < e.spin {
			continue
		}
		w.sleeping.Store(true)
		if w.idle() {
			w.c.Sleeps++
			if err := w.wire.Wait(sleepBound); err != nil {
				return fmt.Errorf("worker %d: %w", w.id, err)
			}
		}
		w.sleeping.Store(false)
	}
	return nil
}

// idle tells whether nothing waits that Wait would not see: hand-offs and commands.
func (w *Worker) idle() bool {
	if len(w.commands) > 0 {
		return false
	}
	for _, r := range w.from {
		if r.Len() > 0 {
			return false
		}
	}
	return true
}

// readWall asks for the time of day.
func (e *Engine) readWall() {
	e.wallOffset.Store(e.wall().UnixMilli() - (e.clock()-e.origin)/int64(time.Millisecond))
}

// tick converts nanoseconds of the engine's clock into the tracker's time.
func (e *Engine) tick(ns int64) conntrack.Tick {
	return conntrack.Tick((ns - e.origin) / int64(time.Millisecond))
}

// serve runs the commands that control has sent.
func (w *Worker) serve() {
	for {
		select {
		case f := <-w.commands:
			f()
		default:
			return
		}
	}
}
