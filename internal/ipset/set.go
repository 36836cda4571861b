package ipset

import "sync/atomic"

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
