package main

import (
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"net/netip"
	"time"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// hosts are the addresses of generated packets other than TCP: few, so that most packets meet a connection of an earlier
// one. Those of one family begin with the inside's.
type hosts struct{ in, out []netip.Addr }

var families = [2]hosts{
	{
		[]netip.Addr{packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), packettest.IP("10.0.0.3")},
		[]netip.Addr{packettest.IP("192.0.2.1"), packettest.IP("192.0.2.2"), packettest.IP("255.255.255.255"), packettest.IP("224.0.0.251"), packettest.IP("10.0.0.1")},
	},
	{
		[]netip.Addr{packettest.IP("2001:db8::1"), packettest.IP("2001:db8::2"), packettest.IP("fe80::1")},
		[]netip.Addr{packettest.IP("2001:db8:1::1"), packettest.IP("2001:db8:1::2"), packettest.IP("ff02::1"), packettest.IP("fe80::2"), packettest.IP("2001:db8::1")},
	},
}

// maker makes random packets and remembers the last of them, for errors to quote.
type maker struct {
	*rand.Rand
	recent [][]byte
}

func newMaker(seed uint64, kind uint64) *maker {
	return &maker{Rand: rand.New(rand.NewPCG(seed, kind))}
}

// ends returns the two addresses of a packet from one side to the other.
func (m *maker) ends(family int) (in packet.Port, src, dst netip.Addr) {
	h := &families[family]
	src, dst = h.in[m.IntN(len(h.in))], h.out[m.IntN(len(h.out))]
	if m.IntN(2) == 0 {
		return packet.Outside, dst, src
	}
	return packet.Inside, src, dst
}

// port returns one of a few ports.
func (m *maker) port() uint16 { return []uint16{0, 53, 80, 1000, 65535}[m.IntN(5)] }

func (m *maker) ports(src, dst netip.Addr) (a, b netip.AddrPort) {
	return netip.AddrPortFrom(src, m.port()), netip.AddrPortFrom(dst, m.port())
}

// options returns builder options that any packet can have.
func (m *maker) options(family int) []packettest.Option {
	var o []packettest.Option
	if m.IntN(4) > 0 {
		o = append(o, packettest.PayloadLen(m.IntN(100)))
	}
	switch m.IntN(24) {
	case 0:
		o = append(o, packettest.BadChecksum())
	case 1:
		o = append(o, packettest.NoChecksum())
	case 2:
		o = append(o, packettest.VLAN(uint16(m.IntN(4096))))
	case 3:
		o = append(o, packettest.Pad(m.IntN(40)))
	case 4:
		if family == 0 {
			b := make([]byte, m.IntN(41))
			for i := range b {
				b[i] = byte(m.IntN(9))
			}
			o = append(o, packettest.IPv4Options(b))
		}
	case 5:
		if family == 0 {
			o = append(o, packettest.BadHeaderChecksum())
		}
	case 6:
		o = append(o, packettest.TTL(uint8(m.IntN(3)*127+1)))
	}
	if family == 1 && m.IntN(6) == 0 {
		for range 1 + m.IntN(3) {
			o = append(o, m.extension())
		}
	}
	return o
}

// extension returns a random IPv6 extension header, mostly a sound one.
func (m *maker) extension() packettest.Option {
	random := func(n int) []byte {
		b := make([]byte, m.IntN(n))
		for i := range b {
			b[i] = byte(m.IntN(6))
		}
		return b
	}
	switch m.IntN(10) {
	case 0, 1:
		return packettest.HopByHop(random(20))
	case 2:
		return packettest.HopByHop([]byte{1, 4, 0, 0, 0, 0})
	case 3, 4:
		return packettest.DestinationOptions(random(20))
	case 5:
		return packettest.Routing(uint8(m.IntN(5)), random(24))
	case 6:
		return packettest.AH(4 * m.IntN(4))
	case 7:
		return packettest.AtomicFragment(m.Uint32())
	case 8:
		return packettest.FragmentHeader(uint16(8*m.IntN(3)), m.IntN(2) == 0, m.Uint32())
	}
	return packettest.ExtHeader([]uint8{0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 253}[m.IntN(11)], append([]byte{0, byte(m.IntN(3))}, random(16)...))
}

