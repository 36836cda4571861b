package packet

import "encoding/binary"

// parseTransport parses the transport header at the start of b, which ends where the datagram does, and sets the key.
func (p *Packet) parseTransport(b []byte, src, dst Addr, proto, family uint8) {
	switch proto {
	case ProtoTCP:
		// nf_conntrack_tcp_packet and tcp_error, net/netfilter/nf_conntrack_proto_tcp.c
		if len(b) < 20 {
			p.fail(ProblemTCPShort)
			return
		}
		w := binary.BigEndian.Uint32(b)
		sport, dport := uint16(w>>16), uint16(w)
		p.SrcPort, p.DstPort, p.TCPFlags = sport, dport, b[13]
		p.Flags |= p.Key.Set(src, dst, sport, dport, proto, family) | PortsValid
		if n := int(b[12]>>4) * 4; n < 20 || n > len(b) {
			p.fail(ProblemTCPOffset)
		}
	case ProtoUDP:
		// udp_error, net/netfilter/nf_conntrack_proto_udp.c
		if len(b) < 8 {
			p.fail(ProblemUDPShort)
			return
		}
		w := binary.BigEndian.Uint64(b)
		sport, dport := uint16(w>>48), uint16(w>>32)
		p.SrcPort, p.DstPort = sport, dport
		p.Flags |= p.Key.Set(src, dst, sport, dport, proto, family) | PortsValid
		if n := int(w >> 16 & 0xffff); n < 8 || n > len(b) {
			p.fail(ProblemUDPLength)
		}
	case ProtoICMP:
		if family != 4 {
			p.fail(ProblemICMPFamily)
			return
		}
		p.parseICMP(b)
	case ProtoICMPv6:
		if family != 6 {
			p.fail(ProblemICMPFamily)
			return
		}
		p.parseICMPv6(b)
	default:
		p.parseOther(b)
	}
}

// fail records a problem of the transport header. The key is then that of a protocol without ports: such a packet is
// INVALID and finds no flow.
func (p *Packet) fail(problem Problem) {
	p.Problem = problem
	p.Flags = p.Flags&^Flipped | p.Key.Set(p.Src, p.Dst, 0, 0, p.Proto, p.Family)
}

// parseOther parses the transport header of the less frequent protocols.
func (p *Packet) parseOther(b []byte) {
	switch p.Proto {
	case ProtoUDPLite:
		// udplite_error, net/netfilter/nf_conntrack_proto_udp.c
		if len(b) < 8 {
			p.fail(ProblemUDPShort)
			return
		}
		p.setPorts(b)
		if n := int(binary.BigEndian.Uint16(b[4:])); n != 0 && n < 8 || n > len(b) {
			p.fail(ProblemUDPLiteCoverage)
		} else if binary.BigEndian.Uint16(b[6:]) == 0 {
			p.fail(ProblemUDPLiteNoChecksum)
		}
	case ProtoSCTP:
		// sctp_error, net/netfilter/nf_conntrack_proto_sctp.c
		if len(b) < 12 {
			p.fail(ProblemSCTPShort)
			return
		}
		p.setPorts(b)
	case ProtoDCCP:
		// Linux 6.16 removed its tracker: the key has no ports, but the rules may ask for them. A complete header is 12
		// bytes, RFC 4340 section 5.1.
		if len(b) >= 12 {
			p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
			p.Flags |= PortsValid
		}
		p.Flags |= p.Key.Set(p.Src, p.Dst, 0, 0, p.Proto, p.Family)
	case ProtoGRE:
		call, ok := greCall(b)
		if !ok {
			p.fail(ProblemGREProtocol)
			return
		}
		p.Flags |= p.Key.Set(p.Src, p.Dst, 0, call, p.Proto, p.Family)
	default:
		p.Flags |= p.Key.Set(p.Src, p.Dst, 0, 0, p.Proto, p.Family)
	}
}

// setPorts reads the ports at the start of b, which has at least four bytes, and sets the key.
func (p *Packet) setPorts(b []byte) {
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	p.Flags |= p.Key.Set(p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto, p.Family) | PortsValid
}

// greCall returns the call id of a GRE packet, 0 where it has none: versions other than 1 and headers that are cut off
// are tracked like a protocol without ports. It fails for version 1 that does not carry PPP
// (gre_pkt_to_tuple, net/netfilter/nf_conntrack_proto_gre.c; RFC 2637 section 4.1).
func greCall(b []byte) (call uint16, ok bool) {
	if len(b) < 8 || b[1]&7 != 1 {
		return 0, true
	}
	if binary.BigEndian.Uint16(b[2:]) != 0x880b {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[6:]), true
}
