package ipset

import (
	"math/bits"
	"sync/atomic"
)

// layout is how a kind's elements are laid out in keys.
type layout struct {
	words   int    // of a key
	hashed  int    // words of it that are hashed
	last    uint64 // mask of the last word hashed
	v6      bool
	chunked bool // networks of one dimension, the first: prefix lengths are kept per chunk
}

// fields are an element, taken apart.
type fields struct {
	a, b        address
	cidr, cidr2 uint8
	proto       uint8
	port        uint16
	physdev     bool
	wildcard    bool
	mark        uint32
	mac         uint64
	iface       [2]uint64 // the name's bytes, first in the high ones, and zeros behind
}

// The word that holds what is no address, or for an IPv4 address the upper half of its word:
//
//	 39        32 31     16 15     8 7       0
//	[ 2nd length ][ port   ][ proto ][ length ]     all but those below
//	             [ - ][ wildcard 9 ][ physdev 8 ][ length ]   hash:net,iface
//	             [ mark                         ]   hash:ip,mark
const (
	miscPhysdev  = 1 << 8
	miscWildcard = 1 << 9
)

func layoutOf(k Kind, v6 bool) layout {
	l := layout{words: 1, last: ^uint64(0), v6: v6}
	if v6 {
		l.words = 3
	}
	switch k {
	case HashIP:
		if v6 {
			l.words = 2
		}
	case HashMAC:
		l.words = 1
	case HashIPMAC:
		if !v6 {
			l.words = 2
		}
	case HashNet, HashNetPort:
		l.chunked = true
	case HashIPPortIP, HashIPPortNet, HashNetNet, HashNetPortNet:
		l.words = 2
		if v6 {
			l.words = 5
		}
	case HashNetIface:
		// Elements of one network are found by its address and length alone, and looked at in order, as in the kernel:
		// a name may be the beginning of an interface's.
		l.chunked = true
		l.hashed, l.last = 1, 1<<40-1
		l.words = 3
		if v6 {
			l.hashed, l.last = 3, 1<<8-1
			l.words = 5
		}
		return l
	}
	l.hashed = l.words
	return l
}

// encode writes an element's key.
func (s *Set) encode(f *fields, k *key) {
	misc := uint64(f.cidr) | uint64(f.proto)<<8 | uint64(f.port)<<16 | uint64(f.cidr2)<<32
	switch s.kind {
	case HashMAC:
		k[0] = f.mac
		return
	case HashIPMAC:
		k[0], k[1] = f.a.lo, f.mac
		if s.v6 {
			k[0], k[1], k[2] = f.a.hi, f.a.lo, f.mac
		}
		return
	case HashIPMark:
		misc = uint64(f.mark)
	case HashNetIface:
		misc = uint64(f.cidr)
		if f.physdev {
			misc |= miscPhysdev
		}
		if f.wildcard {
			misc |= miscWildcard
		}
		if s.v6 {
			*k = key{f.a.hi, f.a.lo, misc, f.iface[0], f.iface[1]}
		} else {
			k[0], k[1], k[2] = f.a.lo|misc<<32, f.iface[0], f.iface[1]
		}
		return
	}
	switch s.layout.words {
	case 1:
		k[0] = f.a.lo | misc<<32
	case 2:
		if s.v6 {
			k[0], k[1] = f.a.hi, f.a.lo
		} else {
			k[0], k[1] = f.a.lo|f.b.lo<<32, misc
		}
	case 3:
		k[0], k[1], k[2] = f.a.hi, f.a.lo, misc
	default:
		*k = key{f.a.hi, f.a.lo, f.b.hi, f.b.lo, misc}
	}
}

// decode is the inverse of encode.
func (s *Set) decode(k *key, f *fields) {
	*f = fields{}
	low := func(w uint64) address { return address{0, w & (1<<32 - 1)} }
	switch s.kind {
	case HashMAC:
		f.mac = k[0]
		return
	case HashIPMAC:
		f.a, f.mac = low(k[0]), k[1]
		if s.v6 {
			f.a, f.mac = address{k[0], k[1]}, k[2]
		}
		return
	}
	misc := s.misc(k)
	switch {
	case s.v6:
		f.a = address{k[0], k[1]}
		if s.layout.words == 5 && s.kind != HashNetIface {
			f.b = address{k[2], k[3]}
		}
	case s.layout.words == 2:
		f.a, f.b = low(k[0]), address{0, k[0] >> 32}
	default:
		f.a = low(k[0])
	}
	switch s.kind {
	case HashIPMark:
		f.mark = uint32(misc)
	case HashNetIface:
		f.cidr, f.physdev, f.wildcard = uint8(misc), misc&miscPhysdev != 0, misc&miscWildcard != 0
		f.iface = [2]uint64(k[s.layout.words-2:])
	default:
		f.cidr, f.proto, f.port, f.cidr2 = uint8(misc), uint8(misc>>8), uint16(misc>>16), uint8(misc>>32)
	}
}

