package ipset

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"corewire/internal/packet"
)

// MaxDimensions is how many src or dst a rule may give for a set (IPSET_DIM_MAX).
const MaxDimensions = 6

// Compare is how a rule compares a counter.
type Compare uint8

const (
	Any      Compare = iota // not at all
	Equal                   // --packets-eq
	NotEqual                // ! --packets-eq
	LessThan                // --packets-lt
	MoreThan                // --packets-gt
)

func (c Compare) holds(v, than uint64) bool {
	switch c {
	case Equal:
		return v == than
	case NotEqual:
		return v != than
	case LessThan:
		return v < than
	case MoreThan:
		return v > than
	}
	return true
}

// Names are what an interface of the wire is called: "inside" and eth1, say. Empty ones are none.
type Names [2]Name

// Name is an interface's name as keys hold it.
type Name [2]uint64

// NameOf returns an interface's name, cut off after 15 bytes (IFNAMSIZ).
func NameOf(s string) Name {
	var b [16]byte
	copy(b[:15], s)
	return Name{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// text returns the name.
func (n Name) text() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n[0])
	binary.BigEndian.PutUint64(b[8:], n[1])
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b[:15])
}

// begins says whether the name begins with all of p; p is not empty, or is the wildcard of every name.
func (n Name) begins(p Name) bool {
	// The bytes of p that are not zero are its first ones.
	m := Name{masked(p[0]), masked(p[1])}
	return n[0]&m[0] == p[0] && n[1]&m[1] == p[1]
}

// masked has ones where w, whose zero bytes are the last ones, has bytes.
func masked(w uint64) uint64 {
	if w == 0 {
		return 0
	}
	return ^uint64(0) << (bits.TrailingZeros64(w) &^ 7)
}

// Query is what a rule asks of a set, or has it do. It is immutable and shared by all workers.
type Query struct {
	Dims uint8 // how many directions are given
	Src  uint8 // bit i: the direction i, from 0, is src

	ReturnNoMatch     bool // --return-nomatch: exceptions match, and nothing else
	KeepCounters      bool // ! --update-counters
	KeepSubCounters   bool // ! --update-subcounters: those of a list:set's members
	Look              bool // nothing is to change: an element that waits for its MAC address goes on waiting
	Packets, Bytes    uint64
	PacketsIs, ByteIs Compare

	Ports [packet.Ports]Names // what the wire's ports are called
}

// asking is one packet's question.
type asking struct {
	q     *Query
	p     *packet.Packet
	now   Tick
	mark  uint32
	keep  bool  // counters stay as they are
	match bool  // counters are compared
	info  *Info // what the element has is written here; nil: not asked
}

// hit is the outcome of a look into a set.
type hit int8

const (
	except hit = iota - 1 // an exception holds
	miss
	found
)

// Match says whether a packet is in the set, as ip_set_test of ip_set_core.c does. It allocates nothing and takes no
// lock. mark is the packet's.
func (h *Handle) Match(q *Query, p *packet.Packet, now Tick, mark uint32) bool {
	a := asking{q: q, p: p, now: now, mark: mark, keep: q.KeepCounters, match: q.PacketsIs|q.ByteIs != Any}
	return h.test(&a) == found
}

// Map looks a packet up and returns what the set keeps for it, for --map-set.
func (h *Handle) Map(q *Query, p *packet.Packet, now Tick, mark uint32) (Info, bool) {
	var info Info
	a := asking{q: q, p: p, now: now, mark: mark, info: &info}
	ok := h.test(&a) == found
	return info, ok
}

func (h *Handle) test(a *asking) hit {
	s := h.set.Load()
	if int(a.q.Dims) < s.kind.Dimensions() || s.family != 0 && s.family != a.p.Family {
		return miss
	}
	r := s.look(a)
	if a.q.ReturnNoMatch && kindTable[s.kind].noMatch {
		r = -r
	}
	return max(r, miss)
}

