package rules

import (
	"encoding/binary"
	"math/big"
	"net/netip"

	"corewire/internal/packet"
)

// rare is linear.rule for matches that few rule sets have; false when it does not know them.
func (l *linear) rare(m Match, th []byte, p *packet.Packet, c *Context, hotdrop *bool) (hit, known bool) {
	has := func(n int) bool {
		if p.Flags&packet.LaterFragment != 0 {
			return false
		}
		*hotdrop = *hotdrop || len(th) < n
		return len(th) >= n
	}
	switch m := m.(type) {
	case *RoutingMatch:
		return l.routing(m, p, hotdrop), true
	case *SegmentMatch:
		return l.segments(m, p), true
	case *EUI64Match:
		mac := p.Frame[6:12]
		src := p.Src.Netip6().As16()
		return string(src[8:]) == string([]byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}), true
	case *CPIMatch:
		if !has(4) {
			return false, true
		}
		v := uint32(th[2])*256 + uint32(th[3])
		return (v >= m.Lo && v <= m.Hi) != m.Not, true
	case *ClusterMatch:
		if c.State == Invalid || c.State == Untracked {
			return false, true
		}
		src := c.Master.Netip6().As16()
		if c.Status&1 == 0 {
			first, _ := l.began(p, c)
			src = first.Netip6().As16()
		}
		from := src[:4]
		if l.fam == IPv4 {
			from = src[12:]
		}
		node := new(big.Int).Mul(big.NewInt(int64(jenkins(from, m.Seed))), big.NewInt(int64(m.Total)))
		return (m.Nodes>>node.Rsh(node, 32).Uint64()&1 == 1) != m.Not, true
	case *PolicyMatch:
		return !m.IPsec, true
	case *AbsentMatch:
		return m.Holds, true // TestAbsent
	case *AccountMatch:
		return true, true
	case *BPFMatch:
		return runBPF(m.Program, p, c) != 0, true
	}
	return false, false
}

// dccp is what -m dccp asks beside ports.
func (l *linear) dccp(m *DCCPMatch, th []byte, hotdrop *bool) bool {
	kind := th[8] / 2 % 16
	if m.HasTypes && (m.Types>>kind&1 == 1) == m.TypeNot {
		return false
	}
	if m.Option.Kind == 0 {
		return true
	}
	size := map[uint8]int{0: 16, 1: 24, 2: 12, 3: 20, 4: 20, 5: 20, 6: 20, 7: 24, 8: 20, 9: 20}[kind]
	if size == 0 {
		size = 24
	}
	if th[8]%2 == 1 {
		size += 4
	}
	end := 4 * int(th[4])
	if end < size || end > size && end > len(th) {
		*hotdrop = true
		return m.Option.Not
	}
	found := false
	for o := th[min(size, len(th)):min(end, len(th))]; len(o) > 0 && !found; {
		found = o[0] == m.Option.Kind
		step := 1
		if o[0] >= 2 && len(o) > 1 && o[1] != 0 {
			step = int(o[1])
		}
		o = o[min(step, len(o)):]
	}
	return found != m.Option.Not
}

func (l *linear) routing(m *RoutingMatch, p *packet.Packet, hotdrop *bool) bool {
	h, ok := l.header(p, 43, hotdrop)
	if !ok {
		return false
	}
	n := 8 * (int(h[1]) + 1)
	if n > len(h) {
		*hotdrop = true
		return false
	}
	left := uint32(h[3])
	if (left >= m.SegsLo && left <= m.SegsHi) == m.SegsNot || m.HasType && (uint32(h[2]) == m.Type) == m.TypeNot ||
		m.HasLen && (uint32(n) == m.Len) == m.LenNot || m.Reserved && string(h[4:8]) != "\x00\x00\x00\x00" {
		return false
	}
	if m.Addrs == nil {
		return true
	}
	var have []packet.Addr
	for o := 8; o+16 <= n; o += 16 {
		have = append(have, packet.AddrFrom(netip.AddrFrom16([16]byte(h[o:]))))
	}
	if !m.Loose {
		if len(have) != len(m.Addrs) {
			return false
		}
		for i := range have {
			if have[i] != m.Addrs[i] {
				return false
			}
		}
		return true
	}
	for _, want := range m.Addrs {
		at := 0
		for at < len(have) && have[at] != want {
			at++
		}
		if at == len(have) {
			return false
		}
		have = have[at+1:]
	}
	return true
}