// misc returns the word of a key that holds what is no address.
func (s *Set) misc(k *key) uint64 {
	switch {
	case s.kind == HashIP:
		return 0
	case s.kind == HashNetIface && s.v6:
		return k[2]
	case s.v6:
		return k[s.layout.words-1]
	case s.layout.words == 2:
		return k[1]
	}
	return k[0] >> 32
}

// Set is what a name stands for: the elements and how they are kept. A Handle leads to it; swapping two names exchanges
// their Sets.
//
// Frames read it without a lock, and write to it under one of the stripes; everything else is done under the registry's
// lock.
type Set struct {
	kind   Kind
	v6     bool
	family uint8 // 4 or 6; 0 for kinds of no IP version
	spec   Spec
	layout layout
	nExt   int
	infoAt int // where in the extra words the skbinfo is; the counters are first
	secret *secret

	table atomic.Pointer[table]
	next  atomic.Pointer[table] // the larger one that elements are moving to; writers write to both
	locks *[stripes]stripe
	nets  *nets // of kinds with networks
	count atomic.Int64
	given atomic.Uint64 // additions and deletions by rules that were given up: no room, or somebody kept the lock

	notes  map[uint64]note // comments by slot; stale when the slot's version is another
	cursor uint64          // of collect

	bitmap *bitmap
	list   atomic.Pointer[[]*member]
}

// note is an element's comment, valid as long as the slot holds the same element.
type note struct {
	version uint64
	text    string
}

// nets keeps account of the prefix lengths of a set, as mtype_add_cidr and mtype_del_cidr do.
type nets struct {
	lens  [2][129]atomic.Int32
	masks [2][2]atomic.Uint64 // lengths from 1 that occur, by length-1; a bit may stay when its last element went
	zero  [2]atomic.Bool      // length 0 occurs, likewise
}

// extras are what an element has beside its key.
type extras struct {
	exist   bool // an element that is there gets these, instead of an error
	frame   bool // given by a packet: comments stay
	loaded  bool // from a file
	noMatch bool
	timeout uint32 // seconds; 0: it stays; meaningless for sets without timeouts
	packets uint64 // unset: as they are
	bytes   uint64
	comment string
	info    Info
}

// unset says that a counter was not given.
const unset = ^uint64(0)

// Info is what a set of skbinfo keeps for an element, for -j SET --map-set.
type Info struct {
	Mark, Mask uint32
	Priority   uint32
	Queue      uint16
}

// result is the outcome of an addition or deletion.
type result uint8

const (
	done result = iota
	errExist
	errMissing
	errFull    // as many elements as the set may have
	errRoom    // the table must be made larger
	errBusy    // somebody kept the lock
	errRange   // out of a bitmap's range
	errNullish // an element that hash types cannot hold
)

func (x *extras) bits(s *Set, now Tick) uint64 {
	var b uint64
	if !s.spec.HasTimeout || x.timeout == 0 {
		b = stateForever
	} else {
		b = uint64(uint32(now) + x.timeout*1000)
	}
	if x.noMatch {
		b |= stateNoMatch
	}
	if x.loaded {
		b |= stateLoaded
	}
	return b
}

// stateBits are what extras give.
const stateBits = stateLoaded | stateNoMatch | stateForever | (1<<32 - 1)

// write stores the counters and skbinfo of an element.
func (s *Set) write(w []uint64, x *extras) {
	if s.spec.Counters {
		if x.packets != unset {
			atomic.StoreUint64(&w[0], x.packets)
		}
		if x.bytes != unset {
			atomic.StoreUint64(&w[1], x.bytes)
		}
	}
	if s.spec.SkbInfo {
		atomic.StoreUint64(&w[s.infoAt], uint64(x.info.Mark)|uint64(x.info.Mask)<<32)
		atomic.StoreUint64(&w[s.infoAt+1], uint64(x.info.Priority)|uint64(x.info.Queue)<<32)
	}
}

func (s *Set) info(w []uint64) Info {
	if !s.spec.SkbInfo {
		return Info{}
	}
	m, p := atomic.LoadUint64(&w[s.infoAt]), atomic.LoadUint64(&w[s.infoAt+1])
	return Info{Mark: uint32(m), Mask: uint32(m >> 32), Priority: uint32(p), Queue: uint16(p >> 32)}
}

// enter takes the lock of a key's writers; false when a frame would have to wait.
func (s *Set) enter(h uint64, frame bool) (*stripe, bool) {
	l := &s.locks[h>>60%stripes]
	if frame {
		return l, l.tryLock()
	}
	l.lock()
	return l, true
}

