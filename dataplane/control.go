package dataplane

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"corewire/conntrack"
	"corewire/ring"
)

// controlPeriod is how often the control goroutine looks at the workers.
const controlPeriod = 100 * time.Millisecond

// stallLimit is how long a worker may stand still before it is reported. Longer than any pause of the collector or the
// scheduler on a loaded machine, shorter than an operator's patience.
const stallLimit = time.Second

// EventKind says what an Event reports.
type EventKind uint8

const (
	EventTableFull     EventKind = iota // new connections were dropped at the maximum; Count of them since the last event
	EventStalled                        // a worker has not turned for stallLimit; Count is its worker number
	EventResumed                        // it turns again; Count is its worker number
	EventNotRecompiled                  // the rules in force could not be compiled anew after changes; Err says why
)

// Event is something that the operator should know. Each kind is reported at most once a second.
type Event struct {
	Kind  EventKind
	Count uint64
	Err   error
}

// String is the event as a sentence for a log.
func (e Event) String() string {
	switch e.Kind {
	case EventTableFull:
		return fmt.Sprintf("connection table full: %d new connections dropped (raise nf_conntrack_max, or look for a flood)", e.Count)
	case EventStalled:
		return fmt.Sprintf("worker %d stands still; the XDP program's fail mode applies to its queues", e.Count)
	case EventResumed:
		return fmt.Sprintf("worker %d turns again", e.Count)
	case EventNotRecompiled:
		return fmt.Sprintf("the rules stay as changes have made them, since compiling them anew failed: %v (a later change may take as long as a reload)", e.Err)
	}
	return fmt.Sprintf("event %d", e.Kind)
}

// ErrStopped is returned by methods that need a worker's answer when the engine stops before it comes.
var ErrStopped = errors.New("engine stopped")

// controlTicks returns what wakes the control goroutine, every controlPeriod, with the time.
func controlTicks() (ticks <-chan time.Time, stop func()) {
	t := time.NewTicker(controlPeriod)
	return t.C, t.Stop
}

// control watches the workers until ctx ends or one of them fails. It beats no heartbeat on a worker's behalf.
func (e *Engine) control(ctx context.Context, failed <-chan error) error {
	ticks, stop := e.ticks()
	defer stop()
	ctx, cancel := context.WithCancel(ctx) // what is being made ready beside does not come into force any more
	defer cancel()
	recompiler := newRecompiler(e)
	turns := make([]uint64, len(e.workers))
	since := make([]time.Time, len(e.workers))
	stalled := make([]bool, len(e.workers))
	var full uint64
	var reported time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if err == nil {
				err = errors.New("a worker ended without being asked to")
			}
			return err
		case err := <-recompiler.ended:
			recompiler.end(err)
		case now := <-ticks:
			e.readWall()
			recompiler.look(ctx, now)
			if e.sets != nil {
				e.sets.Maintain(e.Now())
			}
			var dropped uint64
			for i, w := range e.workers {
				dropped += w.full.Load()
				n := w.turns.Load()
				if n != turns[i] || since[i].IsZero() {
					turns[i], since[i] = n, now
					if stalled[i] {
						stalled[i] = false
						e.notify(Event{Kind: EventResumed, Count: uint64(i)})
					}
				} else if !stalled[i] && now.Sub(since[i]) > stallLimit {
					stalled[i] = true
					e.notify(Event{Kind: EventStalled, Count: uint64(i)})
				}
			}
			if dropped != full && now.Sub(reported) >= time.Second {
				e.notify(Event{Kind: EventTableFull, Count: dropped - full})
				full, reported = dropped, now
			}
		}
	}
}

// ask runs f between two bursts of a worker and waits for it. On an engine that does not run, f runs at once in the
// calling goroutine.
func (e *Engine) ask(ctx context.Context, w *Worker, f func()) error {
	e.mu.Lock()
	if !e.running {
		defer e.mu.Unlock()
		f()
		return nil
	}
	e.mu.Unlock()
	done := make(chan struct{})
	select {
	case w.commands <- func() { f(); close(done) }:
	case <-ctx.Done():
		return fmt.Errorf("ask worker %d: %w (it does not answer)", w.id, ctx.Err())
	case <-e.done:
		return ErrStopped
	}
	w.wire.Wake()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ask worker %d: %w (it does not answer)", w.id, ctx.Err())
	case <-e.done:
		return ErrStopped
	}
}