func (l *linear) segments(m *SegmentMatch, p *packet.Packet) bool {
	var broken bool
	h, ok := l.header(p, 43, &broken)
	if !ok || len(h) < 8 || len(h) < 8*(int(h[1])+1) || h[2] != 4 || h[3] > h[4] {
		return false
	}
	if m.HasNext && (h[0] == m.Next) == m.NextNot || m.HasTag && (m.Tag == uint16(h[6])+256*uint16(h[7])) == m.TagNot {
		return false
	}
	for n, v := range map[int]int{0: int(h[1]), 1: int(h[3]), 2: int(h[4])} {
		w := int(m.Value[n])
		for k, hit := range map[int]bool{0: v == w, 1: v > w, 2: v < w} {
			if m.Compare[n][k] && hit == m.CompareNot[n][k] {
				return false
			}
		}
	}
	for n, at := range map[int]int{0: int(h[3]) + 1, 1: int(h[3]) - 1, 2: 0} {
		if !m.HasSegment[n] {
			continue
		}
		if at < 0 || at > int(h[4]) && n == 0 || 8+16*at+16 > len(h) {
			return false
		}
		want, mask, hit := bytesOf(m.Segment[n].Addr), bytesOf(m.Segment[n].Mask), true
		for i, b := range h[8+16*at:][:16] {
			hit = hit && b&mask[i] == want[i]&mask[i]
		}
		if hit == m.Segment[n].Not {
			return false
		}
	}
	return true
}

// began returns the ends of the packet's connection as it began.
func (l *linear) began(p *packet.Packet, c *Context) (src, dst packet.Addr) {
	src, dst = p.Src, p.Dst
	if p.Flags&packet.ICMPError != 0 {
		q := packet.Packet{In: p.In}
		if !p.Quoted(&q) {
			panic("an error without a quotation")
		}
		src, dst = q.Dst, q.Src
	}
	if c.Dir == Reply {
		src, dst = dst, src
	}
	return src, dst
}

