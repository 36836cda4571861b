package packettest

import (
	"encoding/binary"
	"net/netip"
)

// ports returns a transport header that starts with the two ports.
func ports(src, dst netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}

// NewTCP returns a frame with a TCP segment, RFC 9293.
func NewTCP(src, dst netip.AddrPort, flags uint8, options ...Option) []byte {
	f := collect(options)
	t := ports(src, dst)
	t = binary.BigEndian.AppendUint32(t, f.seq)
	t = binary.BigEndian.AppendUint32(t, f.ack)
	t = append(t, byte((20+len(f.tcpOptions))/4)<<4, flags)
	t = binary.BigEndian.AppendUint16(t, f.window)
	t = append(t, 0, 0)
	t = binary.BigEndian.AppendUint16(t, f.urgent)
	t = append(t, f.tcpOptions...)
	t = append(t, f.payload...)
	f.checksum(src.Addr(), dst.Addr(), t, 16, ProtoTCP, len(t))
	return f.ip(src.Addr(), dst.Addr(), ProtoTCP, t)
}

// NewUDP returns a frame with a UDP datagram, RFC 768.
func NewUDP(src, dst netip.AddrPort, options ...Option) []byte {
	f := collect(options)
	t := binary.BigEndian.AppendUint16(ports(src, dst), uint16(8+len(f.payload)))
	t = append(append(t, 0, 0), f.payload...)
	f.checksum(src.Addr(), dst.Addr(), t, 6, ProtoUDP, len(t))
	return f.ip(src.Addr(), dst.Addr(), ProtoUDP, t)
}

// NewUDPLite returns a frame with a UDPLite datagram, RFC 3828, but for the checksum: its pseudo header has UDP's protocol
// number, which is what Linux' connection tracking takes for right (udplite_error, nf_conntrack_proto_udp.c).
func NewUDPLite(src, dst netip.AddrPort, options ...Option) []byte {
	f := collect(options)
	t := binary.BigEndian.AppendUint16(ports(src, dst), f.coverage)
	t = append(append(t, 0, 0), f.payload...)
	cover := len(t)
	if f.coverage != 0 {
		cover = min(int(f.coverage), len(t))
	}
	f.checksum(src.Addr(), dst.Addr(), t, 6, ProtoUDP, cover)
	return f.ip(src.Addr(), dst.Addr(), ProtoUDPLite, t)
}

// NewDCCP returns a frame with a DCCP packet of this type with a 48-bit sequence number, RFC 4340 section 5.1.
func NewDCCP(src, dst netip.AddrPort, typ uint8, options ...Option) []byte {
	f := collect(options)
	if f.dataOffset == 0 {
		f.dataOffset = 4
	}
	t := append(ports(src, dst), f.dataOffset, 0, 0, 0, typ<<1|1, 0, 0, 0)
	t = binary.BigEndian.AppendUint32(t, f.seq)
	t = append(t, f.payload...)
	f.checksum(src.Addr(), dst.Addr(), t, 6, ProtoDCCP, len(t))
	return f.ip(src.Addr(), dst.Addr(), ProtoDCCP, t)
}

// NewSCTP returns a frame with an SCTP packet, RFC 9260: chunks is what SCTPChunk returns, one behind the other.
func NewSCTP(src, dst netip.AddrPort, tag uint32, chunks []byte, options ...Option) []byte {
	f := collect(options)
	t := binary.BigEndian.AppendUint32(ports(src, dst), tag)
	t = append(append(t, 0, 0, 0, 0), chunks...)
	c := crc32c(t)
	if f.badChecksum {
		c = ^c
	}
	if !f.noChecksum {
		binary.LittleEndian.PutUint32(t[8:], c)
	}
	return f.ip(src.Addr(), dst.Addr(), ProtoSCTP, t)
}

// SCTPChunk returns one SCTP chunk, padded to four bytes.
func SCTPChunk(typ, flags uint8, body []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{typ, flags}, uint16(4+len(body)))
	return pad(append(b, body...), 4)
}

