package conntrack

import (
	"crypto/rand"
	"encoding/binary"

	"corewire/internal/packet"
)

// Defrag holds the fragments of IP datagrams until each datagram is complete and can be judged as one packet. It
// follows Linux: ip_frag_queue and ip_frag_reasm (net/ipv4/ip_fragment.c), nf_ct_frag6_queue
// (net/ipv6/netfilter/nf_conntrack_reasm.c), both over net/ipv4/inet_fragment.c, as br_netfilter reaches them.
//
//	fragment ─► find or begin its datagram ─► check its ends ─► new, duplicate or overlap? ─► all there? ─► datagram
//	             by addresses, id, protocol    against the          coverage                    one contiguous copy
//	             (IPv4), VLAN, port, zone      datagram's end                                   and the frames as they came
//
// Stricter than Linux unless DefragConfig.AnyOrigin is set: fragments from different ports or VLANs never make one datagram.
// Linux' key has neither (nf_ct_defrag_user, net/ipv4/netfilter/nf_defrag_ipv4.c: all of a bridge's have one user, and the
// bridge as the interface), so there a host on one side can destroy datagrams of the other by sending overlaps to them.
//
// Memory is bounded in frames and in bytes. At the bound of bytes, which is Linux' with what a frame takes here, fragments
// are refused, as Linux does. At the bound of frames the oldest datagram makes room, so that a stream of first fragments
// cannot stop everybody else's datagrams for as long as the timeout; with Frames above Bytes4 / FrameCost and
// Bytes6 / FrameCost it is never reached. DatagramFrames, the bound on one datagram, Linux does not have at all.
//
// A Defrag belongs to one goroutine. All its memory is allocated by NewDefrag. A frame given to Add belongs to the
// Defrag until it comes back through Frames or Expire.
type Defrag struct {
	config DefragConfig
	hasher packet.Hasher

	buckets []uint32     // heads of chains of datagrams by hash; index 0 of the arrays below is "none"
	queues  []fragQueue  // datagrams
	cover   []coverage   // their coverage, apart from them since it is large
	held    []heldFrame  // fragments
	sources []fragSource // senders of the IPv4 datagrams in queues

	freeQueue  uint32    // free list through fragQueue.chain
	freeHeld   uint32    // free list through heldFrame.next
	freeSource uint32    // free list through fragSource.chain
	sourceOf   []uint32  // heads of chains of sources by hash
	age        [2]byAge  // datagrams, oldest first: IPv4, IPv6
	late       frameList // fragments of datagrams that were given up, until Expire returns them

	waiting int    // fragments in queues
	lateN   int    // fragments in late
	memory  [2]int // bytes that count against config.Bytes4 and Bytes6

	frames   []packet.Frame // what Frames returns
	datagram []byte         // what Datagram returns
	origin   packet.Port    // what Origin returns
	why      DefragReason
	counters DefragCounters
}

// MaxFragments is the most fragments that one datagram may have by default; with more it is broken. Linux has no such bound.
// The longest datagram cut for the smallest MTU that IPv6 allows has 54, for an MTU of 296 (dial-up lines) 241.
const MaxFragments = 512

// MostFragments is what DefragConfig.DatagramFrames can be set to at most: as many as the longest datagram can have, cut
// into 8 bytes each.
const MostFragments = 8192

// DefragConfig configures a Defrag. Zero fields mean the default.
type DefragConfig struct {
	Frames    int    // most fragments that wait; default 1024. Until the next Expire the Defrag may hold twice as many
	Bytes4    int    // high threshold for the memory of IPv4 fragments, in bytes; default 4 MiB (ipfrag_high_thresh)
	Bytes6    int    // same for IPv6 (nf_conntrack_frag6_high_thresh)
	FrameCost int    // what a waiting fragment counts, in bytes, whatever its length: the frame's chunk; default 2048
	Timeout4  Tick   // ms that an incomplete IPv4 datagram lives; default 30 s (ipfrag_time)
	Timeout6  Tick   // same for IPv6; default 60 s (nf_conntrack_frag6_timeout)
	Distance  uint32 // see fragSource; default 64 (ipfrag_max_dist)
	// DatagramFrames is the most fragments of one datagram, up to MostFragments; default MaxFragments.
	DatagramFrames int
	// AnyOrigin takes fragments from any port and VLAN, of any zone, for one datagram, as Linux does. It has the link-layer
	// header of its fragment at offset 0, and counts as having arrived where that one did.
	AnyOrigin bool
	Secret    [packet.HasherSecret]uint64
	// Secret keys the hash of the datagrams' identities; when it is zero, NewDefrag takes a random one.
}

