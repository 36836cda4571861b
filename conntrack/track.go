package conntrack

import (
	"encoding/binary"

	"corewire/internal/packet"
)

// udpStreamAfter is how long a UDP connection must have existed for traffic in both directions to make it a stream
// (nf_conntrack_udp_packet, net/netfilter/nf_conntrack_proto_udp.c), in ms.
const udpStreamAfter = 2000

// Track finds the connection of a packet, lets its protocol tracker judge the packet, and says what the rules will see.
// p must have been parsed and its Hash filled by Hash of this Table; p.Key.Zone must have been set before. A connection
// that is known changes its state here, before the rules. For a new one Conn.Fresh is set, and the caller must call
// Confirm or Discard before the next Track.
//
// It does what nf_conntrack_in does (net/netfilter/nf_conntrack_core.c). That looks for room for a new entry before the
// packet's tracker or the rules have seen the packet: where there is none, Conn.Full is true, and the packet must be
// dropped before the rules.
func (t *Table) Track(p *packet.Packet, now Tick) (c Conn) {
	t.settle()
	if p.Problem != packet.ProblemNone || p.Flags&(packet.Fragment|packet.ICMPError|packet.NoTrack|packet.Untracked) != 0 {
		return t.trackOdd(p, now)
	}
	if t.set.checksum != 0 && !p.VerifyChecksum() {
		if p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6 {
			return t.icmpError(ReasonChecksum)
		}
		return t.unfit(p, ReasonChecksum, now)
	}
	// An entry that left the table since Touch is not confirmed any more, nor is one that took its place and waits.
	ref := uint32(p.Hint)
	e := &t.hot.items[ref]
	if !sameKey(&e.key, &p.Key) || uint32(e.status)&StatusConfirmed == 0 || e.expired(now) {
		if ref = t.find(&p.Key, p.Hash, now); ref == 0 {
			return t.begin(p, ReasonNone, now)
		}
		e = &t.hot.items[ref]
	}
	c.Ref, c.State, c.Dir = Ref(ref), StateEstablished, e.dir(p)
	status, state := uint32(e.status), e.state
	set := t.setOf(e, ref)
	counted := e.flags&entryAcct != 0
	if c.Dir == Original && status&StatusSeenReply == 0 {
		c.State = StateNew
		if status&StatusExpected != 0 {
			c.State = StateRelated
		}
	}
	switch p.Proto {
	case packet.ProtoUDP:
		timeout := set.udp
		if status&StatusSeenReply != 0 && (status&StatusAssured != 0 || int32(now-e.stream) > 0) {
			// An assured entry is a stream for good; only the others need the time, whose comparison would fail after
			// half a round of the tick.
			timeout = set.udpStream
			status |= StatusAssured
		}
		t.refresh(e, ref, status, timeout, now)
	case packet.ProtoTCP:
		s := t.cold.items[ref].tcp()
		if timeout := s.plain(e.state, c.Dir, status, p, set); timeout != 0 {
			t.refresh(e, ref, status, timeout, now)
			break
		}
		o := tcpPacket(s, e.state, c.Dir, status, p, now, set)
		if o.act != actAccept {
			return t.refuse(p, ref, c, o, now)
		}
		e.state = o.state
		t.afterClose(e, ref)
		status |= o.status
		if o.timeout != 0 {
			t.refresh(e, ref, status, o.timeout, now)
		} else {
			counted = false // nf_ct_refresh_acct does both, and what the tracker ignores does not come to it
		}
		if o.why != ReasonNone {
			t.stats.PassedBy[o.why]++
		}
	default:
		o := t.packetOther(e, ref, c.Dir, status, p, now, set)
		if o.act != actAccept {
			return t.refuse(p, ref, c, o, now)
		}
		e.state = o.state
		status |= o.status
		if o.timeout != 0 {
			t.refresh(e, ref, status, o.timeout, now)
		} else {
			counted = false // nf_ct_refresh_acct does both, and what the tracker ignores does not come to it
		}
	}
	if counted {
		t.account(ref, c.Dir, p)
	}
	if c.Dir == Reply {
		status |= StatusSeenReply
	}
	before := e.status
	e.status = uint16(status)
	if t.events != nil {
		if changed := e.changes(state, before); changed != 0 {
			t.emit(EventUpdate, changed, ref, now)
		}
	}
	return c
}