// udp makes UDP and UDPLite packets.
func (m *maker) udp() (packet.Port, []byte) {
	family := m.IntN(2)
	in, src, dst := m.ends(family)
	a, b := m.ports(src, dst)
	if m.IntN(8) == 0 {
		o := m.options(family)
		if m.IntN(2) == 0 {
			o = append(o, packettest.Coverage(uint16(m.IntN(30))))
		}
		f := packettest.NewUDPLite(a, b, o...)
		if m.IntN(2) == 0 { // the checksum of RFC 3828
			var p packet.Packet
			p.Frame = f
			packet.Parse(&p)
			if sum := f[min(int(p.L4)+6, len(f)):]; len(sum) >= 2 {
				binary.BigEndian.PutUint16(sum, packet.UpdateChecksum(binary.BigEndian.Uint16(sum), packet.ProtoUDP, packet.ProtoUDPLite))
			}
		}
		return in, f
	}
	return in, packettest.NewUDP(a, b, m.options(family)...)
}

// tcp makes single segments.
func (m *maker) tcp() (packet.Port, []byte) {
	family := m.IntN(2)
	in, src, dst := m.ends(family)
	a, b := m.ports(src, dst)
	flags := []uint8{packettest.SYN, packettest.ACK, packettest.SYN | packettest.ACK, packettest.RST, packettest.FIN | packettest.ACK, uint8(m.Uint32())}[m.IntN(6)]
	return in, packettest.NewTCP(a, b, flags, append(m.options(family), packettest.Seq(m.Uint32N(4)), packettest.Ack(m.Uint32N(4)))...)
}

// icmp makes queries, replies, neighbour discovery, and messages of any type.
func (m *maker) icmp() (packet.Port, []byte) {
	family := m.IntN(2)
	in, src, dst := m.ends(family)
	types := []uint8{0, 8, 8, 0, 13, 14, 15, 16, 17, 18, 10, 9}
	if family == 1 {
		types = []uint8{128, 129, 128, 129, 139, 140, 130, 131, 132, 133, 134, 135, 136, 137, 143, 141, 142}
	}
	typ, code := types[m.IntN(len(types))], uint8(0)
	if m.IntN(10) == 0 {
		typ = uint8(m.Uint32())
	}
	if m.IntN(10) == 0 {
		code = uint8(m.IntN(3))
	}
	o := m.options(family)
	if family == 1 && m.IntN(2) == 0 {
		o = append(o, packettest.TTL(255))
	}
	if m.IntN(12) == 0 { // the other family's protocol
		return in, packettest.NewIP(src, dst, []uint8{packettest.ProtoICMPv6, packettest.ProtoICMP}[family], o...)
	}
	return in, packettest.NewICMP(src, dst, typ, code, uint16(m.IntN(3)), 1, o...)
}

// icmpError makes errors that quote a recent packet, mostly rightly.
func (m *maker) icmpError() (packet.Port, []byte) {
	if len(m.recent) == 0 {
		return m.udp()
	}
	quoted := append([]byte(nil), m.recent[m.IntN(len(m.recent))]...)
	var q packet.Packet
	q.Frame = quoted
	packet.Parse(&q)
	if q.Class > packet.ClassIPv6 || q.Problem.Header() {
		return m.udp()
	}
	family := int(q.Family-4) / 2
	if i := int(q.L3) + 6; m.IntN(10) == 0 { // behind the lengths
		quoted[i+m.IntN(len(quoted)-i)] = byte(m.Uint32())
	}
	to, from := q.Src.Netip(), q.Dst.Netip()
	if family == 1 {
		to, from = q.Src.Netip6(), q.Dst.Netip6()
	}
	switch m.IntN(5) {
	case 0: // a router on the way
		_, from, _ = m.ends(family)
	case 1: // in the wrong direction
		from, to = to, from
	}
	types := []uint8{3, 3, 4, 5, 11, 12}
	if family == 1 {
		types = []uint8{1, 1, 2, 3, 4, 137, 127, 100}
	}
	n := 0
	if m.IntN(3) == 0 {
		n = m.IntN(64) + 1
	}
	in := packet.Port(m.IntN(2))
	if family == 1 && m.IntN(8) == 0 {
		return in, packettest.NewRedirect(from, to, from, quoted, m.options(family)...)
	}
	return in, packettest.NewICMPError(from, to, types[m.IntN(len(types))], uint8(m.IntN(5)), 0, quoted, n, m.options(family)...)
}

