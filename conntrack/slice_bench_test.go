package conntrack

import (
	"slices"
	"testing"
	"time"

	"corewire/internal/packet"
)

// BenchmarkSlice is what one slice of a listing, a change or a handover takes from the worker between two bursts, in a
// table of a million entries: the mean, and what one in a thousand exceeds in p999-ns (the longest of all tells of
// the machine's other tasks).
func BenchmarkSlice(b *testing.B) {
	const entries, slice = 1 << 20, 64
	full := func(b *testing.B) *rig {
		r := newRig(b, Config{Settings: noChecksum(b), Reserve: entries + 1<<16, Capacity: NewCapacity(entries+1<<16-64, 1)})
		for i := range entries {
			r.enter(i)
		}
		return r
	}
	run := func(name string, step func(r *rig) func(cursor uint64) uint64) {
		b.Run(name, func(b *testing.B) {
			r := full(b)
			do := step(r)
			var cursor uint64
			took := make([]time.Duration, b.N)
			b.ResetTimer()
			for i := range took {
				start := time.Now()
				cursor = do(cursor)
				took[i] = time.Since(start)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*999/1000].Nanoseconds()), "p999-ns")
		})
	}
	records := make([]Record, slice)
	run("listing", func(r *rig) func(uint64) uint64 { // of up to SnapshotSize entries
		s := NewSnapshot()
		return func(c uint64) uint64 { return r.tab.Copy(c, s, r.now) }
	})
	run("export", func(r *rig) func(uint64) uint64 {
		return func(c uint64) uint64 { _, c = r.tab.Export(c, records, r.now); return c }
	})
	run("mark", func(r *rig) func(uint64) uint64 {
		f := Filter{DstPort: 80, MatchProto: Exactly, Proto: packet.ProtoUDP}
		return func(c uint64) uint64 { _, c = r.tab.SetMarks(c, slice, f.Match, 5, 7, r.now); return c }
	})
	run("delete", func(r *rig) func(uint64) uint64 {
		return func(c uint64) uint64 { _, c = r.tab.Delete(c, slice, nil, r.now); return c }
	})
	run("import", func(r *rig) func(uint64) uint64 {
		const n = 16
		var all []Record
		for cursor := uint64(0); len(all) < entries/2; {
			var k int
			k, cursor = r.tab.Export(cursor, records, r.now)
			all = append(all, records[:k]...)
		}
		r.tab.Flush()
		entered := make([]bool, n)
		return func(c uint64) uint64 {
			if int(c)+n > len(all) {
				c = 0
			}
			clear(entered)
			if !r.tab.cap.Reserve(n) {
				b.Fatal("no credits")
			}
			got, err := r.tab.Import(all[c:c+n], entered, r.now)
			if err != nil {
				b.Fatal(err)
			}
			r.tab.cap.Return(n - got.Entered)
			return c + n
		}
	})
}
