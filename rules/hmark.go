package rules

import (
	"encoding/binary"
	"fmt"
	"strings"

	"corewire/internal/packet"
)

// HashMarkTarget is -j HMARK: it makes the packet's mark of a hash of its addresses, ports and protocol.
type HashMarkTarget struct {
	Conn               bool        // --hmark-tuple ct: those of the connection
	Src, Dst           packet.Addr // masks
	Ports              [2]uint16   // masks; --hmark-spi-mask is both, as 32 bits
	SetPorts           [2]uint16   // bits that are set in ports; --hmark-spi likewise
	Proto              uint16      // mask
	Seed, Modulus, Add uint32
	given              uint16 // by hmark… below, what was given and is printed
}

// What a HMARK target was given.
const (
	hmarkSrc = 1 << iota
	hmarkDst
	hmarkSport
	hmarkDport
	hmarkSPI
	hmarkSetSport
	hmarkSetDport
	hmarkSetSPI
	hmarkProto
	hmarkSeed
	hmarkModulus
	hmarkAdd
	hmarkConn
)

var hmarkTarget = module{name: "HMARK", family: Both, make: func() Extension { return &HashMarkTarget{} }, options: []option{
	{"hmark-tuple", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*HashMarkTarget).tuple(rp, a[0]) }},
	{"hmark-src-prefix", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t := m.(*HashMarkTarget)
		t.Src = rp.addressMask(a[0])
		t.given |= hmarkSrc
	}},
	{"hmark-dst-prefix", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t := m.(*HashMarkTarget)
		t.Dst = rp.addressMask(a[0])
		t.given |= hmarkDst
	}},
	hmarkPort("hmark-sport-mask", 4, hmarkSport, func(t *HashMarkTarget) *uint16 { return &t.Ports[0] }),
	hmarkPort("hmark-dport-mask", 5, hmarkDport, func(t *HashMarkTarget) *uint16 { return &t.Ports[1] }),
	hmarkBoth("hmark-spi-mask", 6, hmarkSPI, func(t *HashMarkTarget) *[2]uint16 { return &t.Ports }),
	hmarkPort("hmark-sport", 7, hmarkSetSport, func(t *HashMarkTarget) *uint16 { return &t.SetPorts[0] }),
	hmarkPort("hmark-dport", 8, hmarkSetDport, func(t *HashMarkTarget) *uint16 { return &t.SetPorts[1] }),
	hmarkBoth("hmark-spi", 9, hmarkSetSPI, func(t *HashMarkTarget) *[2]uint16 { return &t.SetPorts }),
	hmarkPort("hmark-proto-mask", 10, hmarkProto, func(t *HashMarkTarget) *uint16 { return &t.Proto }),
	hmarkWord("hmark-rnd", 11, hmarkSeed, func(t *HashMarkTarget) *uint32 { return &t.Seed }),
	hmarkWord("hmark-mod", 12, hmarkModulus, func(t *HashMarkTarget) *uint32 { return &t.Modulus }),
	hmarkWord("hmark-offset", 13, hmarkAdd, func(t *HashMarkTarget) *uint32 { return &t.Add }),
}, finish: func(rp *ruleParser, l *loaded) {
	t := l.m.(*HashMarkTarget)
	has := func(what uint16) bool { return t.given&what != 0 }
	switch {
	case !has(hmarkModulus) || t.Modulus == 0:
		rp.fail(l.col, "-j HMARK", "--hmark-mod of at least 1 after -j HMARK", "")
	case !has(hmarkSeed):
		rp.fail(l.col, "-j HMARK", "--hmark-rnd after -j HMARK", "")
	case has(hmarkSPI) && has(hmarkSport|hmarkDport):
		rp.fail(l.col, "--hmark-spi-mask", "either it or masks of ports", "")
	case has(hmarkSetSPI) && has(hmarkSetSport|hmarkSetDport):
		rp.fail(l.col, "--hmark-spi", "either it or ports", "")
	case !has(hmarkSrc | hmarkDst | hmarkSport | hmarkDport | hmarkSPI | hmarkProto | hmarkConn):
		rp.fail(l.col, "-j HMARK", "--hmark-tuple after -j HMARK", "")
	}
}}

func hmarkPort(name string, id uint8, what uint16, at func(*HashMarkTarget) *uint16) option {
	return option{name, id, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t := m.(*HashMarkTarget)
		*at(t) = uint16(rp.number(a[0], 65535))
		t.given |= what
	}}
}

