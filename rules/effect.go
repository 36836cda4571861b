package rules

import "corewire/internal/packet"

// Effect is a target that changes something and lets the packet go on. The types are this package's own, one per target.
type Effect interface {
	Extension
	// compile returns what the rule does, as the matcher carries it out.
	compile(c *compiler) effect
}

// effectKind is what an effect does.
type effectKind uint8

const (
	effectNone    effectKind = iota // the target has nothing to do on a wire
	effectMark                      // mark = mark &^ mask ^ value
	effectSet                       // CONNMARK --set-xmark: connection's mark likewise, and shifted
	effectSave                      // CONNMARK --save-mark: from the packet's mark & from
	effectRestore                   // CONNMARK --restore-mark: the packet's mark, from the connection's & mask
	effectTOS                       // TOS or traffic class = … &^ mask ^ value
	effectTTL                       // TTL or hop limit by value, as TTLMode in shift says
	effectECN                       // TCP flags of mask become value; with from the ECN bits of IPv4 become shift
	effectMSS                       // TCP's MSS at most value
	effectClamp                     // TCP's MSS at most what the MTU has room for
	effectStrip                     // TCP without the options strips[value]
	effectHash                      // the packet's mark as hashMarks[value] says
	effectSets                      // additions to sets, deletions and looks into them: setChanges[value]
)

// forbids says why no verdict of a packet of the protocol is cached behind an effect; empty when one may be.
func (k effectKind) forbids(proto uint8) string {
	switch k {
	case effectHash:
		if !keyed(proto) { // the next packet may have other ports
			return "the mark is made of the packet"
		}
		return ""
	case effectNone, effectMark, effectSet, effectSave, effectRestore:
		return ""
	case effectSets:
		return "sets are changed"
	}
	return "the packet is changed"
}

// effect is an Effect as the matcher carries it out.
type effect struct {
	kind  effectKind
	right bool  // shift to the right
	shift uint8 // bits
	value uint32
	mask  uint32
	from  uint32 // the mask of the packet's mark
}

// shifted shifts a mark as connmark_tg_shift does.
func (e *effect) shifted(v uint32) uint32 {
	if e.right {
		return v >> e.shift
	}
	return v << e.shift
}

// apply carries an effect out; false drops the packet. What a later packet of the connection might not repeat forbids
// to cache the verdict.
func (w *walk) apply(e *effect, p *packet.Packet, c *Context) bool {
	switch e.kind {
	case effectMark:
		c.Mark = c.Mark&^e.mask ^ e.value
	case effectSet, effectSave, effectRestore:
		if c.State == Invalid || c.State == Untracked {
			return true // net/netfilter/xt_connmark.c: without a connection nothing
		}
		switch e.kind {
		case effectSet:
			c.ConnMark = e.shifted(c.ConnMark&^e.mask ^ e.value)
		case effectSave:
			c.ConnMark = c.ConnMark&^e.mask ^ e.shifted(c.Mark&e.from)
		default:
			c.Mark = c.Mark&^e.from ^ e.shifted(c.ConnMark&e.mask)
		}
	case effectHash:
		w.cacheable = w.cacheable && keyed(p.Proto)
		if v, ok := w.g.hashMarks[e.value].mark(p, c); ok {
			c.Mark = v
		}
	case effectNone:
	default:
		w.cacheable = false
		return w.change(e, p, c)
	}
	return true
}

// change carries out an effect on the packet itself.
func (w *walk) change(e *effect, p *packet.Packet, c *Context) bool {
	switch e.kind {
	case effectTOS:
		setTOS(p, p.TOS&^uint8(e.mask)^uint8(e.value))
	case effectTTL:
		v := int(e.value)
		switch TTLMode(e.shift) {
		case TTLInc:
			v = min(int(p.TTL)+v, 255)
		case TTLDec:
			v = max(int(p.TTL)-v, 0)
		}
		SetTTL(p, uint8(v))
	case effectECN:
		if e.from != 0 {
			setECT(p, e.shift)
		}
		return e.mask == 0 || setFlags(p, uint8(e.mask), uint8(e.value))
	case effectMSS:
		return w.setMSS(p, uint16(e.value))
	case effectClamp:
		headers := uint32(40) // of IPv4 and TCP, both without options
		if p.Family == 6 {
			headers = 60
		}
		if c.MTU == 0 {
			return true
		}
		if c.MTU <= headers {
			return false
		}
		return w.setMSS(p, uint16(min(c.MTU-headers, 65535)))
	case effectSets:
		if w.m != nil && !c.looking { // who only looks changes nothing
			w.g.setChanges[e.value].carry(p, c)
		}
	case effectStrip:
		return strip(p, &w.g.strips[e.value])
	}
	return true
}

// direct gives up to keep the path: what it has so far is counted, and what comes as it comes.
func (w *walk) direct() {
	if !w.full {
		w.m.Count(w.path<<(traceStateBits+tracePortBits), int(w.bytes))
		w.full = true
	}
}

// matchLong is Match for rule sets with more base chains than filter's, or with effects.
func (m *Matcher) matchLong(p *packet.Packet, c *Context) Result {
	rs := m.rs
	w := walk{m: m, bytes: uint32(p.End - p.L3), cacheable: alike(p, c)}
	w.h.fill(p, c)
	connMark := c.ConnMark
	f := filterPlace
	if p.Family == 6 {
		f++
	}
	x := &rs.way[f]
	result := Result{Verdict: Accept}
	for _, place := range x.place[:x.n] {
		w.g, w.policy = &rs.prog[place], rs.policyID(int(place))
		v, id := w.run(p, c)
		if v != Accept {
			result.Verdict, result.Rule = v, id
			break
		}
		if int(place) == f {
			result.Rule = id
		}
	}
	if w.full {
		return result
	}
	// A connection's mark that the packet changed leads the next one another way; one that it left as it was is the mark
	// for which the way is known, until somebody changes it.
	result.Keep = keepOf(w.cacheable && c.ConnMark == connMark, w.asked)
	if w.path > m.direct {
		m.nodes[w.path-m.direct-1].decided = result.Rule
	}
	result.Trace = w.path<<(traceStateBits+tracePortBits) | uint32(p.In)<<traceStateBits | uint32(c.State)
	return result
}
