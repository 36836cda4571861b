package rules

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// TestStoreTwin: one goroutine's store is a map.
func TestStoreTwin(t *testing.T) {
	for seed := range uint64(20) {
		g := rand.New(rand.NewPCG(seed, 3))
		keys := 1 + g.IntN(maxKeyWords)
		s, twin := newStore(40, keys, 2), map[storeKey]uint64{}
		for range 4000 {
			var k storeKey
			for i := range keys {
				k[i] = uint64(g.IntN(2 + 60>>(4*i)))
			}
			switch want, has := twin[k]; g.IntN(4) {
			case 0:
				h, _, _ := s.find(&k)
				if (h.cell != 0) != has || has && s.state(h, 1).Load() != want {
					t.Fatalf("find %v", k)
				}
				if has {
					if !s.remove(h) || s.remove(h) {
						t.Fatal("remove")
					}
					delete(twin, k)
				}
			default:
				v := g.Uint64()
				h, fresh, ok := s.get(&k, 7, v)
				if ok != (has || len(twin) < 40) || ok && fresh == has {
					t.Fatalf("get %v: %v %v, want %v of %d", k, fresh, ok, has, len(twin))
				}
				if !ok {
					continue
				}
				if fresh {
					twin[k] = v
				}
				if got, ok := s.keyOf(h); !ok || got != k || s.state(h, 0).Load() != 7 || s.state(h, 1).Load() != twin[k] {
					t.Fatalf("state of %v", k)
				}
			}
			if s.count.Load() != int64(len(twin)) {
				t.Fatalf("%d cells, want %d", s.count.Load(), len(twin))
			}
		}
		n := 0
		for cell := range s.used.Load() {
			if h, ok := s.at(cell + 1); ok {
				k, _ := s.keyOf(h)
				if _, has := twin[k]; !has {
					t.Fatalf("cell %d has %v", cell, k)
				}
				n++
			}
		}
		if n != len(twin) {
			t.Fatalf("%d cells found by number, want %d", n, len(twin))
		}
	}
}

// TestStoreShared: several goroutines that enter, count and delete the same keys never have a key twice, lose no cell,
// and leave no cell deleted and counted.
func TestStoreShared(t *testing.T) {
	const workers, keys, rounds = 4, 24, 6000
	s := newStore(keys+workers, 1, 1)
	var wg sync.WaitGroup
	adds := make([][keys]uint64, workers)
	for w := range workers {
		wg.Go(func() {
			g := rand.New(rand.NewPCG(uint64(w), 4))
			for range rounds {
				k := storeKey{uint64(g.IntN(keys))}
				h, _, ok := s.get(&k, 0)
				if !ok {
					t.Error("no room")
					return
				}
				if k[0] < keys/2 { // those are never deleted: every addition must be seen at the end
					s.state(h, 0).Add(1)
					adds[w][k[0]]++
				} else if g.IntN(3) == 0 {
					s.remove(h)
				}
			}
		})
	}
	wg.Wait()
	seen := map[storeKey]bool{}
	for cell := range s.used.Load() {
		h, ok := s.at(cell + 1)
		if !ok {
			continue
		}
		k, _ := s.keyOf(h)
		if seen[k] {
			t.Errorf("key %v twice", k)
		}
		seen[k] = true
		var want uint64
		for w := range workers {
			want += adds[w][k[0]%keys]
		}
		if got := s.state(h, 0).Load(); got != want {
			t.Errorf("key %d: %d, want %d", k[0], got, want)
		}
	}
	if int64(len(seen)) != s.count.Load() {
		t.Errorf("%d keys, %d counted", len(seen), s.count.Load())
	}
	for i := range uint64(keys) { // all cells are still there
		if h, _, ok := s.get(&storeKey{i}); !ok || h.cell == 0 {
			t.Errorf("key %d finds no cell", i)
		}
	}
	for i := range uint64(workers) {
		if _, _, ok := s.get(&storeKey{1000 + i}, 0); !ok {
			t.Errorf("cell %d is lost", i)
		}
	}
	if _, _, ok := s.get(&storeKey{2000}, 0); ok {
		t.Error("more cells than the limit")
	}
}

// TestStoreSweep: a pass over all cells takes the interval, whatever the calls in between.
func TestStoreSweep(t *testing.T) {
	s := newStore(1000, 1, 1)
	for i := range uint64(1000) {
		s.get(&storeKey{i}, 0)
	}
	s.swept.Store(5)
	seen := map[uint32]int{}
	for ms := int64(6); ms <= 1005; ms += 5 {
		first, n := s.sweepDue(ms, 1000)
		for i := range n {
			seen[(first-1+i)%1000+1]++
		}
		if _, again := s.sweepDue(ms, 1000); again != 0 {
			t.Fatal("twice in a millisecond")
		}
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000 cells seen in a pass", len(seen))
	}
}