// look is a kind's part of test.
func (s *Set) look(a *asking) hit {
	if s.kind == ListSet {
		return s.lookList(a)
	}
	var f fields
	if !s.probe(a, &f) {
		return miss
	}
	if s.bitmap != nil {
		return s.lookBit(a, &f)
	}
	t := s.table.Load()
	switch s.kind {
	case HashNet, HashNetPort, HashIPPortNet:
		return s.lookNet(t, a, &f)
	case HashNetIface:
		// The kernel looks for physdev: only where a rule says so, which iptables cannot. The ports of a wire are what a
		// bridge's are: here these elements are asked when no other one has answered.
		whole := f
		if r := s.lookFaces(t, a, &f); r != miss {
			return r
		}
		whole.physdev = true
		return s.lookFaces(t, a, &whole)
	case HashNetNet, HashNetPortNet:
		return s.lookNets(t, a, &f)
	}
	return s.lookKey(t, a, &f)
}

// lookKey looks for one key.
func (s *Set) lookKey(t *table, a *asking, f *fields) hit {
	var k key
	s.encode(f, &k)
	i, st, ok := t.find(&k, t.hash(&k, s.secret))
	if !ok || !s.accept(t.extra(i), st, a) {
		return miss
	}
	if st&stateNoMatch != 0 {
		return except
	}
	return found
}

// lookNet tries the prefix lengths that occur, the longest first (mtype_test_cidrs).
func (s *Set) lookNet(t *table, a *asking, f *fields) hit {
	var m [2]uint64
	if s.kind == HashIPPortNet {
		f.cidr2 = 0
		m[0], m[1] = s.nets.masks[1][0].Load(), s.nets.masks[1][1].Load()
	} else {
		f.cidr = 0
		m[0], m[1] = s.lengths(t, f.a)
	}
	var whole, k key
	s.encode(f, &whole)
	k = whole
	for w := 1; w >= 0; w-- {
		for m[w] != 0 {
			n := 63 - bits.LeadingZeros64(m[w])
			m[w] &^= 1 << n
			s.shorten(&k, &whole, n+w*64+1)
			i, st, ok := t.find(&k, t.hash(&k, s.secret))
			if !ok || !s.accept(t.extra(i), st, a) {
				continue
			}
			if st&stateNoMatch != 0 {
				return except
			}
			return found
		}
	}
	return miss
}

// shorten writes the key for the first n bits of the address that networks are asked for. whole is the key with all of
// it and the length 0.
func (s *Set) shorten(k, whole *key, n int) {
	switch {
	case s.kind != HashIPPortNet && !s.v6:
		k[0] = whole[0]&(^uint64(0)<<(32-n)) | uint64(n)<<32
	case s.kind != HashIPPortNet:
		m := prefix(n, true)
		k[0], k[1], k[2] = whole[0]&m.hi, whole[1]&m.lo, whole[2]|uint64(n)
	case !s.v6:
		k[0], k[1] = whole[0]&(^uint64(0)<<(64-n)|(1<<32-1)), whole[1]|uint64(n)<<32
	default:
		m := prefix(n, true)
		k[2], k[3], k[4] = whole[2]&m.hi, whole[3]&m.lo, whole[4]|uint64(n)<<32
	}
}

// lookFaces is lookNet for hash:net,iface.
func (s *Set) lookFaces(t *table, a *asking, f *fields) hit {
	whole := f.a
	var m [2]uint64
	m[0], m[1] = s.lengths(t, whole)
	for w := 1; w >= 0; w-- {
		for m[w] != 0 {
			n := 63 - bits.LeadingZeros64(m[w])
			m[w] &^= 1 << n
			n += w*64 + 1
			f.a, f.cidr = whole.and(prefix(n, s.v6)), uint8(n)
			if r, over := s.lookIface(t, a, f); r != miss || over {
				return r
			}
		}
	}
	if s.nets.zero[0].Load() {
		f.a, f.cidr = address{}, 0
		r, _ := s.lookIface(t, a, f)
		return r
	}
	return miss
}

