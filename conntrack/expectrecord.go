package conntrack

import (
	"fmt"

	"corewire/internal/packet"
)

// ExpectRecord is one expectation, or one call id of PPTP, in the form in which it is handed to another process together
// with the Record of the connection that expects: numbers as in Record.
//
//	 0  source, destination: two IPv6 addresses in network order, IPv4 ones mapped; the source 0 where it may be any
//	32  source port, destination port; GRE: the call ids
//	36  zone
//	38  protocol, family (4 or 6)
//	40  flags: 1 PERMANENT, 2 INACTIVE, 16 the expected connection gets the helper, 32 the source address may be any,
//	    64 the source port may be any, 128 a call id
//	41  class
//	42  helper
//	43  flags of the connection that expects: 1 its original direction runs from B to A
//	44  mark that the expected connection will have
//	48  ms until it is no longer expected, when the state was taken; 0 for a call id
//	52  four bytes of 0
//	56  key of the connection that expects, as in Record
type ExpectRecord [ExpectRecordSize]byte

// ExpectRecordSize is the size of an ExpectRecord in bytes.
const ExpectRecordSize = 96

// Offsets in ExpectRecord; source to family are where Record has A to family.
const (
	expectAtFlags  = 40
	expectAtClass  = 41
	expectAtHelper = 42
	expectAtFlip   = 43
	expectAtMark   = 44
	expectAtLeft   = 48
	expectAtZero   = 52
	expectAtMaster = 56
)

// portableExpect are the flags that travel.
const portableExpect = ExpectPermanent | ExpectInactive | expectAssign | expectAnySrc | expectAnyPt | expectCall

// Master returns the key of the connection that expects, and whether its original direction runs from B to A.
func (r *ExpectRecord) Master() (k packet.Key, flipped bool) {
	return keyAt(r[expectAtMaster:]), r[expectAtFlip] != 0
}

// Call reports whether it is a call id of PPTP, and no expectation.
func (r *ExpectRecord) Call() bool { return r[expectAtFlags]&expectCall != 0 }

// Shift makes the record one that was taken ms milliseconds later (earlier, if ms is negative). It reports whether the
// connection is still expected then; if not the record is as it was.
func (r *ExpectRecord) Shift(ms int64) bool {
	if r.Call() {
		return true
	}
	left := int64(le.Uint32(r[expectAtLeft:])) - ms
	if left <= 0 {
		return false
	}
	le.PutUint32(r[expectAtLeft:], uint32(min(left, maxTimeout*1000)))
	return true
}

// wanted returns what the record asks for.
func (r *ExpectRecord) wanted() wanted {
	k := keyAt(r[:])
	return wanted{tuple: expectTuple{k.A, k.B, makePorts(k.APort, k.BPort, k.Zone, k.Proto, k.Family)}, flags: r[expectAtFlags], class: r[expectAtClass]}
}

// Check reports whether the record is one that Export can have written.
func (r *ExpectRecord) Check() error {
	k := keyAt(r[:])
	m, flipped := r.Master()
	f := r[expectAtFlags]
	bad := func(what string) error { return fmt.Errorf("expectation %v of connection %v: %s", k, m, what) }
	h := Helper(r[expectAtHelper])
	left := le.Uint32(r[expectAtLeft:])
	switch {
	case k.Family != 4 && k.Family != 6:
		return bad("the family is neither 4 nor 6")
	case k.Family == 4 && (!k.B.Is4() || f&expectAnySrc == 0 && !k.A.Is4()):
		return bad("not an IPv4 address")
	case !expectable(k.Proto):
		return bad("a protocol that is never expected")
	case f&^portableExpect != 0 || r[expectAtFlip] > 1:
		return bad("unknown flags")
	case f&expectAnySrc != 0 && k.A != packet.Addr{}:
		return bad("a source where it may be any")
	case f&expectAnyPt != 0 && f&expectCall == 0 && k.APort != 0:
		return bad("a source port where it may be any")
	case r[expectAtClass] >= expectClasses:
		return bad("unknown class")
	case !h.fits(m.Proto, m.Family) || m.Family != k.Family || m.Zone != k.Zone:
		return bad("the helper does not read the connection that expects")
	case f&expectCall == 0 && (left == 0 || left > maxTimeout*1000):
		return bad("time left out of range")
	case f&expectCall != 0 && (f != expectCall|expectAnyPt || h != HelperPPTP || k.Proto != packet.ProtoGRE || left != 0 || r[expectAtClass] != 0):
		return bad("not a call id")
	case !zero(r[expectAtZero:expectAtMaster]):
		return bad("something where nothing belongs")
	}
	if what := checkKey(&m, flipped); what != "" {
		return bad("who expects: " + what)
	}
	return nil
}