// put adds an element or, where it is and extras say so, changes what it has. It allocates nothing. Off the frames' way
// errRoom asks for grow.
func (s *Set) put(k *key, x *extras, now Tick) (r result) {
	t := s.table.Load()
	h := t.hash(k, s.secret)
	l, ok := s.enter(h, x.frame)
	if !ok {
		return errBusy
	}
	defer l.unlock()
	t = s.table.Load() // tables change under all locks only
	bits := x.bits(s, now)
	for {
		i, st, ok := t.find(k, h)
		if !ok {
			break
		}
		if expired(st, now) {
			if t.leave(i, st) {
				s.count.Add(-1)
				s.account(k, -1)
				s.unmirror(k, h)
			}
			continue
		}
		if !x.exist {
			return errExist
		}
		if x.frame {
			bits |= st & stateLoaded // a packet refreshes what a file gave: it stays the file's
		}
		s.write(t.extra(i), x)
		if !atomic.CompareAndSwapUint64(t.state(i), st, st&^stateBits|bits) {
			continue // it was collected, or made way for another one
		}
		if !x.frame {
			s.remark(t, i, x.comment)
		}
		s.mirror(k, h, bits, x)
		return done
	}
	if r := s.admit(t, h, l, now); r != done {
		return r
	}
	i, ok := t.take(k, h)
	if !ok {
		// What has expired next to it may make way.
		if s.collectFrom(t, h&t.mask, 64, now) > 0 {
			i, ok = t.take(k, h)
		}
		if !ok {
			s.count.Add(-1)
			return errRoom
		}
	}
	s.write(t.extra(i), x)
	s.account(k, +1)
	s.chunk(t, k)
	t.publish(i, bits)
	if !x.frame && x.comment != "" {
		s.remark(t, i, x.comment)
	}
	s.mirror(k, h, bits, x)
	return done
}

// remark sets or clears an element's comment. Only control has comments: what a packet adds has none, and a comment of
// the slot's former element is stale by its version.
func (s *Set) remark(t *table, i uint64, text string) {
	if !s.spec.Comment {
		return
	}
	if text == "" {
		if s.notes[i].text != "" {
			delete(s.notes, i)
		}
		return
	}
	if s.notes == nil {
		s.notes = make(map[uint64]note)
	}
	s.notes[i] = note{atomic.LoadUint64(t.state(i)) & versionMask, text}
}

// admit counts one more element; errFull when there are as many as there may be, and none of them makes way.
func (s *Set) admit(t *table, h uint64, held *stripe, now Tick) result {
	most := int64(s.spec.MaxElem)
	if s.count.Add(1) <= most {
		return done
	}
	s.count.Add(-1)
	if s.spec.HasTimeout && s.collect(t, 256, now) > 0 && s.count.Add(1) <= most {
		return done
	}
	if !s.spec.ForceAdd || most == 0 {
		return errFull
	}
	// The kernel drops an element of the same bucket, which the key's hash chooses; here it is the next in the table.
	var k key
	for i := h & t.mask; ; i = (i + 1) & t.mask {
		st := atomic.LoadUint64(t.state(i))
		if st&phaseMask != phaseLive || !t.read(i, st, &k) {
			if (i+1)&t.mask == h&t.mask {
				return errFull // all went meanwhile
			}
			continue
		}
		g := t.hash(&k, s.secret)
		l := &s.locks[g>>60%stripes]
		if l != held && !l.held.CompareAndSwap(0, 1) {
			continue
		}
		gone := t.leave(i, st)
		if gone {
			s.account(&k, -1)
			s.unmirror(&k, g)
		}
		if l != held {
			l.unlock()
		}
		if gone { // its place in the count is taken over
			return done
		}
	}
}

// mirror repeats an addition in the table that elements are moving to.
func (s *Set) mirror(k *key, h, bits uint64, x *extras) {
	t := s.next.Load()
	if t == nil {
		return
	}
	if i, st, ok := t.find(k, h); ok {
		s.write(t.extra(i), x)
		atomic.StoreUint64(t.state(i), st&^stateBits|bits)
		return
	}
	i, ok := t.take(k, h)
	if !ok {
		t.lacks.Store(true)
		return
	}
	s.write(t.extra(i), x)
	s.chunk(t, k)
	t.publish(i, bits)
}

// unmirror repeats a deletion.
func (s *Set) unmirror(k *key, h uint64) {
	if t := s.next.Load(); t != nil {
		if i, st, ok := t.find(k, h); ok {
			t.leave(i, st)
		}
	}
}

// remove deletes an element. It allocates nothing.
func (s *Set) remove(k *key, now Tick, frame bool) result {
	h := s.table.Load().hash(k, s.secret)
	l, ok := s.enter(h, frame)
	if !ok {
		return errBusy
	}
	defer l.unlock()
	t := s.table.Load()
	i, st, ok := t.find(k, h)
	if !ok || expired(st, now) || !t.leave(i, st) {
		return errMissing
	}
	s.count.Add(-1)
	s.account(k, -1)
	s.unmirror(k, h)
	return done
}

