package packet

import (
	"encoding/binary"
	"math/bits"
)

// parseIPv4 parses the IPv4 datagram at f[l3:], RFC 791. Checks and their order are those of br_validate_ipv4.
func (p *Packet) parseIPv4(f []byte, l3 int, vlan uint16) {
	h := f[l3:]
	if len(h) < 20 {
		p.malformed(ProblemIPShort, ClassIPv4, 4, l3, vlan)
		return
	}
	w0 := binary.BigEndian.Uint64(h[0:8])  // version, IHL, TOS, total length, identification, flags, fragment offset
	w1 := binary.BigEndian.Uint64(h[8:16]) // TTL, protocol, checksum, source
	w2 := binary.BigEndian.Uint32(h[16:20])
	sum, c := bits.Add64(w0, w1, 0)
	sum, c = bits.Add64(sum, uint64(w2), c)
	sum += c
	total := w0 >> 32 & 0xffff
	// One's complement sums are sums modulo 2^16 - 1, and this one cannot be 0, as the version is not.
	if w0>>56 != 0x45 || sum%0xffff != 0 || total-20 > uint64(len(h)-20) {
		p.parseIPv4Options(h, l3, vlan)
		return
	}
	p.begin(ClassIPv4, 4, l3, vlan)
	p.setIPv4(w0, w1, w2, 20)
	if w0&0x3fff != 0 {
		p.setFragment(uint16(w0))
		return
	}
	p.parseTransport(h[20:total], addr4(uint32(w1)), addr4(w2), uint8(w1>>48))
}

// parseIPv4Options parses the IPv4 datagram h, at least 20 bytes, if its header has options or a problem.
func (p *Packet) parseIPv4Options(h []byte, l3 int, vlan uint16) {
	w0 := binary.BigEndian.Uint64(h[0:8])
	w1 := binary.BigEndian.Uint64(h[8:16])
	w2 := binary.BigEndian.Uint32(h[16:20])
	problem := ProblemNone
	hl, total := int(h[0]&15)*4, int(w0>>32&0xffff)
	switch {
	case w0>>60 != 4:
		problem = ProblemIPVersion
	case hl < 20 || hl > len(h):
		problem = ProblemIPHeaderLength
	case fold(SumBytes(0, h[:hl])) != 0xffff:
		problem = ProblemIPChecksum
	case total > len(h) || total < hl:
		problem = ProblemIPLength
	}
	if problem != ProblemNone {
		p.malformed(problem, ClassIPv4, 4, l3, vlan)
		return
	}
	p.begin(ClassIPv4, 4, l3, vlan)
	p.setIPv4(w0, w1, w2, uint32(hl))
	if w0&0x3fff != 0 {
		p.setFragment(uint16(w0))
		return
	}
	p.parseTransport(h[hl:total], p.Src, p.Dst, p.Proto)
}

// setIPv4 sets the fields of the header whose first 20 bytes are the big-endian words w0, w1, w2; it is hl long.
func (p *Packet) setIPv4(w0, w1 uint64, w2, hl uint32) {
	p.Src, p.Dst = addr4(uint32(w1)), addr4(w2)
	p.L4, p.End = p.L3+hl, p.L3+uint32(w0>>32)&0xffff
	p.IPID = uint32(w0) >> 16
	p.Proto, p.TTL, p.TOS = uint8(w1>>48), uint8(w1>>56), uint8(w0>>48)
}

// setFragment makes p a fragment: field is the header's flags and offset.
func (p *Packet) setFragment(field uint16) {
	p.FragOff = field << 3
	p.Flags = p.Key.Set(p.Src, p.Dst, 0, 0, p.Proto, 4) | Fragment
	if field&0x2000 == 0 {
		p.Flags |= FragLast
	}
}

// fold reduces the sum of big-endian words to the 16-bit one's complement sum, RFC 1071: 2^16 is 1 modulo 2^16 - 1.
// It is 0 only for 0.
func fold(sum uint64) uint64 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16&0xffff + sum>>32 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return sum>>16 + sum&0xffff
}