// other makes GRE, DCCP, ESP, IGMP, IP in IP and packets of any protocol.
func (m *maker) other() (packet.Port, []byte) {
	family := m.IntN(2)
	in, src, dst := m.ends(family)
	o := m.options(family)
	switch m.IntN(6) {
	case 0:
		return in, packettest.NewGRE(src, dst, 0x800, o...)
	case 1:
		return in, packettest.NewPPTP(src, dst, uint16(m.IntN(3)), o...)
	case 2:
		b := make([]byte, m.IntN(14))
		for i := range b {
			b[i] = byte(m.Uint32())
		}
		if len(b) > 3 && m.IntN(2) == 0 {
			b[1], b[2], b[3] = b[1]&0xf8|1, 0x88, 0x0b
		}
		return in, packettest.NewIP(src, dst, packettest.ProtoGRE, append(o, packettest.Payload(b))...)
	case 3:
		a, b := m.ports(src, dst)
		return in, packettest.NewDCCP(a, b, uint8(m.IntN(10)), o...)
	case 4:
		return in, packettest.NewIP(src, dst, []uint8{0, 2, 4, 41, 50, 51, 89, 103, 112, 255, 43, 44, 60, 59}[m.IntN(14)], o...)
	}
	return in, packettest.NewIP(src, dst, uint8(m.Uint32()), o...)
}

// sctp makes SCTP packets with one chunk or several, in any order.
func (m *maker) sctp() (packet.Port, []byte) {
	family := m.IntN(2)
	h := &families[family]
	in, src, dst := packet.Inside, h.in[m.IntN(2)], h.out[0]
	if m.IntN(2) == 0 {
		in, src, dst = packet.Outside, dst, src
	}
	tag := uint32(m.IntN(3))
	var chunks []byte
	for range 1 + m.IntN(5)/4*m.IntN(3) {
		typ, body := uint8(m.IntN(15)), make([]byte, m.IntN(5)*4)
		switch typ {
		case 1, 2: // INIT, INIT ACK: tag, window, streams, TSN
			body = binary.BigEndian.AppendUint32(nil, uint32(m.IntN(3)))
			body = append(body, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1)
		}
		chunks = append(chunks, packettest.SCTPChunk(typ, uint8(m.IntN(2)), body)...)
	}
	if len(chunks) > 0 && m.IntN(20) == 0 {
		chunks = chunks[:m.IntN(len(chunks))]
	}
	if len(chunks) > 3 && m.IntN(20) == 0 {
		chunks[3] = byte(m.IntN(256))
	}
	a, b := netip.AddrPortFrom(src, uint16(1+m.IntN(3))), netip.AddrPortFrom(dst, uint16(1+m.IntN(2)))
	return in, packettest.NewSCTP(a, b, tag, chunks, m.options(family)...)
}

// handshake values of SCTP's chunks in the order of an association's life (RFC 9260 section 3.2).
var sctpLife = []struct {
	typ  uint8
	from int // 0: the end that opened the association
}{{1, 0}, {2, 1}, {10, 0}, {11, 1}, {0, 0}, {3, 1}, {4, 1}, {5, 0}, {7, 0}, {8, 1}, {14, 0}}

// sctpStream generates associations that mostly live as they should, disturbed by packets of sctp.
func sctpStream(seed uint64, n int) iter.Seq[shot] {
	return func(yield func(shot) bool) {
		m := newMaker(seed, 132)
		type association struct {
			end  [2]netip.AddrPort
			tag  [2]uint32 // that packets to the end carry
			step int
		}
		begin := func() *association {
			h := &families[m.IntN(2)]
			return &association{[2]netip.AddrPort{netip.AddrPortFrom(h.in[m.IntN(2)], uint16(1+m.IntN(3))), netip.AddrPortFrom(h.out[0], uint16(1+m.IntN(2)))}, [2]uint32{m.Uint32(), m.Uint32()}, 0}
		}
		list := make([]*association, 8)
		for i := range list {
			list[i] = begin()
		}
		for range n {
			if m.IntN(5) == 0 {
				in, frame := m.sctp()
				if !yield(shot{in: in, frame: frame}) {
					return
				}
				continue
			}
			i := m.IntN(len(list))
			a := list[i]
			c := sctpLife[a.step]
			to := 1 - c.from
			tag, body := a.tag[to], make([]byte, 12)
			switch c.typ {
			case 1:
				tag = 0
				fallthrough
			case 2:
				body = binary.BigEndian.AppendUint32(nil, a.tag[c.from])
				body = append(body, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1)
			}
			if m.IntN(20) == 0 {
				tag = m.Uint32N(2)
			}
			flags := uint8(0)
			if c.typ == 14 && m.IntN(3) == 0 {
				tag, flags = a.tag[c.from], 1 // the T bit: the sender's own tag
			}
			frame := packettest.NewSCTP(a.end[c.from], a.end[to], tag, packettest.SCTPChunk(c.typ, flags, body))
			if m.IntN(8) > 0 {
				a.step++
			}
			switch {
			case m.IntN(12) == 0:
				a.step = m.IntN(len(sctpLife))
			case a.step == len(sctpLife) || m.IntN(40) == 0:
				list[i] = begin()
			}
			if !yield(shot{in: packet.Port(c.from), frame: frame}) {
				return
			}
		}
	}
}

