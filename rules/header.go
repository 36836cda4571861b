package rules

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// Numbers of IPv6 extension headers (IANA protocol-numbers).
const (
	headerHopByHop    = 0
	headerRouting     = 43
	headerFragment    = 44
	headerESP         = 50
	headerAH          = 51
	headerNone        = 59
	headerDestination = 60
	headerMobility    = 135
)

// findHeader looks for an IPv6 extension header as ipv6_find_hdr (net/ipv6/exthdrs_core.c) does: its offset in the frame
// with yes; no when there is none; short when the headers before it, or itself, are cut off.
func findHeader(p *packet.Packet, want uint8) (int, outcome) {
	h := p.Frame[p.L3:p.End]
	if p.Family != 6 || len(h) < 40 {
		return 0, no
	}
	at, next := 40, h[6]
	for {
		switch next {
		case headerHopByHop, headerRouting, headerDestination, headerAH, headerFragment:
		default:
			return 0, no
		}
		if len(h) < at+2 || next == headerRouting && len(h) < at+4 || next == headerFragment && len(h) < at+4 {
			return 0, short
		}
		found := next == want
		n := (int(h[at+1]) + 1) * 8
		switch next {
		case headerFragment:
			later := binary.BigEndian.Uint16(h[at+2:])&^7 != 0
			if later && !found {
				return 0, no
			}
			n = 8
		case headerAH:
			n = (int(h[at+1]) + 2) * 4
		}
		if found {
			return int(p.L3) + at, yes
		}
		next = h[at]
		at += n
	}
}

// SPIMatch is -m esp, and -m ah: the security parameters index of an ESP or authentication header (RFC 4303, RFC 4302).
type SPIMatch struct {
	Lo, Hi uint32
	Not    bool
	Len    uint32 // ah of IPv6, with HasLen: the header's length in bytes; 0 matches always (net/ipv6/netfilter/ip6t_ah.c)
	HasLen bool
	LenNot bool
	Zero   bool // ah of IPv6: the reserved bytes must be zero
	module string
}

// Name returns "esp" or "ah".
func (m *SPIMatch) Name() string { return m.module }

// AppendSave implements Extension.
func (m *SPIMatch) AppendSave(b []byte) []byte {
	if m.Lo != 0 || m.Hi != 1<<32-1 || m.Not {
		b = append(append(appendNot(b, m.Not), " --"...), m.module...)
		b = appendSpan(append(b, "spi "...), uint64(m.Lo), uint64(m.Hi))
	}
	if m.HasLen {
		b = strconv.AppendUint(append(appendNot(b, m.LenNot), " --ahlen "...), uint64(m.Len), 10)
	}
	if m.Zero {
		b = append(b, " --ahres"...)
	}
	return b
}

func (m *SPIMatch) compile(c *compiler) {
	switch {
	case m.module == "esp":
		c.ask(pred{op: opSPI, not: m.Not, lo: 8, hi: 0, a: m.Lo, b: m.Hi})
	case !c.cur.v6:
		c.ask(pred{op: opSPI, not: m.Not, lo: 12, hi: 4, a: m.Lo, b: m.Hi})
	default:
		c.ask(pred{op: opAuth, a: keep(&c.cur.spis, *m)})
	}
}

func spiOption(name string) option {
	return option{name, 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, _ := rp.span(a[0], 1<<32-1, "an SPI or a range of SPIs")
		x := m.(*SPIMatch)
		x.Lo, x.Hi, x.Not = uint32(lo), uint32(hi), not
	}}
}

var espModule = module{name: "esp", family: Both, protos: []uint8{headerESP}, make: func() Extension { return &SPIMatch{Hi: 1<<32 - 1, module: "esp"} },
	options: []option{spiOption("espspi")}}

// ahModule is -m ah, which needs -p ah in IPv4 and looks into the extension headers of IPv6.
var ahModule = module{name: "ah", family: Both, make: func() Extension { return &SPIMatch{Hi: 1<<32 - 1, module: "ah"} }, options: []option{
	spiOption("ahspi"),
	{"ahlen", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*SPIMatch)
		x.Len, x.HasLen, x.LenNot = uint32(rp.number(a[0], 1<<32-1)), true, not
	}},
	{"ahres", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*SPIMatch).Zero = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*SPIMatch)
	switch {
	case m.HasLen || m.Zero:
		rp.restrict(IPv6, l.col, "--ahlen or --ahres")
	case rp.protoSet && !rp.rule.Proto.Not && rp.rule.Proto.Num == headerAH:
	case rp.rule.Family == IPv4:
		rp.fail(l.col, "-m ah", "-p ah with -m ah", "")
	default:
		rp.restrict(IPv6, l.col, "-m ah without -p ah")
	}
}}