// lookNets tries the pairs of prefix lengths that occur, by the first, then by the second.
func (s *Set) lookNets(t *table, a *asking, f *fields) hit {
	first, second := f.a, f.b
	host := hostBits(s.v6)
	for n := host; n >= 0; n-- {
		if !s.nets.occurs(0, n) {
			continue
		}
		f.a, f.cidr = first.and(prefix(n, s.v6)), uint8(n)
		for o := host; o >= 0; o-- {
			if !s.nets.occurs(1, o) {
				continue
			}
			f.b, f.cidr2 = second.and(prefix(o, s.v6)), uint8(o)
			if r := s.lookKey(t, a, f); r != miss {
				return r
			}
		}
	}
	return miss
}

// occurs says whether a prefix length may occur in a dimension.
func (n *nets) occurs(d, length int) bool {
	if length == 0 {
		return n.zero[d].Load()
	}
	return n.masks[d][(length-1)>>6].Load()>>((length-1)&63)&1 != 0
}

// lookIface goes through the elements of one network, in order, for one whose interface is the packet's. As in the
// kernel, a network that has elements, but none for the interface, keeps shorter ones from being asked (the count multi of
// mtype_test_cidrs).
func (s *Set) lookIface(t *table, a *asking, f *fields) (r hit, over bool) {
	port := a.p.In
	if a.q.Src>>1&1 == 0 {
		port = port.Other()
	}
	names := &a.q.Ports[port]
	var k, x key
	s.encode(f, &k)
	h := t.hash(&k, s.secret)
	var e fields
	for i := h & t.mask; ; i = (i + 1) & t.mask {
		st := atomic.LoadUint64(t.state(i))
		switch st & phaseMask {
		case phaseEmpty:
			return miss, over
		case phaseLive:
		default:
			continue
		}
		if !t.read(i, st, &x) {
			continue
		}
		s.decode(&x, &e)
		switch {
		case e.a != f.a || e.cidr != f.cidr || e.physdev != f.physdev || expired(st, a.now):
		case !names.are(Name(e.iface), e.wildcard):
			over = true
		case !s.accept(t.extra(i), st, a):
			over = false
		case st&stateNoMatch != 0:
			return except, true
		default:
			return found, true
		}
	}
}

// are says whether one of the names is n, or begins with it.
func (names *Names) are(n Name, wildcard bool) bool {
	for _, x := range names {
		if x != (Name{}) && (x == n || wildcard && x.begins(n)) {
			return true
		}
	}
	return false
}

// lookBit looks into a bitmap.
func (s *Set) lookBit(a *asking, f *fields) hit {
	id, ok := s.id(f)
	if !ok || !s.bitmap.has(id) {
		return miss
	}
	b := s.bitmap
	if b.mac != nil {
		m := atomic.LoadUint64(&b.mac[id])
		if m == 0 {
			// The packet tells the element's MAC address (ip_set_test, -EAGAIN).
			if !a.q.Look {
				x := frameExtras(a.p, s.spec.Timeout)
				s.putBit(f, &x, a.now)
			}
			return found
		}
		if m != f.mac|macFilled {
			return miss
		}
	}
	st := uint64(stateForever)
	if b.expiry != nil {
		st = atomic.LoadUint64(&b.expiry[id])
	}
	if !s.accept(b.extra(s, id), st, a) {
		return miss
	}
	return found
}

// accept is ip_set_match_extensions: the element has not expired, its counters count the packet and are as asked.
func (s *Set) accept(w []uint64, st uint64, a *asking) bool {
	if expired(st, a.now) {
		return false
	}
	if s.spec.Counters {
		if !a.keep {
			atomic.AddUint64(&w[1], uint64(a.p.End-a.p.L3))
			atomic.AddUint64(&w[0], 1)
		}
		if a.match && (!a.q.PacketsIs.holds(atomic.LoadUint64(&w[0]), a.q.Packets) || !a.q.ByteIs.holds(atomic.LoadUint64(&w[1]), a.q.Bytes)) {
			return false
		}
	}
	if s.spec.SkbInfo && a.info != nil {
		*a.info = s.info(w)
	}
	return true
}

