package dataplane

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"corewire/conntrack"
	"corewire/ring"
)

// Events go from those that make them to whoever listens through a ring for each pair of them: the connections' from each
// worker, those of what helpers expect from the store that all workers share, under its lock. Nobody who makes an event
// ever waits: one that finds its ring full is lost to that listener, and counted, for the listener and in Counters.
const (
	// eventRing is how many events wait between a worker and a listener, some 2 MiB: at a million events a second the
	// listener may pause for 8 ms.
	eventRing = 1 << 13
	// expectRing is the same for what helpers expect, of which there are few.
	expectRing = 1 << 10
	// maxEventRing bounds what a listener may ask for, some 64 MiB a worker.
	maxEventRing = 1 << 18
	// eventPeriod is how often a listener looks at rings that were empty.
	eventPeriod = 2 * time.Millisecond
	// maxListeners bounds their memory, and what each event costs the workers.
	maxListeners = 8
)

// EventRoom returns for how many events of a worker bytes of memory have room, within the bounds of what a listener may
// have.
func EventRoom(bytes int) int {
	return min(max(bytes/int(reflect.TypeFor[conntrack.Event]().Size()), 1), maxEventRing)
}

// listener is one call of Events (T is conntrack.Event) or of ExpectEvents (conntrack.ExpectEvent).
type listener[T any] struct {
	rings []*ring.SPSC[T] // one for each that makes events
	lost  atomic.Uint64
}

// newListener makes a listener with n rings, each with room for so many events.
func newListener[T any](n, room int) *listener[T] {
	l := &listener[T]{}
	for range n {
		l.rings = append(l.rings, ring.NewSPSC[T](room))
	}
	return l
}

// give pushes events to one ring, and counts those that it has no room for.
func (l *listener[T]) give(from int, events []T) (told, lost int) {
	told = l.rings[from].Push(events)
	if lost = len(events) - told; lost > 0 {
		l.lost.Add(uint64(lost))
	}
	return told, lost
}

// attend calls f with events as they come, until f returns an error, ctx ends, or done is closed (ErrStopped).
func (l *listener[T]) attend(ctx context.Context, done <-chan struct{}, f func([]T, uint64) error) error {
	t := time.NewTimer(0)
	defer t.Stop()
	batch := make([]T, 256)
	told := time.Now()
	for {
		idle := true
		for _, r := range l.rings {
			if n := r.Pop(batch); n > 0 {
				idle = false
				if err := f(batch[:n], l.lost.Load()); err != nil {
					return err
				}
			}
		}
		if !idle {
			told = time.Now()
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		if time.Since(told) >= time.Second {
			told = time.Now()
			if err := f(nil, l.lost.Load()); err != nil {
				return err
			}
		}
		t.Reset(eventPeriod)
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			return ErrStopped
		}
	}
}

// listeners are those of one kind of events.
type listeners[T any] struct {
	mu  sync.Mutex // held while the sinks are exchanged
	all []*listener[T]
}

// add and remove return the set that there shall be, which the caller puts in force; both with mu held.
func (x *listeners[T]) add(l *listener[T]) ([]*listener[T], error) {
	if len(x.all) == maxListeners {
		return nil, fmt.Errorf("listen to events: %d listen already", maxListeners)
	}
	return append(slices.Clone(x.all), l), nil
}

func (x *listeners[T]) remove(l *listener[T]) ([]*listener[T], error) {
	return slices.DeleteFunc(slices.Clone(x.all), func(o *listener[T]) bool { return o == l }), nil
}

// count returns how many listen.
func (x *listeners[T]) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.all)
}

// earful is what a worker's table pushes its events to: all listeners' rings of this worker. Listeners are immutable.
type earful struct {
	worker    *Worker
	listeners []*listener[conntrack.Event]
}

// Push gives events to every listener; it always takes all of them.
func (x *earful) Push(events []conntrack.Event) int {
	for _, l := range x.listeners {
		told, lost := l.give(x.worker.id, events)
		x.worker.c.EventsTold += uint64(told)
		x.worker.c.EventsLost += uint64(lost)
	}
	return len(events)
}

// Events calls f with the events of all connections from now on, in the order of each worker, until f returns an error or
// ctx ends; that error is returned, or ErrStopped. lost is how many events this listener has missed so far, because f took
// too long. f is called at least once a second, then without events. It may keep nothing of the slice. room is how many
// events of each worker may wait for f, rounded up to a power of two; 0 for the usual.
func (e *Engine) Events(ctx context.Context, room int, f func(events []conntrack.Event, lost uint64) error) error {
	if room <= 0 {
		room = eventRing
	}
	l := newListener[conntrack.Event](len(e.workers), min(room, maxEventRing))
	if err := e.listen(ctx, l, e.listeners.add); err != nil {
		return err
	}
	defer func() {
		// A worker that does not answer keeps pushing to rings that nobody reads, until the next listener comes or goes.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stallLimit)
		defer cancel()
		_ = e.listen(last, l, e.listeners.remove)
	}()
	return l.attend(ctx, e.done, f)
}

// listen exchanges the set of listeners in every worker.
func (e *Engine) listen(ctx context.Context, l *listener[conntrack.Event], change func(*listener[conntrack.Event]) ([]*listener[conntrack.Event], error)) error {
	e.listeners.mu.Lock()
	defer e.listeners.mu.Unlock()
	all, err := change(l)
	if err != nil {
		return err
	}
	e.listeners.all = all
	for _, w := range e.workers {
		var sink conntrack.EventSink
		if len(all) > 0 {
			sink = &earful{w, all}
		}
		if err := e.ask(ctx, w, func() { w.table.Listen(sink) }); err != nil {
			return err
		}
	}
	return nil
}

// expectEarful is what the store of expectations pushes its events to. Listeners are immutable; its calls come one at a
// time, under the store's lock, so that it is a ring's one producer.
type expectEarful struct {
	engine    *Engine
	listeners []*listener[conntrack.ExpectEvent]
}

// Push gives events to every listener; it always takes all of them.
func (x *expectEarful) Push(events []conntrack.ExpectEvent) int {
	for _, l := range x.listeners {
		told, lost := l.give(0, events)
		x.engine.expectTold.Add(uint64(told))
		x.engine.expectLost.Add(uint64(lost))
	}
	return len(events)
}

// ExpectEvents is Events for what helpers expect.
func (e *Engine) ExpectEvents(ctx context.Context, f func(events []conntrack.ExpectEvent, lost uint64) error) error {
	l := newListener[conntrack.ExpectEvent](1, expectRing)
	x := &e.expectListeners
	change := func(to func(*listener[conntrack.ExpectEvent]) ([]*listener[conntrack.ExpectEvent], error)) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		all, err := to(l)
		if err != nil {
			return err
		}
		x.all = all
		if len(all) == 0 {
			e.expect.Listen(nil)
		} else {
			e.expect.Listen(&expectEarful{e, all})
		}
		return nil
	}
	if err := change(x.add); err != nil {
		return err
	}
	defer func() { _ = change(x.remove) }() // fails never
	return l.attend(ctx, e.done, f)
}

// Ago returns how long ago a tick was.
func (e *Engine) Ago(at conntrack.Tick) time.Duration {
	return time.Duration(int32(e.tick(e.clock())-at)) * time.Millisecond
}
