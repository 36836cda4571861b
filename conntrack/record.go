package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"corewire/internal/packet"
)

// Record is one connection in the form in which it is handed to another process: everything that judges its next packet and
// that a listing shows, in a layout of its own that depends neither on the machine nor on how entries lie in memory. All
// numbers are little endian; times are spans, since ticks of two processes have nothing in common.
//
//	 0  A, B: two IPv6 addresses in network order, IPv4 ones mapped; the ends in the order of packet.Key
//	32  port of A, port of B (ICMP: identifier; request's type<<8 | code)
//	36  zone
//	38  protocol, family (4 or 6)
//	40  flags: 1 the original direction runs from B to A, 2 counters, 4 age, 8 labels are valid, 16 began on the outside port
//	41  the protocol's state (TCP: enum tcp_conntrack, SCTP: enum sctp_conntrack)
//	42  status (enum ip_conntrack_status: EXPECTED, SEEN_REPLY, ASSURED, CONFIRMED, FIXED_TIMEOUT)
//	44  mark
//	48  ms until it expires, when the state was taken
//	52  UDP: ms until it may become a stream, signed
//	56  helper: 0 none, 1 ftp, 2 tftp, 3 irc, 4 sip, 5 pptp
//	57  helper of the connection that expected this one (EXPECTED)
//	58  flags of that connection: 1 its original direction runs from B to A; five bytes of 0
//	64  48 bytes of the protocol's tracker, zero for those without:
//	    TCP   for original and reply: end, maximum end, largest window, highest ACK (4 bytes each); sequence number and ACK
//	          of the last segment (4), its length and window (2), scale codes, flags, class, retransmissions (1); see tcpState
//	    SCTP  tags of original and reply (4), pending INITs (1 each), probe (1)
//	    GRE   timeout, timeout of a stream (4), in ms
//	112 packets of original and reply, bytes of original and reply (8 each)
//	144 age in ms
//	152 labels (16)
//	168 name of the timeout policy that a rule gave it (-j CT --timeout), zeros behind it; none without (32)
//	200 key of the connection that expected this one, as from 0 to 40; zero where that is not known
//	240 24 bytes of the helper, zero for those without:
//	    ftp   for original and reply: two sequence numbers at which a line begins (4 each); for both, how many of them are
//	          known (1 each), and whether the next segment counts as the beginning of a line (1 each)
//	    sip   CSeq of the last REGISTER and of the last INVITE (4 each)
//	    pptp  state of session and call (1 each), call ids of client and server (2 each)
//
// What belongs to the process is not in it: the cached verdicts, the number in listings, and fragments. What the
// connection's helper expects is in ExpectRecords.
type Record [RecordSize]byte

// RecordSize is the size of a Record in bytes.
const RecordSize = 264

// recordSize1 is the size that Records had in the first version: without what begins there, which reads as zero.
const recordSize1 = 200

// fromFirst makes a record of the first version one of today's: what its helper had read is not known, so the next segment
// of either direction counts as the beginning of a line (nf_ct_ftp_from_nlattr).
func (s *Record) fromFirst() {
	if Helper(s[stateHelper]) == HelperFTP {
		(&ftpState{pickup: [2]uint8{1, 1}}).put(s[stateHelp:])
	}
}

// Offsets in Record.
const (
	stateA, stateB  = 0, 16
	statePorts      = 32
	stateZone       = 36
	stateProto      = 38
	stateFamily     = 39
	stateFlags      = 40
	stateState      = 41
	stateStatus     = 42
	stateMark       = 44
	stateLeft       = 48
	stateStream     = 52
	stateHelper     = 56
	stateMasterHelp = 57
	stateMasterFlag = 58
	stateZero       = 59 // to stateTracker
	stateTracker    = 64
	stateCounters   = 112
	stateAge        = 144
	stateLabels     = 152
	statePolicy     = 168
	stateMaster     = 200
	stateHelp       = 240
	stateFlipped    = 1
	stateHasCounts  = 2
	stateHasAge     = 4
	stateHasLabels  = 8
	stateOutside    = 16
	stateKnownFlags = 31
)