// probe fills in what a packet is looked up by; false when it has nothing of the kind, so that it is in no set.
func (s *Set) probe(a *asking, f *fields) bool {
	p, src := a.p, a.q.Src
	f.a = s.end(p, src&1 != 0)
	switch s.kind {
	case HashIP:
		f.a = f.a.and(s.spec.mask)
		return !f.a.zero()
	case HashIPPort:
		f.a = f.a.and(s.spec.mask)
		return portOf(p, src&2 != 0, f) && !f.a.zero()
	case HashNet, HashNetIface, BitmapIP:
	case HashNetPort:
		return portOf(p, src&2 != 0, f)
	case HashIPPortIP, HashIPPortNet, HashNetPortNet:
		f.b = s.end(p, src&4 != 0)
		return portOf(p, src&2 != 0, f)
	case HashNetNet:
		f.a, f.b = f.a.and(s.spec.mask), s.end(p, src&2 != 0).and(s.spec.mask)
	case HashIPMark:
		f.mark = a.mark & s.spec.MarkMask
	case HashMAC:
		f.a = address{}
		f.mac = macOf(p, src&1 != 0)
		return f.mac != 0
	case HashIPMAC, BitmapIPMAC:
		f.mac = macOf(p, src&2 != 0)
		return f.mac != 0
	case BitmapPort:
		ok := portOf(p, src&1 != 0, f)
		return ok && (f.proto == packet.ProtoTCP || f.proto == packet.ProtoUDP)
	}
	return true
}

// end returns the packet's source or destination.
func (s *Set) end(p *packet.Packet, src bool) address {
	if src {
		return addressOf(p.Src, p.Family == 6)
	}
	return addressOf(p.Dst, p.Family == 6)
}

// macOf returns the sender's or receiver's MAC address, 0 for none.
func macOf(p *packet.Packet, src bool) uint64 {
	if p.L3 < 14 {
		return 0
	}
	b := p.Frame[:12]
	if src {
		b = b[6:]
	}
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}

// portOf reads protocol and port (ip_set_getport.c): a whole header must be there; of ICMP, type and code stand for the
// port; other protocols have port 0.
func portOf(p *packet.Packet, src bool, f *fields) bool {
	if p.Family == 6 && p.Flags&(packet.BrokenChain|packet.LaterFragment) != 0 { // ipv6_skip_exthdr finds none
		return false
	}
	th := p.Transport()
	f.proto = p.Proto
	need := 0
	switch p.Proto {
	case packet.ProtoTCP:
		need = 20
	case packet.ProtoSCTP:
		need = 12
	case packet.ProtoUDP, packet.ProtoUDPLite:
		need = 8
	case packet.ProtoICMP, packet.ProtoICMPv6:
		if len(th) < 8 {
			return false
		}
		f.port = binary.BigEndian.Uint16(th)
		return true
	case 0: // see the comment at tcp_match in ip_tables.c
		return false
	case 59: // no next header: ipv6_skip_exthdr finds no transport header
		return p.Family == 4
	default:
		return true
	}
	if len(th) < need {
		return false
	}
	if !src {
		th = th[2:]
	}
	f.port = binary.BigEndian.Uint16(th)
	return true
}

// Add adds what the packet has to the set, as -j SET --add-set: with exist, an element that is there gets a new timeout.
// timeout is in seconds, or Default. It allocates nothing and waits for nobody; what cannot be done at once, because
// there is no room or somebody keeps the lock, is counted by the set and not done. The element is there for the next
// packet.
func (h *Handle) Add(q *Query, p *packet.Packet, now Tick, mark uint32, timeout uint32, exist bool) {
	h.add(&asking{q: q, p: p, now: now, mark: mark}, timeout, exist)
}

// Default is the timeout of the set.
const Default = ^uint32(0)

// frameExtras are what an element gets that a packet adds: counters that have counted it (IP_SET_INIT_KEXT).
func frameExtras(p *packet.Packet, timeout uint32) extras {
	return extras{frame: true, timeout: timeout, packets: 1, bytes: uint64(p.End - p.L3)}
}

