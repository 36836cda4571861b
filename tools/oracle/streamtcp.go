package main

import (
	"iter"
	"math/rand/v2"
	"net/netip"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// tcpEnd is one end of a generated connection: more or less a TCP, as far as the segments show it.
type tcpEnd struct {
	addr     netip.AddrPort
	iss, nxt uint32 // initial and next sequence number
	seen     uint32 // what it would acknowledge
	peer     bool   // it has seen a sequence number of the other end
	scale    int    // window scale option in its SYN; -1: none
	sack     bool
	last     [][]byte // segments that it may send again, the newest at the end
}

// tcpFlow is a generated connection between two ends, end 0 on the inside.
type tcpFlow struct {
	end  [2]tcpEnd
	step int // of the orderly course
}

// tcpFlows is how many generated connections run at a time: enough to mix them, few enough that each gets some dozens
// of segments before it is replaced.
const tcpFlows = 48

// tcpStream generates n segments of connections that begin, run and end in every way: most segments are what two TCPs
// would send; the others are lost, repeated, late, or wrong in sequence number, acknowledgement, flags, window or options,
// resets, FINs and SYNs at any moment, simultaneous opens, and connections picked up in the middle.
func tcpStream(seed uint64, n int) iter.Seq[shot] {
	return func(yield func(shot) bool) {
		r := rand.New(rand.NewPCG(seed, 0x7c9))
		flows := make([]*tcpFlow, tcpFlows)
		for i := range flows {
			flows[i] = newTCPFlow(r)
		}
		for range n {
			f := flows[r.IntN(len(flows))]
			in, frame := f.next(r)
			if !yield(shot{in: in, frame: frame}) {
				return
			}
			if r.IntN(60) == 0 {
				i := r.IntN(len(flows))
				if r.IntN(3) == 0 {
					flows[i].restart(r) // the same addresses and ports once more
				} else {
					flows[i] = newTCPFlow(r)
				}
			}
		}
	}
}

func newTCPFlow(r *rand.Rand) *tcpFlow {
	f := new(tcpFlow)
	if r.IntN(4) == 0 {
		f.end[0].addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(r.IntN(256))}), uint16(1024+r.IntN(60000)))
		f.end[1].addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 15: byte(r.IntN(256))}), uint16(1+r.IntN(1000)))
	} else {
		f.end[0].addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.IntN(256))}), uint16(1024+r.IntN(60000)))
		f.end[1].addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(256))}), uint16(1+r.IntN(1000)))
	}
	f.restart(r)
	if r.IntN(6) == 0 { // picked up in the middle
		f.step = 3
		for i := range f.end {
			f.end[i].nxt++
			f.end[i].peer, f.end[i].seen = true, f.end[1-i].iss+1
		}
	}
	return f
}

// restart begins the connection again.
func (f *tcpFlow) restart(r *rand.Rand) {
	f.step = 0
	for i := range f.end {
		e := &f.end[i]
		iss := r.Uint32()
		switch r.IntN(4) {
		case 0: // near the wrap
			iss = -uint32(r.IntN(5000))
		case 1: // shortly behind the connection before
			iss = e.nxt + uint32(r.IntN(100000))
		}
		scale := r.IntN(15)
		if r.IntN(3) == 0 {
			scale = -1
		} else if r.IntN(20) == 0 {
			scale = 15 + r.IntN(241)
		}
		*e = tcpEnd{addr: e.addr, iss: iss, nxt: iss, scale: scale, sack: r.IntN(2) == 0}
	}
}

// segment is what a generated segment is made of.
type segment struct {
	flags   uint8
	seq     uint32
	ack     uint32
	window  uint16
	length  int
	options [][]byte
	bad     bool // wrong checksum
}

// next returns the next segment of the connection.
func (f *tcpFlow) next(r *rand.Rand) (packet.Port, []byte) {
	from := r.IntN(2)
	var s segment
	orderly := true
	switch f.step {
	case 0:
		from, s.flags = 0, packettest.SYN
		if r.IntN(25) == 0 { // simultaneous open
			from = 1
		}
	case 1:
		from, s.flags = 1, packettest.SYN|packettest.ACK
		if r.IntN(12) == 0 {
			from, s.flags = r.IntN(2), packettest.SYN
		}
	case 2:
		from, s.flags = 0, packettest.ACK
	case 3:
		s.flags = packettest.ACK
		if r.IntN(3) > 0 {
			s.length = r.IntN(1400)
		}
		if r.IntN(4) == 0 {
			s.flags |= packettest.PSH
		}
	case 4, 6:
		s.flags = packettest.FIN | packettest.ACK
		if r.IntN(3) == 0 {
			s.length = r.IntN(200)
		}
	default:
		s.flags = packettest.ACK
	}
	e, peer := &f.end[from], &f.end[1-from]
	if len(e.last) > 0 && r.IntN(10) == 0 { // once more, or late
		return packet.Port(from), e.last[r.IntN(len(e.last))]
	}
	s.window = uint16(r.Uint32() >> r.IntN(16))
	if r.IntN(40) == 0 {
		s.window = 0
	}
	s.seq = e.nxt
	if s.flags&packettest.ACK != 0 {
		s.ack = e.seen
	}
	if r.IntN(5) == 0 {
		orderly = f.distort(r, &s, e, peer)
	}
	if s.flags&packettest.SYN != 0 {
		s.seq = e.iss + (s.seq - e.nxt) // a SYN carries the initial number, if not changed on purpose
		if e.scale >= 0 {
			s.options = append(s.options, packettest.WindowScale(uint8(e.scale)))
		}
		if e.sack {
			s.options = append(s.options, packettest.SACKPermitted())
		}
		if r.IntN(2) == 0 {
			s.options = append(s.options, packettest.MSS(1460))
		}
	} else if len(s.options) == 0 && r.IntN(8) == 0 {
		s.options = f.randomOptions(r, e, peer)
	}
	if orderly {
		f.advance(r, from, &s)
	}
	frame := s.build(e.addr, peer.addr)
	if e.last = append(e.last, frame); len(e.last) > 4 {
		e.last = e.last[1:]
	}
	if orderly && r.IntN(30) == 0 { // lost before it came here: another one takes its place
		return f.next(r)
	}
	return packet.Port(from), frame
}