// Stats returns a snapshot of all counters. Each worker's part is taken between two of its bursts.
func (e *Engine) Stats(ctx context.Context) (Stats, error) {
	s := Stats{Workers: make([]WorkerStats, len(e.workers)), Entries: e.Count(), Max: e.capacity.Max(), Expected: e.expect.Len(), ExpectMax: e.expect.Max(), Expect: e.expect.Stats(),
		Listeners: e.listeners.count() + e.expectListeners.count(), ExpectTold: e.expectTold.Load(), ExpectLost: e.expectLost.Load()}
	for i, w := range e.workers {
		// The worker fills a value of its own: if ctx ends first, it may still do so later.
		v := new(WorkerStats)
		if err := e.ask(ctx, w, func() { w.snapshot(v) }); err != nil {
			return Stats{}, err
		}
		s.Workers[i] = *v
	}
	return s, nil
}

// snapshot copies a worker's counters.
func (w *Worker) snapshot(s *WorkerStats) {
	s.Worker = w.id
	s.Counters = w.c
	w.table.Stats(&s.Conntrack)
	s.Entries = w.table.Len()
	s.Buckets = w.table.Buckets()
	s.Fragments = w.defrag.Counters()
	s.Regrouped = w.regroup.Counters()
	s.Held = w.defrag.Held() + w.regroup.Held()
	for _, r := range w.from {
		s.HandedOff += r.Len()
	}
	w.wire.Account(&s.Account)
	w.wire.Stats(&s.Wire)
}

// Ledger says where every chunk of the pool is. It is exact when no frame moves.
type Ledger struct {
	ring.Account     // Caller is what the engine must account for
	Held         int // fragments that wait for the rest of their datagram
	HandedOff    int // frames in hand-off rings
}

// Balanced reports whether every chunk has exactly one owner.
func (l *Ledger) Balanced() bool { return l.Account.Balanced() && l.Caller == l.Held+l.HandedOff }

// Ledger adds up the workers' chunks.
func (s *Stats) Ledger() Ledger {
	var l Ledger
	for i := range s.Workers {
		w := &s.Workers[i]
		l.Account.Add(&w.Account)
		l.Held += w.Held
		l.HandedOff += w.HandedOff
	}
	return l
}

// dumpSlice is how many entries a worker changes or exports between two bursts: some 10 µs of work.
const dumpSlice = 64

// What a listing, and what a change or an export may take of a worker: one part in so many of its time, that is 2 % and
// 5 %. A million entries then take one to three seconds. A larger share would slow forwarding noticeably, a smaller one
// whoever asked.
const (
	listingShare = 50
	changeShare  = 20
)

// listingRest is the longest pause between two slices: a slice during which the worker's thread was not running says
// nothing about what a slice costs.
const listingRest = time.Millisecond

// pace is the going of something that takes a worker's time in slices: what it may take, and how whoever asks for it
// learns that a slice is done. The worker wakes nobody for it, since that would cost it a system call a slice: it
// leaves word, and the asking side, which has to rest anyway, looks.
type pace struct {
	share        int64 // of the worker's time: one part in so many
	began, ended int64 // of the slice, in ns of the engine's clock; written by the worker before done
	done         atomic.Bool
}

// paced runs f between two bursts of a worker, and returns when f has run and its share of the worker's time allows
// another slice. The pace must be new if an earlier call with it failed: the worker may still get to it.
func (e *Engine) paced(ctx context.Context, w *Worker, p *pace, f func()) error {
	if !e.isRunning() {
		return e.ask(ctx, w, f)
	}
	p.done.Store(false)
	select {
	case w.commands <- func() {
		p.began = e.clock()
		f()
		p.ended = e.clock()
		p.done.Store(true)
	}:
	case <-ctx.Done():
		return fmt.Errorf("ask worker %d: %w (it does not answer)", w.id, ctx.Err())
	case <-e.done:
		return ErrStopped
	}
	if w.sleeping.Load() {
		w.wire.Wake()
	}
	// Usually the worker gets to it within a burst.
	for rest := 20 * time.Microsecond; !p.done.Load(); rest = min(2*rest, listingRest) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("ask worker %d: %w (it does not answer)", w.id, ctx.Err())
		case <-e.done:
			return ErrStopped
		default:
			time.Sleep(rest)
		}
	}
	if rest := time.Duration(p.began + p.share*(p.ended-p.began) - e.clock()); rest > 0 {
		time.Sleep(min(rest, listingRest))
	}
	return nil
}