// spi tests the header of IPv4's -m ah and of -m esp: it has size bytes, and its SPI stands at an offset.
func spi(q *pred, p *packet.Packet) outcome {
	size, at := int(q.lo), int(q.hi)
	if p.Flags&packet.LaterFragment != 0 {
		return no
	}
	if int(p.End)-int(p.L4) < size {
		return short
	}
	v := binary.BigEndian.Uint32(p.Frame[int(p.L4)+at:])
	return answer((v >= q.a && v <= q.b) != q.not)
}

// auth tests IPv6's -m ah (net/ipv6/netfilter/ip6t_ah.c).
func (m *SPIMatch) auth(p *packet.Packet) outcome {
	at, o := findHeader(p, headerAH)
	if o != yes {
		return o
	}
	h := p.Frame[at:p.End]
	if len(h) < 12 {
		return short
	}
	n := (int(h[1]) + 2) * 4
	if len(h) < n {
		return short
	}
	v := binary.BigEndian.Uint32(h[4:])
	return answer((v >= m.Lo && v <= m.Hi) != m.Not && (m.Len == 0 || (uint32(n) == m.Len) != m.LenNot) && (!m.Zero || h[2]|h[3] == 0))
}

// FragMatch is -m frag of IPv6: the fragment header. Datagrams are put together before the rules, which takes the header
// out: it matches only fragments that cannot be put together and are judged by themselves, as in Linux.
type FragMatch struct {
	Lo, Hi     uint32 // identification
	Not        bool
	Len        uint32 // --fraglen is printed back, and looked at by nobody (net/ipv6/netfilter/ip6t_frag.c)
	HasLen     bool
	LenNot     bool
	Zero       bool // --fragres: the reserved bits must be zero
	First      bool
	More, Last bool // exclude one another
}

// Name returns "frag".
func (m *FragMatch) Name() string { return "frag" }

// AppendSave implements Extension.
func (m *FragMatch) AppendSave(b []byte) []byte {
	if m.Lo != 0 || m.Hi != 1<<32-1 || m.Not {
		b = appendSpan(append(appendNot(b, m.Not), " --fragid "...), uint64(m.Lo), uint64(m.Hi))
	}
	if m.HasLen {
		b = strconv.AppendUint(append(appendNot(b, m.LenNot), " --fraglen "...), uint64(m.Len), 10)
	}
	for _, x := range []struct {
		on   bool
		text string
	}{{m.Zero, " --fragres"}, {m.First, " --fragfirst"}, {m.More, " --fragmore"}, {m.Last, " --fraglast"}} {
		if x.on {
			b = append(b, x.text...)
		}
	}
	return b
}

func (m *FragMatch) compile(c *compiler) {
	c.ask(pred{op: opFrag, a: keep(&c.cur.frags, *m)})
}

var fragModule = module{name: "frag", family: IPv6, make: func() Extension { return &FragMatch{Hi: 1<<32 - 1} }, options: []option{
	{"fragid", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, _ := rp.span(a[0], 1<<32-1, "an identification or a range")
		x := m.(*FragMatch)
		x.Lo, x.Hi, x.Not = uint32(lo), uint32(hi), not
	}},
	{"fraglen", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*FragMatch)
		x.Len, x.HasLen, x.LenNot = uint32(rp.number(a[0], 1<<32-1)), true, not
	}},
	{"fragres", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*FragMatch).Zero = true }},
	{"fragfirst", 4, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*FragMatch).First = true }},
	{"fragmore", 5, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*FragMatch).More = true }},
	{"fraglast", 5, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*FragMatch).Last = true }},
}}

func (m *FragMatch) test(p *packet.Packet) outcome {
	at, o := findHeader(p, headerFragment)
	if o != yes {
		return o
	}
	h := p.Frame[at:p.End]
	if len(h) < 8 {
		return short
	}
	id, off := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint16(h[2:])
	return answer((id >= m.Lo && id <= m.Hi) != m.Not && (!m.Zero || h[1] == 0 && off&6 == 0) && (!m.First || off&^7 == 0) &&
		(!m.More || off&1 != 0) && (!m.Last || off&1 == 0))
}

// Bits of ipv6header's headers, as in ip6t_ipv6header.h.
const (
	hasProto = 1 << iota
	hasNone
	hasESP
	hasAH
	hasFragment
	hasRouting
	hasDestination
	hasHopByHop
)