// account counts a network's prefix lengths.
func (s *Set) account(k *key, by int32) {
	if s.nets == nil {
		return
	}
	misc := s.misc(k)
	for d, n := range [2]uint8{uint8(misc), uint8(misc >> 32)} {
		if s.kind == HashNetIface && d == 1 {
			break
		}
		s.nets.lens[d][n].Add(by)
		if by < 0 {
			continue
		}
		if n == 0 {
			if !s.nets.zero[d].Load() {
				s.nets.zero[d].Store(true)
			}
			continue
		}
		m, bit := &s.nets.masks[d][(n-1)>>6], uint64(1)<<((n-1)&63)
		if m.Load()&bit == 0 {
			m.Or(bit)
		}
	}
}

// longest returns the longest prefix of a dimension, the whole address's for an empty set (INIT_CIDR).
func (s *Set) longest(d int) uint8 {
	host := hostBits(s.v6)
	if s.nets == nil {
		return uint8(host)
	}
	for n := host; n >= 0; n-- {
		if s.nets.lens[d][n].Load() > 0 {
			return uint8(n)
		}
	}
	return uint8(host)
}

// pivot is the length of the prefix that chunks are made by: long enough to tell networks apart, short enough for
// most elements to be in one chunk only.
func pivot(v6 bool) int {
	if v6 {
		return 32
	}
	return 16
}

// chunkOf returns where an address's chunk is.
func (t *table) chunkOf(a address, v6 bool) uint64 {
	x := a.lo >> 16
	if v6 {
		x = a.hi >> 32
	}
	return x * 0x9e3779b97f4a7c15 >> 32 & t.chunkMask
}

// chunk notes a network's length in its chunk, where it is longer than the chunk's.
func (s *Set) chunk(t *table, k *key) {
	if t.chunks == nil {
		return
	}
	var f fields
	s.decode(k, &f)
	n := int(f.cidr)
	if n <= pivot(s.v6) {
		return
	}
	at := t.chunkOf(f.a, s.v6)
	if s.v6 {
		at = at*2 + uint64(n-1)>>6
	}
	bit := uint64(1) << ((n - 1) & 63)
	if atomic.LoadUint64(&t.chunks[at])&bit == 0 {
		atomic.OrUint64(&t.chunks[at], bit)
	}
}

// lengths returns the prefix lengths to try for an address, as bits by length - 1.
func (s *Set) lengths(t *table, a address) (lo, hi uint64) {
	lo, hi = s.nets.masks[0][0].Load(), s.nets.masks[0][1].Load()
	if t.chunks == nil {
		return lo, hi
	}
	short := uint64(1)<<pivot(s.v6) - 1
	at := t.chunkOf(a, s.v6)
	if s.v6 {
		return lo & (short | atomic.LoadUint64(&t.chunks[at*2])), hi & atomic.LoadUint64(&t.chunks[at*2+1])
	}
	return lo & (short | atomic.LoadUint64(&t.chunks[at])), 0
}

// collect removes elements whose time has come among the next slots, and returns how many they were.
func (s *Set) collect(t *table, budget uint64, now Tick) int {
	from := atomic.AddUint64(&s.cursor, budget) - budget
	return s.collectFrom(t, from&t.mask, min(budget, t.mask+1), now)
}

// collectFrom does nothing while elements move to another table, where those taken out here would be counted again.
func (s *Set) collectFrom(t *table, from, budget uint64, now Tick) (n int) {
	if s.next.Load() != nil {
		return 0
	}
	var k key
	for i := from; budget > 0; i, budget = (i+1)&t.mask, budget-1 {
		st := atomic.LoadUint64(t.state(i))
		if st&phaseMask != phaseLive || !expired(st, now) || !t.read(i, st, &k) {
			continue
		}
		// Only if nobody gives it more time meanwhile.
		if atomic.CompareAndSwapUint64(t.state(i), st, (st&versionMask+versionOne)|phaseDead) {
			s.count.Add(-1)
			s.account(&k, -1)
			n++
		}
	}
	return n
}

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

// renew clears the bits of lengths that no element has any more.
func (n *nets) renew() {
	for d := range n.lens {
		n.zero[d].Store(n.lens[d][0].Load() > 0)
		for l := 1; l <= 128; l++ {
			if n.lens[d][l].Load() <= 0 {
				n.masks[d][(l-1)>>6].And(^(uint64(1) << ((l - 1) & 63)))
			}
		}
	}
}

// crowded says that the table should be made larger, or freed of dead slots, before frames find it full.
func (s *Set) crowded() bool {
	t := s.table.Load()
	return t != nil && t.used.Load() > t.limit*3/4
}