// portableStatus are the status bits that travel.
const portableStatus = StatusExpected | StatusSeenReply | StatusAssured | StatusConfirmed | StatusFixedTimeout

var le = binary.LittleEndian

// Key returns the connection's key.
func (s *Record) Key() packet.Key { return keyAt(s[:]) }

// Helped reports whether the connection has a helper, which may expect others.
func (s *Record) Helped() bool { return s[stateHelper] != 0 }

// Flipped reports whether the original direction runs from Key().B to Key().A.
func (s *Record) Flipped() bool { return s[stateFlags]&stateFlipped != 0 }

// keySize is how much of a record a key takes.
const keySize = 40

// keyAt reads the key that b begins with.
func keyAt(b []byte) packet.Key {
	addr := func(at int) packet.Addr {
		return packet.Addr{Hi: binary.BigEndian.Uint64(b[at:]), Lo: binary.BigEndian.Uint64(b[at+8:])}
	}
	return packet.Key{A: addr(stateA), B: addr(stateB), APort: le.Uint16(b[statePorts:]), BPort: le.Uint16(b[statePorts+2:]),
		Zone: le.Uint16(b[stateZone:]), Proto: b[stateProto], Family: b[stateFamily]}
}

// putKey writes what keyAt reads.
func putKey(b []byte, k *packet.Key) {
	binary.BigEndian.PutUint64(b[stateA:], k.A.Hi)
	binary.BigEndian.PutUint64(b[stateA+8:], k.A.Lo)
	binary.BigEndian.PutUint64(b[stateB:], k.B.Hi)
	binary.BigEndian.PutUint64(b[stateB+8:], k.B.Lo)
	le.PutUint16(b[statePorts:], k.APort)
	le.PutUint16(b[statePorts+2:], k.BPort)
	le.PutUint16(b[stateZone:], k.Zone)
	b[stateProto], b[stateFamily] = k.Proto, k.Family
}

// checkKey reports whether a connection can have that key, its original direction running as flipped says; "" if so.
func checkKey(k *packet.Key, flipped bool) string {
	switch {
	case k.Family != 4 && k.Family != 6:
		return "the family is neither 4 nor 6"
	case k.Family == 4 && (!k.A.Is4() || !k.B.Is4()):
		return "not an IPv4 address"
	}
	if _, typ, _, ok := k.Query(); ok {
		// An answer cannot begin a connection, and only these requests have one (valid_new, nf_conntrack_proto_icmp.c and
		// nf_conntrack_proto_icmpv6.c).
		v4 := k.Proto == packet.ProtoICMP && (typ == 8 || typ == 13 || typ == 15 || typ == 17)
		v6 := k.Proto == packet.ProtoICMPv6 && (typ == 128 || typ == 139)
		if flipped || !v4 && !v6 {
			return "not an ICMP request"
		}
		return ""
	}
	var canonical packet.Key
	canonical.Set(k.A, k.B, k.APort, k.BPort, k.Proto, k.Family)
	canonical.Zone = k.Zone
	if canonical != *k {
		return "the ends are in the wrong order"
	}
	return ""
}

// Left returns for how long the connection lives if no packet follows, in ms, when the state was taken.
func (s *Record) Left() uint32 { return le.Uint32(s[stateLeft:]) }

// SetLeft changes Left, to 1 at least.
func (s *Record) SetLeft(ms uint32) { le.PutUint32(s[stateLeft:], max(ms, 1)) }

// Shift makes the record one that was taken ms milliseconds later (earlier, if ms is negative), if no packet came
// meanwhile. It reports whether the connection still lives then; if not the record is as it was.
func (s *Record) Shift(ms int64) bool {
	left := int64(s.Left()) - ms
	if left <= 0 {
		return false
	}
	s.SetLeft(uint32(min(left, maxTimeout*1000)))
	if s[stateProto] == packet.ProtoUDP {
		stream := int64(int32(le.Uint32(s[stateStream:]))) - ms
		le.PutUint32(s[stateStream:], uint32(int32(max(stream, -maxTimeout*1000)))) // no longer ago than can be compared
	}
	if s[stateFlags]&stateHasAge != 0 {
		age := le.Uint64(s[stateAge:])
		if age += uint64(ms); ms < 0 && age > uint64(ms) {
			age = 0
		}
		le.PutUint64(s[stateAge:], age)
	}
	return true
}

