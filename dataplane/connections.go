package dataplane

import (
	"context"
	"fmt"

	"corewire/conntrack"
	"corewire/internal/packet"
)

// Selector tells whether a connection is meant. It is called by workers between two bursts: it must be quick, keep nothing
// and change nothing. nil means all.
type Selector func(*conntrack.Info) bool

// slice is what a worker did in one slice of a change.
type slice struct {
	touched []conntrack.Info // the entries, as they are afterwards or were before they were deleted
	next    uint64
	err     error
}

// change has every worker change its part of the table, a slice between two bursts, and calls f with the entries that were
// touched; f may be nil, and may keep nothing of the slice. It stops at the first error.
func (e *Engine) change(ctx context.Context, step func(w *Worker, cursor uint64, s *slice), f func([]conntrack.Info) error) (int, error) {
	total := 0
	p := &pace{share: changeShare}
	for _, w := range e.workers {
		for cursor := uint64(0); ; {
			// New room each time: a worker might still write to it after ctx has ended. It looks at a word of 64 more than asked.
			s := &slice{touched: make([]conntrack.Info, 0, dumpSlice+64)}
			if err := e.paced(ctx, w, p, func() {
				step(w, cursor, s)
				w.entries.Store(int64(w.table.Len()))
			}); err != nil {
				return total, err
			}
			total += len(s.touched)
			if s.err != nil {
				return total, s.err
			}
			if f != nil && len(s.touched) > 0 {
				if err := f(s.touched); err != nil {
					return total, err
				}
			}
			if cursor = s.next; cursor == 0 {
				break
			}
		}
	}
	return total, nil
}

// note wraps a Selector so that what it selects is noted; after changes the noted copy.
func (s *slice) note(match Selector, after func(*conntrack.Info)) Selector {
	return func(i *conntrack.Info) bool {
		if match != nil && !match(i) {
			return false
		}
		s.touched = append(s.touched, *i)
		if after != nil {
			after(&s.touched[len(s.touched)-1])
		}
		return true
	}
}

// Delete deletes the connections that match and calls f with what they were. It returns how many they were.
func (e *Engine) Delete(ctx context.Context, match Selector, f func([]conntrack.Info) error) (int, error) {
	return e.change(ctx, func(w *Worker, cursor uint64, s *slice) {
		_, s.next = w.table.Delete(cursor, dumpSlice, s.note(match, nil), w.now)
	}, f)
}

// SetMarks sets the bits of mask in the marks of the connections that match to those of mark, and calls f with the
// connections. It returns how many they are.
func (e *Engine) SetMarks(ctx context.Context, match Selector, mark, mask uint32, f func([]conntrack.Info) error) (int, error) {
	return e.change(ctx, func(w *Worker, cursor uint64, s *slice) {
		noted := s.note(match, func(i *conntrack.Info) { i.Mark = i.Mark&^mask | mark&mask })
		_, s.next = w.table.SetMarks(cursor, dumpSlice, noted, mark, mask, w.now)
	}, f)
}

// SetLabels adds and then removes labels of the connections that match, and calls f with the connections. It returns how
// many they are.
func (e *Engine) SetLabels(ctx context.Context, match Selector, add, del conntrack.Labels, f func([]conntrack.Info) error) (int, error) {
	return e.change(ctx, func(w *Worker, cursor uint64, s *slice) {
		noted := s.note(match, func(i *conntrack.Info) {
			for n := range i.Labels {
				i.Labels[n] = (i.Labels[n] | add[n]) &^ del[n]
			}
		})
		_, s.next, s.err = w.table.SetLabels(cursor, dumpSlice, noted, add, del, w.now)
	}, f)
}

// Change changes timeout or status of the connections that match, and calls f with the connections. It returns how many
// they are.
func (e *Engine) Change(ctx context.Context, match Selector, c conntrack.Change, f func([]conntrack.Info) error) (int, error) {
	return e.change(ctx, func(w *Worker, cursor uint64, s *slice) {
		noted := s.note(match, func(i *conntrack.Info) {
			if c.Timeout != 0 {
				i.Left = c.Timeout
			}
			i.Status |= c.Status & conntrack.Changeable
		})
		_, s.next = w.table.Change(cursor, dumpSlice, noted, c, w.now)
	}, f)
}

// Zero sets the counters of the connections that match to zero, and calls f with the connections as they were before: no
// packet is counted twice or not at all. It returns how many they are.
func (e *Engine) Zero(ctx context.Context, match Selector, f func([]conntrack.Info) error) (int, error) {
	return e.change(ctx, func(w *Worker, cursor uint64, s *slice) {
		_, s.next = w.table.Zero(cursor, dumpSlice, s.note(match, nil), w.now)
	}, f)
}

