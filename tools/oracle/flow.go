package main

import (
	"bytes"
	"slices"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// flow is a connection that frames belong to.
type flow struct {
	shape    shape
	sent     [2]int // frames in each direction
	seq, ack uint32 // of the end that began
	last     []byte // in the original direction
}

// frame appends the next frame, or the fragments of the next datagram.
func (s *shaper) frame(out []shot) []shot {
	var b []byte
	in := packet.Inside
	switch n := s.IntN(100); {
	case len(s.tftp) > 0 && s.one(12): // a request, and what the other end sends from a port of its own
		x := s.any()
		s.satisfy(&x, s.tftp[s.IntN(len(s.tftp))], -1)
		x.proto, x.text, x.exts = packettest.ProtoUDP, []byte{0, 1 + byte(s.IntN(4)), 'f', 0, 'o', 0}, nil
		x.payload = len(x.text)
		f := &flow{shape: x}
		out = append(out, shot{in: x.in, frame: s.next(f, false)})
		x.in, x.src, x.dst, x.sport, x.dport, x.text = x.in.Other(), x.dst, x.src, s.port(), x.sport, nil
		g := &flow{shape: x}
		in, b = x.in, s.next(g, false)
		s.flows = append(s.flows, f, g)
	case n < 45 || len(s.flows) == 0:
		f := &flow{shape: s.aimed(), seq: s.Uint32(), ack: s.Uint32()}
		s.flows = append(s.flows, f)
		in, b = f.shape.in, s.next(f, false)
	case n < 80: // a flow goes on
		f := s.flows[max(len(s.flows)-1-s.IntN(min(len(s.flows), 8)), 0)]
		reply := f.sent[1] < f.sent[0] && !s.one(4)
		in = f.shape.in
		if reply {
			in = in.Other()
		}
		b = s.next(f, reply)
	case n < 86: // an error about a flow
		f := s.flows[len(s.flows)-1-s.IntN(min(len(s.flows), 8))]
		typ, code := pick[uint8](s, 3, 11, 12), uint8(s.IntN(4))
		if s.version == 6 {
			typ, code = pick[uint8](s, 1, 2, 3, 4), uint8(s.IntN(5))
		}
		b = packettest.NewICMPError(s.addr(), f.shape.src, typ, code, 0, f.last, 0, packettest.TTL(uint8(s.Uint32())))
		in = f.shape.in.Other()
	case n < 90: // bad in some way
		x := s.aimed()
		in = x.in
		switch s.IntN(4) {
		case 0:
			b = x.build(packettest.BadChecksum())
		case 1: // a short transport header
			b = packettest.NewIP(x.src, x.dst, x.number(), packettest.PayloadLen(s.IntN(24)), packettest.TTL(x.ttl))
		case 2: // bytes turned
			b = s.turned(x.build())
		case 3:
			b = x.build(packettest.Pad(s.IntN(20)))
		}
	case n < 94: // fragments
		x := s.aimed()
		x.payload = 40 + s.IntN(100)
		if !slices.Contains([]uint8{1, 6, 17, 47, 132, 136}, x.proto) {
			x.proto = packettest.ProtoUDP
		}
		if s.segments && x.proto == packet.ProtoTCP && oddMSS(parsed(x.build()).Transport()) {
			x.options = [][]byte{packettest.MSS(1460), packettest.Timestamps(1, 2)} // else see knownFrames
		}
		s.id++
		size := 8*(1+s.IntN(6)) + 24
		parts := packettest.Fragments(x.build(), s.id, size)
		if x.bm && !slices.ContainsFunc(parts, func(b []byte) bool { return bytes.Contains(b, x.text) }) { // see TestSharedText
			x.text = nil
			parts = packettest.Fragments(x.build(), s.id, size)
		}
		for _, part := range parts {
			out = append(out, shot{in: x.in, frame: part})
		}
		return out
	default: // of a connection that nobody began
		x := s.aimed()
		if x.proto == 6 && !x.hasFlags {
			x.flags = pick[uint8](s, packettest.ACK, packettest.RST|packettest.ACK, packettest.FIN|packettest.ACK, packettest.SYN|packettest.ACK)
		}
		in, b = x.in, x.build()
	}
	return append(out, shot{in: in, frame: b})
}

// turned turns bits of a frame, mostly in the transport header; its checksum is right at times.
func (s *shaper) turned(b []byte) []byte {
	p := packet.Packet{Frame: b}
	packet.Parse(&p)
	if p.Class > packet.ClassIPv6 || p.L4 == 0 || s.one(8) {
		b[s.IntN(len(b)-packet.EthernetHeader)+packet.EthernetHeader] ^= 1 << s.IntN(8)
		return b
	}
	room := min(int(p.End-p.L4), 24)
	if room == 0 {
		return b
	}
	for range 1 + s.IntN(2) {
		b[int(p.L4)+s.IntN(room)] ^= 1 << s.IntN(8)
	}
	if s.one(2) && p.Proto != packet.ProtoUDPLite {
		packettest.FixChecksums(b)
	}
	return b
}

// next makes the next frame of a flow in a direction.
func (s *shaper) next(f *flow, reply bool) []byte {
	x := f.shape
	if f.sent[0] > 0 {
		x.payload = s.IntN(100)
		if s.one(3) {
			x.ttl, x.tos = uint8(1+s.IntN(255)), uint8(s.Uint32())
		}
	}
	if reply {
		x.src, x.dst, x.sport, x.dport = x.dst, x.src, x.dport, x.sport
		x.routing = nil
		switch {
		case x.proto != 1:
		case s.version == 6:
			x.typ = map[uint8]uint8{128: 129, 139: 140}[x.typ]
		default:
			x.typ = map[uint8]uint8{8: 0, 13: 14, 15: 16, 17: 18}[x.typ]
		}
		if x.proto == 1 { // the identifier stays
			x.sport, x.dport = f.shape.sport, f.shape.dport
		}
	}
	var opts []packettest.Option
	if x.proto == 6 {
		side := 0
		if reply {
			side = 1
		}
		seq, ack := f.seq, f.ack
		if reply {
			seq, ack = ack, seq
		}
		switch {
		case x.hasFlags && s.one(2):
		case f.sent[0] == 0:
		case f.sent[side] == 0:
			x.flags = packettest.SYN | packettest.ACK
			ack++
		case s.one(12):
			x.flags = pick[uint8](s, packettest.FIN|packettest.ACK, packettest.RST)
			seq, ack = seq+1, ack+1
		default:
			x.flags = packettest.ACK
			x.options = nil
			seq, ack = seq+1, ack+1
			x.payload = s.IntN(20)
		}
		opts = append(opts, packettest.Seq(seq), packettest.Ack(ack))
	}
	b := x.build(opts...)
	if reply {
		f.sent[1]++
	} else {
		f.sent[0]++
		f.last = slices.Clone(b)
	}
	return b
}

// stream makes at least n frames.
func (s *shaper) stream(n int) []shot {
	var out []shot
	for len(out) < n {
		out = s.frame(out)
	}
	return out
}