// Export copies the states of connections to out, from the place that cursor names (0 to begin), as Copy does entries.
func (t *Table) Export(cursor uint64, out []Record, now Tick) (n int, next uint64) {
	ext := t.sweep.extend(now)
	return t.walk(cursor, len(out), now, func(ref uint32, at int) bool {
		if t.hot.items[ref].expired(now) {
			return false
		}
		t.export(ref, &out[at], now, ext)
		return true
	})
}

// export copies the state of one entry.
func (t *Table) export(ref uint32, s *Record, now Tick, ext uint64) {
	e := &t.hot.items[ref]
	*s = Record{}
	putKey(s[:], &e.key)
	s[stateFlags] = e.flags & entryFlipped
	if e.flags&entryOutside != 0 {
		s[stateFlags] |= stateOutside
	}
	s[stateState] = e.state
	le.PutUint16(s[stateStatus:], e.status&uint16(portableStatus))
	le.PutUint32(s[stateMark:], e.mark)
	s.SetLeft(uint32(e.deadline - now))
	if uint32(e.status)&(StatusHelper|StatusExpected) != 0 && t.aids.items != nil {
		t.aids.items[ref].put(s, uint32(e.status))
	}
	b := s[stateTracker:stateCounters]
	switch e.key.Proto {
	case packet.ProtoUDP:
		le.PutUint32(s[stateStream:], uint32(e.stream-now))
	case packet.ProtoTCP:
		t.cold.items[ref].tcp().put(b)
	case packet.ProtoSCTP:
		c := t.cold.items[ref].sctp()
		le.PutUint32(b, c.tag[0])
		le.PutUint32(b[4:], c.tag[1])
		b[8], b[9], b[10] = c.init[0], c.init[1], c.probe
	case packet.ProtoGRE:
		c := t.cold.items[ref].gre()
		le.PutUint32(b, c.timeout)
		le.PutUint32(b[4:], c.stream)
	}
	if e.flags&entryAcct != 0 {
		s[stateFlags] |= stateHasCounts
		a := &t.acct.items[ref]
		for d := range a.packets {
			le.PutUint64(s[stateCounters+8*d:], a.packets[d])
			le.PutUint64(s[stateCounters+16+8*d:], a.bytes[d])
		}
	}
	if e.flags&entryStamp != 0 {
		s[stateFlags] |= stateHasAge
		le.PutUint64(s[stateAge:], ext-min(ext, t.stamp.items[ref]))
	}
	if e.flags&entryLabel != 0 {
		s[stateFlags] |= stateHasLabels
		le.PutUint64(s[stateLabels:], t.labels.items[ref][0])
		le.PutUint64(s[stateLabels+8:], t.labels.items[ref][1])
	}
	if e.flags&entryPolicy != 0 {
		copy(s[statePolicy:stateMaster-1], t.policies.names[t.policies.of.items[ref]])
	}
}

// put writes the tracker's memory in the layout of Record.
func (s *tcpState) put(b []byte) {
	for d := range s.side {
		x, at := &s.side[d], b[16*d:]
		le.PutUint32(at, x.end)
		le.PutUint32(at[4:], x.maxEnd)
		le.PutUint32(at[8:], x.maxWin)
		le.PutUint32(at[12:], x.maxAck)
	}
	le.PutUint32(b[32:], s.lastSeq)
	le.PutUint32(b[36:], s.lastAck)
	le.PutUint16(b[40:], s.lastLen)
	le.PutUint16(b[42:], s.lastWin)
	b[44], b[45], b[46], b[47] = s.scale, s.flags, s.last, s.retrans
}

