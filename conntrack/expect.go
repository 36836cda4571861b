package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"corewire/internal/packet"
)

// Expectations are the connections that helpers expect (net/netfilter/nf_conntrack_expect.c, Linux 6.12), and the call
// ids that PPTP control connections have agreed upon (the keymap of nf_conntrack_proto_gre.c). All shards share one,
// because an expected connection may arrive at any of them: its source port, and with it its shard, is not known before.
//
// # Cost and locks
//
// A shard that meets a new connection asks one counter; while nothing is expected that is all. Otherwise it walks the
// chain of the connection's destination, without a lock: a chain has a version, which is odd while somebody changes it, and
// a reader that saw it change, or found what it looks for, asks again under the lock. So the lock is taken only by control
// connections that announce something, by the connections that were announced, and by the one in many thousands that
// meets a change; not by a flood, wherever it is directed, unless it guesses an expected connection's addresses and port.
//
//	          by destination             slots                          by master
//	heads ┌─────────┬───────┐    ┌───┬───────────────────────────┬───┐    ┌───────┐ masters
//	      │ version │ first ├──▶ │ 1 │ tuple, mask, master, time │ n ├──▶ │ first │
//	      └─────────┴───────┘    └───┴───────────────────────────┴───┘    └───────┘
//	       read without the lock    words of the tuple are atomic      under the lock only
//
// # Order, and why nothing is missed or found twice
//
// An expectation is entered before the packet that announced it is sent on. Whoever reads that packet and answers it with the
// expected connection does so later, so whichever shard receives the answer finds the expectation: there is no message
// between shards that the connection could overtake. It is taken under the lock: of two connections that fit, one
// becomes the expected one, as in Linux.
//
// What a shard does to another's entry is the one thing that takes time: the GRE connection of a PPTP call that has ended
// is condemned here and removed by the shard that has it at its next Expire. Its packets no longer find it meanwhile,
// since the call ids are forgotten at once. If a shard sleeps while more than condemnedKeys calls end, it misses
// some, which then live until they expire.
//
// A master is named by its key, not by a reference: a connection that goes takes its expectations with it
// (nf_ct_remove_expectations), so that a later one with the same key finds none.
type Expectations struct {
	count atomic.Int32  // expectations, expired ones that were not swept included
	calls atomic.Int32  // call ids
	max   atomic.Int32  // nf_conntrack_expect_max
	doom  atomic.Uint32 // keys ever condemned
	swept atomic.Uint32 // tick of the last step of the sweep

	hasher  packet.Hasher
	fold    uint64
	heads   [expectHeads]expectHead
	arena   arena[expectSlot]
	slots   []expectSlot // slot 0 stands for none
	mu      sync.Mutex   // guards what follows and every change of what is above
	masters [expectHeads]uint32
	free    uint32 // first of the chain of free slots, by next
	top     uint32 // one past the highest slot ever used
	cursor  uint32 // where the sweep goes on
	shards  uint32 // tables that use the store, ever
	stats   ExpectCounters
	doomed  [condemnedKeys]packet.Key
	now     Tick       // the latest that a caller has told
	sink    ExpectSink // nil: nobody listens
	event   [1]ExpectEvent
}

const (
	// expectHeads is the number of chains, a power of two. Linux' default has 1024 for up to 4096 expectations.
	expectHeads = 1 << 12
	// MaxExpectations is the largest nf_conntrack_expect_max; address space is reserved for so many and as many call ids.
	MaxExpectations = 1 << 16
	// condemnedKeys is how many ended PPTP calls are remembered for shards that have not seen them.
	condemnedKeys = 256
	// expectWalk bounds the walk along a chain without the lock, which a concurrent change could lead in a circle.
	expectWalk = 1024
)

// ExpectCounters count what became of expectations, by the names of /proc/net/stat/nf_conntrack.
type ExpectCounters struct {
	New    uint64 // connections that were expected
	Create uint64 // expectations made
	Delete uint64 // expectations that went: matched, expired, replaced, or with their master
	Full   uint64 // expectations that could not be made at the maximum
}