// jenkins is Bob Jenkins' lookup3 of at most three words, as jhash2 in Linux has it, of bytes as they stand in memory.
func jenkins(b []byte, seed uint32) uint32 {
	n := uint32(len(b) / 4)
	s := [3]uint32{0xdeadbeef + n*4 + seed, 0xdeadbeef + n*4 + seed, 0xdeadbeef + n*4 + seed}
	turn := func(v uint32, k uint) uint32 { return v*(1<<k) + v/(1<<(32-k)) }
	words := make([]uint32, n)
	for i := range words {
		words[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	for i, w := range words {
		s[i] += w
	}
	for i, k := range []uint{14, 11, 25, 16, 4, 14, 24} {
		x, y := []int{2, 0, 1}[i%3], []int{1, 2, 0}[i%3]
		s[x] ^= s[y]
		s[x] -= turn(s[y], k)
	}
	return s[2]
}

// hashMark is -j HMARK.
func (l *linear) hashMark(t *HashMarkTarget, p *packet.Packet, c *Context) {
	fold := func(a, mask packet.Addr) (v uint32) {
		x, y := bytesOf(a), bytesOf(mask)
		from := 0
		if l.fam == IPv4 {
			from = 12
		}
		for i := from; i < 16; i++ {
			v ^= uint32(x[i]&y[i]) << (24 - i%4*8)
		}
		return v
	}
	var src, dst packet.Addr
	var ports []byte
	proto := uint8(0)
	switch {
	case t.Conn:
		if c.State == Invalid || c.State == Untracked {
			return
		}
		src, dst = l.began(p, c)
		proto = p.Key.Proto
		k := tupleOf(p, c)
		if proto != 1 {
			ports = make([]byte, 4)
			if proto != 33 {
				binary.BigEndian.PutUint16(ports, k.port(0, proto))
				binary.BigEndian.PutUint16(ports[2:], k.port(2, proto))
			}
		}
	default:
		var ok bool
		if src, dst, proto, ports, ok = l.hashed(p.Frame[p.L3:p.End], true); !ok {
			return
		}
	}
	a, b, v := fold(src, t.Src), fold(dst, t.Dst), uint32(0)
	if b < a {
		a, b = b, a
	}
	if ports != nil {
		x := binary.BigEndian.Uint16(ports)&t.Ports[0] | t.SetPorts[0]
		y := binary.BigEndian.Uint16(ports[2:])&t.Ports[1] | t.SetPorts[1]
		v = uint32(max(x, y))<<16 + uint32(min(x, y))
	}
	var words [12]byte
	for i, w := range []uint32{a, b, v} {
		binary.LittleEndian.PutUint32(words[4*i:], w)
	}
	h := jenkins(words[:], t.Seed) ^ uint32(uint16(proto)&t.Proto)
	n := new(big.Int).Mul(big.NewInt(int64(h)), big.NewInt(int64(t.Modulus)))
	c.Mark = uint32(n.Rsh(n, 32).Uint64()) + t.Add
}

// hashed finds what HMARK hashes in a datagram, or in the one that it quotes; ports are nil where there are none, and addresses
// that of nobody in a packet of IPv6 whose headers lead nowhere.
func (l *linear) hashed(d []byte, outer bool) (src, dst packet.Addr, proto uint8, ports []byte, ok bool) {
	at, fragment, icmp := 0, false, uint8(1)
	if l.fam == IPv4 {
		if len(d) < 20 {
			return src, dst, 0, nil, false
		}
		at, proto, fragment = int(d[0]&15)*4, d[9], (d[6]&0x3f)|d[7] != 0
		src, dst = packet.AddrFrom(netip.AddrFrom4([4]byte(d[12:]))), packet.AddrFrom(netip.AddrFrom4([4]byte(d[16:])))
	} else {
		icmp = 58
		if len(d) < 40 || !outer && d[0]/16 != 6 {
			return src, dst, 0, nil, false
		}
		at, proto = 40, d[6]
		for later := false; proto == 0 || proto == 43 || proto == 60 || proto == 44; {
			if len(d) < at+2 || (proto == 44 || proto == 43) && len(d) < at+4 {
				return src, dst, 0, nil, outer
			}
			n := 8 * (int(d[at+1]) + 1)
			if proto == 44 {
				n, fragment, later = 8, true, d[at+2] != 0 || d[at+3] > 7
			}
			proto, at = d[at], at+n
			if later && (proto == 51 || proto == 0 || proto == 43 || proto == 60 || proto == 44) {
				return packet.Addr{}, packet.Addr{}, 0, nil, outer
			}
		}
		if proto == 51 && len(d) < at+2 {
			return packet.Addr{}, packet.Addr{}, 0, nil, outer
		}
		src, dst = packet.AddrFrom(netip.AddrFrom16([16]byte(d[8:]))), packet.AddrFrom(netip.AddrFrom16([16]byte(d[24:])))
	}
	if outer && proto == icmp && len(d) >= at+8 && (l.fam == IPv4 || !fragment) {
		kind := d[at]
		if l.fam == IPv4 && (kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12) || l.fam == IPv6 && kind > 0 && kind < 128 {
			return l.hashed(d[at+8:], false)
		}
	}
	if proto == icmp || fragment {
		return src, dst, proto, nil, true
	}
	off, known := map[uint8]int{6: 0, 17: 0, 33: 0, 50: 0, 51: 4, 132: 0, 136: 0}[proto]
	if known && len(d) >= at+off+4 {
		ports = d[at+off:][:4]
	}
	return src, dst, proto, ports, true
}

// runBPF runs a program step by step, each instruction as its documentation has it.
func runBPF(prog []BPFInstruction, p *packet.Packet, c *Context) uint32 {
	regs := map[string]uint32{}
	mem := map[uint32]uint32{}
	d := p.Frame[p.L3:p.End]
	at := func(k int64, n int) (uint32, bool) {
		if k >= 0xfff00000 {
			k -= 0xfff00000
		} else if k >= 0xffe00000 {
			k -= 0xffe00000 + 14
		} else if k >= 1<<31 {
			return 0, false
		}
		v := uint32(0)
		for i := k; i < k+int64(n); i++ {
			b := uint32(0)
			switch {
			case i >= int64(len(d)):
				return 0, false
			case i >= 0:
				b = uint32(d[i])
			case i >= -2:
				b = uint32(p.Frame[int64(p.L3)+i])
			default:
				b = uint32(p.Frame[i+14])
			}
			v = v*256 + b
		}
		return v, true
	}
	for i := 0; ; {
		x := prog[i]
		i++
		value := x.K
		if x.Code&8 != 0 {
			value = regs["X"]
		}
		a := regs["A"]
		switch x.Code {
		case 0x00:
			regs["A"] = x.K
		case 0x01:
			regs["X"] = x.K
		case 0x60:
			regs["A"] = mem[x.K]
		case 0x61:
			regs["X"] = mem[x.K]
		case 0x80:
			regs["A"] = uint32(len(d))
		case 0x81:
			regs["X"] = uint32(len(d))
		case 0x02:
			mem[x.K] = a
		case 0x03:
			mem[x.K] = regs["X"]
		case 0x20, 0x28, 0x30, 0x40, 0x48, 0x50:
			if x.Code < 0x40 && x.K >= 0xfffff000 {
				switch x.K - 0xfffff000 {
				case 0:
					regs["A"] = map[uint8]uint32{4: 0x800, 6: 0x86dd}[p.Family]
				case 4:
					regs["A"] = uint32(p.Frame[0] & 1 * 2)
					if string(p.Frame[:6]) == "\xff\xff\xff\xff\xff\xff" {
						regs["A"] = 1
					}
				case 20:
					regs["A"] = c.Mark
				case 40:
					regs["A"] ^= regs["X"]
				}
				continue
			}
			k := x.K
			if x.Code >= 0x40 {
				k += regs["X"]
			}
			v, ok := at(int64(k), map[uint16]int{0: 4, 8: 2, 16: 1}[x.Code&0x18])
			if !ok {
				return 0
			}
			regs["A"] = v
		case 0xb1:
			v, ok := at(int64(x.K), 1)
			if !ok {
				return 0
			}
			regs["X"] = v % 16 * 4
		case 0x04, 0x0c:
			regs["A"] = a + value
		case 0x14, 0x1c:
			regs["A"] = a - value
		case 0x24, 0x2c:
			regs["A"] = a * value
		case 0x34, 0x3c, 0x94, 0x9c:
			if value == 0 {
				return 0
			}
			regs["A"] = map[bool]uint32{true: a / value, false: a % value}[x.Code < 0x40]
		case 0x44, 0x4c:
			regs["A"] = a | value
		case 0x54, 0x5c:
			regs["A"] = a & value
		case 0x64, 0x6c:
			regs["A"] = a << (value % 32)
		case 0x74, 0x7c:
			regs["A"] = a >> (value % 32)
		case 0x84:
			regs["A"] = -a
		case 0xa4, 0xac:
			regs["A"] = a ^ value
		case 0x05:
			i += int(x.K)
		case 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d:
			hold := map[uint16]bool{0x10: a == value, 0x20: a > value, 0x30: a >= value, 0x40: a&value != 0}[x.Code&0xf0]
			if hold {
				i += int(x.JT)
			} else {
				i += int(x.JF)
			}
		case 0x06:
			return x.K
		case 0x16:
			return a
		case 0x07:
			regs["X"] = a
		case 0x87:
			regs["A"] = regs["X"]
		default:
			panic(x.Code)
		}
	}
}
