package rules

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// maxHops bounds the addresses of --rt-0-addrs (IP6T_RT_HOPS).
const maxHops = 16

// RoutingMatch is -m rt: the IPv6 routing header (RFC 8200 section 4.4).
type RoutingMatch struct {
	Type           uint32 // above 255 no header has it
	HasType        bool
	TypeNot        bool
	SegsLo, SegsHi uint32 // segments left
	SegsNot        bool
	Len            uint32 // bytes of the header
	HasLen, LenNot bool
	Reserved       bool          // --rt-0-res: the four bytes behind the segments left are zero
	Addrs          []packet.Addr // --rt-0-addrs: nil when not asked
	Loose          bool          // --rt-0-not-strict: the addresses are among the header's, in this order
}

var rtModule = module{name: "rt", family: IPv6, make: func() Extension { return &RoutingMatch{SegsHi: 1<<32 - 1} }, options: []option{
	{"rt-type", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*RoutingMatch)
		x.Type, x.HasType, x.TypeNot = uint32(rp.number(a[0], 1<<32-1)), true, not
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
	{"rt-0-addrs", 5, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*RoutingMatch).Addrs = rp.hops(a[0]) }},
	{"rt-0-not-strict", 6, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*RoutingMatch).Loose = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*RoutingMatch)
	switch zero := m.HasType && m.Type == 0 && !m.TypeNot; {
	case m.Reserved && !zero:
		rp.fail(l.col, "--rt-0-res", "--rt-type 0 with --rt-0-res", "")
	case m.Addrs != nil && !zero:
		rp.fail(l.col, "--rt-0-addrs", "--rt-type 0 with --rt-0-addrs", "")
	case m.Loose && m.Addrs == nil:
		rp.fail(l.col, "--rt-0-not-strict", "--rt-0-addrs with --rt-0-not-strict", "")
	}
}}

// hops reads the addresses of a routing header.
func (rp *ruleParser) hops(a token) (out []packet.Addr) {
	col := a.col
	for rest, more := a.text, true; more; {
		var one string
		one, rest, more = strings.Cut(rest, ",")
		ip, err := netip.ParseAddr(one)
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			rp.fail(col, one, "an IPv6 address", "")
			return nil
		}
		if len(out) == maxHops {
			rp.fail(col, one, "at most "+strconv.Itoa(maxHops)+" addresses", "")
			return nil
		}
		out = append(out, packet.AddrFrom(ip))
		col += len(one) + 1
	}
	return out
}

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
	if m.Addrs != nil {
		b = m.appendHops(append(b, " --rt-0-addrs"...))
	}
	if m.Loose {
		b = append(b, " --rt-0-not-strict"...)
	}
	return b
}

// appendHops appends the addresses, with a blank before them.
func (m *RoutingMatch) appendHops(b []byte) []byte {
	sep := byte(' ')
	for _, a := range m.Addrs {
		b = a.Netip6().AppendTo(append(b, sep))
		sep = ','
	}
	return b
}

func (m *RoutingMatch) compile(c *compiler) {
	c.ask(pred{op: opRouting, a: keep(&c.cur.routes, *m)})
}

// test follows rt_mt6 of net/ipv6/netfilter/ip6t_rt.c.
func (m *RoutingMatch) test(p *packet.Packet) outcome {
	at, o := findHeader(p, headerRouting)
	if o != yes {
		return o
	}
	h := p.Frame[at:p.End]
	if len(h) < 4 { // findHeader has seen to this
		return short
	}
	size := (int(h[1]) + 1) * 8
	if len(h) < size { // the kernel that was compared drops it
		return short
	}
	h = h[:size]
	left := uint32(h[3])
	switch {
	case (left >= m.SegsLo && left <= m.SegsHi) == m.SegsNot,
		m.HasLen && (uint32(size) == m.Len) == m.LenNot,
		m.HasType && (uint32(h[2]) == m.Type) == m.TypeNot,
		m.Reserved && binary.BigEndian.Uint32(h[4:]) != 0:
		return no
	case m.Addrs == nil:
		return yes
	}
	hops := h[8:]
	if !m.Loose && len(m.Addrs) != len(hops)/16 {
		return no
	}
	next := 0
	for ; len(hops) >= 16 && next < len(m.Addrs); hops = hops[16:] {
		a := packet.Addr{Hi: binary.BigEndian.Uint64(hops), Lo: binary.BigEndian.Uint64(hops[8:])}
		switch {
		case a == m.Addrs[next]:
			next++
		case !m.Loose:
			return no
		}
	}
	return answer(next == len(m.Addrs))
}
