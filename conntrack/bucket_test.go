package conntrack

import (
	"math/bits"
	"math/rand/v2"
	"testing"
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
