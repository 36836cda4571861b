package conntrack

import (
	"math/bits"

	"corewire/internal/packet"
)

// sweepInterval is how often the sweep looks at every entry, in ms. An expired entry is invisible at once (lookups and
// listings check the time) and counted until the sweep has passed; Linux's collection may take up to 60 s
// (GC_SCAN_INTERVAL_MAX). A shorter interval would cost more (a pass over a million entries takes about a
// millisecond), a longer one would let dead entries fill the table.
const sweepInterval = 1000

// sweepBlock is how many entries one word of the slots covers, and the sweep looks at together.
const sweepBlock = 64

// sweep is the state of the incremental pass over all deadlines.
type sweep struct {
	next    uint32 // first block that this pass has not seen
	blocks  uint32 // blocks of this pass
	started Tick   // when this pass began
	gc      uint32 // the request of Capacity.gc that was last carried out
	collect bool   // this pass carries out a request

	last Tick   // the latest tick seen
	high uint64 // how often ticks have wrapped by then, in units of 2³²; at least one, so that earlier ticks exist

	dumped Tick // when a listing was last continued: entries do not move for a while
	listed bool
	peak   uint32 // one past the highest index whose memory may be present
}

// dumpPause is for how long after a slice of a listing entries keep their places, in ms.
const dumpPause = 10_000

// extend makes a tick of 64 bits, which does not wrap, of one that is not before the last by more than half a round.
func (s *sweep) extend(now Tick) uint64 {
	if s.high == 0 {
		s.high, s.last = 1<<32, now
	}
	if int32(now-s.last) >= 0 {
		if now < s.last {
			s.high += 1 << 32
		}
		s.last = now
	} else if now > s.last {
		return s.high - 1<<32 + uint64(now)
	}
	return s.high + uint64(now)
}

// Expire removes entries whose time is over, and after an early drop failed those that Linux collects above 95 %. It
// also lets the table shrink. The caller calls it between bursts, each time with the current tick: most calls return at
// once, since the sweep keeps to a pass a second. Its time is bounded: it looks at the deadlines of at most budget blocks
// of 64 entries, and closely (with a cache miss or two each) at no more than budget + 64 entries. It returns the number
// of entries removed.
func (t *Table) Expire(now Tick, budget int) int {
	s := &t.sweep
	s.extend(now)
	t.expect.sweep(now)
	if t.expect.doom.Load() != t.buried {
		t.bury(now)
	}
	t.resize(min(budget, resizeExpire+t.entered))
	t.entered = 0
	elapsed := uint64(uint32(now - s.started))
	if s.next >= s.blocks {
		if elapsed < sweepInterval && s.blocks != 0 && !t.collectionWanted() {
			return 0
		}
		t.startPass(now)
		elapsed = 0
	}
	// What part of the pass is due by now; one block more, so that a table that is small is done at once.
	due := uint32(min(uint64(s.blocks), uint64(s.blocks)*elapsed/sweepInterval+1))
	removed, looked := 0, 0
	for s.next < due && looked < budget && budget > 0 {
		m := t.slots.word(s.next)
		base := s.next * sweepBlock
		s.next++
		looked++
		if m != 0 && !s.collect {
			m &= t.over(base, now)
		}
		if m != 0 {
			looked += bits.OnesCount64(m)
			removed += t.reap(base, m, now)
		}
	}
	if s.next >= s.blocks {
		t.tidy(now, budget)
	}
	return removed
}

// startPass begins a pass over everything in use.
func (t *Table) startPass(now Tick) {
	s := &t.sweep
	s.next, s.started = 0, now
	t.slots.trim(64)
	s.blocks = (t.slots.top + sweepBlock - 1) / sweepBlock
	s.collect = false
	if t.collectionWanted() {
		s.gc = t.cap.gc.Load()
		s.collect = true
	}
}

// over returns one bit for each entry of a block whose bound has passed.
func (t *Table) over(base uint32, now Tick) uint64 {
	d := t.due.items[base : base+sweepBlock : base+sweepBlock]
	var m uint64
	for i := range d {
		// The sign of due - now - 1 is set when due is not after now.
		m |= uint64(uint32(d[i]-now-1)>>31) << (i & 63)
	}
	return m
}