func hmarkWord(name string, id uint8, what uint16, at func(*HashMarkTarget) *uint32) option {
	return option{name, id, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t := m.(*HashMarkTarget)
		*at(t) = uint32(rp.number(a[0], 1<<32-1))
		t.given |= what
	}}
}

func hmarkBoth(name string, id uint8, what uint16, at func(*HashMarkTarget) *[2]uint16) option {
	return option{name, id, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t := m.(*HashMarkTarget)
		v := uint32(rp.number(a[0], 1<<32-1))
		*at(t) = [2]uint16{uint16(v >> 16), uint16(v)}
		t.given |= what
	}}
}

// tuple reads --hmark-tuple: names of fields that are hashed whole, or their beginnings, the first that fits as iptables has
// them.
func (t *HashMarkTarget) tuple(rp *ruleParser, a token) {
	all := packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0)}
	col := a.col
	for s := range strings.SplitSeq(a.text, ",") {
		known := false
		for _, f := range []struct {
			name string
			set  func()
		}{
			{"ct", func() { t.Conn, t.given = true, t.given|hmarkConn }},
			{"src", func() { t.Src, t.given = all, t.given|hmarkSrc }},
			{"dst", func() { t.Dst, t.given = all, t.given|hmarkDst }},
			{"sport", func() { t.Ports[0], t.given = 0xffff, t.given|hmarkSport }},
			{"dport", func() { t.Ports[1], t.given = 0xffff, t.given|hmarkDport }},
			{"proto", func() { t.Proto, t.given = 0xffff, t.given|hmarkProto }},
			{"spi", func() { t.Ports, t.given = [2]uint16{0xffff, 0xffff}, t.given|hmarkSPI }},
		} {
			if s != "" && strings.HasPrefix(f.name, strings.ToLower(s)) {
				f.set()
				known = true
				break
			}
		}
		if !known {
			rp.fail(col, s, "fields to hash: ct, src, dst, sport, dport, proto, spi", "")
			return
		}
		col += len(s) + 1
	}
}

// addressMask reads a length of a prefix or a mask. What is for one IP version only makes the rule one for it. Of IPv4 the mask
// is in the last 32 bits, the others are set.
func (rp *ruleParser) addressMask(a token) packet.Addr {
	f := rp.rule.Family
	if f == Both {
		f = IPv4
		if v, err := parseNumber(a.text, 128); err == nil && v > 32 || strings.Contains(a.text, ":") {
			f = IPv6
		}
	}
	any := "0.0.0.0/"
	if f == IPv6 {
		any = "::/"
	}
	m, _, ok := rp.address(token{text: any + a.text, col: a.col - len(any)})
	if !ok {
		return packet.Addr{}
	}
	n := maskLen(m.Mask)
	if want := prefixMask(n-map[Family]int{IPv4: 96, IPv6: 0}[f], map[Family]int{IPv4: 32, IPv6: 128}[f]); want.Lo != m.Mask.Lo || f == IPv6 && want.Hi != m.Mask.Hi {
		rp.fail(a.col, a.text, "the mask of a prefix", "")
	}
	if rp.rule.Family == Both {
		rp.restrict(f, a.col, a.text)
	}
	return m.Mask
}

// Name returns "HMARK".
func (t *HashMarkTarget) Name() string { return "HMARK" }

// prefix returns the length of a mask as it is printed for the rule's IP version.
func (t *HashMarkTarget) prefix(mask packet.Addr, f Family) int {
	n := maskLen(mask)
	if f == IPv4 {
		n -= 96
	}
	return n
}

// appendSaveOf implements versionSaver. In a rule for both versions masks are whole, for a length would be that of one.
func (t *HashMarkTarget) appendSaveOf(b []byte, f Family) []byte {
	has := func(what uint16) bool { return t.given&what != 0 }
	both := func(v [2]uint16) uint32 { return uint32(v[0])<<16 | uint32(v[1]) }
	var tuple []string
	for _, x := range []struct {
		what uint16
		name string
		mask packet.Addr
	}{{hmarkSrc, "src", t.Src}, {hmarkDst, "dst", t.Dst}} {
		switch {
		case !has(x.what):
		case f == Both:
			tuple = append(tuple, x.name)
		default:
			b = fmt.Appendf(b, " --hmark-%s-prefix %d", x.name, t.prefix(x.mask, f))
		}
	}
	for _, x := range []struct {
		what   uint16
		format string
		value  uint32
	}{
		{hmarkSport, " --hmark-sport-mask 0x%04x", uint32(t.Ports[0])}, {hmarkDport, " --hmark-dport-mask 0x%04x", uint32(t.Ports[1])},
		{hmarkSPI, " --hmark-spi-mask 0x%08x", both(t.Ports)}, {hmarkSetSport, " --hmark-sport 0x%04x", uint32(t.SetPorts[0])},
		{hmarkSetDport, " --hmark-dport 0x%04x", uint32(t.SetPorts[1])}, {hmarkSetSPI, " --hmark-spi 0x%08x", both(t.SetPorts)},
		{hmarkProto, " --hmark-proto-mask 0x%02x", uint32(t.Proto)}, {hmarkSeed, " --hmark-rnd 0x%08x", t.Seed},
		{hmarkModulus, " --hmark-mod %d", t.Modulus}, {hmarkAdd, " --hmark-offset %d", t.Add},
	} {
		if has(x.what) {
			b = fmt.Appendf(b, x.format, x.value)
		}
	}
	if has(hmarkConn) {
		tuple = append(tuple, "ct")
	}
	if tuple != nil {
		b = append(append(b, " --hmark-tuple "...), strings.Join(tuple, ",")...)
	}
	return b
}