// advance notes what a segment changes at its end, and at the other one unless it is lost behind the firewall.
func (f *tcpFlow) advance(r *rand.Rand, from int, s *segment) {
	e, peer := &f.end[from], &f.end[1-from]
	next := s.seq + uint32(s.length)
	if s.flags&packettest.SYN != 0 {
		next++
	}
	if s.flags&packettest.FIN != 0 {
		next++
	}
	e.nxt = next
	if r.IntN(15) > 0 {
		peer.peer, peer.seen = true, next
	}
	switch {
	case f.step < 3:
		f.step++
	case f.step == 3:
		if r.IntN(30) == 0 {
			f.step++
		}
	case r.IntN(2) == 0:
		f.step++
	}
}

// distort makes a segment wrong in one way or another. It reports whether the segment still belongs to the course of
// the connection.
func (f *tcpFlow) distort(r *rand.Rand, s *segment, e, peer *tcpEnd) bool {
	offset := func() uint32 {
		switch r.IntN(8) {
		case 0:
			return 1
		case 1:
			return ^uint32(0) // -1
		case 2:
			return uint32(r.IntN(3000))
		case 3:
			return -uint32(r.IntN(3000))
		case 4:
			return uint32(r.IntN(1 << 20))
		case 5:
			return -uint32(r.IntN(1 << 20))
		case 6:
			return 1<<31 + uint32(r.IntN(5)) - 2
		}
		return r.Uint32()
	}
	switch r.IntN(17) {
	case 0:
		s.seq += offset()
	case 1:
		s.ack += offset()
	case 2:
		s.seq += offset()
		s.ack += offset()
	case 3: // RST, exact
		s.flags, s.length = packettest.RST, 0
		if r.IntN(2) == 0 {
			s.flags |= packettest.ACK
			s.ack = e.seen
		}
	case 4: // RST, somewhere
		s.flags, s.length = packettest.RST, 0
		s.seq += offset()
		if r.IntN(2) == 0 {
			s.flags |= packettest.ACK
			s.ack = e.seen + offset()*uint32(r.IntN(2))
		}
	case 5: // RST at what the other end has acknowledged
		s.flags, s.length, s.seq = packettest.RST, 0, peer.seen
	case 6:
		s.flags = packettest.SYN
	case 7: // a new connection on the same ports
		s.flags, s.length = packettest.SYN, 0
		e.iss = e.nxt + offset()
		s.seq = e.nxt
	case 8:
		s.flags, s.ack = packettest.SYN|packettest.ACK, e.seen
	case 9:
		s.flags, s.ack = packettest.SYN|packettest.ACK, e.seen+offset()
	case 10:
		s.flags, s.ack = packettest.FIN|packettest.ACK, e.seen
		return true
	case 11: // keep-alive
		s.flags, s.ack, s.length = packettest.ACK, e.seen, r.IntN(2)
		s.seq = e.nxt - 1
	case 12: // any flags
		s.flags = uint8(r.Uint32())
	case 13:
		s.bad = true
	case 14:
		s.window = 0
		return true
	case 15:
		s.options = f.randomOptions(r, e, peer)
		return true
	case 16: // a repeated ACK
		s.flags, s.ack, s.length = packettest.ACK, e.seen, 0
		s.window = 4321
	}
	return false
}

// randomOptions returns options that matter to the tracker, or look so.
func (f *tcpFlow) randomOptions(r *rand.Rand, e, peer *tcpEnd) [][]byte {
	edge := func() uint32 { return e.seen + uint32(r.IntN(6000)) - 1000 }
	switch r.IntN(8) {
	case 0:
		return [][]byte{packettest.SACK(edge(), edge())}
	case 1:
		return [][]byte{packettest.NOP(2), packettest.SACK(edge(), edge(), edge(), edge())}
	case 2:
		return [][]byte{packettest.NOP(2), packettest.Timestamps(r.Uint32(), r.Uint32())}
	case 3:
		return [][]byte{packettest.NOP(2), packettest.Timestamps(r.Uint32(), r.Uint32()), packettest.NOP(2), packettest.SACK(edge(), edge())}
	case 4:
		return [][]byte{packettest.WindowScale(uint8(r.IntN(16)))}
	case 5:
		return [][]byte{{5, byte(r.IntN(40)), 1, 2, 3, 4, 5, 6, 7, 8}}
	case 6: // a length that runs out of the header, or is none
		return [][]byte{{byte(r.IntN(10)), byte(r.IntN(44))}}
	}
	b := make([]byte, 4*(1+r.IntN(10)))
	for i := range b {
		b[i] = byte(r.IntN(12))
	}
	return [][]byte{b}
}

func (s *segment) build(src, dst netip.AddrPort) []byte {
	options := []packettest.Option{
		packettest.Seq(s.seq), packettest.Ack(s.ack), packettest.Window(s.window), packettest.PayloadLen(s.length), packettest.TCPOptions(s.options...),
	}
	if s.bad {
		options = append(options, packettest.BadChecksum())
	}
	return packettest.NewTCP(src, dst, s.flags, options...)
}