// chainHeaders are the names of --header, in the order in which they are printed; the first of a bit is printed.
var chainHeaders = []struct {
	bit   uint8
	names []string
}{
	{hasHopByHop, []string{"hop-by-hop", "hop", "0", "hopopt"}}, {hasDestination, []string{"ipv6-opts", "dst", "60"}}, {hasRouting, []string{"ipv6-route", "route", "43"}},
	{hasFragment, []string{"ipv6-frag", "frag", "44"}}, {hasAH, []string{"ah", "auth", "51"}}, {hasESP, []string{"esp", "50"}},
	{hasNone, []string{"ipv6-nonxt", "none", "59"}}, {hasProto, []string{"protocol", "prot", "proto", "255"}},
}

// HeadersMatch is -m ipv6header: which headers an IPv6 packet has.
type HeadersMatch struct {
	Headers uint8 // bits
	Not     bool
	Soft    bool // these at least; without, exactly these
}

// Name returns "ipv6header".
func (m *HeadersMatch) Name() string { return "ipv6header" }

// AppendSave implements Extension.
func (m *HeadersMatch) AppendSave(b []byte) []byte {
	b = append(appendNot(b, m.Not), " --header "...)
	for _, h := range chainHeaders {
		if m.Headers&h.bit != 0 {
			b = append(append(b, h.names[0]...), ',')
		}
	}
	b = b[:len(b)-1]
	if m.Soft {
		b = append(b, " --soft"...)
	}
	return b
}

func (m *HeadersMatch) compile(c *compiler) {
	c.ask(pred{op: opHeaders, a: keep(&c.cur.headers, *m)})
}

var headersModule = module{name: "ipv6header", family: IPv6, make: func() Extension { return &HeadersMatch{} }, options: []option{
	{"header", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*HeadersMatch)
		x.Not = not
		col := a[0].col
		for s := range strings.SplitSeq(a[0].text, ",") {
			bit, names := uint8(0), []string{}
			for _, h := range chainHeaders {
				for _, n := range h.names {
					if strings.EqualFold(n, s) {
						bit = h.bit
					}
				}
				names = append(names, h.names[0])
			}
			if bit == 0 {
				rp.fail(col, s, "an extension header: "+strings.Join(names, ", "), rp.didYouMean(s, names))
				return
			}
			x.Headers |= bit
			col += len(s) + 1
		}
	}},
	{"soft", 2, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*HeadersMatch).Soft = true }},
}, finish: needOption("header")}

// test follows net/ipv6/netfilter/ip6t_ipv6header.c.
func (m *HeadersMatch) test(p *packet.Packet) outcome {
	h := p.Frame[p.L3:p.End]
	if len(h) < 40 {
		return no
	}
	has := uint8(0)
	next, at := h[6], 40
walk:
	for {
		bit := uint8(0)
		switch next {
		case headerNone:
			has |= hasNone
			break walk
		case headerHopByHop:
			bit = hasHopByHop
		case headerRouting:
			bit = hasRouting
		case headerFragment:
			bit = hasFragment
		case headerESP:
			bit = hasESP
		case headerAH:
			bit = hasAH
		case headerDestination:
			bit = hasDestination
		default:
			break walk
		}
		if len(h)-at < 2 {
			return no
		}
		n := (int(h[at+1]) + 1) * 8
		switch next {
		case headerESP:
			has |= hasESP
			break walk
		case headerFragment:
			n = 8
		case headerAH:
			n = (int(h[at+1]) + 2) * 4
		}
		has |= bit
		next = h[at]
		at += n
		if at > len(h) {
			break
		}
	}
	if next != headerNone && next != headerESP {
		has |= hasProto
	}
	if m.Soft {
		invert := uint8(0)
		if m.Not {
			invert = 0xff
		}
		return answer((has^m.Headers^invert)&m.Headers == 0)
	}
	return answer((has == m.Headers) != m.Not)
}

// maxOptions bounds --hbh-opts and --dst-opts (IP6T_OPTS_OPTSNR).
const maxOptions = 16

// OptionsMatch is -m hbh and -m dst: the options of a hop-by-hop or destination header of IPv6. The options named must be
// the first ones, in this order.
type OptionsMatch struct {
	Len     uint32 // bytes of the header, with HasLen
	HasLen  bool
	LenNot  bool
	Options []uint16 // type in the upper byte, length in the lower, 255 for any
	module  string
}

// Name returns "hbh" or "dst".
func (m *OptionsMatch) Name() string { return m.module }

// AppendSave implements Extension.
func (m *OptionsMatch) AppendSave(b []byte) []byte {
	if m.HasLen {
		b = fmt.Appendf(appendNot(b, m.LenNot), " --%s-len %d", m.module, m.Len)
	}
	for k, o := range m.Options {
		if k == 0 {
			b = fmt.Appendf(b, " --%s-opts ", m.module)
		} else {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(o>>8), 10)
		if o&0xff != 0xff {
			b = strconv.AppendUint(append(b, ':'), uint64(o&0xff), 10)
		}
	}
	return b
}

