package ipset

import (
	"math/bits"
	"sync/atomic"
)

// slotsFor returns the size of a table for so many elements: at most half full.
func slotsFor(elements int64) uint64 {
	n := uint64(max(elements, 0))*2 + 2
	return max(minSlots, uint64(1)<<bits.Len64(n-1))
}

// grow moves the elements to a table with room for at least so many, which may be as large as before: then the dead
// slots go. It is called under the registry's lock; frames go on reading and writing. What they add meanwhile may be
// more than the new table takes: then it is thrown away, and a larger one is made.
func (s *Set) grow(elements int64, now Tick) {
	slots := slotsFor(elements)
	for !s.moveTo(slots, now) {
		slots *= 2
	}
}

// moveTo is grow's try with a table of so many slots; false when it was too small. Counters that frames add to meanwhile
// are carried over afterwards.
func (s *Set) moveTo(slots uint64, now Tick) bool {
	old := s.table.Load()
	t := newTable(slots, &s.layout, s.nExt)
	s.next.Store(t)
	for i := range s.locks { // whoever has not seen it is done
		s.locks[i].lock()
		s.locks[i].unlock()
	}
	// From behind an empty slot on: elements of one hash are met in their order.
	start := uint64(0)
	for atomic.LoadUint64(old.state(start))&phaseMask != phaseEmpty {
		start++
	}
	type moved struct {
		from, to       uint64
		packets, bytes uint64
	}
	var counted []moved
	notes := make(map[uint64]note)
	var k key
	for n := range old.mask + 1 {
		i := (start + n) & old.mask
		st := atomic.LoadUint64(old.state(i))
		if st&phaseMask != phaseLive || !old.read(i, st, &k) {
			continue
		}
		h := t.hash(&k, s.secret)
		l, _ := s.enter(h, false)
		st = atomic.LoadUint64(old.state(i))
		if st&phaseMask == phaseLive && old.read(i, st, &k) && old.hash(&k, s.secret) == h {
			if expired(st, now) {
				if old.leave(i, st) {
					s.count.Add(-1)
					s.account(&k, -1)
				}
			} else if j, _, ok := t.find(&k, h); ok {
				s.carry(old, t, i, j, notes)
			} else if j, ok := t.take(&k, h); ok {
				from, to := old.extra(i), t.extra(j)
				for x := range from {
					atomic.StoreUint64(&to[x], atomic.LoadUint64(&from[x]))
				}
				s.chunk(t, &k)
				t.publish(j, st&stateBits)
				if s.spec.Counters {
					counted = append(counted, moved{i, j, to[0], to[1]})
				}
				s.carry(old, t, i, j, notes)
			} else {
				t.lacks.Store(true)
			}
		}
		l.unlock()
		if t.lacks.Load() {
			break
		}
	}
	for i := range s.locks {
		s.locks[i].lock()
	}
	s.next.Store(nil)
	if t.lacks.Load() {
		for i := range s.locks {
			s.locks[i].unlock()
		}
		return false
	}
	s.table.Store(t)
	if s.nets != nil {
		s.nets.renew()
	}
	for i := range s.locks {
		s.locks[i].unlock()
	}
	s.notes = notes
	for _, m := range counted {
		from, to := old.extra(m.from), t.extra(m.to)
		// Less than before: an addition has set them anew, in both tables.
		if p := atomic.LoadUint64(&from[0]); p > m.packets {
			atomic.AddUint64(&to[0], p-m.packets)
		}
		if b := atomic.LoadUint64(&from[1]); b > m.bytes {
			atomic.AddUint64(&to[1], b-m.bytes)
		}
	}
	return true
}

// carry takes an element's comment along.
func (s *Set) carry(old, t *table, i, j uint64, notes map[uint64]note) {
	if n, ok := s.notes[i]; ok && n.version == atomic.LoadUint64(old.state(i))&versionMask {
		notes[j] = note{atomic.LoadUint64(t.state(j)) & versionMask, n.text}
	}
}

// crowded says that the table should be made larger, or freed of dead slots, before frames find it full.
func (s *Set) crowded() bool {
	t := s.table.Load()
	return t != nil && t.used.Load() > t.limit*3/4
}
