package rules

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"sync/atomic"
)

// store remembers something of each of a bounded number of keys, for all workers together: what -m hashlimit, recent
// and connlimit know of an address. It takes no lock and allocates nothing once made: its cells are one array, of which
// only those ever used take memory.
//
// It is a hash table of chains as in M. M. Michael, High Performance Dynamic Lock-Free Hash Tables and List-Based Sets
// (SPAA 2002), with the paper's tags instead of safe reclamation: a cell has a generation that changes when it is freed,
// and whatever points to a cell names the generation that it means. New cells go to the end of their chain, by a
// compare-and-swap of the word that said that this is the end: of two workers that enter the same key at the same time
// one fails, looks again, and finds the other's.
//
//	head ─► cell ─► cell ─► end        a cell: next │ generation │ key … │ state …      (words of 64 bits)
//	        key     key                next: cell │ its generation │ mark, set when the cell itself is deleted
//
// The words of a cell's state are its user's. Their user must expect that the cell is deleted and given to another key
// between two of its accesses: for the worker that is interrupted so, what it does then happens to the wrong key once.
type store struct {
	words  []atomic.Uint64 // of the cells, stride for each; cell 0 is not used
	heads  []atomic.Uint64
	stride int
	keys   int // words of the key
	limit  uint32
	free   atomic.Uint64 // stack of freed cells: the first, and above it a number that changes with every pop
	used   atomic.Uint32 // cells ever used
	count  atomic.Int64
	secret [maxKeyWords + 1]uint64

	swept  atomic.Int64  // when sweepDue last answered, in ms
	cursor atomic.Uint32 // the cell that a sweep looks at next
}

// storeKey is a key; words behind the store's number of key words are zero.
type storeKey [maxKeyWords]uint64

// maxKeyWords is room for two IPv6 addresses, ports and a zone.
const maxKeyWords = 5

const (
	cellHeader = 2 // words before the key
	genMask    = 1<<31 - 1
	freeBit    = 1 << 31 // in the word of the generation, while the cell is free
	markBit    = 1 << 63
)

// held is a cell in the incarnation in which it was found. The zero value is none.
type held struct{ cell, gen uint32 }

func (h held) word() uint64 { return uint64(h.gen)<<32 | uint64(h.cell) }

func heldOf(w uint64) held { return held{uint32(w), uint32(w>>32) & genMask} }