// Export calls f with the states of all connections, some at a time, and stops at f's first error. The times in them refer
// to the moment of the call. f may keep nothing of the slice.
func (e *Engine) Export(ctx context.Context, f func([]conntrack.Record) error) error {
	var start conntrack.Tick
	p := &pace{share: changeShare}
	for i, w := range e.workers {
		for cursor := uint64(0); ; {
			var n int
			var next uint64
			var now conntrack.Tick
			out := make([]conntrack.Record, dumpSlice)
			if err := e.paced(ctx, w, p, func() {
				now = w.now
				n, next = w.table.Export(cursor, out, now)
			}); err != nil {
				return err
			}
			if i == 0 && cursor == 0 {
				start = now
			}
			for j := range out[:n] {
				out[j].Shift(-int64(int32(now - start)))
			}
			if n > 0 {
				if err := f(out[:n]); err != nil {
					return err
				}
			}
			if cursor = next; cursor == 0 {
				break
			}
		}
	}
	return nil
}

// importSlice is how many connections a worker enters between two bursts: some 10 µs.
const importSlice = 16

// RoomError says that connections to be imported do not fit.
type RoomError struct{ New, Used, Max int }

func (e *RoomError) Error() string {
	return fmt.Sprintf("import %d connections: only %d of %d entries are free (raise nf_conntrack_max)", e.New, max(0, e.Max-e.Used), e.Max)
}

// Import enters connections, all of which Check has found good, each at the worker that owns its flow. A connection whose
// key is known already stays as it is. On error, a *RoomError before anything was entered or conntrack.ErrNoSlot, none of
// them is left. Once begun it is carried through.
func (e *Engine) Import(ctx context.Context, records []conntrack.Record) (total conntrack.Imported, err error) {
	if err := ctx.Err(); err != nil {
		return total, err
	}
	ctx = context.WithoutCancel(ctx)
	if !e.capacity.Reserve(len(records)) {
		return total, &RoomError{len(records), e.capacity.Used(), e.capacity.Max()}
	}
	parts := make([][]conntrack.Record, len(e.workers))
	for i := range records {
		owner := 0
		if len(e.workers) > 1 {
			p := packet.Packet{Key: records[i].Key()}
			owner = int(e.workers[0].owner(&p))
		}
		parts[owner] = append(parts[owner], records[i])
	}
	entered := make([][]bool, len(parts))
	for i, part := range parts {
		entered[i] = make([]bool, len(part))
	}
	// slices calls do with each worker's records, some at a time.
	slices := func(do func(w *Worker, records []conntrack.Record, entered []bool) error) error {
		for i, w := range e.workers {
			for at := 0; at < len(parts[i]); at += importSlice {
				end := min(at+importSlice, len(parts[i]))
				var failed error
				if err := e.ask(ctx, w, func() {
					failed = do(w, parts[i][at:end], entered[i][at:end])
					w.entries.Store(int64(w.table.Len()))
				}); err != nil {
					return err
				}
				if failed != nil {
					return failed
				}
			}
		}
		return nil
	}
	err = slices(func(w *Worker, records []conntrack.Record, entered []bool) error {
		r, err := w.table.Import(records, entered, w.now)
		total.Entered += r.Entered
		total.Known += r.Known
		return err
	})
	e.capacity.Return(len(records) - total.Entered)
	if err != nil {
		_ = slices(func(w *Worker, records []conntrack.Record, entered []bool) error {
			w.table.Withdraw(records, entered, w.now)
			return nil
		}) // fails only if the engine has stopped, and the table with it
		return conntrack.Imported{}, fmt.Errorf("import %d connections: %w (nothing was entered)", len(records), err)
	}
	return total, nil
}

// SetBuckets sets the least number of buckets of the table, over all shards. The table grows or shrinks to it in small
// steps, and grows beyond it as it fills. Their memory is made ready here, so that no worker waits for page faults.
func (e *Engine) SetBuckets(ctx context.Context, n int) error {
	for _, w := range e.workers {
		w.table.PopulateBuckets(n / len(e.workers))
		if err := e.ask(ctx, w, func() { w.table.SetBuckets(n / len(e.workers)) }); err != nil {
			return err
		}
	}
	return nil
}

// populateAbove is for how many entries a shard makes memory present when it is made; more is done beside the workers.
const populateAbove = 1 << 18

// populate makes memory ready for each shard's even part of the maximum, beside the workers: it may take a second where
// the maximum is large, and without it the first to use the memory would wait for page faults.
func (e *Engine) populate() {
	n := (e.capacity.Max() + len(e.workers) - 1) / len(e.workers)
	if n <= populateAbove {
		return
	}
	e.beside.Go(func() {
		for _, w := range e.workers {
			w.table.Populate(n)
		}
	})
}