// Export copies expectations and call ids to out, cut into slices like List. An expectation whose time is over is left out.
func (x *Expectations) Export(cursor uint32, out []ExpectRecord, now Tick) (n int, next uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := max(cursor, 1); i < x.top; i++ {
		if n == len(out) || i-cursor >= uint32(8*len(out)) {
			return n, i
		}
		s := &x.slots[i]
		when := s.when.Load()
		f := expectFlags(when)
		if f&expectUsed == 0 || f&expectCall == 0 && expectExpired(when, now) {
			continue
		}
		t := s.tuple()
		r := &out[n]
		*r = ExpectRecord{}
		putKey(r[:], &packet.Key{A: t.src, B: t.dst, APort: t.sport(), BPort: t.dport(), Zone: t.zone(), Proto: t.proto(), Family: t.family()})
		r[expectAtFlags], r[expectAtClass], r[expectAtHelper], r[expectAtFlip] = f&portableExpect, s.class, uint8(s.helper), s.masterFlipped&stateFlipped
		le.PutUint32(r[expectAtMark:], s.mark)
		if f&expectCall == 0 {
			le.PutUint32(r[expectAtLeft:], uint32(when)-uint32(now))
		}
		putKey(r[expectAtMaster:], &s.master)
		n++
	}
	return n, 0
}

// Restore enters expectations and call ids, which Check has found good, of connections that are in this table; those of
// others are left out, and so is what another connection expects already. It returns how many it entered, and ErrExpectFull
// if the maximum is reached: then those that it entered stay until their masters go, which Withdraw sees to.
func (t *Table) Restore(records []ExpectRecord, now Tick) (n int, err error) {
	for i := range records {
		r := &records[i]
		k, flipped := r.Master()
		ref := t.find(&k, t.hashOf(&k), now)
		if ref == 0 || t.aids.items == nil {
			continue
		}
		e := &t.hot.items[ref]
		m := t.masterOf(e, ref)
		if uint32(e.status)&StatusHelper == 0 || m.helper != Helper(r[expectAtHelper]) || (m.flipped != 0) != flipped {
			continue
		}
		m.mark = le.Uint32(r[expectAtMark:])
		switch w := r.wanted(); t.expect.restore(&m, &w, now+Tick(le.Uint32(r[expectAtLeft:])), now) {
		case expectMade:
			n++
		case expectFull:
			return n, ErrExpectFull
		}
	}
	return n, nil
}

// restore enters an expectation or a call id with its own deadline.
func (x *Expectations) restore(m *master, w *wanted, until, now Tick) expectResult {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now = now
	h := x.chain(&w.tuple)
	if w.flags&expectCall != 0 {
		if x.calls.Load() >= MaxExpectations {
			return expectFull
		}
	} else {
		for i := h.first.Load(); i != 0; i = x.slots[i].next.Load() {
			s := &x.slots[i]
			own := s.tuple()
			if f := expectFlags(s.when.Load()); f&expectCall == 0 && clash(&own, &w.tuple, f|w.flags) {
				return expectBusy
			}
		}
		if x.count.Load() >= x.max.Load() {
			return expectFull
		}
	}
	if !x.insert(m, w, h, until) {
		return expectFull
	}
	return expectMade
}
