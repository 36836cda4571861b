package conntrack

import (
	"errors"
	"math/bits"
)

// slots is the set of indices in use (0, which stands for no entry, never is given out), as a tree of bit maps: a bit of level 0 is an index, a bit of level n+1 says that
// the word of level n is full. take returns the lowest index that is free, which keeps the table dense: the sweep is
// short and the upper end can be given back.
type slots struct {
	level [slotLevels][]uint64
	arena [slotLevels]arena[uint64]
	top   uint32 // one past the highest index ever in use since the last trim
}

// slotLevels: four levels of 64 are 2²⁴ indices for each word of the last level, which is searched linearly.
const slotLevels = 4

// newSlots makes a set for n indices, a multiple of 64.
func newSlots(n int) (*slots, error) {
	s := new(slots)
	for i := range s.level {
		n = (n + 63) / 64
		a, err := newArena[uint64](n)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.arena[i], s.level[i] = a, a.items
	}
	s.add(0)
	return s, nil
}

// lowest returns the lowest free index; false if there is none.
func (s *slots) lowest() (uint32, bool) {
	for w, v := range s.level[3] {
		if v == ^uint64(0) {
			continue
		}
		i := w<<6 | bits.TrailingZeros64(^v)
		for l := slotLevels - 2; l >= 0; l-- {
			if i >= len(s.level[l]) {
				return 0, false
			}
			i = i<<6 | bits.TrailingZeros64(^s.level[l][i])
		}
		return uint32(i), true
	}
	return 0, false
}

// word returns one bit for each index in use of the 64 from 64·w on.
func (s *slots) word(w uint32) uint64 {
	if w == 0 {
		return s.level[0][0] &^ 1
	}
	return s.level[0][w]
}

// add marks i as in use.
func (s *slots) add(i uint32) {
	s.top = max(s.top, i+1)
	for l := range s.level {
		w := &s.level[l][i>>6]
		*w |= 1 << (i & 63)
		if *w != ^uint64(0) {
			return
		}
		i >>= 6
	}
}

// remove marks i as free.
func (s *slots) remove(i uint32) {
	for l := range s.level {
		w := &s.level[l][i>>6]
		full := *w == ^uint64(0)
		*w &^= 1 << (i & 63)
		if !full {
			return
		}
		i >>= 6
	}
}

// trim lowers top to one past the highest index in use, looking at no more than n words; false if that was not enough.
func (s *slots) trim(n int) bool {
	for ; n > 0; n-- {
		w := (s.top - 1) >> 6
		if v := s.level[0][w]; v != 0 {
			s.top = w<<6 + uint32(bits.Len64(v))
			return true
		}
		s.top = w << 6 // never 0: index 0 is in use
	}
	return false
}

// clear marks every index as free.
func (s *slots) clear() {
	n := int(s.top)
	for l := range s.level {
		n = (n + 63) / 64
		clear(s.level[l][:n])
	}
	s.top = 0
	s.add(0)
}

// close gives the memory back.
func (s *slots) close() error {
	var errs []error
	for i := range s.arena {
		s.level[i] = nil
		errs = append(errs, s.arena[i].close())
	}
	return errors.Join(errs...)
}
