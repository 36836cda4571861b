package rulestest

import (
	"net/netip"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// Connection states as package rules numbers them.
const (
	stateInvalid   = 0
	stateUntracked = 4
	states         = 5
)

// Connection is what a packet's connection is made to be. The fields are those of rules.Context.
type Connection struct {
	State, Dir                      uint8
	Status, Expires, Mark, ConnMark uint32
	Counted                         bool
	Packets, Bytes                  [2]uint64
	Helper                          string
	Master                          packet.Addr
	Labels                          [2]uint64
	Wall                            int64
}

// Flow is what the packets of one connection and direction have in common.
type Flow struct {
	Src, Dst   netip.AddrPort
	Proto      int // 1 stands for ICMPv6 as well
	Type, Code uint8
	In         packet.Port
	Connection Connection
}

// Flow returns a flow of an IP version, 4 or 6.
func (g Generator) Flow(version int) Flow {
	f := Flow{
		Src:   netip.AddrPortFrom(g.Addr(version), uint16(g.Port())),
		Dst:   netip.AddrPortFrom(g.Addr(version), uint16(g.Port())),
		Proto: []int{6, 6, 6, 17, 17, 1, 132, 136, 33, 47, 108}[g.IntN(11)],
		In:    packet.Port(g.IntN(2)),
		Connection: Connection{State: uint8(g.IntN(states)), Dir: uint8(g.IntN(2)), Status: uint32(g.IntN(2)), Master: packet.AddrFrom(g.Addr(version)), Mark: uint32(g.IntN(2)), ConnMark: uint32(g.IntN(4)),
			Helper: g.Pick("", "ftp", "sip"), Labels: [2]uint64{uint64(g.IntN(2)) << 1, uint64(g.IntN(2))}},
	}
	if a := f.Src.Addr().As16(); version == 6 && g.one(9) { // made of a MAC address
		copy(a[8:], []byte{0, 0, 0, 0xff, 0xfe, 0, 0, byte(1 + g.IntN(2))})
		f.Src = netip.AddrPortFrom(netip.AddrFrom16(a), f.Src.Port())
	}
	if f.Proto == 1 {
		f.Type, f.Code = []uint8{8, 0, 13, 3, 11}[g.IntN(5)], uint8(g.IntN(2))
		if version == 6 {
			f.Type = []uint8{128, 129, 1, 2, 135}[g.IntN(5)]
		}
		switch f.Type { // what a tracker can say of these
		case 8, 13, 128:
			f.Connection.Dir = 0
		case 0, 129:
			f.Connection.Dir = 1
		case 135:
			f.Connection.State = stateUntracked
		}
	}
	return f
}

// Packet makes one packet of the flow; what a flow does not fix is at random.
func (g Generator) Packet(f Flow) (*packet.Packet, Connection) {
	var b []byte
	opts := []packettest.Option{packettest.TTL(uint8(1 + g.IntN(255))), packettest.TOS(uint8(g.IntN(256))), packettest.PayloadLen(g.IntN(100))}
	if g.one(4) {
		opts = append(opts, packettest.VLAN(uint16(g.IntN(3))))
	}
	src, dst := f.Src.Addr(), f.Dst.Addr()
	if src.Is6() && g.one(6) {
		if g.one(2) {
			opts = append(opts, packettest.HopByHop(nil))
		}
		if g.one(2) {
			opts = append(opts, g.routingHeader())
		} else {
			opts = append(opts, packettest.Routing(byte(g.IntN(2)), []byte{0, 0, 0, byte(g.IntN(2)), 0}[g.IntN(2):]))
		}
	}
	switch {
	case src.Is6() && g.one(5) && f.Connection.State == stateInvalid:
		// A chain of extension headers that ends in nothing, or in a later fragment that cannot be held.
		odd := packettest.ExtHeader(60, []byte{0})
		if g.one(2) {
			odd = packettest.FragmentHeader(8, true, 1)
		}
		b = packettest.NewIP(src, dst, uint8([]int{f.Proto, 58, 6}[g.IntN(3)]), odd, packettest.PayloadLen(g.IntN(2)*9))
	case g.one(15) && (f.Connection.State == stateInvalid || f.Connection.State == stateUntracked):
		proto := f.Proto
		if proto == 1 && src.Is6() {
			proto = 58
		}
		if src.Is6() && g.one(3) { // an extension header that is cut off, which gives no protocol
			b = packettest.NewIP(src, dst, []uint8{43, 51, 60, 59}[g.IntN(4)], packettest.PayloadLen(g.IntN(4)))
			break
		}
		if src.Is6() && g.one(3) { // a further fragment that has to be judged by itself
			proto = []int{proto, 0, 60}[g.IntN(3)]
			b = packettest.NewIP(src, dst, uint8(proto), packettest.FragmentHeader(16, true, 1), packettest.PayloadLen(8*g.IntN(5)+1))
			break
		}
		if g.one(3) { // ESP, or a mobility header, in all lengths
			body := []byte{59, 0, byte(g.IntN(7)), 0, 0, 0, 0, byte(g.IntN(4))}
			if g.one(2) {
				body[g.IntN(4)] = 0
			}
			b = packettest.NewIP(src, dst, []uint8{50, 135}[g.IntN(2)], packettest.Payload(body[:4+g.IntN(5)]))
			break
		}
		b = packettest.NewIP(src, dst, uint8(proto), packettest.PayloadLen(g.IntN(24)))
	case f.Proto == 6:
		if g.one(3) {
			opts = append(opts, packettest.TCPOptions(packettest.MSS(1460), packettest.SACKPermitted(), packettest.NOP(g.IntN(3))))
		}
		if g.one(3) {
			opts = append(opts, packettest.TCPOptions(packettest.Timestamps(1, 2), []byte{byte(g.IntN(5)), byte(g.IntN(5))}))
		}
		b = packettest.NewTCP(f.Src, f.Dst, uint8(g.IntN(256)), opts...)
	case f.Proto == 17:
		b = packettest.NewUDP(f.Src, f.Dst, opts...)
	case f.Proto == 136:
		b = packettest.NewUDPLite(f.Src, f.Dst, opts...)
	case f.Proto == 132:
		var chunks []byte
		for i := 0; g.Side == Twin && i < g.IntN(5); i++ {
			chunks = append(chunks, []byte{0, 1, 3, 6, 9}[g.IntN(5)], byte(g.IntN(4)), 0, byte(g.IntN(6)), 1, 2, 3, 4)
		}
		b = packettest.NewSCTP(f.Src, f.Dst, 1, chunks, opts...)
	case f.Proto == 33:
		b = packettest.NewDCCP(netip.AddrPortFrom(src, uint16(g.Port())), f.Dst, uint8(g.IntN(16)), append(opts, packettest.DataOffset(uint8(g.IntN(12))))...)
	case f.Proto == 108:
		b = packettest.NewIP(src, dst, 108, append(opts, packettest.Payload([]byte{6, 0, 0, byte(g.IntN(9))}[:4-g.IntN(5)/4]))...)
	case f.Proto == 1:
		switch f.Type {
		case 3, 11, 1, 2:
			quoted := packettest.NewTCP(f.Dst, f.Src, packettest.ACK)
			b = packettest.NewICMPError(g.Addr(version(src)), dst, f.Type, f.Code, 0, quoted, 0)
		default:
			b = packettest.NewICMP(src, dst, f.Type, f.Code, 7, uint16(g.IntN(9)), opts...)
		}
	default:
		b = packettest.NewGRE(src, dst, 0x800, opts...)
	}
	if b[12] == 0x81 {
		b[14] |= byte(g.IntN(4)) << 5
	}
	p := &packet.Packet{Frame: b, In: f.In}
	packet.Parse(p)
	c := f.Connection
	c.Counted, c.Wall = !g.one(4), 1767225600+int64(g.IntN(400*86400))
	for d := range 2 {
		c.Packets[d] = uint64(g.IntN(20))
		c.Bytes[d] = c.Packets[d] * uint64(40+g.IntN(60))
	}
	c.Status, c.Expires = f.Connection.Status|uint32(g.IntN(8)<<1), uint32(g.IntN(120))
	return p, c
}

// routingHeader returns a routing header of type 0 or 4 with addresses of the pool.
func (g Generator) routingHeader() packettest.Option {
	n := g.IntN(3)
	h := make([]byte, 8+16*n)
	h[1], h[2], h[3] = byte(2*n), byte(4*g.IntN(2)), byte(g.IntN(n+1))
	if h[4] = byte(g.IntN(n + 1)); h[2] == 0 {
		h[4] = byte(g.IntN(8) / 7)
	}
	h[6], h[7] = byte(g.IntN(2)), byte(g.IntN(3))
	for i := range n {
		a := g.Addr(6).As16()
		copy(h[8+16*i:], a[:])
	}
	return packettest.ExtHeader(43, h)
}

// version returns 4 or 6.
func version(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}