// expectHead is a chain of slots with the same hash of the destination.
type expectHead struct {
	version atomic.Uint32 // odd while the chain or one of its slots is being changed
	first   atomic.Uint32
}

// expectTuple is what a connection is compared with.
type expectTuple struct {
	src, dst packet.Addr
	ports    uint64 // source port, destination port, zone, protocol, family from the highest bits down
}

// makePorts packs the last word of a tuple.
func makePorts(sport, dport, zone uint16, proto, family uint8) uint64 {
	return uint64(sport)<<48 | uint64(dport)<<32 | uint64(zone)<<16 | uint64(proto)<<8 | uint64(family)
}

// anyPort is the bits of expectTuple.ports that count where the source port does not.
const anyPort = 1<<48 - 1

func (t *expectTuple) sport() uint16 { return uint16(t.ports >> 48) }
func (t *expectTuple) dport() uint16 { return uint16(t.ports >> 32) }
func (t *expectTuple) zone() uint16  { return uint16(t.ports >> 16) }
func (t *expectTuple) proto() uint8  { return uint8(t.ports >> 8) }
func (t *expectTuple) family() uint8 { return uint8(t.ports) }

// inverse returns the tuple of the other direction.
func (t *expectTuple) inverse() expectTuple {
	return expectTuple{t.dst, t.src, makePorts(t.dport(), t.sport(), t.zone(), t.proto(), t.family())}
}

// key returns the key of a connection that has the tuple.
func (t *expectTuple) key() (k packet.Key) {
	k.Set(t.src, t.dst, t.sport(), t.dport(), t.proto(), t.family())
	k.Zone = t.zone()
	return k
}

// Flags of an expectation; the first two have the values of linux/netfilter/nf_conntrack_common.h.
const (
	// ExpectPermanent: it stays when a connection has matched.
	ExpectPermanent uint8 = 1 << 0
	// ExpectInactive: no connection matches it yet.
	ExpectInactive uint8 = 1 << 1

	expectUsed   uint8 = 1 << 3 // the slot is in use
	expectAssign uint8 = 1 << 4 // the expected connection gets the master's helper
	expectAnySrc uint8 = 1 << 5 // the source address is not compared
	expectAnyPt  uint8 = 1 << 6 // the source port is not compared
	expectCall   uint8 = 1 << 7 // no expectation but a PPTP call id
)

// expectSlot is one expectation, or one call id.
type expectSlot struct {
	// Read without the lock.
	srcHi, srcLo, dstHi, dstLo, ports atomic.Uint64
	when                              atomic.Uint64 // deadline in the low 32 bits, flags in the high ones
	next                              atomic.Uint32 // in the chain by destination, or of free slots

	prev          uint32 // in the chain by destination; 0 at its head
	newer, older  uint32 // in the chain by master
	mark          uint32 // the master's
	shard         uint32 // of the master
	class         uint8
	helper        Helper
	masterFlipped uint8 // entryFlipped of the master
	master        packet.Key
}

// tuple reads the slot's tuple. Without the lock it may be a mixture of two; the chain's version tells.
func (s *expectSlot) tuple() expectTuple {
	return expectTuple{packet.Addr{Hi: s.srcHi.Load(), Lo: s.srcLo.Load()}, packet.Addr{Hi: s.dstHi.Load(), Lo: s.dstLo.Load()}, s.ports.Load()}
}

// flags and expired take what when.Load returned.
func expectFlags(when uint64) uint8             { return uint8(when >> 32) }
func expectExpired(when uint64, now Tick) bool  { return int32(uint32(when)-uint32(now)) <= 0 }
func expectWhen(flags uint8, until Tick) uint64 { return uint64(flags)<<32 | uint64(until) }

// matches reports whether a connection's tuple is one that the slot names (nf_ct_tuple_mask_cmp).
func (s *expectSlot) matches(t *expectTuple, flags uint8) bool {
	mask := ^uint64(0)
	if flags&expectAnyPt != 0 {
		mask = anyPort
	}
	return (s.ports.Load()^t.ports)&mask == 0 && s.dstLo.Load() == t.dst.Lo && s.dstHi.Load() == t.dst.Hi &&
		(flags&expectAnySrc != 0 || s.srcLo.Load() == t.src.Lo && s.srcHi.Load() == t.src.Hi)
}

