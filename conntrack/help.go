package conntrack

import (
	"encoding/binary"

	"corewire/internal/packet"
)

// aid is what a connection has beyond its entry if it has a helper or was expected: an element of a side array.
type aid struct {
	master        packet.Key // StatusExpected: the connection that expected this one
	masterFlipped uint8      // entryFlipped of that connection
	masterHelper  Helper     // StatusExpected: that connection's helper
	helper        Helper     // StatusHelper
	pptp          pptpState
	ftp           ftpState
	sip           sipState
}

// aidOf returns the connection's element; nil if there is no memory for the array, which is reserved when it is first
// needed.
func (t *Table) aidOf(ref uint32) *aid {
	if t.aids.items == nil {
		a, err := newArena[aid](t.reserve)
		if err != nil {
			return nil // the connection goes without; nobody could be told from here
		}
		a.scattered()
		t.aids = a
	}
	return &t.aids.items[ref]
}

// assign gives a new connection a helper.
func (t *Table) assign(e *entry, ref uint32, h Helper) {
	if a := t.aidOf(ref); a != nil {
		*a = aid{helper: h}
		e.status |= uint16(StatusHelper)
	}
}

// SetHelper gives a connection a helper, as -j CT --helper does: before Confirm, and only to a connection that neither
// was expected nor has one already. It reports whether the helper reads connections of this protocol and family.
func (t *Table) SetHelper(c *Conn, h Helper) bool {
	e := &t.hot.items[c.Ref]
	if !h.fits(e.key.Proto, e.key.Family) {
		return false
	}
	if c.Fresh && c.Ref != 0 && uint32(e.status)&(StatusExpected|StatusHelper) == 0 {
		t.assign(e, uint32(c.Ref), h)
	}
	return true
}

// Helper returns the connection's helper.
func (t *Table) Helper(c *Conn) Helper {
	if uint32(t.hot.items[c.Ref].status)&StatusHelper == 0 {
		return HelperNone
	}
	return t.aids.items[c.Ref].helper
}

// MasterHelper returns the helper that expected the connection, which is what -m helper asks for (xt_helper.c);
// HelperNone if nobody did.
func (t *Table) MasterHelper(c *Conn) Helper {
	if uint32(t.hot.items[c.Ref].status)&StatusExpected == 0 || t.aids.items == nil {
		return HelperNone
	}
	return t.aids.items[c.Ref].masterHelper
}

// MasterSource returns the address that began the connection which expected this one, which is what -m cluster asks for
// (xt_cluster.c); false if none did.
func (t *Table) MasterSource(c *Conn) (packet.Addr, bool) {
	if uint32(t.hot.items[c.Ref].status)&StatusExpected == 0 || t.aids.items == nil {
		return packet.Addr{}, false
	}
	a := &t.aids.items[c.Ref]
	if a.masterFlipped != 0 {
		return a.master.B, true
	}
	return a.master.A, true
}

// expectable reports whether connections of a protocol can be expected: those of which tuples with ports are made.
func expectable(proto uint8) bool {
	return proto == packet.ProtoTCP || proto == packet.ProtoUDP || proto == packet.ProtoGRE
}

// tupleOf returns the tuple of a packet with a key, in the direction in which it runs.
func tupleOf(k *packet.Key, f packet.Flags) expectTuple {
	tuple := expectTuple{k.A, k.B, makePorts(k.APort, k.BPort, k.Zone, k.Proto, k.Family)}
	if f&packet.Flipped != 0 {
		return tuple.inverse()
	}
	return tuple
}

// claim looks for the expectation of a new connection and makes it the master's (init_conntrack). As in Linux the
// expectation is used up even if the packet turns out invalid, or the rules drop it.
func (t *Table) claim(e *entry, ref uint32, p *packet.Packet, now Tick) bool {
	k := &e.key
	if !expectable(k.Proto) {
		return false
	}
	tuple := tupleOf(k, p.Flags)
	var x expected
	if !t.expect.claim(&tuple, now, &x) {
		return false
	}
	e.status |= uint16(StatusExpected)
	e.mark = x.mark
	a := t.aidOf(ref)
	if a == nil {
		return true
	}
	*a = aid{master: x.master, masterFlipped: x.masterFlipped, masterHelper: x.masterHelper, helper: x.helper}
	if x.helper != HelperNone {
		e.status |= uint16(StatusHelper)
	}
	return true
}

// masterOf names an entry that has a helper as the master of its expectations.
func (t *Table) masterOf(e *entry, ref uint32) master {
	return master{&e.key, e.flags & entryFlipped, t.aids.items[ref].helper, e.mark, t.shard}
}

// tellMark tells the connections that an entry expects its mark, which has changed.
func (t *Table) tellMark(e *entry, ref uint32) {
	if uint32(e.status)&StatusHelper != 0 && t.expect.count.Load() != 0 {
		m := t.masterOf(e, ref)
		t.expect.setMark(&m)
	}
}