// DefragResult says what became of a fragment.
type DefragResult uint8

const (
	Held     DefragResult = iota // the fragment waits for the rest of its datagram
	Complete                     // it was the last one: Datagram is the packet, Frames its fragments, in order of arrival
	Broken                       // it is dropped, for the reason Why: Frames is it alone, or all of its datagram
	Passed                       // not a fragment to hold: judge the packet itself; it is not in Frames
)

// DefragReason says why fragments were dropped.
type DefragReason uint8

const (
	DefragDuplicate DefragReason = iota // all of it had come before; the datagram goes on
	DefragOverlap                       // part of it had come before; the datagram is broken (RFC 5722)
	DefragEnd                           // it contradicts the end of the datagram, or a last fragment
	DefragEmpty                         // it has no payload
	DefragTooLong                       // the datagram would be longer than 65535 bytes
	DefragECN                           // fragments with and without ECN capability are mixed (RFC 3168 section 5.3)
	DefragMemory                        // the bound on memory is reached
	DefragTooMany                       // more than DefragConfig.DatagramFrames
	BrokenReasons                       // number of reasons above: those of Broken; the ones below are Expire's

	DefragTimeout   DefragReason = iota - 1 // the rest of the datagram did not come in time
	DefragEvicted                           // the datagram was the oldest, and another one needed its room
	DefragRestarted                         // the datagram was begun anew (DefragConfig.Distance)
	DefragReasons                           // number of reasons
)

var defragReasonNames = [DefragReasons]string{
	"duplicate", "overlap", "end", "empty", "too-long", "ecn", "memory", "too-many", "timeout", "evicted", "restarted",
}

// String returns the reason's spelling in metrics and listings.
func (r DefragReason) String() string {
	if r < DefragReasons {
		return defragReasonNames[r]
	}
	return "unknown"
}

// DefragCounters counts what became of fragments and datagrams since NewDefrag.
type DefragCounters struct {
	Fragments uint64                // fragments given to Add
	Completed uint64                // datagrams
	Passed    uint64                // fragments that Add answered with Passed
	Timeouts  uint64                // datagrams given up after their timeout
	Evicted   uint64                // datagrams given up for room
	Restarted uint64                // datagrams begun anew by DefragConfig.Distance
	Broken    [BrokenReasons]uint64 // Add answered with Broken
}

// fragKey identifies a datagram. Key.A is the sender, Key.B the receiver, the ports are the identification.
type fragKey struct {
	packet.Key
	vlan uint16
	in   packet.Port
}

// fragQueue is a datagram of which something is missing.
type fragQueue struct {
	key      fragKey
	chain    uint32 // next in the bucket, or in the free list
	bucket   uint32
	older    uint32 // neighbours in byAge
	newer    uint32
	deadline Tick

	frames  frameList
	count   uint32 // fragments in frames
	end     uint32 // where the datagram ends, or the highest end of what has been seen
	tail    uint32 // highest end of a fragment in frames
	meat    uint32 // bytes of payload in frames
	hasHead bool   // the fragment at offset 0 is there
	hasEnd  bool   // a last fragment was seen: end is where the datagram ends
	ecn     uint8  // bit n: a fragment had ECN field n
	head    uint32 // held index of the fragment at offset 0, whose headers the datagram gets
	l3, l4  uint32 // offsets in the frame of head: IP header, payload
	fragHdr uint32 // offset in the frame of head: IPv6 fragment header

	maxSize   uint32 // longest fragment, header included, in bytes (IPv4)
	maxDFSize uint32 // longest fragment with DF (IPv4)
	source    uint32 // index in sources; 0: none (IPv6)
	turn      uint32 // the source's count when the last fragment came
}

