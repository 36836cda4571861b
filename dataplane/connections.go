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

// Change changes timeout, status or state of the connections that match, and calls f with the connections. It returns how many
// they are.
func (e *Engine) Change(ctx context.Context, match Selector, c conntrack.Change, f func([]conntrack.Info) error) (int, error) {
	return e.change(ctx, func(w *Worker, cursor uint64, s *slice) {
		noted := s.note(match, func(i *conntrack.Info) {
			if c.Timeout != 0 {
				i.Left = c.Timeout
			}
			i.Status |= c.Status & conntrack.Changeable
			if c.State != 0 && c.Proto == i.Key.Proto {
				i.State = c.State
			}
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

// Export calls f with the states of all connections, some at a time, then g with what the helpers of these connections
// expect, and stops at the first error. The times in them refer to the moment of the call. f and g may keep nothing of the
// slice.
func (e *Engine) Export(ctx context.Context, f func([]conntrack.Record) error, g func([]conntrack.ExpectRecord) error) error {
	var start conntrack.Tick
	masters := map[packet.Key]bool{} // connections with helpers: the value tells the original direction
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
				if out[j].Helped() {
					masters[out[j].Key()] = out[j].Flipped()
				}
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
	return e.exportExpected(ctx, start, masters, g)
}

// exportExpected is Export for what the connections in masters expect.
func (e *Engine) exportExpected(ctx context.Context, start conntrack.Tick, masters map[packet.Key]bool, g func([]conntrack.ExpectRecord) error) error {
	w := e.workers[0] // for the time
	for cursor := uint32(0); ; {
		var n int
		var next uint32
		var now conntrack.Tick
		out := make([]conntrack.ExpectRecord, dumpSlice)
		if err := e.ask(ctx, w, func() {
			now = w.now
			n, next = e.expect.Export(cursor, out, now)
		}); err != nil {
			return err
		}
		known := out[:0]
		for _, r := range out[:n] {
			r.Shift(-int64(int32(now - start)))
			k, flipped := r.Master() // one that came meanwhile has not been exported
			if f, ok := masters[k]; ok && f == flipped {
				known = append(known, r)
			}
		}
		if len(known) > 0 {
			if err := g(known); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// importSlice is how many connections a worker enters between two bursts: some 10 µs.
const importSlice = 16

// RoomError says that what is to be imported does not fit.
type RoomError struct {
	What           string // connections or expectations
	New, Used, Max int
	Setting        string // that bounds them
}

func (e *RoomError) Error() string {
	return fmt.Sprintf("import %d %s: only %d of %d entries are free (raise %s)", e.New, e.What, max(0, e.Max-e.Used), e.Max, e.Setting)
}

// Import enters connections, all of which Check has found good, each at the worker that owns its flow. A connection whose
// key is known already stays as it is, and so does what it expects. expected is what the connections expect; of it counts
// what belongs to those that were entered. On error, a *RoomError before anything was entered, conntrack.ErrNoSlot or
// conntrack.ErrExpectFull, nothing of all is left. Once begun it is carried through.
func (e *Engine) Import(ctx context.Context, records []conntrack.Record, expected []conntrack.ExpectRecord) (total conntrack.Imported, err error) {
	if err := ctx.Err(); err != nil {
		return total, err
	}
	ctx = context.WithoutCancel(ctx)
	wanted := 0
	for i := range expected {
		if !expected[i].Call() {
			wanted++
		}
	}
	if used, most := e.expect.Len(), e.expect.Max(); wanted > 0 && used+wanted > most {
		return total, &RoomError{"expectations", wanted, used, most, "nf_conntrack_expect_max"}
	}
	if !e.capacity.Reserve(len(records)) {
		return total, &RoomError{"connections", len(records), e.capacity.Used(), e.capacity.Max(), "nf_conntrack_max"}
	}
	parts := make([][]conntrack.Record, len(e.workers))
	for i := range records {
		owner := e.ownerOf(records[i].Key())
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
	if err == nil {
		total.Expected, err = e.restore(ctx, expected, parts, entered)
	}
	if err != nil {
		_ = slices(func(w *Worker, records []conntrack.Record, entered []bool) error {
			w.table.Withdraw(records, entered, w.now)
			return nil
		}) // fails only if the engine has stopped, and the table with it
		return conntrack.Imported{}, fmt.Errorf("import %d connections: %w (nothing was entered)", len(records), err)
	}
	return total, nil
}

// ownerOf returns the worker whose shard holds the connection of a key.
func (e *Engine) ownerOf(k packet.Key) int {
	if len(e.workers) == 1 {
		return 0
	}
	p := packet.Packet{Key: k}
	return int(e.workers[0].owner(&p))
}

// restore enters what the connections that Import has entered expect, and returns how many expectations they are.
func (e *Engine) restore(ctx context.Context, expected []conntrack.ExpectRecord, records [][]conntrack.Record, entered [][]bool) (int, error) {
	if len(expected) == 0 {
		return 0, nil
	}
	masters := map[packet.Key]bool{}
	for i := range records {
		for j := range records[i] {
			if r := &records[i][j]; entered[i][j] && r.Helped() {
				masters[r.Key()] = true
			}
		}
	}
	parts := make([][]conntrack.ExpectRecord, len(e.workers))
	for i := range expected {
		if k, _ := expected[i].Master(); masters[k] {
			owner := e.ownerOf(k)
			parts[owner] = append(parts[owner], expected[i])
		}
	}
	total := 0
	for i, w := range e.workers {
		for at := 0; at < len(parts[i]); at += importSlice {
			part := parts[i][at:min(at+importSlice, len(parts[i]))]
			var n int
			var failed error
			if err := e.ask(ctx, w, func() { n, failed = w.table.Restore(part, w.now) }); err != nil {
				return total, err
			}
			if total += n; failed != nil {
				return total, failed
			}
		}
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