// take reads what put wrote.
func (s *tcpState) take(b []byte) {
	for d := range s.side {
		at := b[16*d:]
		s.side[d] = tcpSide{end: le.Uint32(at), maxEnd: le.Uint32(at[4:]), maxWin: le.Uint32(at[8:]), maxAck: le.Uint32(at[12:])}
	}
	s.lastSeq, s.lastAck = le.Uint32(b[32:]), le.Uint32(b[36:])
	s.lastLen, s.lastWin = le.Uint16(b[40:]), le.Uint16(b[42:])
	s.scale, s.flags, s.last, s.retrans = b[44], b[45], b[46], b[47]
}

// Check reports whether the state is one that Export can have written: a connection that packets can find, in a state that
// its tracker knows, and that will expire.
func (s *Record) Check() error {
	k := s.Key()
	flags, state := s[stateFlags], s[stateState]
	bad := func(what string) error { return fmt.Errorf("connection %v: %s", k, what) }
	if what := checkKey(&k, flags&stateFlipped != 0); what != "" {
		return bad(what)
	}
	switch {
	case flags&^stateKnownFlags != 0:
		return bad("unknown flags")
	case uint32(le.Uint16(s[stateStatus:]))&^portableStatus != 0:
		return bad("unknown status bits")
	case s.Left() == 0 || s.Left() > maxTimeout*1000:
		return bad("time left out of range")
	case s[stateHelper] >= uint8(Helpers) || s[stateHelper] != 0 && !Helper(s[stateHelper]).fits(k.Proto, k.Family):
		return bad("unknown helper")
	case k.Proto != packet.ProtoUDP && le.Uint32(s[stateStream:]) != 0:
		return bad("a stream that is not UDP's")
	}
	if what := s.checkAid(); what != "" {
		return bad(what)
	}
	b := s[stateTracker:stateCounters]
	used := 0
	switch k.Proto {
	case packet.ProtoTCP:
		used = 48
		var c tcpState
		c.take(b)
		switch {
		case state == tcpNone || state > tcpSynSent2:
			return bad("unknown TCP state")
		case c.last&tcpIgnoredSYN == 0 && c.lastClass() >= tcpClasses:
			return bad("unknown class of TCP segment")
		}
	case packet.ProtoSCTP:
		used = 11
		if state == sctpNone || state >= sctpTimeouts {
			return bad("unknown SCTP state")
		}
		if b[8] > 1 || b[9] > 1 || b[10] > sctpProbing|1 {
			return bad("unknown SCTP flags")
		}
	case packet.ProtoGRE:
		used = 8
		if state != 0 || le.Uint32(b) > maxTimeout*1000 || le.Uint32(b[4:]) > maxTimeout*1000 {
			return bad("GRE timeouts out of range")
		}
	default:
		if state != 0 {
			return bad("a state where the protocol has none")
		}
	}
	if !zero(s[stateZero:stateTracker]) || !zero(b[used:]) || flags&stateHasCounts == 0 && !zero(s[stateCounters:stateAge]) ||
		flags&stateHasAge == 0 && !zero(s[stateAge:stateLabels]) || flags&stateHasLabels == 0 && !zero(s[stateLabels:statePolicy]) {
		return bad("something where nothing belongs")
	}
	name := s.policy()
	if len(name) > maxPolicyName || !zero(s[statePolicy+len(name):stateMaster]) {
		return bad("not the name of a timeout policy")
	}
	return nil
}

// zero reports whether all bytes are 0.
func zero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// checkAid looks at helper and master; "" if all is well.
func (s *Record) checkAid() string {
	switch {
	case s[stateMasterHelp] >= uint8(Helpers) || s[stateMasterFlag] > 1:
		return "unknown helper of the master"
	case zero(s[stateMaster : stateMaster+keySize]):
		if s[stateMasterHelp]|s[stateMasterFlag] != 0 {
			return "a master without a key"
		}
	case uint32(le.Uint16(s[stateStatus:]))&StatusExpected == 0:
		return "a master of a connection that was not expected"
	default:
		k := keyAt(s[stateMaster:])
		if what := checkKey(&k, s[stateMasterFlag] != 0); what != "" {
			return "its master: " + what
		}
	}
	b := s[stateHelp:RecordSize]
	used := 0
	switch Helper(s[stateHelper]) {
	case HelperFTP:
		used = 20
		if b[16] > ftpLines || b[17] > ftpLines || b[18] > 1 || b[19] > 1 {
			return "unknown state of the ftp helper"
		}
	case HelperSIP:
		used = 8
	case HelperPPTP:
		used = 6
		if b[0] > pptpConfirmed || b[1] > pptpCallClear {
			return "unknown state of the pptp helper"
		}
	}
	if !zero(b[used:]) {
		return "something where nothing belongs"
	}
	return ""
}