// refresh moves an entry's deadline (__nf_ct_refresh_acct). The compact array, a line that an established packet does
// not otherwise touch, is written only where the deadline comes nearer: it is a lower bound.
func (t *Table) refresh(e *entry, ref, status, timeout uint32, now Tick) {
	if status&StatusFixedTimeout != 0 {
		return
	}
	d := now + Tick(timeout)
	if int32(d-e.deadline) < 0 {
		t.shorten(ref, d)
	}
	e.deadline = d
}

// shorten lowers the bound that the sweep reads.
func (t *Table) shorten(ref uint32, d Tick) {
	if int32(d-t.due.items[ref]) < 0 {
		t.due.items[ref] = d
	}
}

// account counts a packet: the bytes of its IP datagram.
func (t *Table) account(ref uint32, d Dir, p *packet.Packet) {
	a := &t.acct.items[ref]
	a.packets[d]++
	a.bytes[d] += uint64(p.End - p.L3)
}

// trackOdd deals with the packets that no tracker sees.
func (t *Table) trackOdd(p *packet.Packet, now Tick) Conn {
	icmp := (p.Proto == packet.ProtoICMP && p.Family == 4 || p.Proto == packet.ProtoICMPv6 && p.Family == 6) && p.Flags&packet.LaterFragment == 0
	switch {
	case p.Flags&packet.Untracked != 0: // nf_conntrack_in leaves these alone, whatever they are
		t.stats.Untracked++
		return Conn{State: StateUntracked}
	case p.Problem != packet.ProblemNone:
		// ICMP types that have no meaning at all are errors, those of which no connection can be made are not
		// (NR_ICMP_TYPES).
		if icmp && (p.Problem != packet.ProblemICMPType || p.Family == 4 && p.ICMPType > 18) {
			return t.icmpError(ReasonMalformed)
		}
		return t.malformed(p, now)
	case p.Flags&packet.Fragment != 0:
		return t.invalid(ReasonFragment)
	case t.set.checksum != 0 && !p.VerifyChecksum():
		return t.icmpError(ReasonChecksum)
	case p.Flags&packet.NoTrack != 0:
		t.stats.Untracked++
		return Conn{State: StateUntracked}
	}
	// An ICMP error (nf_conntrack_inet_error, net/netfilter/nf_conntrack_proto_icmp.c): it belongs to the connection of
	// the quoted packet, and runs against it. It neither refreshes the connection nor is counted.
	ref := t.find(&p.Key, p.Hash, now)
	if ref == 0 {
		return t.icmpError(ReasonNotRelated)
	}
	e := &t.hot.items[ref]
	c := Conn{Ref: Ref(ref), State: StateRelated, Dir: Reply}
	if e.flags&entrySelf == 0 {
		c.Dir = e.dir(p) ^ 1
	}
	return c
}

// Why says which check failed, if the last Track answered StateInvalid.
func (t *Table) Why() Reason { return t.why }

// Tells reports whether an INVALID packet of a protocol is to be told of: the setting nf_conntrack_log_invalid
// (nf_l4proto_log_invalid, net/netfilter/nf_conntrack_proto.c).
func (t *Table) Tells(proto uint8) bool {
	return t.set.logInvalid == uint32(proto) && proto != 0 || t.set.logInvalid == 255
}

// invalid counts a packet that nf_conntrack_in leaves without a connection.
func (t *Table) invalid(why Reason) Conn {
	t.stats.Invalid++
	t.stats.InvalidBy[why]++
	t.why = why
	return Conn{State: StateInvalid}
}

// icmpError counts one that nf_conntrack_handle_icmp refuses: Linux counts these apart.
func (t *Table) icmpError(why Reason) Conn {
	t.stats.Error++
	t.stats.InvalidBy[why]++
	t.why = why
	return Conn{State: StateInvalid}
}