// Connections calls f with all entries of the table, some at a time, and stops at f's first error. Entries that come
// or go meanwhile may be missing or seen; none is seen twice. f may keep nothing of the slice.
func (e *Engine) Connections(ctx context.Context, f func([]conntrack.Info) error) error {
	// A worker that does not answer before ctx ends may still write to these later: then nobody else uses them.
	s, p := conntrack.NewSnapshot(), &pace{share: listingShare}
	out := make([]conntrack.Info, 0, conntrack.SnapshotSize)
	for _, w := range e.workers {
		for cursor := uint64(0); ; {
			if err := e.paced(ctx, w, p, func() { cursor = w.table.Copy(cursor, s, w.now) }); err != nil {
				return err
			}
			if out = s.Infos(out[:0]); len(out) > 0 {
				if err := f(out); err != nil {
					return err
				}
			}
			if cursor == 0 {
				break
			}
		}
	}
	return nil
}

// isRunning reports whether the workers run.
func (e *Engine) isRunning() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running
}

// Expectations calls f with the connections that helpers expect, some at a time, and stops at f's first error. f may keep
// nothing of the slice.
func (e *Engine) Expectations(ctx context.Context, f func([]conntrack.ExpectInfo) error) error {
	w := e.workers[0] // for the time: the store is everybody's
	for cursor := uint32(0); ; {
		var n int
		var next uint32
		out := make([]conntrack.ExpectInfo, dumpSlice)
		if err := e.ask(ctx, w, func() { n, next = e.expect.List(cursor, out, w.now) }); err != nil {
			return err
		}
		if n > 0 {
			if err := f(out[:n]); err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
		cursor = next
	}
}

// DeleteExpectations removes those of the connections that helpers expect which match, and calls f with them. match must be
// quick and keep nothing: control connections that announce something wait for it.
func (e *Engine) DeleteExpectations(ctx context.Context, match func(*conntrack.ExpectInfo) bool, f func([]conntrack.ExpectInfo) error) (int, error) {
	total := 0
	for cursor := uint32(0); ; {
		var n int
		var next uint32
		out := make([]conntrack.ExpectInfo, dumpSlice)
		w := e.workers[0] // for the time
		if err := e.ask(ctx, w, func() { n, next = e.expect.Delete(cursor, out, match, w.now) }); err != nil {
			return total, err
		}
		total += n
		if n > 0 && f != nil {
			if err := f(out[:n]); err != nil {
				return total, err
			}
		}
		if next == 0 {
			return total, nil
		}
		cursor = next
	}
}

// FlushExpectations removes what helpers expect and returns how many they were.
func (e *Engine) FlushExpectations() int { return e.expect.Flush() }

// Count returns the number of entries over all shards.
func (e *Engine) Count() int {
	n := 0
	for _, w := range e.workers {
		n += int(w.entries.Load())
	}
	return n
}

// Flush deletes all entries and returns how many they were. Whoever listens is told of each.
func (e *Engine) Flush(ctx context.Context) (int, error) {
	total := 0
	for _, w := range e.workers {
		var n int
		var heard bool
		if err := e.ask(ctx, w, func() {
			if heard = w.table.Heard(); !heard {
				n = w.table.Flush()
			}
			w.entries.Store(int64(w.table.Len()))
		}); err != nil {
			return total, err
		}
		if total += n; heard {
			deleted, err := e.Delete(ctx, nil, nil)
			return total + deleted, err
		}
	}
	return total, nil
}

// SetSettings gives every worker new timeouts and switches. Existing entries keep the deadline that they have until
// their next packet, and incomplete datagrams theirs, as in Linux.
func (e *Engine) SetSettings(ctx context.Context, s *conntrack.Settings) error {
	for _, w := range e.workers {
		failed := make(chan error, 1)
		limits := s.Defrag(len(e.workers))
		err := e.ask(ctx, w, func() {
			err := w.table.SetSettings(s)
			if err == nil {
				w.defrag.SetLimits(limits)
				w.regroup.SetLimits(limits)
			}
			failed <- err
		})
		if err != nil {
			return err
		}
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

// SetMax changes the maximum number of entries over all shards. Entries above it stay until they expire.
func (e *Engine) SetMax(n int) {
	e.capacity.SetMax(n)
	e.populate()
}