// put writes helper and master in the layout of Record.
func (a *aid) put(s *Record, status uint32) {
	if status&StatusExpected != 0 && a.master.Family != 0 {
		putKey(s[stateMaster:], &a.master)
		s[stateMasterHelp], s[stateMasterFlag] = uint8(a.masterHelper), a.masterFlipped&stateFlipped
	}
	if status&StatusHelper == 0 {
		return
	}
	s[stateHelper] = uint8(a.helper)
	b := s[stateHelp:RecordSize]
	switch a.helper {
	case HelperFTP:
		a.ftp.put(b)
	case HelperSIP:
		le.PutUint32(b, a.sip.register)
		le.PutUint32(b[4:], a.sip.invite)
	case HelperPPTP:
		b[0], b[1] = a.pptp.session, a.pptp.call
		le.PutUint16(b[2:], a.pptp.pns)
		le.PutUint16(b[4:], a.pptp.pac)
	}
}

// put writes the helper's memory in the layout of Record.
func (s *ftpState) put(b []byte) {
	for d := range s.line {
		le.PutUint32(b[8*d:], s.line[d][0])
		le.PutUint32(b[8*d+4:], s.line[d][1])
		b[16+d], b[18+d] = min(s.known[d], ftpLines), s.pickup[d]
	}
}

// takeAid reads what put wrote.
func takeAid(s *Record) (a aid) {
	a.helper = Helper(s[stateHelper])
	if s[stateMaster+stateFamily] != 0 {
		a.master = keyAt(s[stateMaster:])
		a.masterHelper, a.masterFlipped = Helper(s[stateMasterHelp]), s[stateMasterFlag]*entryFlipped
	}
	b := s[stateHelp:RecordSize]
	switch a.helper {
	case HelperFTP:
		for d := range a.ftp.line {
			a.ftp.line[d] = [ftpLines]uint32{le.Uint32(b[8*d:]), le.Uint32(b[8*d+4:])}
			a.ftp.known[d], a.ftp.pickup[d] = b[16+d], b[18+d]
		}
	case HelperSIP:
		a.sip = sipState{register: le.Uint32(b), invite: le.Uint32(b[4:])}
	case HelperPPTP:
		a.pptp = pptpState{session: b[0], call: b[1], pns: le.Uint16(b[2:]), pac: le.Uint16(b[4:])}
	}
	return a
}

// policy returns the name of the timeout policy.
func (s *Record) policy() string {
	b := s[statePolicy:stateMaster]
	if n := bytes.IndexByte(b, 0); n >= 0 {
		b = b[:n]
	}
	return string(b)
}

// Imported says what became of states given to Import.
type Imported struct {
	Entered int // in the table now
	Known   int // the table had a connection with that key, which stays as it is

	Expected int // expectations and call ids entered by Restore
}

// ErrNoSlot is returned by Import where no bucket or index is left for a connection.
var ErrNoSlot = errors.New("no slot is left in the table")

// ErrExpectFull is returned by Restore where nf_conntrack_expect_max is reached.
var ErrExpectFull = errors.New("no room is left for expectations (raise nf_conntrack_expect_max)")

