package rules

import (
	"strconv"

	"corewire/internal/packet"
)

// RoutingMatch is -m rt: the IPv6 routing header (RFC 8200 section 4.4).
type RoutingMatch struct {
	Type           uint8
	HasType        bool
	TypeNot        bool
	SegsLo, SegsHi uint32 // segments left
	SegsNot        bool
	Len            uint32 // bytes of the header
	HasLen, LenNot bool
	Reserved       bool // --rt-0-res: the four bytes behind the segments left are zero
}

var rtModule = module{name: "rt", family: IPv6, make: func() Extension { return &RoutingMatch{SegsHi: 1<<32 - 1} }, options: []option{
	{"rt-type", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*RoutingMatch)
		x.Type, x.HasType, x.TypeNot = uint8(rp.number(a[0], 255)), true, not
	}},
	{"rt-segsleft", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, _ := rp.span(a[0], 1<<32-1, "a number of segments, or a range")
		x := m.(*RoutingMatch)
		x.SegsLo, x.SegsHi, x.SegsNot = uint32(lo), uint32(hi), not
	}},
	{"rt-len", 3, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*RoutingMatch)
		x.Len, x.HasLen, x.LenNot = uint32(rp.number(a[0], 1<<32-1)), true, not
	}},
	{"rt-0-res", 4, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*RoutingMatch).Reserved = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	if m := l.m.(*RoutingMatch); m.Reserved && (!m.HasType || m.Type != 0 || m.TypeNot) {
		rp.fail(l.col, "--rt-0-res", "--rt-type 0 with --rt-0-res", "")
	}
}}

// Name returns "rt".
func (m *RoutingMatch) Name() string { return "rt" }

// AppendSave implements Extension.
func (m *RoutingMatch) AppendSave(b []byte) []byte {
	if m.HasType {
		b = strconv.AppendUint(append(appendNot(b, m.TypeNot), " --rt-type "...), uint64(m.Type), 10)
	}
	if m.SegsLo != 0 || m.SegsHi != 1<<32-1 || m.SegsNot {
		b = appendSpan(append(appendNot(b, m.SegsNot), " --rt-segsleft "...), uint64(m.SegsLo), uint64(m.SegsHi))
	}
	if m.HasLen {
		b = strconv.AppendUint(append(appendNot(b, m.LenNot), " --rt-len "...), uint64(m.Len), 10)
	}
	if m.Reserved {
		b = append(b, " --rt-0-res"...)
	}
	return b
}

func (m *RoutingMatch) compile(c *compiler) {
	c.ask(pred{op: opRtSegs, not: m.SegsNot, a: m.SegsLo, b: m.SegsHi})
	if m.HasLen {
		c.ask(pred{op: opRtLen, not: m.LenNot, a: m.Len})
	}
	if m.HasType {
		c.ask(pred{op: opRtType, not: m.TypeNot, lo: uint16(m.Type)})
	}
	if m.Reserved {
		c.ask(pred{op: opRtReserved})
	}
}

// routingHeader finds the first routing header of an IPv6 packet, between the IP header and the transport header. It
// returns the offset in the frame and the length, 0 when there is none.
func routingHeader(p *packet.Packet) (at, length int) {
	const hopByHop, routing, fragment, auth, destination = 0, 43, 44, 51, 60
	l3 := int(p.L3)
	if p.Family != 6 || int(p.End)-l3 < 40 {
		return 0, 0
	}
	next, at := p.Frame[l3+6], l3+40
	for at+8 <= int(p.L4) {
		n := (int(p.Frame[at+1]) + 1) * 8
		switch next {
		case routing:
			return at, n
		case hopByHop, destination:
		case fragment:
			n = 8
		case auth:
			n = (int(p.Frame[at+1]) + 2) * 4
		default:
			return 0, 0
		}
		next = p.Frame[at]
		at += n
	}
	return 0, 0
}
