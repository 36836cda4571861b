package packettest

import (
	"encoding/binary"
	"net/netip"
)

// layout says where the parts of a well-formed frame are.
type layout struct {
	l3, l4, end int
	family      int   // 4, 6, or 0 for a frame that is not IP
	proto       uint8 // transport protocol
	before      int   // IPv6: where the number of what is at split is
	split       int   // where a fragment header goes: behind hop-by-hop and routing headers
	fragment    bool  // a fragment other than the whole datagram
	src, dst    netip.Addr
}

// find returns the layout of a frame that a builder of this package made.
func find(b []byte) (l layout) {
	l.l3 = 14
	typ := binary.BigEndian.Uint16(b[12:])
	for typ == 0x8100 || typ == 0x88a8 {
		typ = binary.BigEndian.Uint16(b[l.l3+2:])
		l.l3 += 4
	}
	h := b[l.l3:]
	switch typ {
	case 0x0800:
		l.family, l.proto = 4, h[9]
		l.l4 = l.l3 + int(h[0]&15)*4
		l.end = l.l3 + int(binary.BigEndian.Uint16(h[2:]))
		l.fragment = binary.BigEndian.Uint16(h[6:])&0x3fff != 0
		l.src, l.dst = netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
	case 0x86dd:
		l.family, l.proto = 6, h[6]
		l.l4 = l.l3 + 40
		l.end = l.l4 + int(binary.BigEndian.Uint16(h[4:]))
		l.src, l.dst = netip.AddrFrom16([16]byte(h[8:24])), netip.AddrFrom16([16]byte(h[24:40]))
		l.before, l.split = l.l3+6, l.l4
		for l.l4+8 <= l.end {
			n := (int(b[l.l4+1]) + 1) * 8
			next := b[l.l4]
			switch l.proto {
			case 0, 43:
				l.before, l.split = l.l4, l.l4+n
			case 60:
			case 51:
				n = (int(b[l.l4+1]) + 2) * 4
			case 44:
				n = 8
				l.fragment = l.fragment || binary.BigEndian.Uint16(b[l.l4+2:])&0xfff9 != 0
			default:
				return l
			}
			l.proto, l.l4 = next, l.l4+n
		}
	}
	return l
}

// Datagram returns the IP datagram of a frame, without tags and padding.
func Datagram(b []byte) []byte {
	l := find(b)
	return b[l.l3:l.end]
}

// FixChecksums sets the IPv4 header checksum and the transport checksum of a frame that was changed, in place, and
// returns it. It leaves fragments' transport checksums alone.
func FixChecksums(b []byte) []byte {
	l := find(b)
	if l.family == 4 {
		setHeaderChecksum(b[l.l3:])
	}
	if l.family == 0 || l.fragment {
		return b
	}
	f := &frame{}
	t := b[l.l4:l.end]
	switch l.proto {
	case ProtoTCP:
		f.checksum(l.src, l.dst, t, 16, ProtoTCP, len(t))
	case ProtoUDP:
		f.checksum(l.src, l.dst, t, 6, ProtoUDP, len(t))
	case ProtoUDPLite:
		cover := int(binary.BigEndian.Uint16(t[4:]))
		if cover == 0 {
			cover = len(t)
		}
		f.checksum(l.src, l.dst, t, 6, ProtoUDP, cover) // see NewUDPLite
	case ProtoICMP:
		f.checksum(l.src, l.dst, t, 2, 0, len(t))
	case ProtoICMPv6:
		f.checksum(l.src, l.dst, t, 2, ProtoICMPv6, len(t))
	case ProtoSCTP:
		binary.LittleEndian.PutUint32(t[8:], 0)
		binary.LittleEndian.PutUint32(t[8:], crc32c(t))
	}
	return b
}

// Fragments cuts the datagram of a frame into fragments with at most size bytes of payload each, rounded down to a
// multiple of 8, under the identification id, and returns a frame for each, in order. For IPv6 a fragment header is
// inserted behind hop-by-hop and routing headers. If the first fragment then ends before the transport header does, Linux
// does not hold it (RFC 8200 section 4.5).
func Fragments(b []byte, id uint32, size int) [][]byte {
	l := find(b)
	size &^= 7
	head, at := b[:l.l4], l.l4
	if l.family == 6 {
		head, at = b[:l.split], l.split
	}
	var out [][]byte
	body := b[at:l.end]
	for off := 0; off < len(body) || off == 0; off += size {
		piece := body[off:min(off+size, len(body))]
		more := uint16(0)
		if off+len(piece) < len(body) {
			more = 1
		}
		f := append([]byte(nil), head...)
		if l.family == 4 {
			h := f[l.l3:]
			binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(piece)))
			binary.BigEndian.PutUint16(h[4:], uint16(id))
			binary.BigEndian.PutUint16(h[6:], more<<13|uint16(off/8))
			setHeaderChecksum(h)
		} else {
			next := f[l.before]
			f[l.before] = 44
			f = append(f, next, 0)
			f = binary.BigEndian.AppendUint16(f, uint16(off)|more)
			f = binary.BigEndian.AppendUint32(f, id)
			binary.BigEndian.PutUint16(f[l.l3+4:], uint16(len(f)-l.l3-40+len(piece)))
		}
		out = append(out, append(f, piece...))
	}
	return out
}