// AppendSave implements Extension.
func (t *HashMarkTarget) AppendSave(b []byte) []byte { return t.appendSaveOf(b, Both) }

// appendListOf implements versionLister.
func (t *HashMarkTarget) appendListOf(b []byte, f Family) []byte {
	has := func(what uint16) bool { return t.given&what != 0 }
	b = fmt.Appendf(b, " HMARK mod %d ", t.Modulus)
	if has(hmarkAdd) {
		b = fmt.Appendf(b, "+ %#x ", t.Add)
	}
	if has(hmarkConn) {
		b = append(b, "ct, "...)
	}
	for _, x := range []struct {
		what uint16
		name string
		mask packet.Addr
	}{{hmarkSrc, "src-prefix", t.Src}, {hmarkDst, "dst-prefix", t.Dst}} {
		if !has(x.what) {
			continue
		}
		n := t.prefix(x.mask, f)
		if b = append(append(b, x.name...), ' '); n < 128 { // of IPv6 a whole address is printed as nothing
			b = fmt.Appendf(b, "%d", n)
		}
		b = append(b, ' ')
	}
	for _, x := range []struct {
		what  uint16
		name  string
		value uint32
	}{
		{hmarkSport, "sport-mask", uint32(t.Ports[0])}, {hmarkDport, "dport-mask", uint32(t.Ports[1])}, {hmarkSPI, "spi-mask", uint32(t.Ports[0])<<16 | uint32(t.Ports[1])},
		{hmarkSetSport, "sport", uint32(t.SetPorts[0])}, {hmarkSetDport, "dport", uint32(t.SetPorts[1])}, {hmarkSetSPI, "spi", uint32(t.SetPorts[0])<<16 | uint32(t.SetPorts[1])},
		{hmarkProto, "proto-mask", uint32(t.Proto)}, {hmarkSeed, "rnd", t.Seed},
	} {
		if has(x.what) {
			b = fmt.Appendf(b, "%s %#x ", x.name, x.value)
		}
	}
	return b
}

func (t *HashMarkTarget) compile(c *compiler) effect {
	c.rs.needs |= NeedMark
	if t.Conn {
		c.rs.needs |= NeedDir
	}
	return effect{kind: effectHash, value: keep(&c.cur.hashMarks, *t)}
}

// hmarkTuple is what is hashed.
type hmarkTuple struct {
	src, dst uint32
	ports    uint32
	proto    uint8
}

// mark returns the mark of a packet; false when it stays as it is. It follows net/netfilter/xt_HMARK.c.
func (t *HashMarkTarget) mark(p *packet.Packet, c *Context) (uint32, bool) {
	var x hmarkTuple
	ok := true
	switch {
	case t.Conn:
		ok = t.ofConnection(&x, p, c)
	case p.Family == 4:
		ok = t.ofIPv4(&x, p.Frame[p.L3:p.End])
	default:
		ok = t.ofIPv6(&x, p.Frame[p.L3:p.End])
	}
	hash := jhash3(min(x.src, x.dst), max(x.src, x.dst), x.ports, t.Seed, 3) ^ uint32(uint16(x.proto)&t.Proto)
	return scale(hash, t.Modulus) + t.Add, ok
}

// masked returns an address under a mask: that of IPv4, or the words of IPv6 together.
func (x *hmarkTuple) masked(a, mask packet.Addr, family uint8) uint32 {
	if family == 4 {
		return uint32(a.Lo & mask.Lo)
	}
	w := a.Hi&mask.Hi ^ a.Lo&mask.Lo
	return uint32(w>>32) ^ uint32(w)
}

