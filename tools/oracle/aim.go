package main

import (
	"encoding/binary"
	"net/netip"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
	"corewire/rules"
)

// aim is a rule, with where it stands.
type aim struct {
	rule         *rules.Rule
	table, chain string
}

// aimed returns a shape that a rule at random matches, or misses by little. The rules that lead to its chain match as well
// as can be.
func (s *shaper) aimed() shape {
	x := s.any()
	if len(s.targets) == 0 {
		return x
	}
	a := s.targets[s.IntN(len(s.targets))]
	way := []aim{a}
	for range 8 {
		up := s.callers[way[len(way)-1].table+" "+way[len(way)-1].chain]
		if len(up) == 0 {
			break
		}
		way = append(way, up[s.IntN(len(up))])
	}
	for i := len(way) - 1; i >= 0; i-- {
		// Once in three times one condition of the rule aimed at is missed.
		miss := -1
		if i == 0 && s.one(3) {
			miss = s.IntN(6 + len(way[i].rule.Matches))
		}
		s.satisfy(&x, way[i].rule, miss)
	}
	return x
}

// satisfy changes a shape so that the rule matches, but for the condition with the number miss.
func (s *shaper) satisfy(x *shape, r *rules.Rule, miss int) {
	want := func(n int, not bool) bool { return (n != miss) != not }
	if r.Src.Set {
		x.src = s.inside(r.Src.Addr, r.Src.Mask, want(0, r.Src.Not))
		s.remember(x.src)
	}
	if r.Dst.Set {
		x.dst = s.inside(r.Dst.Addr, r.Dst.Mask, want(1, r.Dst.Not))
		s.remember(x.dst)
	}
	s.arrive(x, r.In, want(2, false), false)
	s.arrive(x, r.Out, want(3, false), true)
	if r.Proto.Num != 0 {
		if want(4, r.Proto.Not) {
			x.proto = r.Proto.Num
			if x.proto == 58 {
				x.proto = 1
			}
		} else if x.proto == r.Proto.Num || x.proto == 1 && r.Proto.Num == 58 {
			x.proto = pick[uint8](s, 6, 17, 132, r.Proto.Num+1, r.Proto.Num-1)
		}
	}
	for i, m := range r.Matches {
		want := func(not bool) bool { return want(6+i, not) }
		switch m := m.(type) {
		case *rules.TCPMatch:
			x.sport, x.dport = s.within(x.sport, m.Src, want), s.within(x.dport, m.Dst, want)
			if m.Flags.Set {
				x.hasFlags = true
				x.flags = x.flags&^m.Flags.Mask | m.Flags.Want
				if !want(m.Flags.Not) {
					x.flags ^= m.Flags.Mask & (1 << s.IntN(8))
				}
			}
			if k := m.Option.Kind; k != 0 {
				x.options = nil
				if want(m.Option.Not) {
					x.options = [][]byte{packettest.NOP(2 * s.IntN(2)), {k, 4, 5, 180}} // even: xt_TCPMSS spoils the checksum at an odd place
				}
			}
		case *rules.SPIMatch:
			x.spi = pick(s, m.Lo, m.Hi)
			if !want(m.Not) {
				x.spi = pick(s, m.Lo-1, m.Hi+1)
			}
			if m.Name() == "ah" && s.version == 6 {
				n := 24
				if m.Len >= 12 && m.Len < 64 && want(m.LenNot) {
					n = int(m.Len)
				}
				h := binary.BigEndian.AppendUint32([]byte{0, uint8(n/4 - 2), 0, uint8(s.IntN(3) / 2)}, x.spi)
				x.extend(51, append(h, make([]byte, n-8)...))
			}
		case *rules.FragMatch: // such as nobody puts together
			// A part of a datagram that never comes whole stays in the kernel for longer than its trial: no other has its
			// number.
			id := pick(s, m.Lo, m.Hi)
			switch {
			case m.Lo == 0 && m.Hi == 1<<32-1:
				id = s.Uint32()
			case !want(m.Not):
				id = pick(s, m.Lo-1, m.Hi+1)
			}
			h := binary.BigEndian.AppendUint32([]byte{0, uint8(s.IntN(5) / 4), 0, uint8(s.IntN(2)) | uint8(s.IntN(5)/4)<<1}, id)
			if s.one(2) {
				h[3] |= 8
			}
			if m.Last { // a datagram by itself that ends too soon stays as it is
				h[3], x.proto, x.payload = 0, 253, 0
			}
			x.extend(44, h)
		case *rules.HeadersMatch:
			bits := m.Headers
			if !want(m.Not) {
				bits ^= 1 << s.IntN(8)
			}
			x.exts, x.routing, x.headers = nil, nil, 0
			for k, proto := range []uint8{0: 0, 1: 0, 2: 0, 3: 51, 4: 44, 5: 43, 6: 60, 7: 0} { // in the order of the bits
				if bits>>k&1 == 0 {
					continue
				}
				switch {
				case k == 7:
					x.exts = append([]ext{{0, make([]byte, 8)}}, x.exts...)
				case k == 3:
					x.extend(51, []byte{0, 4, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
				case k == 4:
					x.extend(proto, binary.BigEndian.AppendUint32([]byte{0, 0, 0, 1}, s.Uint32()))
				case k >= 4:
					x.extend(proto, []byte{0, 0, 0, uint8(k / 4 & 1), 0, 0, 0, 9})
				case k == 1:
					x.proto = 59
				case k == 2:
					x.proto = 50
				}
			}
		case *rules.OptionsMatch:
			var body []byte
			for _, o := range m.Options {
				if body = append(body, uint8(o>>8)); o>>8 == 0 {
					continue
				}
				n := uint8(o)
				if n == 255 {
					n = uint8(s.IntN(4))
				}
				if s.one(6) {
					n++
				}
				body = append(append(body, n), make([]byte, n)...)
			}
			if len(body) > 0 && !want(false) {
				body[s.IntN(len(body))]++
			}
			h := append([]byte{0, 0}, body...)
			for len(h)%8 != 0 || m.HasLen && want(m.LenNot) && len(h) < int(m.Len) {
				h = append(h, 0)
			}
			h[1] = uint8(len(h)/8 - 1)
			if m.Name() == "hbh" {
				x.headers &^= 1
				x.exts = append([]ext{{0, h}}, x.exts...)
			} else {
				x.headers &^= 2
				x.extend(60, h)
			}
		case *rules.MobilityMatch:
			if x.mobility = pick(s, m.Lo, m.Hi); !want(m.Not) {
				x.mobility = pick(s, m.Lo-1, m.Hi+1)
			}
		case *rules.UDPMatch:
			x.sport, x.dport = s.within(x.sport, m.Src, want), s.within(x.dport, m.Dst, want)
		case *rules.PortsMatch:
			x.sport, x.dport = s.within(x.sport, m.Src, want), s.within(x.dport, m.Dst, want)
			if c := m.Chunks; c != nil {
				x.chunks = s.chunks(c)
			}
			if m.Name() == "dccp" {
				s.dccp(x, &m.DCCP)
			}
		case *rules.MultiportMatch:
			q := m.Ports[s.IntN(len(m.Ports))]
			q.Not = m.Not
			if m.Side == rules.PortSource || m.Side == rules.PortEither && s.one(2) {
				x.sport = s.within(x.sport, q, want)
			} else {
				x.dport = s.within(x.dport, q, want)
			}
		case *rules.ICMPMatch:
			if want(m.Not) && !m.Any {
				x.typ, x.code = m.Type, m.MinCode
				if m.MaxCode > m.MinCode {
					x.code += uint8(s.IntN(int(m.MaxCode-m.MinCode) + 1))
				}
			} else if m.MaxCode < 255 {
				x.code = m.MaxCode + 1
			}
		case *rules.IPRangeMatch:
			if m.Src.Set {
				x.src = s.between(m.Src, want(m.Src.Not))
				s.remember(x.src)
			}
			if m.Dst.Set {
				x.dst = s.between(m.Dst, want(m.Dst.Not))
				s.remember(x.dst)
			}
		case *rules.LengthMatch:
			n := int(pick(s, m.Lo, m.Hi))
			if !want(m.Not) {
				n = pick(s, int(m.Lo)-1, int(m.Hi)+1)
			}
			x.payload = -n // the length of the datagram
		case *rules.TTLMatch:
			x.ttl = m.Value
			if v := want(m.Compare == rules.NotEqual); !v || m.Compare == rules.Less || m.Compare == rules.Greater {
				x.ttl = pick(s, m.Value-1, m.Value, m.Value+1)
			}
		case *rules.TOSMatch:
			x.tos = x.tos&^m.Mask | m.Value
			if !want(m.Not) {
				x.tos ^= 1 << s.IntN(8)
			}
		case *rules.ECNMatch:
			if m.ECT {
				x.tos = x.tos&^3 | m.Codepoint
				if !want(m.NotECT) {
					x.tos ^= 1
				}
			}
			if m.ECE || m.CWR {
				x.hasFlags = true
				x.flags ^= pick[uint8](s, 0, packettest.ECE, packettest.CWR, packettest.ECE|packettest.CWR)
			}
		case *rules.MACMatch:
			if x.source = m.Addr; !want(m.Not) {
				x.source[5]++
			}
			x.source[0] &^= 1
		case *rules.AddrTypeMatch:
			if s.one(2) {
				x.src = s.special()
			}
			if s.one(2) {
				x.dst = s.special()
			}
		case *rules.MSSMatch:
			v := pick(s, m.Lo, m.Hi)
			if !want(m.Not) {
				v = pick(s, m.Lo-1, m.Hi+1)
			}
			x.options = [][]byte{packettest.MSS(v)}
		case *rules.StringMatch:
			if x.text = nil; want(m.Not) {
				x.text, x.bm = []byte(m.Text), m.Algo == "bm"
				x.payload = max(x.payload, len(x.text)+s.IntN(40))
			}
		case *rules.RoutingMatch:
			if x.routing = nil; !s.one(4) {
				x.routing = append([]byte{byte(m.Type), byte(m.SegsLo)}, make([]byte, []int{4, 20, 12}[s.IntN(3)])...)
				if !want(m.TypeNot) {
					x.routing[0]++
				}
				if s.one(3) {
					x.routing[5] = 1
				}
				if m.Addrs != nil {
					x.routing = x.routing[:6]
				}
				for _, a := range m.Addrs {
					for m.Loose && s.one(3) {
						x.hop(s.addr())
					}
					if !s.one(9) {
						x.hop(a.Netip6())
					}
				}
			}
		case *rules.SegmentMatch:
			if x.routing = nil; s.one(9) {
				break
			}
			n := 1 + s.IntN(3)
			x.routing = []byte{4 - uint8(s.IntN(9)/8), uint8(s.IntN(n + 1)), uint8(s.IntN(n + 1)), 0, uint8(m.Tag), uint8(m.Tag >> 8)}
			if s.one(4) {
				x.routing[4+s.IntN(2)]++
			}
			for i := range n {
				hop := s.addr()
				for k, place := range []int{int(x.routing[1]) + 1, int(x.routing[1]) - 1, 0} {
					if place == i && m.HasSegment[k] && !s.one(4) {
						hop = s.inside(m.Segment[k].Addr, m.Segment[k].Mask, want(m.Segment[k].Not))
					}
				}
				x.hop(hop)
			}
			if m.HasNext && want(m.NextNot) {
				if x.proto = m.Next; x.proto == 58 {
					x.proto = 1
				}
			}
		case *rules.EUI64Match:
			a := x.src.As16()
			copy(a[8:], []byte{x.source[0] ^ 2, x.source[1], x.source[2], 0xff, 0xfe, x.source[3], x.source[4], x.source[5]})
			if !want(false) {
				a[8+s.IntN(8)] ^= 2
			}
			x.src = netip.AddrFrom16(a)
		case *rules.CPIMatch:
			if x.spi = pick(s, m.Lo, m.Hi); !want(m.Not) {
				x.spi = pick(s, m.Lo-1, m.Hi+1)
			}
		case *rules.SetMatch:
			if !s.one(4) {
				s.belong(x, m.SetName.Name, m.Src)
			}
		case *rules.PhysdevMatch:
			s.arrive(x, m.In, want(false), false)
			s.arrive(x, m.Out, want(false), true)
		case *rules.ConntrackMatch:
			for _, a := range []struct {
				at    *netip.Addr
				m     rules.AddrMatch
				reply bool
			}{{&x.src, m.OrigSrc, false}, {&x.dst, m.OrigDst, false}, {&x.dst, m.ReplSrc, true}, {&x.src, m.ReplDst, true}} {
				if a.m.Set {
					*a.at = s.inside(a.m.Addr, a.m.Mask, want(a.m.Not))
				}
			}
			x.sport, x.dport = s.within(x.sport, m.OrigSrcPort, want), s.within(x.dport, m.OrigDstPort, want)
			x.dport, x.sport = s.within(x.dport, m.ReplSrcPort, want), s.within(x.sport, m.ReplDstPort, want)
		}
	}
}

// dccp makes a DCCP packet of a type that a rule names, with options, of which the header may say that they are cut off.
func (s *shaper) dccp(x *shape, m *rules.DCCPMatch) {
	x.kind = uint8(s.IntN(16))
	for k := range uint8(16) {
		if m.Types>>k&1 == 1 && s.one(2) {
			x.kind = k
		}
	}
	n := []int{4, 12, 0, 8, 8, 8, 8, 12, 8, 8, 12, 12, 12, 12, 12, 12}[x.kind] // of the type
	x.dccpHeader = make([]byte, n)
	for range s.IntN(4) {
		o := pick(s, m.Option.Kind, uint8(s.IntN(3)), 44)
		if x.dccpHeader = append(x.dccpHeader, o); o > 1 {
			x.dccpHeader = append(x.dccpHeader, uint8(s.IntN(4)), 0)
		}
	}
	for len(x.dccpHeader)%4 != 0 {
		x.dccpHeader = append(x.dccpHeader, 0)
	}
	x.offset = uint8(4 + len(x.dccpHeader)/4)
	if s.one(9) {
		x.offset += uint8(s.IntN(60)) - 3
	}
}

// chunks returns chunks of which some are those that a rule names. One may be empty or cut off.
func (s *shaper) chunks(c *rules.ChunkMatch) []byte {
	var named []uint8
	for k := range 256 {
		if c.Types[k>>5]>>(k&31)&1 != 0 {
			named = append(named, uint8(k))
		}
	}
	var b []byte
	add := func(typ uint8) {
		flags := uint8(s.IntN(8))
		for _, f := range c.Flags {
			if f.Type == typ && !s.one(4) {
				flags = flags&^f.Mask | f.Want
			}
		}
		n := 16
		if typ != 1 {
			n = s.IntN(6)
		}
		at := len(b)
		if b = append(b, packettest.SCTPChunk(typ, flags, make([]byte, n))...); s.one(30) {
			b[at+2], b[at+3] = 0, uint8(s.IntN(5))
		}
	}
	if len(named) > 8 || s.one(3) {
		named = []uint8{pick[uint8](s, 0, 1, 3, 6, 9)}
	}
	for _, typ := range named {
		if !s.one(6) {
			add(typ)
		}
	}
	if s.one(4) || len(b) == 0 {
		add(pick[uint8](s, 0, 1, 3, 6, 9))
	}
	return b
}

// remember keeps an address for later frames.
func (s *shaper) remember(a netip.Addr) {
	if len(s.addrs) < 64 {
		s.addrs = append(s.addrs, a)
	}
}

// special returns an address of a type of its own.
func (s *shaper) special() netip.Addr {
	list := []string{"127.0.0.1", "127.255.255.255", "224.0.0.5", "239.1.2.3", "10.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1", "169.254.1.1"}
	if s.version == 6 {
		list = []string{"::1", "ff02::1", "ff0e::5", "2001:db8::1", "::", "fe80::1", "fc00::1"}
	}
	return netip.MustParseAddr(list[s.IntN(len(list))])
}

// netipOf returns an address of the shaper's version.
func (s *shaper) netipOf(a packet.Addr) netip.Addr {
	if s.version == 4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(a.Lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	if a := netip.AddrFrom16(b); !a.Is4In6() { // packettest takes these for IPv4
		return a
	}
	return netip.MustParseAddr("2001:db8::ffff")
}

// inside returns an address under a mask, often one at its bounds, or one that is not under it.
func (s *shaper) inside(addr, mask packet.Addr, in bool) netip.Addr {
	fill := pick(s, packet.Addr{}, packet.Addr{Hi: 1<<64 - 1, Lo: 1<<64 - 1}, packet.Addr{Hi: s.Uint64(), Lo: s.Uint64()})
	a := packet.Addr{Hi: addr.Hi&mask.Hi | fill.Hi&^mask.Hi, Lo: addr.Lo&mask.Lo | fill.Lo&^mask.Lo}
	if in {
		return s.netipOf(a)
	}
	// One of the lowest bits of the mask is turned: the address next to the network.
	if m := mask.Lo; m != 0 && (s.version == 4 && uint32(m) != 0 || s.version == 6) {
		a.Lo ^= m & -m
	} else if mask.Hi != 0 {
		a.Hi ^= mask.Hi & -mask.Hi
	}
	return s.netipOf(a)
}

// between returns an address of a range, at its bounds, or just outside.
func (s *shaper) between(r rules.AddrRange, in bool) netip.Addr {
	lo, hi := s.netipOf(r.Lo), s.netipOf(r.Hi)
	if in {
		return pick(s, lo, hi)
	}
	if a := lo.Prev(); a.IsValid() && s.one(2) {
		return a
	}
	if a := hi.Next(); a.IsValid() {
		return a
	}
	return lo
}

// within returns a port that a range takes, at its bounds, or one just outside. A range that takes everything leaves the
// port as it is.
func (s *shaper) within(port uint16, r rules.PortRange, want func(bool) bool) uint16 {
	if r.Lo == 0 && r.Hi == 65535 && !r.Not || r.Lo == 0 && r.Hi == 0 && !r.Not && s.one(2) {
		return port
	}
	v := pick(s, r.Lo, r.Hi, r.Lo+uint16(s.IntN(int(r.Hi-r.Lo)+1)))
	if !want(r.Not) {
		v = pick(s, r.Lo-1, r.Hi+1)
	}
	if len(s.ports) < 64 {
		s.ports = append(s.ports, v)
	}
	return v
}

// arrive chooses the port by which the packet comes in, so that it uses an interface, or not.
func (s *shaper) arrive(x *shape, m rules.InterfaceMatch, in, out bool) {
	if m.Name == "" {
		return
	}
	for p := range packet.Port(packet.Ports) {
		name := [2]string{s.opt.InsideName, s.opt.OutsideName}[p]
		hit := m.Name == name || m.Name == p.String()
		if n := len(m.Name) - 1; m.Name[n] == '+' {
			hit = len(name) >= n && name[:n] == m.Name[:n] || len(p.String()) >= n && p.String()[:n] == m.Name[:n]
		}
		if (hit != m.Not) == in {
			x.in = p
			if out {
				x.in = p.Other()
			}
			if s.one(2) {
				return
			}
		}
	}
}
