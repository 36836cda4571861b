package packettest

import (
	"encoding/binary"
	"net/netip"
)

// addWords adds the 16-bit words of b to sum with end-around carry and returns the folded sum, RFC 1071, one byte after
// the other.
func addWords(sum uint32, b []byte) uint16 {
	for i, v := range b {
		if i%2 == 0 {
			sum += uint32(v) << 8
		} else {
			sum += uint32(v)
		}
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// pseudoSum returns the folded sum of the pseudo header for n bytes of transport: RFC 9293 section 3.1 for IPv4, RFC
// 8200 section 8.1 for IPv6.
func pseudoSum(src, dst netip.Addr, proto uint8, n int) uint32 {
	b := append(src.Unmap().AsSlice(), dst.Unmap().AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return uint32(addWords(0, append(b, 0, proto)))
}

// setHeaderChecksum sets the checksum of the IPv4 header at the start of h.
func setHeaderChecksum(h []byte) {
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^addWords(0, h[:int(h[0]&15)*4]))
}

// crc32c returns the CRC32c of b bit by bit: the reflected polynomial 0x82f63b78, RFC 9260 appendix A.
func crc32c(b []byte) uint32 {
	c := ^uint32(0)
	for _, v := range b {
		c ^= uint32(v)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0x82f63b78
			} else {
				c >>= 1
			}
		}
	}
	return ^c
}
