package conntrack

import (
	"math/bits"
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
)

func TestBucketAgainstArrays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var b bucket
	var tags [bucketSlots]uint8
	var refs [bucketSlots]uint32
	for range 100_000 {
		i := r.IntN(bucketSlots)
		if r.IntN(3) == 0 {
			tags[i], refs[i] = 0, 0
		} else {
			// Few different tags, some of them such that a careless comparison confuses neighbours.
			tags[i], refs[i] = []uint8{1, 2, 0x7f, 0x80, 0x81, 0xff}[r.IntN(6)], r.Uint32()|1
		}
		b.put(i, tags[i], refs[i])
		for _, tag := range []uint8{0, 1, 2, 3, 0x7f, 0x80, 0x81, 0xfe, 0xff} {
			var want uint32
			for j, v := range tags {
				if v == tag {
					want |= 1 << j
				}
			}
			if got := b.match(tag); got != want {
				t.Fatalf("match(%#x) = %012b, want %012b; tags %x", tag, got, want, tags)
			}
		}
		for j := range tags {
			if b.tag(j) != tags[j] || b.ref[j] != refs[j] {
				t.Fatalf("slot %d: %x %d, want %x %d", j, b.tag(j), b.ref[j], tags[j], refs[j])
			}
		}
		if tags[i] != 0 && b.slotOf(tags[i], refs[i]) != i && refs[b.slotOf(tags[i], refs[i])] != refs[i] {
			t.Fatalf("slotOf")
		}
	}
}

func TestIndexIsStableUnderGrowth(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	x := index{mask: minBuckets - 1}
	for x.count() < 5000 {
		n := uint64(x.count())
		old := x
		if x.split++; x.split > x.mask {
			x.mask, x.split = x.mask<<1|1, 0
		}
		for range 50 {
			h := r.Uint64()
			for _, v := range []uint64{h, bits.RotateLeft64(h, 32)} {
				a, b := old.at(v), x.at(v)
				if a >= n || b > n || a != b && (a != old.split || b != n) {
					t.Fatalf("with %d buckets %d, then %d", n, a, b)
				}
			}
		}
	}
}

func TestTagsAreNeverZeroAndEven(t *testing.T) {
	var count [256]int
	for v := range uint64(256) {
		count[tagOf(v<<24)]++
	}
	for tag, n := range count {
		if (tag == 0) != (n == 0) || n > 2 {
			t.Errorf("tag %d for %d values", tag, n)
		}
	}
}

func TestSlotsAgainstMap(t *testing.T) {
	const n = 64 * 70
	s, err := newSlots(n)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	r := rand.New(rand.NewPCG(3, 3))
	used := map[uint32]bool{0: true}
	lowest := func() (uint32, bool) {
		for i := range uint32(n) {
			if !used[i] {
				return i, true
			}
		}
		return 0, false
	}
	for step := range 30_000 {
		// Fill up in the first third, empty in the last.
		if i := uint32(r.IntN(n)); r.IntN(30_000) < step && i != 0 && used[i] {
			s.remove(i)
			delete(used, i)
		} else if i, ok := s.lowest(); ok {
			if used[i] {
				t.Fatalf("index %d given out twice", i)
			}
			s.add(i)
			used[i] = true
		}
		if step%500 == 0 {
			wantI, wantOK := lowest()
			if i, ok := s.lowest(); i != wantI || ok != wantOK {
				t.Fatalf("lowest %d %v, want %d %v", i, ok, wantI, wantOK)
			}
			for !s.trim(3) {
			}
			top := uint32(0)
			for i := range used {
				top = max(top, i+1)
			}
			if s.top != top {
				t.Fatalf("top %d, want %d", s.top, top)
			}
		}
	}
	for i := range uint32(n) {
		if !used[i] {
			s.add(i)
		}
	}
	if _, ok := s.lowest(); ok {
		t.Error("a full set has a free index")
	}
}

func TestDefaultBuckets(t *testing.T) {
	for memory, want := range map[uint64]int{64 << 20: 1024, 512 << 20: 4096, 1 << 30: 8192, 2 << 30: 65536, 4 << 30: 65536, 5 << 30: 262144, 1 << 40: 262144} {
		if got := DefaultBuckets(memory); got != want {
			t.Errorf("%d MiB: %d, want %d", memory>>20, got, want)
		}
	}
}

// TestChosenTuplesSpreadLikeRandomOnes enters tuples as a flood would choose them, without the secret: the buckets fill
// as evenly as with random tuples, and every one finds a place.
func TestChosenTuplesSpreadLikeRandomOnes(t *testing.T) {
	const n = 60_000
	rnd := rand.New(rand.NewPCG(8, 8))
	for _, c := range []struct {
		name string
		key  func(i uint64) packet.Key
	}{
		{"random", func(uint64) packet.Key {
			return packet.Key{A: packet.Addr{Hi: rnd.Uint64(), Lo: rnd.Uint64()}, APort: uint16(rnd.Uint32())}
		}},
		{"ports of one host", func(i uint64) packet.Key { return packet.Key{APort: uint16(i)} }},
		{"ports in steps of 256", func(i uint64) packet.Key { return packet.Key{APort: uint16(i << 8), BPort: uint16(i >> 8)} }},
		{"low bits of an address", func(i uint64) packet.Key { return packet.Key{A: packet.Addr{Lo: i}} }},
		{"high bits of an address", func(i uint64) packet.Key { return packet.Key{A: packet.Addr{Hi: i << 48}} }},
		{"both addresses together", func(i uint64) packet.Key { return packet.Key{A: packet.Addr{Lo: i}, B: packet.Addr{Lo: i}} }},
		{"addresses against each other", func(i uint64) packet.Key { return packet.Key{A: packet.Addr{Lo: i}, B: packet.Addr{Lo: -i}} }},
		{"powers of three", func(i uint64) packet.Key { return packet.Key{A: packet.Addr{Lo: pow3(i)}} }},
	} {
		r := newRig(t, Config{Capacity: NewCapacity(0, 1), Reserve: 1 << 17, Settings: noChecksum(t)})
		for i := range uint64(n) {
			ps := [1]packet.Packet{{Key: c.key(i), Proto: packet.ProtoUDP}}
			ps[0].Key.Proto, ps[0].Key.Family = packet.ProtoUDP, 6
			r.tab.Hash(ps[:])
			conn := r.tab.Track(&ps[0], r.now)
			if !conn.Fresh {
				t.Fatalf("%s: tuple %d is known", c.name, i)
			}
			if o := r.tab.Confirm(&conn, r.now); o != Confirmed {
				t.Fatalf("%s: tuple %d: %v", c.name, i, o)
			}
		}
		second := 0
		for b := range r.tab.index.count() {
			x := &r.tab.index.arena.items[b]
			for j, ref := range x.ref {
				if x.tag(j) != 0 && r.tab.index.first(r.tab.hashOf(&r.tab.hot.items[ref].key)) != uint64(b) {
					second++
				}
			}
		}
		if share := 100 * float64(second) / n; share > 6 {
			t.Errorf("%s: %.1f %% of the entries in their second bucket", c.name, share)
		} else {
			t.Logf("%s: %.1f %% of the entries in their second bucket", c.name, share)
		}
	}
}

// pow3 returns 3 to the i, modulo 2⁶⁴.
func pow3(i uint64) uint64 {
	x := uint64(1)
	for b := uint64(3); i > 0; i >>= 1 {
		if i&1 != 0 {
			x *= b
		}
		b *= b
	}
	return x
}