// add returns whether an element was added or changed.
func (h *Handle) add(a *asking, timeout uint32, exist bool) bool {
	s := h.set.Load()
	if int(a.q.Dims) < s.kind.Dimensions() || s.family != 0 && s.family != a.p.Family {
		return false
	}
	if s.kind == ListSet {
		for _, m := range *s.list.Load() {
			if !m.late(a.now) && m.handle.add(a, timeout, exist) {
				return true
			}
		}
		return false
	}
	if timeout == Default {
		timeout = s.spec.Timeout
	}
	var f fields
	if !s.probe(a, &f) {
		return false
	}
	x := frameExtras(a.p, timeout)
	x.exist = exist
	var r result
	if s.bitmap != nil {
		r = s.putBit(&f, &x, a.now)
	} else {
		if s.kind == HashNetIface && !s.face(a, &f) {
			return false
		}
		var k key
		s.whole(&f)
		s.encode(&f, &k)
		r = s.put(&k, &x, a.now)
	}
	if r == errBusy || r == errRoom {
		s.given.Add(1)
	}
	return r == done
}

// whole gives the networks of an element that a packet adds or deletes their lengths: the longest of the set
// (INIT_CIDR).
func (s *Set) whole(f *fields) {
	if s.nets == nil {
		return
	}
	switch s.kind {
	case HashIPPortNet:
		f.cidr2 = s.longest(1)
		f.b = f.b.and(prefix(int(f.cidr2), s.v6))
		return
	case HashNetNet, HashNetPortNet:
		f.cidr2 = s.longest(1)
		f.b = f.b.and(prefix(int(f.cidr2), s.v6))
	}
	f.cidr = s.longest(0)
	f.a = f.a.and(prefix(int(f.cidr), s.v6))
}

// face gives an element the interface's own name, or what rules call it where it has none.
func (s *Set) face(a *asking, f *fields) bool {
	port := a.p.In
	if a.q.Src>>1&1 == 0 {
		port = port.Other()
	}
	names := &a.q.Ports[port]
	f.iface = names[1]
	if names[1] == (Name{}) {
		f.iface = names[0]
	}
	return f.iface != [2]uint64{}
}

// Remove deletes what the packet has from the set, as -j SET --del-set. What is said of Add holds.
func (h *Handle) Remove(q *Query, p *packet.Packet, now Tick, mark uint32) {
	h.remove(&asking{q: q, p: p, now: now, mark: mark})
}

func (h *Handle) remove(a *asking) bool {
	s := h.set.Load()
	if int(a.q.Dims) < s.kind.Dimensions() || s.family != 0 && s.family != a.p.Family {
		return false
	}
	if s.kind == ListSet {
		for _, m := range *s.list.Load() {
			if !m.late(a.now) && m.handle.remove(a) {
				return true
			}
		}
		return false
	}
	var f fields
	if !s.probe(a, &f) {
		return false
	}
	var r result
	if s.bitmap != nil {
		r = s.removeBit(&f, a.now)
	} else {
		if s.kind == HashNetIface && !s.face(a, &f) {
			return false
		}
		var k key
		s.whole(&f)
		s.encode(&f, &k)
		r = s.remove(&k, a.now, true)
	}
	if r == errBusy {
		s.given.Add(1)
	}
	return r == done
}

// Volatile says that what the set answers may change from one packet of a connection to the next without anybody's
// order: its elements expire or count, or it asks for what a connection does not fix. Changes by order are told by
// Registry.Generation. A set that rules add to or delete from is volatile for these rules; they know.
func (h *Handle) Volatile() bool {
	return h.some(func(s *Set) bool { return s.loose() || s.spec.HasTimeout || s.spec.Counters })
}

// Loose says that the set asks for what a connection does not fix: a MAC address, or a packet's mark.
func (h *Handle) Loose() bool { return h.some((*Set).loose) }

// Expires says that elements of the set may go by themselves.
func (h *Handle) Expires() bool { return h.some(func(s *Set) bool { return s.spec.HasTimeout }) }

// some says that something is so of the set, or of one of those on a list.
func (h *Handle) some(is func(*Set) bool) bool {
	s := h.set.Load()
	if s.kind != ListSet || is(s) {
		return is(s)
	}
	for _, m := range *s.list.Load() {
		if is(m.handle.set.Load()) {
			return true
		}
	}
	return false
}

func (s *Set) loose() bool {
	switch s.kind {
	case HashMAC, HashIPMAC, BitmapIPMAC, HashIPMark:
		return true
	}
	return false
}