// any makes a packet of any protocol.
func (m *maker) any() (in packet.Port, frame []byte) {
	switch m.IntN(12) {
	case 0, 1, 2:
		in, frame = m.udp()
	case 3, 4:
		in, frame = m.icmp()
	case 5, 6:
		in, frame = m.icmpError()
	case 7:
		in, frame = m.tcp()
	case 8:
		in, frame = m.sctp()
	case 9, 10:
		in, frame = m.other()
	default:
		in, frame = m.udp()
	}
	if m.recent = append(m.recent, frame); len(m.recent) > 16 {
		m.recent = m.recent[1:]
	}
	return in, frame
}

// mixStream generates packets of every protocol.
func mixStream(seed uint64, n int) iter.Seq[shot] {
	return func(yield func(shot) bool) {
		m := newMaker(seed, 0x3)
		for range n {
			in, frame := m.any()
			if !yield(shot{in: in, frame: frame}) {
				return
			}
		}
	}
}

// mutatedStream generates packets of every protocol with bytes changed, cut short, or with too much behind.
func mutatedStream(seed uint64, n int) iter.Seq[shot] {
	return func(yield func(shot) bool) {
		m := newMaker(seed, 0x4)
		values := []byte{0, 1, 2, 4, 6, 8, 17, 43, 44, 51, 58, 59, 60, 132, 136, 0xc2, 0xff}
		for range n {
			in, frame := m.any()
			frame = append([]byte(nil), frame...)
			for range m.IntN(3) {
				i := 12 + m.IntN(min(len(frame)-12, 70))
				if m.IntN(3) == 0 {
					frame[i] = byte(m.Uint32())
				} else {
					frame[i] = values[m.IntN(len(values))]
				}
			}
			if m.IntN(2) == 0 {
				fixHeader(frame)
			}
			switch m.IntN(10) {
			case 0:
				frame = frame[:14+m.IntN(len(frame)-13)]
			case 1:
				frame = append(frame, make([]byte, m.IntN(20))...)
			}
			if !yield(shot{in: in, frame: frame}) {
				return
			}
		}
	}
}

// fixHeader makes the header checksum of an IPv4 frame right.
func fixHeader(f []byte) {
	if len(f) < 34 || f[12] != 8 || f[13] != 0 {
		return
	}
	n := max(20, int(f[14]&15)*4)
	if len(f) < 14+n {
		return
	}
	f[24], f[25] = 0, 0
	binary.BigEndian.PutUint16(f[24:], packet.Checksum(packet.SumBytes(0, f[14:14+n])))
}

// fragmentStream generates datagrams of every protocol cut into fragments, which arrive in any order, some twice, some
// never, some overlapping others, mixed with those of other datagrams. Datagrams that stay incomplete are few enough that
// neither side needs to give any up for lack of room.
func fragmentStream(seed uint64, n int) iter.Seq[shot] {
	return func(yield func(shot) bool) {
		m := newMaker(seed, 0x5)
		var queue []shot
		lost := 0
		id := uint32(m.IntN(1 << 15))
		for sent := 0; sent < n; {
			for len(queue) < 24 {
				queue = append(queue, m.fragments(&id, &lost)...)
			}
			i := 0
			if m.IntN(3) > 0 {
				i = m.IntN(min(len(queue), 12))
			}
			s := queue[i]
			queue = append(queue[:i], queue[i+1:]...)
			if !yield(s) {
				return
			}
			sent++
		}
	}
}

// mostLost bounds the datagrams of a fragmentStream that are never completed.
const mostLost = 150