// NewGRE returns a frame with a GRE version 0 packet that carries this EtherType, RFC 2784.
func NewGRE(src, dst netip.Addr, typ uint16, options ...Option) []byte {
	f := collect(options)
	t := binary.BigEndian.AppendUint16([]byte{0, 0}, typ)
	return f.ip(src, dst, ProtoGRE, append(t, f.payload...))
}

// NewPPTP returns a frame with a GRE version 1 packet that carries PPP, RFC 2637 section 4.1.
func NewPPTP(src, dst netip.Addr, call uint16, options ...Option) []byte {
	f := collect(options)
	t := []byte{0x30, 0x01, 0x88, 0x0b}
	t = binary.BigEndian.AppendUint16(t, uint16(len(f.payload)))
	t = binary.BigEndian.AppendUint16(t, call)
	t = binary.BigEndian.AppendUint32(t, f.seq)
	return f.ip(src, dst, ProtoGRE, append(t, f.payload...))
}

// NewIP returns a frame with a datagram of any protocol around the payload, which gets no checksum.
func NewIP(src, dst netip.Addr, proto uint8, options ...Option) []byte {
	f := collect(options)
	return f.ip(src, dst, proto, f.payload)
}

// NewICMP returns a frame with an ICMP or, between IPv6 addresses, ICMPv6 message that has an identifier and a sequence
// number: RFC 792, RFC 4443.
func NewICMP(src, dst netip.Addr, typ, code uint8, id, seq uint16, options ...Option) []byte {
	return NewICMPMessage(src, dst, typ, code, uint32(id)<<16|uint32(seq), options...)
}

// Echo returns a frame with an echo request of the addresses' family.
func Echo(src, dst netip.Addr, id, seq uint16, options ...Option) []byte {
	if src.Unmap().Is4() {
		return NewICMP(src, dst, 8, 0, id, seq, options...)
	}
	return NewICMP(src, dst, 128, 0, id, seq, options...)
}

// EchoReply returns a frame with an echo reply of the addresses' family.
func EchoReply(src, dst netip.Addr, id, seq uint16, options ...Option) []byte {
	if src.Unmap().Is4() {
		return NewICMP(src, dst, 0, 0, id, seq, options...)
	}
	return NewICMP(src, dst, 129, 0, id, seq, options...)
}

// NewICMPMessage returns a frame with an ICMP or ICMPv6 message: rest is bytes 4 to 7, the payload follows them.
func NewICMPMessage(src, dst netip.Addr, typ, code uint8, rest uint32, options ...Option) []byte {
	f := collect(options)
	t := binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest)
	t = append(t, f.payload...)
	if src.Unmap().Is4() {
		f.checksum(src, dst, t, 2, 0, len(t))
		return f.ip(src, dst, ProtoICMP, t)
	}
	f.checksum(src, dst, t, 2, ProtoICMPv6, len(t))
	return f.ip(src, dst, ProtoICMPv6, t)
}

// NewICMPError returns a frame with an ICMP or ICMPv6 error from src to dst about the packet in the frame quoted: its
// first bytes, at most n of the datagram, or all if n is 0.
func NewICMPError(src, dst netip.Addr, typ, code uint8, rest uint32, quoted []byte, n int, options ...Option) []byte {
	q := Datagram(quoted)
	if n > 0 && n < len(q) {
		q = q[:n]
	}
	return NewICMPMessage(src, dst, typ, code, rest, append(options, Payload(q))...)
}

// NewRedirect returns a frame with an ICMPv6 redirect (RFC 4861 section 4.5) from a router to dst, to go by target, about
// the packet in the frame quoted. The hop limit is 255 unless an option says otherwise.
func NewRedirect(router, dst, target netip.Addr, quoted []byte, options ...Option) []byte {
	q := Datagram(quoted)
	var b []byte
	b = append(b, target.AsSlice()...)
	b = append(b, q[24:40]...) // the redirected destination
	option := pad(append([]byte{4, 0, 0, 0, 0, 0, 0, 0}, q...), 8)
	option[1] = byte(len(option) / 8)
	b = append(b, option...)
	return NewICMPMessage(router, dst, 137, 0, 0, append([]Option{TTL(255), Payload(b)}, options...)...)
}