func (m *OptionsMatch) compile(c *compiler) {
	c.ask(pred{op: opOptions, a: keep(&c.cur.options, *m)})
}

func optionsModule(name string) module {
	return module{name: name, family: IPv6, make: func() Extension { return &OptionsMatch{module: name} }, options: []option{
		{name + "-len", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			x := m.(*OptionsMatch)
			x.Len, x.HasLen, x.LenNot = uint32(rp.number(a[0], 1<<32-1)), true, not
		}},
		{name + "-opts", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			x, col := m.(*OptionsMatch), a[0].col
			for s := range strings.SplitSeq(a[0].text, ",") {
				kind, length, has := strings.Cut(s, ":")
				k, err := parseNumber(kind, 255)
				n := uint64(255)
				if err == nil && has {
					n, err = parseNumber(length, 255)
				}
				if err != nil {
					rp.fail(col, s, "an option's type, or type:length, up to 255 each", "")
					return
				}
				x.Options = append(x.Options, uint16(k<<8|n))
				col += len(s) + 1
			}
			if len(x.Options) > maxOptions {
				rp.fail(a[0].col, a[0].text, fmt.Sprintf("at most %d options", maxOptions), "")
			}
		}},
	}}
}

// test follows net/ipv6/netfilter/ip6t_hbh.c.
func (m *OptionsMatch) test(p *packet.Packet) outcome {
	want := uint8(headerHopByHop)
	if m.module == "dst" {
		want = headerDestination
	}
	at, o := findHeader(p, want)
	if o != yes {
		return o
	}
	h := p.Frame[at:p.End]
	n := (int(h[1]) + 1) * 8
	if len(h) < n {
		return short
	}
	ok := !m.HasLen || (uint32(n) == m.Len) != m.LenNot
	rest := len(h) // to the end of the packet
	i, left := 2, n-2
	for k, want := range m.Options {
		if left < 1 || i >= rest {
			return no
		}
		size := 1
		if h[i] != uint8(want>>8) {
			return no
		}
		if h[i] != 0 {
			if left < 2 || i+1 >= rest {
				return no
			}
			if l := uint8(want); l != 255 && l != h[i+1] {
				return no
			}
			size = int(h[i+1]) + 2
		}
		if (i > rest-size || left < size) && k < len(m.Options)-1 {
			return no
		}
		i += size
		left -= size
	}
	return answer(ok)
}

// MobilityMatch is -m mh: the type of a mobility header (RFC 6275).
type MobilityMatch struct {
	Lo, Hi uint8
	Not    bool
}

// mobilityTypes are the names of --mh-type, by number.
var mobilityTypes = [][2]string{
	{"binding-refresh-request", "brr"}, {"home-test-init", "hoti"}, {"careof-test-init", "coti"}, {"home-test", "hot"}, {"careof-test", "cot"},
	{"binding-update", "bu"}, {"binding-acknowledgement", "ba"}, {"binding-error", "be"},
}

// Name returns "mh".
func (m *MobilityMatch) Name() string { return "mh" }

// AppendSave implements Extension.
func (m *MobilityMatch) AppendSave(b []byte) []byte {
	if m.Lo == 0 && m.Hi == 255 && !m.Not {
		return b
	}
	return appendSpan(append(appendNot(b, m.Not), " --mh-type "...), uint64(m.Lo), uint64(m.Hi))
}

func (m *MobilityMatch) compile(c *compiler) {
	c.ask(pred{op: opMobility, not: m.Not, lo: uint16(m.Lo), hi: uint16(m.Hi)})
}

var mobilityModule = module{name: "mh", family: IPv6, protos: []uint8{headerMobility}, make: func() Extension { return &MobilityMatch{Hi: 255} }, options: []option{
	{"mh-type", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		parts := strings.SplitN(a[0].text, ":", 2)
		for k, s := range parts {
			for n, names := range mobilityTypes {
				if s == names[0] || s == names[1] {
					parts[k] = strconv.Itoa(n)
				}
			}
		}
		lo, hi, _ := rp.span(token{text: strings.Join(parts, ":"), col: a[0].col}, 255, "a type of mobility header or a range of types up to 255")
		x := m.(*MobilityMatch)
		x.Lo, x.Hi, x.Not = uint8(lo), uint8(hi), not
	}},
}}

// mobility follows net/ipv6/netfilter/ip6t_mh.c: what is not the last header of its packet is dropped.
func mobility(q *pred, p *packet.Packet) outcome {
	if p.Flags&packet.LaterFragment != 0 {
		return no
	}
	h := p.Frame[p.L4:p.End]
	if len(h) < 6 || h[0] != headerNone {
		return short
	}
	return answer((uint16(h[2]) >= q.lo && uint16(h[2]) <= q.hi) != q.not)
}