// put writes two ports, or what stands in their place, the greater first.
func (t *HashMarkTarget) put(x *hmarkTuple, src, dst uint16) {
	src, dst = src&t.Ports[0]|t.SetPorts[0], dst&t.Ports[1]|t.SetPorts[1]
	x.ports = uint32(max(src, dst))<<16 | uint32(min(src, dst))
}

// ofConnection reads what the packet's connection began with.
func (t *HashMarkTarget) ofConnection(x *hmarkTuple, p *packet.Packet, c *Context) bool {
	if c.State == Invalid || c.State == Untracked {
		return false
	}
	k := tupleOf(p, c)
	proto := p.Key.Proto
	x.src, x.dst = x.masked(k.addr(0), t.Src, p.Family), x.masked(k.addr(2), t.Dst, p.Family)
	if x.proto = proto; proto == protoICMP {
		return true
	}
	src, dst := k.port(0, proto), k.port(2, proto)
	if !keyed(proto) && proto != packet.ProtoGRE {
		src, dst = 0, 0
	}
	t.put(x, src, dst)
	return true
}

// ofIPv4 reads a datagram, or the one that an ICMP error quotes.
func (t *HashMarkTarget) ofIPv4(x *hmarkTuple, d []byte) bool {
	size := int(d[0]&15) * 4
	if d[9] == protoICMP && len(d) >= size+8 {
		switch d[size] {
		case 3, 4, 5, 11, 12:
			if d = d[size+8:]; len(d) < 20 {
				return false
			}
			size = int(d[0]&15) * 4
		}
	}
	x.src = binary.BigEndian.Uint32(d[12:]) & uint32(t.Src.Lo)
	x.dst = binary.BigEndian.Uint32(d[16:]) & uint32(t.Dst.Lo)
	if x.proto = d[9]; x.proto == protoICMP || binary.BigEndian.Uint16(d[6:])&0x3fff != 0 {
		return true
	}
	t.ports(x, d, size)
	return true
}

// ports reads ports behind so many bytes.
func (t *HashMarkTarget) ports(x *hmarkTuple, d []byte, at int) {
	n := portsOffset(x.proto)
	if n < 0 || len(d) < at+n+4 {
		return
	}
	t.put(x, binary.BigEndian.Uint16(d[at+n:]), binary.BigEndian.Uint16(d[at+n+2:]))
}

// ofIPv6 is ofIPv4 for IPv6. A packet whose headers cannot be followed is hashed as one of zeros.
func (t *HashMarkTarget) ofIPv6(x *hmarkTuple, d []byte) bool {
	at, next, fragment, ok := lastHeader(d)
	if !ok {
		return true
	}
	if !fragment && next == protoICMPv6 && len(d) >= at+8 && d[at] > 0 && d[at] < 128 {
		if d = d[at+8:]; len(d) < 40 || d[0]>>4 != 6 {
			return false
		}
		if at, next, fragment, ok = lastHeader(d); !ok {
			return false
		}
	}
	addr := func(at int) packet.Addr {
		return packet.Addr{Hi: binary.BigEndian.Uint64(d[at:]), Lo: binary.BigEndian.Uint64(d[at+8:])}
	}
	x.src, x.dst = x.masked(addr(8), t.Src, 6), x.masked(addr(24), t.Dst, 6)
	if x.proto = next; next == protoICMPv6 || fragment {
		return true
	}
	t.ports(x, d, at)
	return true
}

// lastHeader walks over IPv6 extension headers as ipv6_find_hdr does that looks for the transport header, and takes an
// authentication header for one. fragment says that a fragment header was on the way.
func lastHeader(d []byte) (at int, next uint8, fragment, ok bool) {
	at, next = 40, d[6]
	for {
		switch next {
		case headerHopByHop, headerRouting, headerDestination:
			if len(d) < at+2 || next == headerRouting && len(d) < at+4 {
				return 0, 0, false, false
			}
			next, at = d[at], at+(int(d[at+1])+1)*8
		case headerFragment:
			if len(d) < at+4 {
				return 0, 0, false, false
			}
			fragment = true
			later := binary.BigEndian.Uint16(d[at+2:])&^7 != 0
			next, at = d[at], at+8
			if later {
				switch next {
				case headerHopByHop, headerRouting, headerDestination, headerFragment, headerAH:
					return 0, 0, false, false
				}
				return at, next, true, true
			}
		case headerAH:
			return at, next, fragment, len(d) >= at+2
		default:
			return at, next, fragment, true
		}
	}
}