// newStore makes a store for limit keys of so many words, each with so many words of state.
func newStore(limit, keys, state int) *store {
	s := &store{stride: cellHeader + keys + state, keys: keys, limit: uint32(limit)}
	s.words = newWords(s, (limit+1)*s.stride)
	n := 16
	for n < limit {
		n *= 2
	}
	s.heads = newWords(s, n)
	var b [8 * len(s.secret)]byte
	rand.Read(b[:]) // never fails
	for i := range s.secret {
		s.secret[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return s
}

// size returns the bytes that the store takes when all its cells have been used.
func (s *store) size() int { return 8 * (len(s.words) + len(s.heads)) }

// state returns a word of a cell's state.
func (s *store) state(h held, i int) *atomic.Uint64 {
	return &s.words[int(h.cell)*s.stride+cellHeader+s.keys+i]
}

// valid says that the cell is still in that incarnation.
func (s *store) valid(h held) bool { return s.gen(h.cell) == h.gen }

func (s *store) gen(cell uint32) uint32 { return uint32(s.words[int(cell)*s.stride+1].Load()) }

// keyOf returns a cell's key; false when the cell has another incarnation meanwhile.
func (s *store) keyOf(h held) (k storeKey, ok bool) {
	at := int(h.cell)*s.stride + cellHeader
	for i := range s.keys {
		k[i] = s.words[at+i].Load()
	}
	return k, s.valid(h)
}

// chain returns the head of the chain of a key. The hash is keyed, so that nobody outside can choose keys that meet.
func (s *store) chain(k *storeKey) *atomic.Uint64 {
	h := s.secret[maxKeyWords]
	for i := range s.keys {
		hi, lo := bits.Mul64(k[i]^s.secret[i], h|1)
		h = hi ^ lo + s.secret[i]
	}
	hi, lo := bits.Mul64(h, 0x9e3779b97f4a7c15)
	return &s.heads[(hi^lo)&uint64(len(s.heads)-1)]
}

// find looks for a key. Without it, the word at the end of the chain and what stands in it are returned, for insert.
// Deleted cells on the way are unlinked.
func (s *store) find(k *storeKey) (h held, last *atomic.Uint64, end uint64) {
	head := s.chain(k)
again:
	for {
		prev, prevEnd := head, uint64(0)
		ptr := prev.Load()
		for {
			if ptr&markBit != 0 {
				continue again // the cell before was deleted
			}
			h := heldOf(ptr)
			if h.cell == 0 {
				if ptr != prevEnd {
					continue again // it was freed
				}
				return held{}, prev, prevEnd
			}
			at := int(h.cell) * s.stride
			next := s.words[at].Load()
			if !s.valid(h) {
				continue again
			}
			if next&markBit != 0 {
				after := next &^ markBit
				if uint32(after) == 0 {
					after = prevEnd
				}
				if !prev.CompareAndSwap(ptr, after) {
					continue again
				}
				s.release(h.cell)
				ptr = after
				continue
			}
			same := true
			for i := range s.keys {
				same = same && s.words[at+cellHeader+i].Load() == k[i]
			}
			if same {
				if !s.valid(h) {
					continue again
				}
				return h, nil, 0
			}
			prev, prevEnd, ptr = &s.words[at], uint64(h.gen)<<32, next
		}
	}
}

// get returns the cell of a key, a new one with that state if there is none; false when there is no room for it.
func (s *store) get(k *storeKey, state ...uint64) (h held, fresh, ok bool) {
	var mine held
	for {
		h, last, end := s.find(k)
		if h.cell != 0 {
			if mine.cell != 0 {
				s.words[int(mine.cell)*s.stride+1].Store(uint64(mine.gen | freeBit))
				s.push(mine.cell)
			}
			return h, false, true
		}
		if mine.cell == 0 {
			if mine = s.take(); mine.cell == 0 {
				return held{}, false, false
			}
			at := int(mine.cell) * s.stride
			s.words[at].Store(uint64(mine.gen) << 32)
			s.words[at+1].Store(uint64(mine.gen))
			for i := range s.keys {
				s.words[at+cellHeader+i].Store(k[i])
			}
			for i, v := range state {
				s.words[at+cellHeader+s.keys+i].Store(v)
			}
		}
		if last.CompareAndSwap(end, mine.word()) {
			s.count.Add(1)
			return mine, true, true
		}
	}
}

// remove deletes a cell; false when somebody else has done so.
func (s *store) remove(h held) bool {
	w := &s.words[int(h.cell)*s.stride]
	for {
		next := w.Load()
		k, ok := s.keyOf(h)
		if !ok || next&markBit != 0 {
			return false
		}
		if w.CompareAndSwap(next, next|markBit) {
			s.find(&k) // unlinks it
			return true
		}
	}
}

// release frees a cell that has been unlinked.
func (s *store) release(cell uint32) {
	g := &s.words[int(cell)*s.stride+1]
	gen := (uint32(g.Load()) + 1) & genMask
	g.Store(uint64(max(gen, 1) | freeBit)) // never 0: a link of the free cells must not look like the end of a chain
	s.count.Add(-1)
	s.push(cell)
}

func (s *store) push(cell uint32) {
	for {
		top := s.free.Load()
		s.words[int(cell)*s.stride].Store(uint64(uint32(top)))
		if s.free.CompareAndSwap(top, top&^(1<<32-1)|uint64(cell)) {
			return
		}
	}
}

// take returns a cell that nobody uses; none when there is none.
func (s *store) take() held {
	for {
		top := s.free.Load()
		cell := uint32(top)
		if cell == 0 {
			break
		}
		next := uint32(s.words[int(cell)*s.stride].Load())
		if s.free.CompareAndSwap(top, (top>>32+1)<<32|uint64(next)) {
			return held{cell, s.gen(cell) & genMask}
		}
	}
	for {
		n := s.used.Load()
		if n >= s.limit {
			return held{}
		}
		if s.used.CompareAndSwap(n, n+1) {
			return held{n + 1, 1}
		}
	}
}

// at returns the cell of that number if it is in use. It may be deleted the next moment.
func (s *store) at(cell uint32) (held, bool) {
	h := held{cell, s.gen(cell)}
	return h, h.gen != 0 && h.gen&freeBit == 0
}

// sweepMost bounds how many cells one call of sweepDue answers with, some microseconds of work.
const sweepMost = 256

// sweepDue returns the cells that a sweep with passes of so many milliseconds has to look at by now, as a run from the
// first, which may go on at cell 1 behind the last. At most one worker gets an answer for a millisecond.
func (s *store) sweepDue(ms, interval int64) (first, n uint32) {
	last := s.swept.Load()
	if ms <= last && last-ms < interval || !s.swept.CompareAndSwap(last, ms) {
		return 0, 0
	}
	used := int64(s.used.Load())
	if used == 0 {
		return 0, 0
	}
	part := used
	if gone := ms - last; gone >= 0 && gone < interval {
		part = used*gone/interval + 1
	}
	n = uint32(min(part, used, sweepMost))
	end := s.cursor.Add(n) - n
	return end%uint32(used) + 1, n
}
