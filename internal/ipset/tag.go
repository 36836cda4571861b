package ipset

import (
	"math/bits"
	"sync/atomic"
)

// tags are what a table has in front of its slots: seven bits of the hash of each slot's key, eight slots to a word, that
// tell nearly always whether it is worth while to look at the slot.
//
//	tags   | 7 6 5 4 3 2 1 0 | 15 … 8 | …        a lane of eight bits a slot: 0 never used, else 0x80 and seven bits
//	words  | state key | state key | …           sixteen bytes a slot and more
//
// Why: a network is asked for at each prefix length that may have it, and all but one of these searches find nothing.
// Without tags each is a cache miss in a table that is far larger than the caches; the tags are a sixteenth of it or less.
// Where there is nothing, one search in some eighty goes on to the slots. A kind without networks asks once. What it has
// takes longer by the tags, what it has not a fifth of the time: worth it from largeTable slots on, for sets that
// large are mostly asked for what they do not have.
//
// A lane becomes other than 0 before its slot can be live, and never 0 again: who finds 0 need not look behind it. Who takes
// a slot that was never used takes it by the lane. A lane may tell of a key that is gone or not there yet: the slot decides.
type tags []uint64

// largeTable is the number of slots, of 16 bytes and more, from which on they are not in the processor's second cache.
const largeTable = 1 << 17

const (
	laneOnes  = 0x0101010101010101
	laneHighs = 0x8080808080808080
)

// tagOf returns the lane of a hash. Slots are found by the lowest bits, locks by the highest.
func tagOf(h uint64) uint64 { return h>>50&0x7f | 0x80 }

// claim takes the lane of a slot that was never used; false when somebody else has.
func (t tags) claim(i, tag uint64) bool {
	w, shift := &t[i>>3], i&7*8
	for {
		old := atomic.LoadUint64(w)
		if old>>shift&0xff != 0 {
			return false
		}
		if atomic.CompareAndSwapUint64(w, old, old|tag<<shift) {
			return true
		}
	}
}

// set gives a slot that the caller holds another tag.
func (t tags) set(i, tag uint64) {
	w, shift := &t[i>>3], i&7*8
	for {
		old := atomic.LoadUint64(w)
		if atomic.CompareAndSwapUint64(w, old, old&^(0xff<<shift)|tag<<shift) {
			return
		}
	}
}

// findTagged is find by tags.
func (t *table) findTagged(k *key, h uint64) (i, s uint64, ok bool) {
	tag := tagOf(h) * laneOnes
	at := h & t.mask
	// Lanes before the first slot say nothing: they become such as agree with nobody and are not free.
	first := at & 7 * 8
	skip := uint64(1)<<first - 1
	for {
		w := atomic.LoadUint64(&t.tags[at>>3])
		w = w&^skip | laneHighs&skip | ^tag&skip&^laneHighs
		skip = 0
		free := ^w & laneHighs
		// Lanes in which w and tag agree, and sometimes one above such a lane.
		x := w ^ tag
		agree := (x - laneOnes) & ^x & laneHighs
		if free != 0 {
			agree &= free&-free - 1
		}
		for ; agree != 0; agree &= agree - 1 {
			i = at&^7 | uint64(bits.TrailingZeros64(agree))>>3
			s = atomic.LoadUint64(t.state(i))
			if s&phaseMask == phaseLive && t.same(i, k) && t.steady(i, s) {
				return i, s, true
			}
		}
		if free != 0 {
			return 0, 0, false
		}
		at = (at&^7 + 8) & t.mask
	}
}
