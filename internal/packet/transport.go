package packet

import "encoding/binary"

// parseTransport parses the transport header at the start of b, which ends where the datagram does, and sets the key.
func (p *Packet) parseTransport(b []byte, src, dst Addr, proto uint8) {
	switch proto {
	case ProtoTCP, ProtoUDP:
		if len(b) < 8 {
			p.failShort()
			return
		}
		w := binary.BigEndian.Uint64(b)
		sport, dport := uint16(w>>48), uint16(w>>32)
		if proto == ProtoUDP {
			// udp_error, net/netfilter/nf_conntrack_proto_udp.c
			if n := int(w >> 16 & 0xffff); n < 8 || n > len(b) {
				p.Problem = ProblemUDPLength
			}
		} else {
			// nf_conntrack_tcp_packet and tcp_error, net/netfilter/nf_conntrack_proto_tcp.c
			if len(b) < 20 {
				p.failShort()
				return
			}
			if n := int(b[12]>>4) * 4; n < 20 || n > len(b) {
				p.Problem = ProblemTCPOffset
			}
			p.TCPFlags = b[13]
		}
		p.SrcPort, p.DstPort = sport, dport
		flip := below(dst, src, dport, sport)
		p.Key.put(src, dst, sport, dport, flip)
		p.Key.Zone, p.Key.Proto, p.Key.Family = 0, proto, p.Family
		p.Flags = PortsValid | Flags(flip)*Flipped
	case ProtoICMP:
		if p.Family != 4 {
			p.fail(ProblemICMPFamily)
			return
		}
		p.parseICMP(b)
	case ProtoICMPv6:
		if p.Family != 6 {
			p.fail(ProblemICMPFamily)
			return
		}
		p.parseICMPv6(b)
	default:
		p.parseOther(b)
	}
}

// failShort records that the transport header is cut off.
func (p *Packet) failShort() {
	if p.Proto == ProtoTCP {
		p.fail(ProblemTCPShort)
	} else {
		p.fail(ProblemUDPShort)
	}
}

// fail records a problem of the transport header where there may be no ports: the key is that of a protocol without any.
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
			p.Problem = ProblemUDPLiteCoverage
		} else if binary.BigEndian.Uint16(b[6:]) == 0 {
			p.Problem = ProblemUDPLiteNoChecksum
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