// heldFrame is a fragment that waits.
type heldFrame struct {
	frame  packet.Frame
	data   uint32       // offset of its payload in frame.Data
	offset uint32       // offset of its payload in the datagram
	size   uint32       // bytes of payload that count
	next   uint32       // next in its list, or in the free list
	why    DefragReason // in the list of those given up: why
	in     packet.Port  // where it arrived
}

// frameList is a list of fragments in order of arrival.
type frameList struct{ first, last uint32 }

// byAge is a list of the datagrams of one family, which all have the same timeout.
type byAge struct{ oldest, newest uint32 }

// fragSource counts the fragments from one IPv4 address. A datagram that sees nothing for more than
// DefragConfig.Distance fragments of its sender is likely to be hit by a reused identification next, and starts anew
// (ip_frag_too_far; Documentation/networking/ip-sysctl.rst, ipfrag_max_dist).
type fragSource struct {
	addr   packet.Addr
	count  uint32
	refs   uint32 // datagrams in queues from this address
	chain  uint32 // next in the bucket, or in the free list
	bucket uint32
}

// Sizes for memory and buffers.
const (
	fragQueueCost    = 256                        // what a datagram counts besides its frames: about sizeof(struct ipq)
	fragLinkRoom     = packet.EthernetHeader + 32 // Ethernet header with as many VLAN tags as Parse looks through
	fragDatagramRoom = fragLinkRoom + 40 + 65535  // IPv6 header and the longest payload
)

