package packet

import (
	"encoding/binary"
	"math/bits"
)

// parseIPv4 parses the IPv4 datagram at f[l3:], RFC 791. Checks and their order are those of br_validate_ipv4.
func (p *Packet) parseIPv4(f []byte, l3 int) {
	p.Class, p.Family, p.L3 = ClassIPv4, 4, uint32(l3)
	h := f[l3:]
	if len(h) < 20 {
		p.Problem = ProblemIPShort
		return
	}
	w0 := binary.BigEndian.Uint64(h[0:8])  // version, IHL, TOS, total length, identification, flags, fragment offset
	w1 := binary.BigEndian.Uint64(h[8:16]) // TTL, protocol, checksum, source
	w2 := binary.BigEndian.Uint32(h[16:20])
	if w0>>60 != 4 {
		p.Problem = ProblemIPVersion
		return
	}
	hl := int(w0>>56&15) * 4
	sum, c := bits.Add64(w0, w1, 0)
	sum, c = bits.Add64(sum, uint64(w2), c)
	sum += c
	if hl != 20 {
		if hl < 20 || hl > len(h) {
			p.Problem = ProblemIPHeaderLength
			return
		}
		for o := h[20:hl]; len(o) >= 4; o = o[4:] {
			sum, c = bits.Add64(sum, uint64(binary.BigEndian.Uint32(o)), 0)
			sum += c
		}
	}
	if fold(sum) != 0xffff {
		p.Problem = ProblemIPChecksum
		return
	}
	total := int(w0 >> 32 & 0xffff)
	if total > len(h) || total < hl {
		p.Problem = ProblemIPLength
		return
	}
	src, dst := addr4(uint32(w1)), addr4(w2)
	proto := uint8(w1 >> 48)
	p.Src, p.Dst = src, dst
	p.L4, p.End = uint32(l3+hl), uint32(l3+total)
	p.IPID = uint32(w0 >> 16 & 0xffff)
	p.Proto, p.TTL, p.TOS = proto, uint8(w1>>56), uint8(w0>>48)
	if frag := w0 & 0x3fff; frag != 0 {
		p.FragOff = uint16(frag&0x1fff) * 8
		p.Flags = p.Key.Set(src, dst, 0, 0, proto, 4) | Fragment
		if frag&0x2000 == 0 {
			p.Flags |= FragLast
		}
		return
	}
	p.parseTransport(f[l3+hl:l3+total], src, dst, proto, 4)
}

// fold reduces the sum of big-endian words to the 16-bit one's complement sum, RFC 1071: 2^16 is 1 modulo 2^16 - 1.
// It is 0 only for 0.
func fold(sum uint64) uint64 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16&0xffff + sum>>32 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return sum>>16 + sum&0xffff
}