// Help lets the connection's helper read a packet that the rules have accepted, before Confirm, and reports whether the
// packet may pass. It is to be called for every accepted packet that has a connection: without a helper it does nothing.
//
// Helpers drop packets whose announcement they could not enter or only half understood: the sender repeats them, while an
// announcement that slips through would leave the announced connection without permission (nf_confirm in
// net/netfilter/nf_conntrack_proto.c).
func (t *Table) Help(c *Conn, p *packet.Packet, now Tick) bool {
	return uint32(t.hot.items[c.Ref].status)&StatusHelper == 0 || t.help(c, p, now)
}

// help is one packet of a connection with a helper, as the helper sees it.
type help struct {
	store       *Expectations
	set         *Settings
	aid         *aid
	now         Tick
	master      master
	src, dst    packet.Addr // of the packet
	sport       uint16
	dport       uint16
	proto       uint8
	family      uint8
	dir         Dir
	established bool // packets were seen in both directions
	expected    bool // the connection itself was expected
}

// help is Help for a connection that has a helper.
func (t *Table) help(c *Conn, p *packet.Packet, now Tick) bool {
	ref := uint32(c.Ref)
	e := &t.hot.items[ref]
	if p.Flags&packet.ICMPError != 0 || uint32(e.status)&StatusDying != 0 {
		return true
	}
	h := help{
		store: t.expect, set: t.set, aid: &t.aids.items[ref], now: now, master: t.masterOf(e, ref),
		src: p.Src, dst: p.Dst, sport: p.SrcPort, dport: p.DstPort, proto: p.Proto, family: p.Family,
		dir: c.Dir, established: c.State == StateEstablished, expected: uint32(e.status)&StatusExpected != 0,
	}
	b := p.Transport()
	pass := true
	switch p.Proto {
	case packet.ProtoTCP:
		seq := binary.BigEndian.Uint32(b[4:])
		b = b[min(len(b), int(b[12]>>4)*4):]
		switch h.aid.helper {
		case HelperFTP:
			pass = h.ftp(b, seq)
		case HelperIRC:
			pass = h.irc(b)
		case HelperPPTP:
			t.pptp(&h, b)
		case HelperSIP:
			if h.established && len(b) > 0 {
				t.prolong(e, ref, c, now)
				pass = h.sipStream(b)
			}
		}
	case packet.ProtoUDP:
		b = b[8:]
		switch h.aid.helper {
		case HelperTFTP:
			pass = h.tftp(b)
		case HelperSIP:
			if len(b) > 0 {
				t.prolong(e, ref, c, now)
				pass = h.sipDatagram(b)
			}
		}
	}
	if !pass {
		t.stats.Drop++
		t.stats.Helped++
	}
	return pass
}

// prolong gives a SIP connection the timeout of a SIP session (nf_ct_refresh with sip_timeout).
func (t *Table) prolong(e *entry, ref uint32, c *Conn, now Tick) {
	if c.Fresh {
		e.deadline = Tick(t.set.sipTimeout)
		return
	}
	t.refresh(e, ref, uint32(e.status), t.set.sipTimeout, now)
}

// want returns an expectation of the helper's only or first class.
func (h *help) want(src, dst packet.Addr, dport uint16, proto, flags uint8) *wanted {
	return &wanted{
		tuple:  expectTuple{src, dst, makePorts(0, dport, h.master.key.Zone, proto, h.family)},
		flags:  flags,
		policy: helpers[h.master.helper].policy[0],
	}
}

// expect makes an expectation of this connection.
func (h *help) expect(w *wanted) expectResult { return h.store.expect(&h.master, w, h.now) }

// disown removes what belongs to an entry with a helper that leaves the table, or never came into it.
func (t *Table) disown(e *entry, ref uint32) {
	m := t.masterOf(e, ref)
	if m.helper == HelperPPTP {
		t.hangUp(&m, &t.aids.items[ref].pptp)
	}
	t.expect.forget(&m)
}

// mapCalls gives the GRE packets of known PPTP calls the key of their call: the sender's call id, which is not in the packet,
// as the source port (gre_pkt_to_tuple). A call id of 0, which a key cannot tell from none, is not mapped.
func (t *Table) mapCalls(pkts []packet.Packet) {
	for i := range pkts {
		p := &pkts[i]
		k := &p.Key
		if k.Proto != packet.ProtoGRE || k.APort|k.BPort == 0 || k.APort != 0 && k.BPort != 0 {
			continue
		}
		tuple := expectTuple{k.A, k.B, makePorts(k.APort, k.BPort, k.Zone, k.Proto, k.Family)}
		if p.Flags&packet.Flipped != 0 {
			tuple = tuple.inverse()
		}
		id := t.expect.call(&tuple)
		if id == 0 {
			continue
		}
		zone := k.Zone
		p.Flags = p.Flags&^packet.Flipped | k.Set(tuple.src, tuple.dst, id, tuple.dport(), k.Proto, k.Family)
		k.Zone = zone
	}
}

// bury removes the connections of PPTP calls that have ended, as far as they are in this shard.
func (t *Table) bury(now Tick) {
	var keys [condemnedKeys]packet.Key
	n, seen := t.expect.condemned(t.buried, keys[:])
	t.buried = seen
	for i := range keys[:n] {
		h := t.hashOf(&keys[i])
		if ref := t.find(&keys[i], h, now); ref != 0 {
			t.remove(ref, h)
		}
	}
}