// refuse carries out what a tracker wants other than accepting a packet of a known connection.
func (t *Table) refuse(p *packet.Packet, ref uint32, c Conn, o outcome, now Tick) Conn {
	e := &t.hot.items[ref]
	switch o.act {
	case actReopen:
		t.remove(ref, p.Hash)
		return t.begin(p, ReasonNone, now)
	case actKill:
		if e.flags&entryAcct != 0 {
			t.account(ref, c.Dir, p)
		}
		e.state = o.state
		t.remove(ref, p.Hash)
		if c.Dir == Reply {
			e.status |= uint16(StatusSeenReply)
		}
		return c
	}
	state, status := e.state, e.status
	e.state = o.state
	t.afterClose(e, ref)
	e.status |= uint16(o.status)
	if left := uint32(e.deadline - now); o.timeout != 0 && left >= invalidShortens && left > o.timeout && uint32(e.status)&StatusFixedTimeout == 0 {
		e.deadline = now + Tick(o.timeout)
		t.shorten(ref, e.deadline)
	}
	if t.events != nil {
		if changed := e.changes(state, status); changed != 0 {
			t.emit(EventUpdate, changed, ref, now)
		}
	}
	return t.invalid(o.why)
}

// begin makes the entry of a connection's first packet, outside the table: its index is the lowest that is free, and
// stays free until Confirm (init_conntrack and __nf_conntrack_alloc). why is what its tracker will have against the packet,
// ReasonNone if that is still to be found out.
func (t *Table) begin(p *packet.Packet, why Reason, now Tick) Conn {
	if !t.room(p.Hash, now) {
		return Conn{State: StateNew, Fresh: true}
	}
	icmp := p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6
	if icmp && why == ReasonNone && p.Flags&packet.Flipped != 0 {
		t.giveCredit()
		return t.invalid(ReasonNotNew) // an answer cannot begin a connection (valid_new)
	}
	ref, ok := t.slots.lowest()
	if !ok || int(ref) >= t.reserve {
		t.giveCredit()
		t.stats.Drop++
		t.stats.Full++
		return Conn{State: StateNew, Fresh: true}
	}
	e := &t.hot.items[ref]
	*e = entry{key: p.Key, flags: uint8(p.Flags)&entryFlipped | uint8(p.In)<<7}
	if p.Key.A == p.Key.B && p.Key.APort == p.Key.BPort && !icmp {
		e.flags |= entrySelf
	}
	state := StateNew
	if t.expect.count.Load() != 0 && t.claim(e, ref, p, now) {
		state = StateRelated
	}
	set := t.set
	if t.template != nil {
		t.give(e, ref)
		set = t.setOf(e, ref)
	}
	if t.set.helpers.n != 0 && uint32(e.status)&(StatusExpected|StatusHelper) == 0 {
		if h := t.set.helpers.find(p.DstPort, p.Proto, p.Family); h != HelperNone {
			t.assign(e, ref, h)
		}
	}
	o := outcome{act: actAccept}
	switch {
	case why != ReasonNone:
		o.act, o.why = actInvalid, why
	case p.Proto == packet.ProtoTCP:
		s := &t.cold.items[ref]
		*s = cold{}
		o = tcpNew(s.tcp(), p, now, set)
	case p.Proto == packet.ProtoUDP:
		e.stream = now + udpStreamAfter
		o.timeout = set.udp
	default:
		o = t.newOther(ref, p, now, set)
	}
	if o.act == actInvalid {
		t.giveCredit()
		return t.invalid(o.why)
	}
	t.stats.New++
	if o.act == actKill {
		t.giveCredit()
		return Conn{State: state}
	}
	e.state = o.state
	e.status |= uint16(o.status)
	e.deadline = Tick(o.timeout)
	if t.set.acct != 0 {
		e.flags |= entryAcct
		t.acct.items[ref] = acct{}
		t.account(ref, Original, p)
	}
	t.pending, t.pendingHash = ref, p.Hash
	return Conn{Ref: Ref(ref), State: state, Fresh: true}
}

// icmpQueries has a bit for each ICMP type that asks or answers: echo, timestamp, information, address mask.
const icmpQueries = 1<<0 | 1<<8 | 1<<13 | 1<<14 | 1<<15 | 1<<16 | 1<<17 | 1<<18

