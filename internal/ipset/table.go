package ipset

import (
	"math/bits"
	"runtime"
	"sync/atomic"
)

// Tick is the time in milliseconds since some origin, the same for all of a registry's users. It wraps; elements expire
// within half its range, which is why the kernel's longest timeout is what it is (IPSET_MAX_TIMEOUT).
type Tick uint32

// A slot's first word is its state; the words behind it are the element's key.
//
//	 63      38 37   36 35  34      33       32      31            0
//	[ version ][ phase ][ - ][ loaded ][ nomatch ][ forever ][ expiry, Tick ]
//
// The version grows by one when a slot gets another key, so that a reader who finds the state's phase and version
// unchanged after reading the key has read one key. 26 bits of it: a reader would have to sleep while one slot is taken
// and left 2^26 times to be deceived.
const (
	stateForever = 1 << 32 // it never expires
	stateNoMatch = 1 << 33 // an exception: what it matches is not in the set
	stateLoaded  = 1 << 34 // it came from a file, so that a file without it takes it away

	phaseMask  = 3 << 36
	phaseEmpty = 0 << 36 // never used: a search ends here
	phaseBusy  = 1 << 36 // somebody writes its key
	phaseLive  = 2 << 36
	phaseDead  = 3 << 36 // deleted: a search goes on behind it, an insertion may take it

	versionOne  = 1 << 38
	versionMask = ^uint64(versionOne - 1)
)

// keyWords is the longest key: two IPv6 addresses and what else there is.
const keyWords = 5

// key is an element as a table holds it; only the first words count, as many as the set's layout says.
type key [keyWords]uint64

// table is a hash table with open addressing and linear probing: slots of fixed width in one array without pointers,
// read and written by atomic operations only.
//
// Why so: readers on the frames' way take no lock and never wait, one cache line answers most questions about short
// keys, and a writer on the frames' way inserts into room that is there already. The kernel's arrays of elements behind
// a table of pointers (ip_set_hash_gen.h) take a second cache miss and an allocation per insertion.
type table struct {
	mask  uint64   // slots - 1
	words []uint64 // slot i begins at i*(1+n)
	tags  tags     // nil: none
	ext   []uint64 // what slot i has beside its key begins at i*extWords
	n     int      // words of a key
	nExt  int
	hashN int    // words of a key that are hashed, the last of them through last
	last  uint64 // mask of the last word hashed

	lacks atomic.Bool  // while elements move to it: one found no room
	used  atomic.Int64 // slots that are not empty
	limit int64        // of used: beyond, insertions fail until the table is made larger

	// chunks has, for sets of networks, the prefix lengths that occur below each short prefix, as bits by length - 1:
	// one word per chunk for IPv4, two for IPv6, found by the address's first bits. Bits are set before an element
	// can be found, and cleared only with the table: they may say more than there is.
	chunks    []uint64
	chunkMask uint64
}

// minSlots is the size of a new table: a set of a few elements takes some cache lines.
const minSlots = 64

// newTable makes a table of so many slots, a power of two. Three quarters of them may be used: with more, a search that
// fails looks at more than two cache lines; with less, memory lies idle.
func newTable(slots uint64, l *layout, nExt int) *table {
	t := &table{mask: slots - 1, words: make([]uint64, slots*uint64(1+l.words)), n: l.words, nExt: nExt, hashN: l.hashed, last: l.last, limit: int64(slots - slots/4)}
	if nExt > 0 {
		t.ext = make([]uint64, slots*uint64(nExt))
	}
	if slots >= l.tagged {
		t.tags = make(tags, slots/8)
	}
	if l.chunked {
		n := min(max(slots/4, 16), 1<<16)
		t.chunkMask = n - 1
		if l.v6 {
			n *= 2
		}
		t.chunks = make([]uint64, n)
	}
	return t
}

// tableBytes is what a table of so many slots takes.
func tableBytes(slots uint64, l *layout, nExt int) int64 {
	b := slots * uint64(1+l.words+nExt)
	if slots >= l.tagged {
		b += slots / 8
	}
	if l.chunked {
		n := min(max(slots/4, 16), 1<<16)
		if l.v6 {
			n *= 2
		}
		b += n
	}
	return int64(8 * b)
}

// secret keys the hash: what comes from frames must not be able to choose its slot.
type secret [keyWords + 1]uint64

// hash is a multiply-fold of the key's words with the secret.
func (t *table) hash(k *key, s *secret) uint64 {
	h := s[keyWords]
	for i := range t.hashN {
		w := k[i]
		if i == t.hashN-1 {
			w &= t.last
		}
		hi, lo := bits.Mul64(w^s[i], h|1)
		h = hi ^ lo ^ bits.RotateLeft64(s[i], 32)
	}
	return h ^ h>>29
}