// fragments returns the fragments of one datagram, in disorder.
func (m *maker) fragments(id *uint32, lost *int) []shot {
	family := m.IntN(2)
	h := &families[family]
	in, src, dst := packet.Inside, h.in[m.IntN(2)], h.out[m.IntN(2)]
	if m.IntN(2) == 0 {
		in, src, dst = packet.Outside, dst, src
	}
	length := 8 + m.IntN(1200)
	if m.IntN(10) == 0 {
		length = m.IntN(9000)
	}
	a, b := m.ports(src, dst)
	o := []packettest.Option{packettest.PayloadLen(length)}
	switch {
	case m.IntN(15) == 0:
		o = append(o, packettest.BadChecksum())
	case family == 0 && m.IntN(15) == 0:
		o = append(o, packettest.IPv4Options([]byte{1, 1, 1, 0}))
	case m.IntN(15) == 0:
		o = append(o, packettest.TOS(uint8(m.IntN(4))))
	case family == 1 && m.IntN(10) == 0:
		o = append(o, packettest.DestinationOptions(nil))
	case family == 1 && m.IntN(10) == 0:
		o = append(o, packettest.HopByHop(nil))
	}
	var frame []byte
	switch m.IntN(5) {
	case 0:
		frame = packettest.NewTCP(a, b, packettest.ACK, o...)
	case 1:
		frame = packettest.NewICMP(src, dst, []uint8{8, 128}[family], 0, uint16(m.IntN(3)), 1, o...)
	case 2:
		frame = packettest.NewIP(src, dst, 99, o...)
	default:
		frame = packettest.NewUDP(a, b, o...)
	}
	*id++
	use := *id
	if m.IntN(20) == 0 {
		use -= uint32(m.IntN(3)) // that of an earlier datagram
	}
	if m.IntN(100) == 0 {
		*id += 70 // a jump, as of a busy host (ipfrag_max_dist)
	}
	parts := packettest.Fragments(frame, use, 8*(1+m.IntN(80)))
	if len(parts) > 40 {
		parts = packettest.Fragments(frame, use, 400)
	}
	var out []shot
	for _, p := range parts {
		if *lost < mostLost && m.IntN(60) == 0 {
			*lost++
			continue
		}
		out = append(out, shot{in: in, frame: p})
		if m.IntN(25) == 0 { // twice
			out = append(out, shot{in: in, frame: p})
		}
		if *lost < mostLost && m.IntN(40) == 0 {
			*lost++
			out = append(out, shot{in: in, frame: m.overlap(p)})
		}
	}
	if m.IntN(3) > 0 {
		m.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return out
}

// overlap returns a fragment changed so that it no longer fits the others: moved, cut, longer, or with another flag.
func (m *maker) overlap(part []byte) []byte {
	f := append([]byte(nil), part...)
	move := uint16(1 + m.IntN(3))
	if f[12] == 8 {
		v := binary.BigEndian.Uint16(f[20:])
		switch m.IntN(4) {
		case 0:
			v += move
		case 1:
			v -= move
		case 2:
			v ^= 0x2000
		case 3:
			cut := min(8*(1+m.IntN(4)), len(f)-34)
			f = f[:len(f)-cut]
			binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
		}
		binary.BigEndian.PutUint16(f[20:], v)
		fixHeader(f)
		return f
	}
	var p packet.Packet
	p.Frame = f
	packet.Parse(&p)
	if p.FragHdr == 0 {
		return f
	}
	at := f[p.FragHdr+2:]
	v := binary.BigEndian.Uint16(at)
	switch m.IntN(4) {
	case 0:
		v += move * 8
	case 1:
		v -= move * 8
	case 2:
		v ^= 1
	case 3:
		cut := min(8*(1+m.IntN(4)), len(f)-int(p.FragHdr)-8)
		f = f[:len(f)-cut]
		binary.BigEndian.PutUint16(f[p.L3+4:], uint16(len(f)-int(p.L3)-40))
	}
	binary.BigEndian.PutUint16(at, v)
	return f
}

// timedStep is the pause between the bursts of a timedStream. Whole seconds after any burst there is none: timeouts of one,
// two and three seconds end 100 ms or more away from the next packet.
const timedStep = 700 * time.Millisecond

// timedSteps is how many pauses there are.
const timedSteps = 14

// timedStream generates bursts of packets of few connections, with pauses in which some of them expire: for timeouts of one
// to three seconds (timedSettings). n is the number of packets in all, and it always takes timedSteps pauses.
func timedStream(seed uint64, n int) iter.Seq[shot] {
	return func(yield func(shot) bool) {
		m := newMaker(seed, 0x6)
		tcp := make([]*tcpFlow, 12)
		for i := range tcp {
			tcp[i] = newTCPFlow(m.Rand)
		}
		burst := max(1, n/timedSteps)
		for i := range n {
			var s shot
			switch m.IntN(3) {
			case 0:
				s.in, s.frame = m.any()
			case 1:
				s.in, s.frame = tcp[m.IntN(len(tcp))].next(m.Rand)
			default:
				s.in, s.frame = m.udp()
			}
			if i%burst == 0 {
				s.sleep = timedStep
			}
			if !yield(s) {
				return
			}
		}
	}
}