// NewExpectations returns an empty store for at most max expectations (1 to MaxExpectations). The caller must Close it
// after all Tables that use it.
func NewExpectations(max int) (*Expectations, error) {
	if max < 1 || max > MaxExpectations {
		return nil, fmt.Errorf("create expectation store: %d expectations are out of range (1 to %d)", max, MaxExpectations)
	}
	a, err := newArena[expectSlot](2*MaxExpectations + 1) // as many call ids, and the slot that is none
	if err != nil {
		return nil, fmt.Errorf("create expectation store: %w", err)
	}
	var secret [packet.HasherSecret]uint64
	var b [8 * packet.HasherSecret]byte
	rand.Read(b[:]) // never fails
	for i := range secret {
		secret[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	x := &Expectations{hasher: packet.NewHasher(secret), arena: a, slots: a.items, top: 1}
	x.fold = x.hasher.Sum(&packet.Key{Proto: 255})
	x.max.Store(int32(max))
	return x, nil
}

// Close returns the memory.
func (x *Expectations) Close() error {
	x.slots = nil
	return x.arena.close()
}

// Len returns the number of expectations, expired ones that were not swept yet included. It may be called from any
// goroutine.
func (x *Expectations) Len() int { return int(x.count.Load()) }

// Max returns the maximum number of expectations.
func (x *Expectations) Max() int { return int(x.max.Load()) }

// SetMax changes the maximum number of expectations, 1 to MaxExpectations. Those above it stay until they expire. It may be called from
// any goroutine.
func (x *Expectations) SetMax(max int) { x.max.Store(int32(min(max, MaxExpectations))) }

// Stats returns the counters. It may be called from any goroutine.
func (x *Expectations) Stats() ExpectCounters {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stats
}

// hash returns the chain of a key.
func (x *Expectations) hash(k *packet.Key) uint64 {
	hi, lo := bits.Mul64(x.hasher.Sum(k)^x.fold, foldFactor)
	return (hi ^ lo) & (expectHeads - 1)
}

// chain returns the chain of a tuple's destination (nf_ct_expect_dst_hash).
func (x *Expectations) chain(t *expectTuple) *expectHead {
	k := packet.Key{A: t.dst, APort: t.dport(), Proto: t.proto(), Family: t.family()}
	return &x.heads[x.hash(&k)]
}

// glance looks for a slot that matches without the lock, of those whose flags in mask are want. It returns the slot, or
// 0, and whether that can be relied upon.
func (x *Expectations) glance(t *expectTuple, h *expectHead, mask, want uint8, now Tick) (ref uint32, sure bool) {
	v := h.version.Load()
	if v&1 != 0 {
		return 0, false
	}
	steps := 0
	for i := h.first.Load(); i != 0; i = x.slots[i].next.Load() {
		if steps++; steps > expectWalk {
			return 0, false
		}
		s := &x.slots[i]
		when := s.when.Load()
		if f := expectFlags(when); f&mask == want && (f&expectCall != 0 || !expectExpired(when, now)) && s.matches(t, f) {
			ref = i
			break
		}
	}
	return ref, h.version.Load() == v
}

// find looks for a slot that matches, under the lock. Where it looks for expectations it removes expired ones on the way;
// call ids do not expire, and now is not looked at.
func (x *Expectations) find(t *expectTuple, h *expectHead, mask, want uint8, now Tick) uint32 {
	for i := h.first.Load(); i != 0; {
		s := &x.slots[i]
		next := s.next.Load()
		when := s.when.Load()
		switch f := expectFlags(when); {
		case f&mask == want && s.matches(t, f) && (f&expectCall != 0 || !expectExpired(when, now)):
			return i
		case want&expectCall == 0 && f&expectCall == 0 && expectExpired(when, now):
			x.unlink(i)
		}
		i = next
	}
	return 0
}

// expected is what a connection that was expected gets from its master.
type expected struct {
	master        packet.Key
	masterFlipped uint8
	mark          uint32
	masterHelper  Helper
	helper        Helper // HelperNone: none
}

// claim looks for the expectation of a new connection and takes it, unless it is permanent (nf_ct_find_expectation).
// It is not called while nothing is expected.
func (x *Expectations) claim(t *expectTuple, now Tick, e *expected) bool {
	h := x.chain(t)
	if ref, sure := x.glance(t, h, expectCall|ExpectInactive, 0, now); ref == 0 && sure {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now = now
	ref := x.find(t, h, expectCall|ExpectInactive, 0, now)
	if ref == 0 {
		return false
	}
	s := &x.slots[ref]
	f := expectFlags(s.when.Load())
	*e = expected{master: s.master, masterFlipped: s.masterFlipped, masterHelper: s.helper, mark: s.mark}
	if f&expectAssign != 0 {
		e.helper = s.helper
	}
	x.stats.New++
	other := uint32(0)
	if s.helper == HelperPPTP { // the other direction is the same connection (pptp_expectfn)
		own := s.tuple()
		inverse := own.inverse()
		other = x.find(&inverse, x.chain(&inverse), expectCall, 0, now)
	}
	if f&ExpectPermanent == 0 {
		x.unlink(ref)
	}
	if other != 0 && other != ref {
		x.unlink(other)
	}
	return true
}

// peek is claim for somebody who only asks: the master's mark and helper.
func (x *Expectations) peek(t *expectTuple, now Tick) (mark uint32, by Helper, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now = now
	ref := x.find(t, x.chain(t), expectCall|ExpectInactive, 0, now)
	if ref == 0 {
		return 0, HelperNone, false
	}
	s := &x.slots[ref]
	return s.mark, s.helper, true
}

// call returns the call id of the sender of a GRE packet, 0 if it is not known (gre_keymap_lookup). It is not called
// while no call is known.
func (x *Expectations) call(t *expectTuple) uint16 {
	h := x.chain(t)
	ref, sure := x.glance(t, h, expectCall, expectCall, 0)
	if ref == 0 && sure {
		return 0
	}
	if sure {
		v := h.version.Load()
		id := uint16(x.slots[ref].ports.Load() >> 48)
		// The slot was in the chain when glance looked; if nothing has changed it still is.
		if v&1 == 0 && x.slots[ref].matches(t, expectAnyPt) && h.version.Load() == v {
			return id
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if ref = x.find(t, h, expectCall, expectCall, 0); ref == 0 {
		return 0
	}
	own := x.slots[ref].tuple()
	return own.sport()
}

// master names the connection that expects.
type master struct {
	key     *packet.Key
	flipped uint8 // entryFlipped of its entry
	helper  Helper
	mark    uint32
	shard   uint32 // number of its Table
}

// sameAs reports whether the slot belongs to that master.
func (s *expectSlot) sameAs(m *master) bool {
	return s.master == *m.key && s.masterFlipped == m.flipped
}

// wanted is an expectation to be made.
type wanted struct {
	tuple  expectTuple
	flags  uint8
	class  uint8
	policy policy
	scope  expectScope
}

// expectScope says with whose expectations a new one is compared before it is refused.
type expectScope uint8

const (
	ownMaster expectScope = iota
	anyMaster             // an equal one of another master counts as made already (NF_CT_EXP_F_SKIP_MASTER)
)

// expectResult is what became of a wanted expectation.
type expectResult uint8

const (
	expectMade    expectResult = iota
	expectAlready              // an equal one of another master or class is there (-EALREADY)
	expectBusy                 // another one would match the same connections (-EBUSY)
	expectFull                 // the maximum is reached (-EMFILE)
)

// expect makes an expectation (__nf_ct_expect_check, nf_ct_expect_insert). An equal one of the same master is replaced;
// where the master has as many of the class as it may, its oldest goes.
func (x *Expectations) expect(m *master, w *wanted, now Tick) expectResult {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now = now
	h := x.chain(&w.tuple)
	for i := h.first.Load(); i != 0; {
		s := &x.slots[i]
		next := s.next.Load()
		when := s.when.Load()
		f := expectFlags(when)
		switch {
		case f&expectCall != 0:
		case expectExpired(when, now):
			x.unlink(i)
		default:
			own := s.tuple()
			same := s.sameAs(m)
			if (same || w.scope == anyMaster) && own == w.tuple && (f^w.flags)&(expectAnySrc|expectAnyPt) == 0 {
				if !same || s.class != w.class {
					return expectAlready
				}
				x.unlink(i)
				next = 0
				break
			}
			if clash(&own, &w.tuple, f|w.flags) {
				return expectBusy
			}
		}
		i = next
	}
	x.makeRoom(m, w, now)
	if x.count.Load() >= x.max.Load() {
		x.stats.Full++
		return expectFull
	}
	if !x.insert(m, w, h, now+Tick(w.policy.timeout)) {
		x.stats.Full++
		return expectFull
	}
	return expectMade
}

// clash reports whether two expectations would match the same connections, where flags are those that at least one of
// them has (expect_clash).
func clash(a, b *expectTuple, flags uint8) bool {
	mask := ^uint64(0)
	if flags&expectAnyPt != 0 {
		mask = anyPort
	}
	return a.dst == b.dst && (a.ports^b.ports)&mask == 0 && (flags&expectAnySrc != 0 || a.src == b.src)
}

// makeRoom removes what has expired of a master's expectations, and its oldest of a class that has as many as the policy
// allows (evict_oldest_expect).
func (x *Expectations) makeRoom(m *master, w *wanted, now Tick) {
	n, oldest := 0, uint32(0)
	for i := x.masters[x.hash(m.key)]; i != 0; {
		s := &x.slots[i]
		older := s.older
		if when := s.when.Load(); expectFlags(when)&expectCall == 0 && s.sameAs(m) && s.class == w.class {
			if expectExpired(when, now) {
				x.unlink(i)
			} else {
				n++
				oldest = i // the chain runs from the newest to the oldest
			}
		}
		i = older
	}
	if oldest != 0 && w.policy.max != 0 && n >= int(w.policy.max) {
		x.unlink(oldest)
	}
}

// insert makes a slot. It reports false if there is none left.
func (x *Expectations) insert(m *master, w *wanted, h *expectHead, until Tick) bool {
	ref := x.free
	switch {
	case ref != 0:
		x.free = x.slots[ref].next.Load()
	case int(x.top) < len(x.slots):
		ref = x.top
		x.top++
	default:
		return false
	}
	s := &x.slots[ref]
	first := h.first.Load()
	h.version.Add(1)
	s.srcHi.Store(w.tuple.src.Hi)
	s.srcLo.Store(w.tuple.src.Lo)
	s.dstHi.Store(w.tuple.dst.Hi)
	s.dstLo.Store(w.tuple.dst.Lo)
	s.ports.Store(w.tuple.ports)
	s.when.Store(expectWhen(w.flags|expectUsed, until))
	s.next.Store(first)
	s.prev = 0
	if first != 0 {
		x.slots[first].prev = ref
	}
	h.first.Store(ref)
	h.version.Add(1)
	s.class, s.helper, s.mark, s.shard = w.class, m.helper, m.mark, m.shard
	s.master, s.masterFlipped = *m.key, m.flipped
	head := &x.masters[x.hash(m.key)]
	s.newer, s.older = 0, *head
	if *head != 0 {
		x.slots[*head].newer = ref
	}
	*head = ref
	if w.flags&expectCall != 0 {
		x.calls.Add(1)
	} else {
		x.count.Add(1)
		x.stats.Create++
		x.tell(EventNew, ref)
	}
	return true
}

// unlink removes a slot.
func (x *Expectations) unlink(ref uint32) {
	s := &x.slots[ref]
	if expectFlags(s.when.Load())&expectCall == 0 {
		x.tell(EventDestroy, ref)
	}
	t := s.tuple()
	h := x.chain(&t)
	next := s.next.Load()
	h.version.Add(1)
	if s.prev != 0 {
		x.slots[s.prev].next.Store(next)
	} else {
		h.first.Store(next)
	}
	if next != 0 {
		x.slots[next].prev = s.prev
	}
	h.version.Add(1)
	if s.newer != 0 {
		x.slots[s.newer].older = s.older
	} else {
		x.masters[x.hash(&s.master)] = s.older
	}
	if s.older != 0 {
		x.slots[s.older].newer = s.newer
	}
	if expectFlags(s.when.Load())&expectCall != 0 {
		x.calls.Add(-1)
	} else {
		x.count.Add(-1)
		x.stats.Delete++
	}
	s.when.Store(0)
	s.next.Store(x.free)
	x.free = ref
}

// withdraw removes one expectation of a master (nf_ct_unexpect_related).
func (x *Expectations) withdraw(m *master, t *expectTuple, now Tick) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ref := x.find(t, x.chain(t), expectCall, 0, now); ref != 0 && x.slots[ref].sameAs(m) {
		x.unlink(ref)
	}
}

// drop removes the expectations of a master whose class is in the set classes, a bit for each, or only the newest of them.
func (x *Expectations) drop(m *master, classes uint8, count expectDrop) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := x.masters[x.hash(m.key)]; i != 0; {
		s := &x.slots[i]
		older := s.older
		if expectFlags(s.when.Load())&expectCall == 0 && s.sameAs(m) && classes>>s.class&1 != 0 {
			x.unlink(i)
			if count == dropNewest {
				return
			}
		}
		i = older
	}
}

// expectDrop says how many expectations drop removes.
type expectDrop uint8

const (
	dropAll expectDrop = iota
	dropNewest
)

// refresh gives an expectation of a master a new deadline and makes it active; false if there is none of that class and
// destination (refresh_signalling_expectation).
func (x *Expectations) refresh(m *master, class uint8, dst packet.Addr, port uint16, proto uint8, until Tick) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := x.masters[x.hash(m.key)]; i != 0; i = x.slots[i].older {
		s := &x.slots[i]
		t := s.tuple()
		f := expectFlags(s.when.Load())
		if f&expectCall == 0 && s.sameAs(m) && s.class == class && t.dst == dst && t.dport() == port && t.proto() == proto {
			s.when.Store(expectWhen(f&^ExpectInactive, until))
			return true
		}
	}
	return false
}

// foreign reports whether another master than m expects the tuple for the same class, by the same helper and over the same
// protocol: then m need not expect it as well (set_expected_rtp_rtcp).
func (x *Expectations) foreign(m *master, t *expectTuple, class uint8, now Tick) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	ref := x.find(t, x.chain(t), expectCall, 0, now)
	if ref == 0 {
		return false
	}
	s := &x.slots[ref]
	return !s.sameAs(m) && s.helper == m.helper && s.master.Proto == m.key.Proto && s.class == class
}

// setMark tells a master's expectations its mark, which the connections that match will have.
func (x *Expectations) setMark(m *master) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := x.masters[x.hash(m.key)]; i != 0; i = x.slots[i].older {
		if s := &x.slots[i]; s.sameAs(m) {
			s.mark = m.mark
		}
	}
}

