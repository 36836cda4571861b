package conntrack

import (
	"math/rand/v2"
	"slices"
	"testing"

	"corewire/internal/packet"
)

// snapshot lists a table by Copy and Infos, calling between before each further slice.
func (r *rig) snapshot(between func()) []Info {
	r.t.Helper()
	s := NewSnapshot()
	var all []Info
	for cursor := uint64(0); ; {
		cursor = r.tab.Copy(cursor, s, r.now)
		if n := len(all); len(s.Infos(all))-n > SnapshotSize {
			r.t.Fatalf("a slice of %d entries", len(s.Infos(all))-n)
		}
		all = s.Infos(all)
		if cursor == 0 {
			return all
		}
		between()
	}
}

// dumped lists it by the twin.
func (r *rig) dumped() []Info {
	buf := make([]Info, 100)
	var all []Info
	for cursor := uint64(0); ; {
		var n int
		n, cursor = r.tab.Dump(cursor, buf, r.now)
		all = append(all, buf[:n]...)
		if cursor == 0 {
			return all
		}
	}
}

// A snapshot says of each entry what the twin says, with everything that an entry can have, holes in the table, and
// entries that have expired but were not swept.
func TestSnapshot(t *testing.T) {
	set := noChecksum(t)
	for _, name := range []string{"nf_conntrack_acct", "nf_conntrack_timestamp"} {
		var err error
		if set, err = set.With(name, 1); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, Config{Settings: set, Reserve: 8192, Capacity: NewCapacity(8000, 1)})
	rnd := rand.New(rand.NewPCG(1, 7))
	for i := range 5000 {
		r.enter(i)
		if rnd.IntN(3) == 0 {
			r.assure(i)
		}
		if i%1000 == 0 {
			r.after(7)
		}
	}
	// Helpers, masters, GRE keys and labels are what the layout of a real connection has: written here directly, in runs
	// denser than a slice has room for.
	for ref := uint32(1); ref < 5000; ref++ {
		e := &r.tab.hot.items[ref]
		switch {
		case ref%64 < 40 && ref < 2000:
			e.status |= uint16(StatusHelper)
			a := r.tab.aidOf(ref)
			a.helper, a.master = HelperFTP, packet.Key{APort: uint16(ref)}
		case ref%7 == 0:
			e.status |= uint16(StatusExpected)
			a := r.tab.aidOf(ref)
			a.master, a.masterFlipped = packet.Key{Family: 4, Proto: packet.ProtoTCP, APort: uint16(ref)}, uint8(ref&1)
		}
	}
	for cursor := uint64(0); ; {
		_, next, err := r.tab.SetLabels(cursor, 64, func(i *Info) bool { return i.Key.APort%5 == 0 }, Labels{1, 2}, Labels{}, r.now)
		if err != nil {
			t.Fatal(err)
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	for cursor := uint64(0); ; {
		if _, cursor = r.tab.Delete(cursor, 64, func(i *Info) bool { return i.Key.APort%11 == 0 }, r.now); cursor == 0 {
			break
		}
	}
	want := r.dumped()
	if got := r.snapshot(func() {}); !slices.Equal(got, want) {
		t.Fatalf("%d entries, the twin has %d, or they differ", len(got), len(want))
	}
	if len(want) < 4000 {
		t.Fatalf("only %d entries", len(want))
	}
	r.after(29_980) // the first two thousand have expired
	want = r.dumped()
	if got := r.snapshot(func() {}); !slices.Equal(got, want) || len(got) == 0 || len(got) > 3000 {
		t.Fatalf("%d entries, the twin has %d", len(got), len(want))
	}
	r.tab.Flush()
	if got := r.snapshot(func() {}); len(got) != 0 {
		t.Errorf("%d entries in an empty table", len(got))
	}
}

// An entry that stays is in a listing exactly once, whatever comes and goes between its slices.
func TestSnapshotWhileTheTableChanges(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(30_000, 1), Reserve: 1 << 15, Settings: noChecksum(t)})
	const stay = 5000
	for i := range stay {
		r.enter(i)
		r.assure(i)
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	other := stay
	seen := map[packet.Key]int{}
	for _, i := range r.snapshot(func() {
		for range 100 {
			r.enter(other)
			other++
		}
		if rnd.IntN(3) == 0 {
			r.tab.Delete(0, 1<<20, func(i *Info) bool { return i.Status&StatusAssured == 0 }, r.now)
		}
		r.tab.Expire(r.now, 100)
		r.after(3)
	}) {
		seen[i.Key]++
	}
	var p packet.Packet
	for i := range stay {
		flow(i, &p)
		if seen[p.Key] != 1 {
			t.Errorf("entry %d listed %d times", i, seen[p.Key])
		}
	}
}

// Taking a snapshot allocates nothing: it happens on a worker.
func TestSnapshotAllocatesNothing(t *testing.T) {
	r := newRig(t, Config{Settings: noChecksum(t)})
	for i := range 2000 {
		r.enter(i)
	}
	s := NewSnapshot()
	if n := testing.AllocsPerRun(10, func() { r.tab.Copy(0, s, r.now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
