package dataplane

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"corewire/conntrack"
	"corewire/ring"
)

// Events of the table go from the workers to whoever listens through a ring for each pair of them. A worker never waits: an
// event that finds its ring full is lost to that listener, and counted.
const (
	// eventRing is how many events wait between a worker and a listener, some 2 MiB: at a million events a second the
	// listener may pause for 8 ms.
	eventRing = 1 << 13
	// eventPeriod is how often a listener looks at rings that were empty.
	eventPeriod = 2 * time.Millisecond
	// maxListeners bounds their memory, and what each event costs the workers.
	maxListeners = 8
)

// listener is one call of Events.
type listener struct {
	rings []*ring.SPSC[conntrack.Event] // by worker
	lost  atomic.Uint64
}

// earful is what a worker's table pushes its events to: all listeners' rings of this worker. It is immutable.
type earful struct {
	worker    int
	listeners []*listener
}

// Push gives events to every listener; it always takes all of them.
func (x *earful) Push(events []conntrack.Event) int {
	for _, l := range x.listeners {
		if n := l.rings[x.worker].Push(events); n < len(events) {
			l.lost.Add(uint64(len(events) - n))
		}
	}
	return len(events)
}

// Events calls f with the events of all connections from now on, in the order of each worker, until f returns an error or
// ctx ends; that error is returned, or ErrStopped. lost is how many events this listener has missed so far, because f took
// too long. f is called at least once a second, then without events. It may keep nothing of the slice.
func (e *Engine) Events(ctx context.Context, f func(events []conntrack.Event, lost uint64) error) error {
	l := &listener{}
	for range e.workers {
		l.rings = append(l.rings, ring.NewSPSC[conntrack.Event](eventRing))
	}
	if err := e.listen(ctx, func(all []*listener) ([]*listener, error) {
		if len(all) == maxListeners {
			return nil, fmt.Errorf("listen to events: %d listen already", maxListeners)
		}
		return append(all, l), nil
	}); err != nil {
		return err
	}
	defer func() {
		// A worker that does not answer keeps pushing to rings that nobody reads, until the next listener comes or goes.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stallLimit)
		defer cancel()
		_ = e.listen(last, func(all []*listener) ([]*listener, error) {
			var rest []*listener
			for _, o := range all {
				if o != l {
					rest = append(rest, o)
				}
			}
			return rest, nil
		})
	}()
	t := time.NewTimer(0)
	defer t.Stop()
	batch := make([]conntrack.Event, 256)
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
		case <-e.done:
			return ErrStopped
		}
	}
}

// listen exchanges the set of listeners in every worker.
func (e *Engine) listen(ctx context.Context, change func([]*listener) ([]*listener, error)) error {
	e.listening.Lock()
	defer e.listening.Unlock()
	all, err := change(append([]*listener(nil), e.listeners...))
	if err != nil {
		return err
	}
	e.listeners = all
	for i, w := range e.workers {
		var sink conntrack.EventSink
		if len(all) > 0 {
			sink = &earful{i, all}
		}
		if err := e.ask(ctx, w, func() { w.table.Listen(sink) }); err != nil {
			return err
		}
	}
	return nil
}

// heard reports whether anybody listens to events.
func (e *Engine) heard() bool {
	e.listening.Lock()
	defer e.listening.Unlock()
	return len(e.listeners) > 0
}

// Ago returns how long ago a tick was.
func (e *Engine) Ago(at conntrack.Tick) time.Duration {
	return time.Duration(int32(e.tick(e.clock())-at)) * time.Millisecond
}