// connectCall expects the GRE connection of a PPTP call, both ways, and notes its call ids (exp_gre). t is the
// direction from the PNS to the PAC. If the control connection has another call already, nothing is expected.
func (x *Expectations) connectCall(m *master, t *expectTuple, now Tick) {
	w := wanted{tuple: *t, policy: helpers[HelperPPTP].policy[0]}
	back := w
	back.tuple = t.inverse()
	if x.expect(m, &w, now) != expectMade {
		return
	}
	if x.expect(m, &back, now) != expectMade {
		x.withdraw(m, &w.tuple, now)
		return
	}
	if !x.noteCall(m, &w.tuple, &back.tuple) {
		x.withdraw(m, &w.tuple, now)
		x.withdraw(m, &back.tuple, now)
	}
}

// noteCall notes the call ids of both directions (nf_ct_gre_keymap_add); false if the master has others, or there is no
// room.
func (x *Expectations) noteCall(m *master, t, back *expectTuple) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := x.masters[x.hash(m.key)]; i != 0; i = x.slots[i].older {
		if s := &x.slots[i]; expectFlags(s.when.Load())&expectCall != 0 && s.sameAs(m) {
			own := s.tuple()
			return own == *t || own == *back
		}
	}
	if x.calls.Load() > MaxExpectations-2 {
		return false
	}
	w := wanted{tuple: *t, flags: expectCall | expectAnyPt}
	x.insert(m, &w, x.chain(t), 0)
	w.tuple = *back
	x.insert(m, &w, x.chain(back), 0)
	return true
}

