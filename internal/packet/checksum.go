package packet

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// VerifyChecksum verifies the transport checksum as nf_conntrack does before routing with nf_conntrack_checksum=1
// (nf_checksum, net/netfilter/utils.c), and reports false where nf_conntrack calls the packet INVALID for it: TCP, UDP
// where the checksum is not 0 (IPv6 too), UDPLite over its coverage, SCTP's CRC32c, ICMP, ICMPv6. Everything else has no
// checksum that is looked at, nor has a fragment, or a packet with a Problem: true.
//
// For UDPLite the pseudo header has UDP's protocol number, not UDPLite's own (RFC 3828 section 3.2), because that is what
// udplite_error passes to nf_checksum_partial (net/netfilter/nf_conntrack_proto_udp.c; seen on 6.18): Linux calls every
// correct UDPLite packet INVALID unless nf_conntrack_checksum is 0. With IPv4 nf_ip_checksum_partial then hands length and
// protocol to csum_tcpudp_nofold in each other's places, and of the length only the lower byte counts.
//
// As in the kernel the IP header's addresses are those of the pseudo header, also behind a routing header, and the
// length is the datagram's, also where UDP's own is shorter.
func (p *Packet) VerifyChecksum() bool {
	if p.Flags&Fragment != 0 || p.Problem != ProblemNone {
		return true
	}
	b := p.Frame[p.L4:p.End]
	switch p.Proto {
	case ProtoTCP:
		return fold(SumBytes(p.pseudo(ProtoTCP, len(b)), b)) == 0xffff
	case ProtoUDP:
		if b[6]|b[7] == 0 {
			return true
		}
		return fold(SumBytes(p.pseudo(ProtoUDP, len(b)), b)) == 0xffff
	case ProtoICMPv6:
		return fold(SumBytes(p.pseudo(ProtoICMPv6, len(b)), b)) == 0xffff
	case ProtoICMP:
		return fold(SumBytes(0, b)) == 0xffff
	case ProtoUDPLite:
		size := len(b)
		if p.Family == 4 {
			size &= 255
		}
		sum := p.pseudo(ProtoUDP, size)
		if n := binary.BigEndian.Uint16(b[4:]); n != 0 {
			b = b[:n]
		}
		return fold(SumBytes(sum, b)) == 0xffff
	case ProtoSCTP:
		return binary.LittleEndian.Uint32(b[8:]) == SCTPChecksum(b)
	}
	return true
}

// pseudo returns the sum of the pseudo header of p for n bytes of transport: RFC 793 section 3.1, RFC 8200 section 8.1.
func (p *Packet) pseudo(proto uint8, n int) uint64 {
	return PseudoHeader(p.Src, p.Dst, proto, p.Family, n)
}

// PseudoHeader returns the sum, for SumBytes and Checksum, of the pseudo header for n bytes of transport.
func PseudoHeader(src, dst Addr, proto, family uint8, n int) uint64 {
	if family == 4 {
		return uint64(uint32(src.Lo)) + uint64(uint32(dst.Lo)) + uint64(proto) + uint64(n)
	}
	sum, c := bits.Add64(src.Hi, src.Lo, 0)
	sum, c = bits.Add64(sum, dst.Hi, c)
	sum, c = bits.Add64(sum, dst.Lo, c)
	sum, c = bits.Add64(sum, uint64(proto)+uint64(n), c)
	return sum + c
}

// SumBytes adds the big-endian 16-bit words of b to the one's complement sum, RFC 1071; an odd last byte is the upper
// half of a word. The result is a partial sum for another SumBytes, if len(b) was even, or for Checksum.
func SumBytes(sum uint64, b []byte) uint64 {
	// 2^16 is 1 modulo 2^16 - 1, so words of 64 bits with end-around carry give the same sum; and words in the other byte
	// order give it with its bytes swapped (RFC 1071 section 2). A swap of all eight bytes at the end serves: the order of
	// the 16-bit words does not matter.
	sum = bits.ReverseBytes64(sum)
	whole := b
	var c uint64
	for len(b) >= 64 {
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[0:8]), 0)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[8:16]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[16:24]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[24:32]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[32:40]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[40:48]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[48:56]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[56:64]), c)
		sum += c
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum += c
		b = b[8:]
	}
	var last uint64
	if len(whole) >= 8 {
		// The last eight bytes without those that were added already; a shift by 64 leaves none.
		last = binary.LittleEndian.Uint64(whole[len(whole)-8:]) >> (64 - 8*len(b))
	} else {
		for i, v := range b {
			last |= uint64(v) << (8 * i)
		}
	}
	sum, c = bits.Add64(sum, last, 0)
	return bits.ReverseBytes64(sum + c)
}

// Checksum returns the Internet checksum of a partial sum: the complement of its fold, RFC 1071. UDP sends 0 as 0xffff,
// RFC 768; that is the caller's business.
func Checksum(sum uint64) uint16 { return ^uint16(fold(sum)) }

// UpdateChecksum returns the checksum after a 16-bit word of the data it covers changed from old to new, RFC 1624
// equation 3.
func UpdateChecksum(sum, old, new uint16) uint16 {
	return Checksum(uint64(^sum) + uint64(^old) + uint64(new))
}

// castagnoli is the polynomial of SCTP's checksum.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SCTPChecksum returns the CRC32c of the SCTP packet b, at least 12 bytes, with its checksum field taken as zero, as it
// is stored little-endian in that field, RFC 9260 section 6.8 and appendix A.
func SCTPChecksum(b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[:8])
	sum = crc32.Update(sum, castagnoli, zero[:])
	return crc32.Update(sum, castagnoli, b[12:])
}

// zero stands for the checksum field.
var zero [4]byte