// reap looks closely at the entries of a block that m names, removes those that have to go and raises the bounds of the
// others. All cache lines of a kind are asked for together.
func (t *Table) reap(base uint32, m uint64, now Tick) int {
	crowded := t.sweep.collect && t.cap.crowded()
	var refs [sweepBlock]uint32
	var hash [sweepBlock]uint64
	var touch uint64
	n := 0
	for ; m != 0; m &= m - 1 {
		ref := base + uint32(bits.TrailingZeros64(m))
		e := &t.hot.items[ref]
		if e.expired(now) || crowded && e.collectable() {
			refs[n&(sweepBlock-1)] = ref
			n++
			continue
		}
		t.due.items[ref] = e.deadline
	}
	for i, ref := range refs[:n] {
		hash[i] = t.hashOf(&t.hot.items[ref].key)
		touch += t.index.arena.items[t.index.first(hash[i])].tags0
	}
	t.sink += touch
	for i, ref := range refs[:n] {
		if t.hot.items[ref].expired(now) {
			t.stats.Expired++
		} else {
			t.stats.Collected++
		}
		t.remove(ref, hash[i])
	}
	return n
}

// collectable reports whether the collection at 95 % may take an entry (gc_worker_can_early_drop): it is not ASSURED, or
// its protocol has begun to close (tcp_can_early_drop, sctp_can_early_drop).
func (e *entry) collectable() bool {
	if uint32(e.status)&StatusAssured == 0 {
		return true
	}
	switch e.key.Proto {
	case packet.ProtoTCP:
		return tcpClosingState(e.state)
	case packet.ProtoSCTP:
		return sctpClosingState(e.state)
	}
	return false
}

// requestCollection asks every shard for a pass of the collection at 95 %, because an early drop found nothing.
func (t *Table) requestCollection() {
	if t.cap.gc.Load() == t.sweep.gc && !t.sweep.collect {
		t.cap.gc.Add(1)
	}
}

// collectionWanted reports whether a shard has asked for a collection that this one has not begun.
func (t *Table) collectionWanted() bool { return t.cap.gc.Load() != t.sweep.gc }

// resizeExpire is how many buckets one call of Expire may split or merge at least: about two microseconds. To these
// comes one for each entry made since the last call, so that a level is finished when the table has grown by a tenth.
const resizeExpire = 8

// releaseStep is how many entries' memory a pass gives back at most: 4 MiB, some ten microseconds of system calls.
const releaseStep = 1 << 15

// tidy ends a pass. It gives credits in hand back where they are scarce, and after SetMax has lowered the maximum it
// moves entries down and gives memory above the maximum back, a little each time. Below the maximum memory is kept: the
// next peak must not wait for page faults.
func (t *Table) tidy(now Tick, budget int) {
	s := &t.sweep
	if t.credit > 0 && t.cap.batch() == 1 {
		t.cap.release(t.credit)
		t.credit = 0
	}
	s.peak = max(s.peak, t.slots.top)
	limit := uint32(t.reserve)
	if m := t.cap.Max(); m != 0 {
		limit = uint32(min(t.reserve, m+2))
	}
	if s.peak <= limit {
		return
	}
	if t.pending == 0 && (!s.listed || uint32(now-s.dumped) > dumpPause) {
		s.listed = false
		for ; budget > 0 && t.slots.trim(64) && t.slots.top > limit; budget-- {
			to, ok := t.slots.lowest()
			if !ok || to >= t.slots.top-1 {
				break
			}
			t.move(t.slots.top-1, to)
		}
	}
	if from := max(t.slots.top, limit, s.peak-min(s.peak, releaseStep)); from < s.peak {
		t.hot.release(int(from), int(s.peak))
		t.cold.release(int(from), int(s.peak))
		t.due.release(int(from), int(s.peak))
		s.peak = from
	}
}

// move gives an entry another index.
func (t *Table) move(from, to uint32) {
	h := t.hashOf(&t.hot.items[from].key)
	x := &t.index.arena.items[t.index.first(h)]
	i := x.slotOf(tagOf(h), from)
	if i < 0 {
		x = &t.index.arena.items[t.index.second(h)]
		i = x.slotOf(tagOf(h), from)
	}
	x.ref[i] = to
	t.hot.items[to], t.cold.items[to], t.due.items[to] = t.hot.items[from], t.cold.items[from], t.due.items[from]
	if t.acct.items != nil {
		t.acct.items[to] = t.acct.items[from]
	}
	if t.stamp.items != nil {
		t.stamp.items[to] = t.stamp.items[from]
	}
	if t.aids.items != nil && uint32(t.hot.items[to].status)&(StatusHelper|StatusExpected) != 0 {
		t.aids.items[to] = t.aids.items[from]
	}
	if t.policies.of.items != nil {
		t.policies.of.items[to] = t.policies.of.items[from]
	}
	if t.labels.items != nil {
		t.labels.items[to] = t.labels.items[from]
	}
	if t.tickets.head.items != nil {
		t.tickets.head.items[to] = t.tickets.head.items[from]
	}
	t.slots.add(to)
	t.slots.remove(from)
}