// malformed refuses a packet with a problem. Where the ports can be read Linux looks for its connection first
// (nf_ct_get_tuple_ports reads four bytes), see unfit; no tuple can be made of any other.
func (t *Table) malformed(p *packet.Packet, now Tick) Conn {
	switch p.Problem {
	case packet.ProblemTCPOffset, packet.ProblemUDPLength, packet.ProblemUDPLiteCoverage, packet.ProblemUDPLiteNoChecksum:
		return t.unfit(p, ReasonMalformed, now)
	case packet.ProblemTCPShort, packet.ProblemUDPShort, packet.ProblemSCTPShort:
		if h := p.Transport(); len(h) >= 4 {
			q := *p
			q.DstPort = binary.BigEndian.Uint16(h[2:])
			q.Flags = q.Flags&^packet.Flipped | q.Key.Set(p.Src, p.Dst, binary.BigEndian.Uint16(h), q.DstPort, p.Proto, p.Family)
			q.Key.Zone = p.Key.Zone
			q.Hash = t.hashOf(&q.Key)
			return t.unfit(&q, ReasonMalformed, now)
		}
	case packet.ProblemICMPFamily:
		// The other family's ICMP has a tuple as its own has, if it asks or answers (icmp_invert_tuple, icmpv6_invert_tuple).
		if h := p.Transport(); len(h) >= 8 && (p.Family == 6 && h[0] < 32 && 1<<h[0]&icmpQueries != 0 || p.Family == 4 && (h[0]|1 == 129 || h[0] == 139 || h[0] == 140)) {
			return t.unfit(p, ReasonMalformed, now)
		}
	}
	return t.invalid(ReasonMalformed)
}

// unfit refuses a packet to which its tracker objects whatever its connection. Where there is none yet Linux begins it
// before it asks the tracker: a place is taken for a moment, with all that this means for a full table, and a connection
// that was expected is so no longer.
func (t *Table) unfit(p *packet.Packet, why Reason, now Tick) Conn {
	if t.expect.count.Load() == 0 && t.takeCredit() {
		t.giveCredit()
		return t.invalid(why)
	}
	if t.find(&p.Key, p.Hash, now) != 0 {
		return t.invalid(why)
	}
	return t.begin(p, why, now)
}

// packetOther is the tracker of every protocol but TCP and UDP, for a later packet.
func (t *Table) packetOther(e *entry, ref uint32, dir Dir, status uint32, p *packet.Packet, now Tick, set *Settings) outcome {
	o := outcome{state: e.state}
	switch p.Proto {
	case packet.ProtoSCTP:
		return sctpPacket(t.cold.items[ref].sctp(), e.state, dir, status, p, now, set)
	case packet.ProtoGRE:
		return grePacket(t.cold.items[ref].gre(), e.state, dir, status, p, now, set)
	case packet.ProtoUDPLite:
		// nf_conntrack_udplite_packet: a stream with the first reply's successor, whatever its age
		o.timeout = set.udp
		if status&StatusSeenReply != 0 {
			o.timeout, o.status = set.udpStream, StatusAssured
		}
	default:
		o.timeout = set.plain(p.Proto)
	}
	return o
}

// newOther is the tracker of every protocol but TCP and UDP, for the first packet of a connection.
func (t *Table) newOther(ref uint32, p *packet.Packet, now Tick, set *Settings) outcome {
	switch p.Proto {
	case packet.ProtoSCTP:
		t.cold.items[ref] = cold{}
		return sctpNew(t.cold.items[ref].sctp(), p, now, set)
	case packet.ProtoGRE:
		t.cold.items[ref] = cold{}
		return greNew(t.cold.items[ref].gre(), p, now, set)
	case packet.ProtoUDPLite:
		return outcome{timeout: set.udp}
	}
	return outcome{timeout: set.plain(p.Proto)}
}

// plain returns the timeout of a protocol that has only one: ICMP, ICMPv6 and those without a tracker.
func (s *Settings) plain(proto uint8) uint32 {
	switch proto {
	case packet.ProtoICMP:
		return s.icmp
	case packet.ProtoICMPv6:
		return s.icmpv6
	}
	return s.generic
}
