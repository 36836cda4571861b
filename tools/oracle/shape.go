package main

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// shape is a packet before it is put together: what rules ask about, each for itself.
type shape struct {
	in           packet.Port
	src, dst     netip.Addr
	proto        uint8 // ICMP stands for ICMPv6 as well
	sport, dport uint16
	typ, code    uint8
	flags        uint8
	hasFlags     bool // a rule asked for them
	options      [][]byte
	ttl, tos     uint8
	payload      int
	text         []byte // stands in the payload
	bm           bool   // a rule looks for it with --algo bm
	source       [6]byte
	vlan         int // -1: no tag
	routing      []byte
	headers      int // further extension headers
	padded       bool
	exts         []ext
	chunks       []byte // of SCTP; nil: INIT
	spi          uint32 // of ESP, and of IPv4's authentication header
	mobility     uint8
	kind, offset uint8  // of DCCP: type, and where the payload begins; 0 for behind the header
	dccpHeader   []byte // what stands before the payload
}

// ext is an extension header of IPv6; its first byte is set later.
type ext struct {
	proto uint8
	body  []byte
}

// extend adds an extension header.
func (x *shape) extend(proto uint8, body []byte) {
	x.exts = append(x.exts[:len(x.exts):len(x.exts)], ext{proto, body})
}

// hop adds an address to the routing header.
func (x *shape) hop(a netip.Addr) {
	b := a.As16()
	x.routing = append(x.routing, b[:]...)
}

// number returns the protocol's number for the shape's version.
func (x *shape) number() uint8 {
	if x.proto == 1 && x.src.Is6() {
		return 58
	}
	return x.proto
}

// build puts a frame together. Options further change it.
func (x *shape) build(more ...packettest.Option) []byte {
	payload := x.payload
	head := map[uint8]int{6: 20, 17: 8, 136: 8, 132: 12, 33: 12, 1: 8, 47: 4}[x.proto]
	ip := 20
	if x.src.Is6() {
		ip = 40
	}
	if payload < 0 { // the length of the datagram
		payload = max(0, min(-payload, 1500)-head-ip)
		if x.proto == 6 {
			x.options = nil
		}
		x.routing, x.headers, x.exts = nil, 0, nil
	}
	b := make([]byte, payload)
	for i := range b {
		b[i] = byte(i)
	}
	copy(b[max(0, len(b)-len(x.text))/2:], x.text)
	opts := []packettest.Option{packettest.TTL(x.ttl), packettest.TOS(x.tos), packettest.Ether([6]byte{2, 0, 0, 0, 0, 2}, x.source)}
	if x.vlan >= 0 {
		opts = append(opts, packettest.VLAN(uint16(x.vlan)))
	}
	if x.padded {
		opts = append(opts, packettest.Minimum())
	}
	if x.src.Is6() {
		if x.headers&1 != 0 {
			opts = append(opts, packettest.HopByHop(nil))
		}
		if len(x.routing) > 0 {
			h := make([]byte, (4+len(x.routing)-2+7)/8*8)
			h[1] = byte(len(h)/8 - 1)
			copy(h[2:], x.routing)
			opts = append(opts, packettest.ExtHeader(43, h))
		}
		if x.headers&2 != 0 {
			opts = append(opts, packettest.DestinationOptions(nil))
		}
		for _, e := range x.exts {
			if e.proto == 44 && x.proto == 6 {
				b = append(b, 0) // to a SYN without data TCPMSS adds an option, but not to what came in a fragment: package rules
			}
			opts = append(opts, packettest.ExtHeader(e.proto, e.body))
		}
	} else if x.headers == 1 {
		opts = append(opts, packettest.IPv4Options([]byte{1, 1, 1, 1}))
	}
	opts = append(opts, packettest.Payload(b))
	opts = append(opts, more...)
	src, dst := netip.AddrPortFrom(x.src, x.sport), netip.AddrPortFrom(x.dst, x.dport)
	switch x.proto {
	case 6:
		if len(x.options) > 0 {
			opts = append(opts, packettest.TCPOptions(x.options...))
		}
		return packettest.NewTCP(src, dst, x.flags, opts...)
	case 17:
		return packettest.NewUDP(src, dst, opts...)
	case 136:
		return packettest.NewUDPLite(src, dst, opts...)
	case 132:
		chunks := x.chunks
		if chunks == nil {
			chunks = packettest.SCTPChunk(1, 0, make([]byte, 16))
		}
		return packettest.NewSCTP(src, dst, 0, chunks, opts...)
	case 33:
		return packettest.NewDCCP(src, dst, x.kind, append(opts, packettest.Payload(append(slices.Clone(x.dccpHeader), b...)), packettest.DataOffset(x.offset))...)
	case 47:
		return packettest.NewGRE(x.src, x.dst, 0x800, opts...)
	case 1:
		return packettest.NewICMP(x.src, x.dst, x.typ, x.code, x.sport, x.dport, opts...)
	}
	head4 := func(b []byte) []byte { // SPI and sequence number
		return append(append(binary.BigEndian.AppendUint32(nil, x.spi), 0, 0, 0, 1), b...)
	}
	switch {
	case x.proto == 50 && x.payload%8 != 7: // seldom without
		opts = append(opts, packettest.Payload(head4(b)))
	case x.proto == 51 && x.src.Is4() && x.payload%8 != 7:
		opts = append(opts, packettest.Payload(append([]byte{17, 1, 0, 0}, head4(b)...)))
	case x.proto == 108 && x.payload%8 != 7:
		opts = append(opts, packettest.Payload(append([]byte{6, 0, uint8(x.spi >> 8), uint8(x.spi)}, b...)))
	case x.proto == 135 && x.payload%8 != 7: // RFC 6275 section 6.1
		opts = append(opts, packettest.Payload(append([]byte{59, 0, x.mobility, 0, 0, 0, 0, 0}, b...)))
	}
	return packettest.NewIP(x.src, x.dst, x.number(), opts...)
}