// callState says whether the GRE connection of a PPTP call is known to exist.
type callState uint8

const (
	callExpected  callState = iota // not known: it may still be expected
	callConnected                  // it exists
)

// endCall forgets the call ids of a master, condemns the connection of its call, and withdraws what is expected in its
// place, whoever expects it.
func (x *Expectations) endCall(m *master, call *expectTuple, state callState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := x.masters[x.hash(m.key)]; i != 0; {
		s := &x.slots[i]
		older := s.older
		if expectFlags(s.when.Load())&expectCall != 0 && s.sameAs(m) {
			x.unlink(i)
		}
		i = older
	}
	x.condemn(call)
	if state == callConnected {
		return
	}
	back := call.inverse()
	for _, t := range [...]*expectTuple{call, &back} {
		for i := x.chain(t).first.Load(); i != 0; i = x.slots[i].next.Load() {
			if s := &x.slots[i]; expectFlags(s.when.Load())&expectCall == 0 && s.matches(t, 0) {
				x.unlink(i)
				break
			}
		}
	}
}

// forget removes all that belongs to a master, because it leaves the table (nf_ct_remove_expectations).
func (x *Expectations) forget(m *master) {
	if x.count.Load()|x.calls.Load() == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := x.masters[x.hash(m.key)]; i != 0; {
		s := &x.slots[i]
		older := s.older
		if s.sameAs(m) {
			x.unlink(i)
		}
		i = older
	}
}