// Import enters connections that Check has found good. It needs a credit for each, which the caller has got from
// Capacity.Reserve and gives back what Imported.Entered leaves over. entered[i] tells whether states[i] was entered. The
// time is bounded by the number of states: about a microsecond each. On an error (ErrNoSlot, or no memory for labels) the
// states that were entered stay; Withdraw removes them.
func (t *Table) Import(states []Record, entered []bool, now Tick) (r Imported, err error) {
	t.settle()
	ext := t.sweep.extend(now)
	for i := range states {
		s := &states[i]
		k := s.Key()
		h := t.hashOf(&k)
		if t.find(&k, h, now) != 0 {
			r.Known++
			continue
		}
		if s[stateFlags]&stateHasLabels != 0 {
			if err := t.reserveLabels(); err != nil {
				return r, err
			}
		}
		ref, ok := t.slots.lowest()
		if !ok || int(ref) >= t.reserve || !t.insert(ref, h) {
			return r, ErrNoSlot
		}
		t.enter(ref, s, &k, now, ext)
		entered[i] = true
		r.Entered++
		if t.entered++; t.entered > touchBurst {
			t.resize(2)
		}
	}
	return r, nil
}

// enter writes an entry, whose reference is in its bucket.
func (t *Table) enter(ref uint32, s *Record, k *packet.Key, now Tick, ext uint64) {
	e := &t.hot.items[ref]
	*e = entry{key: *k, deadline: now + Tick(s.Left()), mark: le.Uint32(s[stateMark:]), state: s[stateState],
		flags: s[stateFlags] & entryFlipped, status: le.Uint16(s[stateStatus:]) | uint16(StatusConfirmed)}
	if k.A == k.B && k.APort == k.BPort && k.Proto != packet.ProtoICMP && k.Proto != packet.ProtoICMPv6 {
		e.flags |= entrySelf
	}
	if s[stateFlags]&stateOutside != 0 {
		e.flags |= entryOutside
	}
	if t.aids.items != nil {
		t.aids.items[ref] = aid{}
	}
	if a := takeAid(s); a != (aid{}) {
		if x := t.aidOf(ref); x != nil {
			if *x = a; a.helper != HelperNone {
				e.status |= uint16(StatusHelper)
			}
		}
	}
	b := s[stateTracker:stateCounters]
	c := &t.cold.items[ref]
	*c = cold{}
	switch k.Proto {
	case packet.ProtoUDP:
		e.stream = now + Tick(le.Uint32(s[stateStream:]))
	case packet.ProtoTCP:
		c.tcp().take(b)
	case packet.ProtoSCTP:
		*c.sctp() = sctpState{tag: [2]uint32{le.Uint32(b), le.Uint32(b[4:])}, init: [2]uint8{b[8], b[9]}, probe: b[10]}
	case packet.ProtoGRE:
		*c.gre() = greState{timeout: le.Uint32(b), stream: le.Uint32(b[4:])}
	}
	// Counters and times are kept where this process counts; as for any other connection that depends on when it began.
	if s[stateFlags]&stateHasCounts != 0 && t.acct.items != nil {
		e.flags |= entryAcct
		a := &t.acct.items[ref]
		for d := range a.packets {
			a.packets[d], a.bytes[d] = le.Uint64(s[stateCounters+8*d:]), le.Uint64(s[stateCounters+16+8*d:])
		}
	}
	if s[stateFlags]&stateHasAge != 0 && t.stamp.items != nil {
		e.flags |= entryStamp
		t.stamp.items[ref] = ext - min(ext, le.Uint64(s[stateAge:]))
	}
	if s[stateFlags]&stateHasLabels != 0 {
		e.flags |= entryLabel
		t.labels.items[ref] = Labels{le.Uint64(s[stateLabels:]), le.Uint64(s[stateLabels+8:])}
	}
	if s[statePolicy] != 0 {
		if id := t.policy(s.policy()); id != 0 {
			e.flags |= entryPolicy
			t.policies.of.items[ref] = id
		}
	}
	t.due.items[ref] = e.deadline
	t.slots.add(ref)
	t.live++
	t.stats.Insert++
	if t.events != nil {
		t.emit(EventNew, ChangedState, ref, now)
	}
}

// Withdraw removes those of the states that Import has entered, and returns their credits.
func (t *Table) Withdraw(states []Record, entered []bool, now Tick) {
	t.settle()
	for i := range states {
		if !entered[i] {
			continue
		}
		k := states[i].Key()
		h := t.hashOf(&k)
		if ref := t.find(&k, h, now); ref != 0 {
			t.remove(ref, h)
		}
		entered[i] = false
	}
}