// NewDefrag returns an empty Defrag. It panics when no random secret can be had, as crypto/rand does.
func NewDefrag(config DefragConfig) *Defrag {
	orDefault(&config.Frames, 1024)
	orDefault(&config.Bytes4, 4<<20)
	orDefault(&config.Bytes6, 4<<20)
	orDefault(&config.FrameCost, 2048)
	orDefault(&config.DatagramFrames, MaxFragments)
	orDefault(&config.Timeout4, 30_000)
	orDefault(&config.Timeout6, 60_000)
	orDefault(&config.Distance, 64)
	if config.Secret == [packet.HasherSecret]uint64{} {
		var b [8 * packet.HasherSecret]byte
		rand.Read(b[:])
		for i := range config.Secret {
			config.Secret[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
	}
	buckets := 1
	for buckets < config.Frames {
		buckets *= 2
	}
	d := &Defrag{
		config:   config,
		hasher:   packet.NewHasher(config.Secret),
		buckets:  make([]uint32, buckets),
		sourceOf: make([]uint32, buckets),
		queues:   make([]fragQueue, config.Frames+1),
		cover:    make([]coverage, config.Frames+1),
		sources:  make([]fragSource, config.Frames+1),
		held:     make([]heldFrame, 2*config.Frames+1),
		frames:   make([]packet.Frame, 0, config.DatagramFrames+1),
		datagram: make([]byte, 0, fragDatagramRoom),
	}
	for i := len(d.queues) - 1; i > 0; i-- {
		d.queues[i].chain, d.freeQueue = d.freeQueue, uint32(i)
		d.sources[i].chain, d.freeSource = d.freeSource, uint32(i)
	}
	for i := len(d.held) - 1; i > 0; i-- {
		d.held[i].next, d.freeHeld = d.freeHeld, uint32(i)
	}
	return d
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Add takes a fragment: p, the parse of the frame f, has packet.Fragment or at least an IPv6 fragment header
// (FragHdr). p is not kept. The frame belongs to the Defrag, unless the result is Passed.
func (d *Defrag) Add(p *packet.Packet, f packet.Frame, now Tick) DefragResult {
	d.frames = d.frames[:0]
	d.counters.Fragments++
	data, off, last := p.L4, uint32(p.FragOff), p.Flags&packet.FragLast != 0
	if p.Flags&packet.Fragment == 0 {
		if p.FragHdr == 0 || p.FragHdr+8 > p.End {
			d.counters.Passed++
			return Passed
		}
		word := binary.BigEndian.Uint16(p.Frame[p.FragHdr+2:])
		data, off, last = p.FragHdr+8, uint32(word&^7), word&1 == 0
		end := off + p.End - data
		switch {
		case off == 0 && truncated(p): // let through before the rest is looked at
			d.counters.Passed++
			return Passed
		case !last && end&7 != 0 && end > 65535:
			return d.refuse(f, DefragTooLong)
		case !last && end&7 != 0:
			// RFC 8200 section 4.5 wants a Parameter Problem from the receiver, so the fragment has to get there. It
			// ends its datagram.
			if waits := d.lookup(d.identify(p), now); waits != 0 {
				d.abandon(waits, DefragEnd)
			}
			d.counters.Passed++
			return Passed
		}
		// An atomic fragment (RFC 6946) is a datagram by itself, judged without its fragment header, or a part of one that
		// waits and has its identification (nf_ct_frag6_queue).
	}
	if family := int(p.Family-4) / 2; d.memory[family] > d.bound(family) || d.freeHeld == 0 {
		return d.refuse(f, DefragMemory)
	}
	i := d.find(p, now)
	if i == 0 {
		return d.refuse(f, DefragMemory)
	}
	q := &d.queues[i]
	end := off + (p.End - data)

	// The checks of the two families look alike, but differ in what a contradiction does to the datagram.
	if p.Family == 4 {
		if q.tooFar(d) {
			d.restart(i, now)
		}
		if !last {
			end &^= 7 // what is left over is cut off
		}
		if q.contradicts(end, last) {
			return d.destroy(i, f, DefragEnd)
		}
		q.end, q.hasEnd = max(q.end, end), q.hasEnd || last
		if end == off {
			return d.destroy(i, f, DefragEmpty)
		}
	} else {
		if end > 65535 {
			return d.refuse(f, DefragTooLong)
		}
		if q.contradicts(end, last) {
			return d.refuse(f, DefragEnd)
		}
		q.end, q.hasEnd = max(q.end, end), q.hasEnd || last
		if end == off {
			return d.refuse(f, DefragEmpty)
		}
	}

	switch d.cover[i].add(off, end, q.tail) {
	case fitDuplicate:
		return d.refuse(f, DefragDuplicate)
	case fitOverlap:
		return d.destroy(i, f, DefragOverlap)
	}
	q.tail = max(q.tail, end)
	if int(q.count) == d.config.DatagramFrames {
		return d.destroy(i, f, DefragTooMany)
	}
	for d.waiting == d.config.Frames {
		if !d.evict(i) {
			return d.destroy(i, f, DefragMemory)
		}
	}
	d.hold(i, p, f, data, off, end)
	if q.hasHead && q.hasEnd && q.meat == q.end {
		return d.assemble(i)
	}
	return Held
}

// truncated reports whether a first IPv6 fragment ends before its transport header does (ipv6frag_thdr_truncated,
// include/net/ipv6_frag.h). Parse reads such a one as if it were whole. One whose extension headers lead nowhere is none.
func truncated(p *packet.Packet) bool {
	if p.Problem == packet.ProblemExtHeader {
		return false
	}
	least := uint32(1)
	switch p.Proto {
	case packet.ProtoTCP:
		least = 20
	case packet.ProtoUDP, packet.ProtoICMPv6:
		least = 8
	}
	return p.L4+least > p.End
}

// contradicts reports whether a fragment that ends at end does not fit to where the datagram ends: behind the end, or a
// last fragment before or beside it.
func (q *fragQueue) contradicts(end uint32, last bool) bool {
	if last {
		return end < q.end || q.hasEnd && end != q.end
	}
	return end > q.end && q.hasEnd
}

// Frames returns the fragments that the last Add gave back, see DefragResult; they belong to the caller. The slice is
// valid until the next Add.
func (d *Defrag) Frames() []packet.Frame { return d.frames }

// Datagram returns, after Complete, the whole datagram as one frame: the link-layer header and the IP header of its
// first fragment, with lengths, fragment fields, ECN and IPv4 header checksum as if it had never been cut, and the
// payload. It is valid until the next Add.
func (d *Defrag) Datagram() []byte { return d.datagram }

// Origin returns, after Complete, the port that the datagram's first part came in on.
func (d *Defrag) Origin() packet.Port { return d.origin }

// Why returns, after Broken, the reason.
func (d *Defrag) Why() DefragReason { return d.why }

// Held returns the number of frames that the Defrag owns.
func (d *Defrag) Held() int { return d.waiting + d.lateN }

// Counters returns the counters.
func (d *Defrag) Counters() DefragCounters { return d.counters }

// Late is a fragment whose datagram was given up: Why is DefragTimeout, DefragEvicted,
// DefragRestarted, or DefragEnd where an IPv6 fragment of impossible length ended it.
type Late struct {
	Frame packet.Frame
	Why   DefragReason
}

// Expire gives up the datagrams whose time has passed and returns the frames of those and of datagrams given up
// before, which from now on belong to the caller: n of them in out. When n is len(out) there may be more.
func (d *Defrag) Expire(now Tick, out []Late) (n int) {
	for n < len(out) {
		if d.late.first == 0 {
			i := d.overdue(now)
			if i == 0 {
				return n
			}
			d.counters.Timeouts++
			d.abandon(i, DefragTimeout)
			continue
		}
		h := &d.held[d.late.first]
		out[n] = Late{h.frame, h.why}
		n++
		d.lateN--
		d.late.first = d.release(d.late.first)
	}
	return n
}

// overdue returns a datagram whose time has passed, or 0.
func (d *Defrag) overdue(now Tick) uint32 {
	for _, l := range d.age {
		if l.oldest != 0 && int32(now-d.queues[l.oldest].deadline) >= 0 {
			return l.oldest
		}
	}
	return 0
}

// refuse gives a fragment back and leaves its datagram as it is.
func (d *Defrag) refuse(f packet.Frame, why DefragReason) DefragResult {
	d.frames = append(d.frames, f)
	d.why = why
	d.counters.Broken[why]++
	return Broken
}

// destroy gives back a fragment and all others of its datagram.
func (d *Defrag) destroy(i uint32, f packet.Frame, why DefragReason) DefragResult {
	d.handBack(i)
	return d.refuse(f, why)
}

// handBack forgets a datagram and puts its fragments into Frames.
func (d *Defrag) handBack(i uint32) {
	q := &d.queues[i]
	for h := q.frames.first; h != 0; h = d.release(h) {
		d.frames = append(d.frames, d.held[h].frame)
	}
	d.forget(i)
}

// release frees a heldFrame and returns the next of its list.
func (d *Defrag) release(h uint32) (next uint32) {
	next = d.held[h].next
	d.held[h] = heldFrame{next: d.freeHeld}
	d.freeHeld = h
	return next
}

// abandon forgets a datagram and keeps its fragments for Expire.
func (d *Defrag) abandon(i uint32, why DefragReason) {
	d.retire(i, why)
	d.forget(i)
}

// retire moves the fragments of a datagram to those that Expire returns.
func (d *Defrag) retire(i uint32, why DefragReason) {
	q := &d.queues[i]
	if q.frames.first == 0 {
		return
	}
	for h := q.frames.first; h != 0; h = d.held[h].next {
		d.held[h].why = why
	}
	if d.late.first == 0 {
		d.late = q.frames
	} else {
		d.held[d.late.last].next = q.frames.first
		d.late.last = q.frames.last
	}
	d.lateN += int(q.count)
	d.empty(i)
}

// empty makes a datagram one without fragments, which are somewhere else already.
func (d *Defrag) empty(i uint32) {
	q := &d.queues[i]
	d.waiting -= int(q.count)
	d.memory[q.family()] -= int(q.count) * d.config.FrameCost
	d.cover[i].clear(q.tail)
	q.frames, q.count, q.end, q.tail, q.meat = frameList{}, 0, 0, 0, 0
	q.hasHead, q.hasEnd, q.ecn, q.head = false, false, 0, 0
}

// restart begins a datagram anew (ip_frag_reinit).
func (d *Defrag) restart(i uint32, now Tick) {
	d.counters.Restarted++
	d.retire(i, DefragRestarted)
	d.unlinkAge(i)
	d.linkAge(i, now)
}

// evict gives up the oldest datagram other than keep. It returns false when there is none.
func (d *Defrag) evict(keep uint32) bool {
	victim, age := uint32(0), Tick(0)
	for family, l := range d.age {
		i := l.oldest
		if i == keep {
			i = d.queues[i].newer
		}
		if i == 0 {
			continue
		}
		if born := d.queues[i].deadline - d.timeout(family); victim == 0 || int32(born-age) < 0 {
			victim, age = i, born
		}
	}
	if victim == 0 {
		return false
	}
	d.counters.Evicted++
	d.abandon(victim, DefragEvicted)
	return true
}

// timeout returns the timeout of a family: 0 IPv4, 1 IPv6.
func (d *Defrag) timeout(family int) Tick {
	if family == 0 {
		return d.config.Timeout4
	}
	return d.config.Timeout6
}

// bound returns the high threshold of a family.
func (d *Defrag) bound(family int) int {
	if family == 0 {
		return d.config.Bytes4
	}
	return d.config.Bytes6
}

// SetLimits changes timeouts, thresholds and Distance, between two calls of Add: the fields of limits that are not zero,
// except Frames, FrameCost, DatagramFrames, AnyOrigin and Secret, which stay. As in Linux datagrams under way keep the deadline that they have, and
// those above a lowered threshold stay; further fragments are refused until there is room.
func (d *Defrag) SetLimits(limits DefragConfig) {
	c := &d.config
	for _, f := range [...]struct{ to, from *Tick }{{&c.Timeout4, &limits.Timeout4}, {&c.Timeout6, &limits.Timeout6}} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	if limits.Bytes4 != 0 {
		c.Bytes4 = limits.Bytes4
	}
	if limits.Bytes6 != 0 {
		c.Bytes6 = limits.Bytes6
	}
	if limits.Distance != 0 {
		c.Distance = limits.Distance
	}
}

// family returns the index of a datagram's family in age.
func (q *fragQueue) family() int { return int(q.key.Family-4) / 2 }

// identify returns the identity of a fragment's datagram.
func (d *Defrag) identify(p *packet.Packet) fragKey {
	k := fragKey{
		Key:  packet.Key{A: p.Src, B: p.Dst, APort: uint16(p.IPID >> 16), BPort: uint16(p.IPID), Zone: p.Key.Zone, Family: p.Family},
		vlan: p.VLAN,
		in:   p.In,
	}
	if d.config.AnyOrigin {
		k.Zone, k.vlan, k.in = 0, 0, 0
	}
	if p.Family == 4 {
		k.Proto = p.Proto // for IPv6 the protocol is no part of a datagram's identity (RFC 8200 section 4.5)
	}
	return k
}

// bucket returns the bucket of an identity.
func (d *Defrag) bucket(k *fragKey) uint32 {
	return uint32(d.hasher.Sum(&k.Key)) & uint32(len(d.buckets)-1)
}

// lookup returns the datagram with this identity, or 0.
func (d *Defrag) lookup(k fragKey, now Tick) uint32 {
	for i := d.buckets[d.bucket(&k)]; i != 0; i = d.queues[i].chain {
		if d.queues[i].key != k {
			continue
		}
		if int32(now-d.queues[i].deadline) < 0 {
			return i
		}
		d.counters.Timeouts++
		d.abandon(i, DefragTimeout)
		return 0
	}
	return 0
}

// find returns the datagram of a fragment, a new one if there is none yet, or 0 when there is no room.
func (d *Defrag) find(p *packet.Packet, now Tick) uint32 {
	k := d.identify(p)
	if i := d.lookup(k, now); i != 0 {
		return i
	}
	if d.freeQueue == 0 && !d.evict(0) {
		return 0
	}
	i := d.freeQueue
	q := &d.queues[i]
	d.freeQueue = q.chain
	bucket := d.bucket(&k)
	*q = fragQueue{key: k, bucket: bucket, chain: d.buckets[bucket]}
	d.buckets[bucket] = i
	d.linkAge(i, now)
	d.memory[q.family()] += fragQueueCost
	if p.Family == 4 {
		q.source = d.findSource(p.Src)
	}
	return i
}

// forget removes a datagram whose fragments are somewhere else already.
func (d *Defrag) forget(i uint32) {
	q := &d.queues[i]
	d.empty(i)
	link := &d.buckets[q.bucket]
	for *link != i {
		link = &d.queues[*link].chain
	}
	*link = q.chain
	d.unlinkAge(i)
	d.memory[q.family()] -= fragQueueCost
	if q.source != 0 {
		d.leaveSource(q.source)
	}
	q.chain, d.freeQueue = d.freeQueue, i
}

// linkAge gives a datagram its deadline and its place among those of its family, in the order of deadlines: it is the
// newest, unless the timeout was shortened a moment ago.
func (d *Defrag) linkAge(i uint32, now Tick) {
	q := &d.queues[i]
	l := &d.age[q.family()]
	q.deadline = now + d.timeout(q.family())
	q.older, q.newer = l.newest, 0
	for q.older != 0 && int32(d.queues[q.older].deadline-q.deadline) > 0 {
		q.older, q.newer = d.queues[q.older].older, q.older
	}
	if q.older != 0 {
		d.queues[q.older].newer = i
	} else {
		l.oldest = i
	}
	if q.newer != 0 {
		d.queues[q.newer].older = i
	} else {
		l.newest = i
	}
}

func (d *Defrag) unlinkAge(i uint32) {
	q := &d.queues[i]
	l := &d.age[q.family()]
	if q.older != 0 {
		d.queues[q.older].newer = q.newer
	} else {
		l.oldest = q.newer
	}
	if q.newer != 0 {
		d.queues[q.newer].older = q.older
	} else {
		l.newest = q.older
	}
}

// findSource returns the counter of an address for one more datagram.
func (d *Defrag) findSource(addr packet.Addr) uint32 {
	bucket := uint32(d.hasher.Sum(&packet.Key{A: addr})) & uint32(len(d.sourceOf)-1)
	for s := d.sourceOf[bucket]; s != 0; s = d.sources[s].chain {
		if d.sources[s].addr == addr {
			d.sources[s].refs++
			return s
		}
	}
	s := d.freeSource // there are as many as datagrams, so one is free
	d.freeSource = d.sources[s].chain
	d.sources[s] = fragSource{addr: addr, refs: 1, chain: d.sourceOf[bucket], bucket: bucket}
	d.sourceOf[bucket] = s
	return s
}

// leaveSource ends a datagram's use of a counter.
func (d *Defrag) leaveSource(s uint32) {
	src := &d.sources[s]
	if src.refs--; src.refs != 0 {
		return
	}
	link := &d.sourceOf[src.bucket]
	for *link != s {
		link = &d.sources[*link].chain
	}
	*link = src.chain
	src.chain, d.freeSource = d.freeSource, s
}

// tooFar counts a fragment for its source and reports whether too many of other datagrams came in between.
func (q *fragQueue) tooFar(d *Defrag) bool {
	s := &d.sources[q.source]
	s.count++
	gap := s.count - q.turn
	q.turn = s.count
	return q.count != 0 && gap > d.config.Distance
}

// hold adds a fragment to a datagram.
func (d *Defrag) hold(i uint32, p *packet.Packet, f packet.Frame, data, off, end uint32) {
	q := &d.queues[i]
	h := d.freeHeld
	d.freeHeld = d.held[h].next
	d.held[h] = heldFrame{frame: f, data: data, offset: off, size: end - off, in: p.In}
	if q.frames.first == 0 {
		q.frames.first = h
	} else {
		d.held[q.frames.last].next = h
	}
	q.frames.last = h
	q.count++
	q.meat += end - off
	q.ecn |= 1 << (p.TOS & 3)
	d.waiting++
	d.memory[q.family()] += d.config.FrameCost
	if off == 0 {
		q.hasHead, q.head = true, h
		q.l3, q.l4, q.fragHdr = p.L3, data, p.FragHdr
	}
	if p.Family == 4 {
		size := end - off + (p.L4 - p.L3)
		q.maxSize = max(q.maxSize, size)
		if f.Data[p.L3+6]&0x40 != 0 {
			q.maxDFSize = max(q.maxDFSize, size)
		}
	}
}

// ecnMix tells what the ECN field of a datagram becomes, by the set of its fragments' fields (bit n: field n; Not-ECT 0,
// ECT(1) 1, ECT(0) 2, CE 3): to be ORed into the first one's, or ecnBad (RFC 3168 section 5.3, ip_frag_ecn_table).
func ecnMix(set uint8) (or uint8, ok bool) {
	const notECT, ce = 1 << 0, 1 << 3
	if set&notECT != 0 && set != notECT {
		return 0, false
	}
	if set&ce != 0 && set != ce {
		return 3, true
	}
	return 0, true
}

// assemble makes the datagram out of its fragments.
func (d *Defrag) assemble(i uint32) DefragResult {
	q := &d.queues[i]
	ecn, ok := ecnMix(q.ecn)
	if !ok {
		return d.spoil(i, DefragECN)
	}
	head := d.held[q.head].frame.Data
	d.origin = d.held[q.head].in
	payload := q.l4 // where the payload goes
	if q.fragHdr != 0 {
		payload = q.fragHdr // the fragment header and what might be between it and the payload are left out
	}
	length := payload - q.l3 + q.end // of the IP datagram
	if q.fragHdr != 0 {
		length -= 40 // IPv6 counts what follows its header
	}
	if length > 65535 {
		return d.spoil(i, DefragTooLong)
	}
	b := d.datagram[:payload+q.end]
	copy(b, head[:payload])
	for h := q.frames.first; h != 0; h = d.held[h].next {
		x := &d.held[h]
		copy(b[payload+x.offset:], x.frame.Data[x.data:x.data+x.size])
	}
	ip := b[q.l3:]
	if q.fragHdr == 0 {
		binary.BigEndian.PutUint16(ip[2:], uint16(length))
		ip[1] |= ecn
		df := uint16(0)
		if q.maxDFSize == q.maxSize {
			df = 0x4000
		}
		binary.BigEndian.PutUint16(ip[6:], df)
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(packet.SumBytes(0, ip[:q.l4-q.l3])))
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(length))
		ip[1] |= ecn << 4
		b[nextHeaderBefore(b, q.l3, q.fragHdr)] = head[q.fragHdr]
	}
	d.datagram = b
	d.handBack(i)
	d.counters.Completed++
	return Complete
}

// spoil gives back all fragments of a datagram that is complete but no good.
func (d *Defrag) spoil(i uint32, why DefragReason) DefragResult {
	d.handBack(i)
	d.why = why
	d.counters.Broken[why]++
	return Broken
}

// nextHeaderBefore returns the offset of the next header field that announces the IPv6 header at offset to: in the IPv6
// header at l3, or in the last extension header before to. Parse has gone this way before.
func nextHeaderBefore(b []byte, l3, to uint32) uint32 {
	at, next := l3+6, l3+40
	for next < to {
		size := (uint32(b[next+1]) + 1) * 8
		if b[at] == packet.ProtoAH {
			size = (uint32(b[next+1]) + 2) * 4
		}
		at, next = next, next+size
	}
	return at
}