// join returns a number for a Table that will use the store.
func (x *Expectations) join() uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shards++
	return x.shards
}

// forgetShard removes all that belongs to masters in a shard, because it has lost them all at once.
func (x *Expectations) forgetShard(shard uint32) {
	if x.count.Load()|x.calls.Load() == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := uint32(1); i < x.top; i++ {
		s := &x.slots[i]
		f := expectFlags(s.when.Load())
		if f&expectUsed == 0 || s.shard != shard {
			continue
		}
		if f&expectCall != 0 {
			t := s.tuple()
			x.condemn(&t)
		}
		x.unlink(i)
	}
}

// condemn tells the shards that the connection with that tuple is over. Both directions have the same key.
func (x *Expectations) condemn(t *expectTuple) {
	k := t.key()
	n := x.doom.Load()
	if n > 0 && x.doomed[(n-1)%condemnedKeys] == k {
		return
	}
	x.doomed[n%condemnedKeys] = k
	x.doom.Store(n + 1)
}

// condemned copies keys condemned since the first n to out, and returns how many they are and how many there have been.
func (x *Expectations) condemned(n uint32, out []packet.Key) (int, uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := x.doom.Load()
	if all-n > condemnedKeys {
		n = all - condemnedKeys
	}
	c := 0
	for ; n != all && c < len(out); n++ {
		out[c] = x.doomed[n%condemnedKeys]
		c++
	}
	return c, n
}

// sweepSlots is how many slots a step of the sweep looks at, sweepStep how far apart two steps are, in ms: the largest
// store is swept in four seconds, the lock is held for some microseconds at most.
const (
	expectSweepSlots = 256
	expectSweepStep  = 16
)

// sweep removes some expired expectations. Any shard may call it at any time; it returns at once if there is nothing to do.
func (x *Expectations) sweep(now Tick) {
	last := x.swept.Load()
	if x.count.Load() == 0 || int32(uint32(now)-last) < expectSweepStep && int32(uint32(now)-last) >= 0 || !x.swept.CompareAndSwap(last, uint32(now)) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now = now
	for range expectSweepSlots {
		if x.cursor++; x.cursor >= x.top {
			x.cursor = 0
			return
		}
		s := &x.slots[x.cursor]
		if when := s.when.Load(); expectFlags(when)&(expectUsed|expectCall) == expectUsed && expectExpired(when, now) {
			x.unlink(x.cursor)
		}
	}
}