func (t *table) state(i uint64) *uint64 { return &t.words[i*uint64(1+t.n)] }

// same compares a slot's key.
func (t *table) same(i uint64, k *key) bool {
	w := t.words[i*uint64(1+t.n)+1:][:t.n]
	for j := range w {
		if atomic.LoadUint64(&w[j]) != k[j] {
			return false
		}
	}
	return true
}

// steady says that a slot still holds the key that it held in state s.
func (t *table) steady(i, s uint64) bool {
	return (atomic.LoadUint64(t.state(i))^s)&(versionMask|phaseMask) == 0
}

// find returns the slot of a key with its state; false when there is none. Nobody needs to be locked out.
func (t *table) find(k *key, h uint64) (i, s uint64, ok bool) {
	if t.tags != nil {
		return t.findTagged(k, h)
	}
	for i = h & t.mask; ; i = (i + 1) & t.mask {
		s = atomic.LoadUint64(t.state(i))
		switch s & phaseMask {
		case phaseEmpty:
			return 0, 0, false
		case phaseLive:
			if t.same(i, k) && t.steady(i, s) {
				return i, s, true
			}
		}
	}
}

// read copies a slot's key; false when it changed meanwhile.
func (t *table) read(i, s uint64, k *key) bool {
	w := t.words[i*uint64(1+t.n)+1:][:t.n]
	for j := range w {
		k[j] = atomic.LoadUint64(&w[j])
	}
	return t.steady(i, s)
}

// expired says that an element in state s has had its time (ip_set_timeout_expired).
func expired(s uint64, now Tick) bool { return s&stateForever == 0 && int32(uint32(now)-uint32(s)) > 0 }

// leave makes a live slot dead; false when it is no longer what it was in state s.
func (t *table) leave(i, s uint64) bool {
	p := t.state(i)
	for {
		now := atomic.LoadUint64(p)
		if (now^s)&(versionMask|phaseMask) != 0 {
			return false
		}
		if atomic.CompareAndSwapUint64(p, now, (now&versionMask+versionOne)|phaseDead) {
			return true
		}
	}
}

// take claims a free slot for a key: the first dead one on the key's way, or the empty one at its end. The slot is busy
// until publish. Dead slots keep the order of elements that are looked at one after the other as the kernel's buckets
// do. False when the table is full.
func (t *table) take(k *key, h uint64) (uint64, bool) {
	for i := h & t.mask; ; i = (i + 1) & t.mask {
		p := t.state(i)
		s := atomic.LoadUint64(p)
		switch s & phaseMask {
		case phaseEmpty:
			if t.used.Add(1) > t.limit {
				t.used.Add(-1)
				return 0, false
			}
			if t.tags != nil && !t.tags.claim(i, tagOf(h)) || !atomic.CompareAndSwapUint64(p, s, (s&versionMask+versionOne)|phaseBusy) {
				t.used.Add(-1)
				continue // somebody else took it; look behind it
			}
		case phaseDead:
			if !atomic.CompareAndSwapUint64(p, s, (s&versionMask+versionOne)|phaseBusy) {
				continue
			}
			if t.tags != nil {
				t.tags.set(i, tagOf(h))
			}
		default:
			continue
		}
		w := t.words[i*uint64(1+t.n)+1:][:t.n]
		for j := range w {
			atomic.StoreUint64(&w[j], k[j])
		}
		for j := range t.extra(i) {
			atomic.StoreUint64(&t.extra(i)[j], 0)
		}
		return i, true
	}
}

// publish makes a slot that take returned live.
func (t *table) publish(i, state uint64) {
	p := t.state(i)
	atomic.StoreUint64(p, atomic.LoadUint64(p)&versionMask|phaseLive|state)
}

// extra returns what the slot has beside its key.
func (t *table) extra(i uint64) []uint64 { return t.ext[i*uint64(t.nExt):][:t.nExt] }

// stripes is how many locks the writers of a set share, by the key's hash. Two writers meet on one of them only when
// they write at the same instant, and a writer holds one for less than a microsecond.
const stripes = 16

// stripe is a spin lock that keeps two writers of one key apart. Readers do not look at it.
type stripe struct {
	held atomic.Uint32
	_    [60]byte // a cache line of its own
}

// patience is how often a writer on the frames' way tries a lock. It is held for some hundred instructions; only a holder
// whose thread was taken off its processor keeps it longer, and for that no frame waits.
const patience = 4096

// tryLock takes the lock, or gives up.
func (l *stripe) tryLock() bool {
	for range patience {
		if l.held.CompareAndSwap(0, 1) {
			return true
		}
	}
	return false
}

// lock takes the lock, off the frames' way.
func (l *stripe) lock() {
	for !l.tryLock() {
		runtime.Gosched()
	}
}

func (l *stripe) unlock() { l.held.Store(0) }
