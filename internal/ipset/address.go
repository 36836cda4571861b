package ipset

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"corewire/internal/packet"
)

// address is an IP address as keys hold it: an IPv4 address is the number in lo, hi 0.
type address struct{ hi, lo uint64 }

func (a address) zero() bool { return a.hi|a.lo == 0 }

func (a address) less(b address) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

func (a address) and(b address) address { return address{a.hi & b.hi, a.lo & b.lo} }

// prefix returns the mask of so many bits.
func prefix(n int, v6 bool) address {
	switch {
	case !v6:
		return address{0, uint64(^uint32(0) << (32 - n))}
	case n <= 64:
		return address{^uint64(0) << (64 - n), 0}
	}
	return address{^uint64(0), ^uint64(0) << (128 - n)}
}

// hostBits is the length of a prefix that is one address.
func hostBits(v6 bool) int {
	if v6 {
		return 128
	}
	return 32
}

// addressOf turns a packet's address into that of a key.
func addressOf(a packet.Addr, v6 bool) address {
	if v6 {
		return address{a.Hi, a.Lo}
	}
	return address{0, uint64(uint32(a.Lo))}
}

func addressFrom(a netip.Addr) address {
	if a.Is4() {
		b := a.As4()
		return address{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// append writes the address as inet_ntop of the GNU C library does, which ipset prints by: of the IPv6 addresses that
// begin with 96 zero bits, the last 32 bits in dotted form, unless the first 16 of them are zero too.
func (a address) append(b []byte, v6 bool) []byte {
	v4 := func(v uint32) {
		for i := 24; i >= 0; i -= 8 {
			b = strconv.AppendUint(b, uint64(v>>i&255), 10)
			if i > 0 {
				b = append(b, '.')
			}
		}
	}
	switch {
	case !v6:
		v4(uint32(a.lo))
	case a.hi == 0 && a.lo>>32 == 0 && a.lo>>16 != 0:
		b = append(b, "::"...)
		v4(uint32(a.lo))
	default:
		var x [16]byte
		binary.BigEndian.PutUint64(x[:8], a.hi)
		binary.BigEndian.PutUint64(x[8:], a.lo)
		b = netip.AddrFrom16(x).AppendTo(b)
	}
	return b
}
