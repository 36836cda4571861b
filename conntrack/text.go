package conntrack

import (
	"encoding/binary"

	"corewire/internal/packet"
)

// What the helpers' parsers share: scanning of ASCII text in a payload. Nothing here allocates or reads outside its
// argument. The rules are those of the kernel functions named, because a helper that reads an address from text that
// Linux refuses, or the other way round, judges a connection differently.

// isDigit and isAlpha are the kernel's, to which the letters of Latin-1 are letters (lib/ctype.c).
func isDigit(c byte) bool { return c-'0' <= 9 }
func isAlpha(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0xc0 && c != 0xd7 && c != 0xf7
}

// isBlank and isBreak are what separates words and lines in SIP.
func isBlank(c byte) bool { return c == ' ' || c == '\t' }
func isBreak(c byte) bool { return c == '\r' || c == '\n' }

// foldPrefix reports whether b begins with s, letters of either case being equal (strncasecmp).
func foldPrefix(b []byte, s string) bool {
	if len(b) < len(s) {
		return false
	}
	for i := range len(s) {
		if lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

// lower returns an ASCII letter in lower case, anything else as it is.
func lower(c byte) byte {
	if c-'A' <= 'Z'-'A' {
		return c | 0x20
	}
	return c
}

// hexDigit returns the value of a hexadecimal digit; false for anything else.
func hexDigit(c byte) (uint32, bool) {
	switch l := c | 0x20; {
	case isDigit(c):
		return uint32(c - '0'), true
	case l >= 'a' && l <= 'f':
		return uint32(l-'a') + 10, true
	}
	return 0, false
}

// addr4 returns the Addr of an IPv4 address in host byte order.
func addr4(v uint32) packet.Addr { return packet.Addr{Lo: 0xffff<<32 | uint64(v)} }

// scanAddr4 reads a dotted quad at the start of b and returns the address and its length; 0 if there is none. It ends
// where no further digit or dot follows; a hexadecimal letter may not follow (in4_pton, net/core/utils.c, without a
// delimiter).
func scanAddr4(b []byte) (packet.Addr, int) {
	var v, octet uint32
	octets, digits := 0, 0
	for i := 0; ; i++ {
		var c byte
		if i < len(b) {
			c = b[i]
		}
		if isDigit(c) {
			if octets > 3 {
				return packet.Addr{}, 0
			}
			octet = octet*10 + uint32(c-'0')
			if octet > 255 {
				return packet.Addr{}, 0
			}
			digits++
			continue
		}
		if digits == 0 {
			return packet.Addr{}, 0
		}
		v, octet, digits = v<<8|octet, 0, 0
		octets++
		if c == '.' && octets < 4 {
			continue
		}
		if _, hex := hexDigit(c); hex || c == '.' || octets < 4 {
			return packet.Addr{}, 0
		}
		return addr4(v), i
	}
}

// scanAddr6 reads an IPv6 address (RFC 4291 section 2.2, the form with a dotted quad included) at the start of b and
// returns it and its length; 0 if there is none. It ends at the first byte that cannot belong to it (in6_pton,
// net/core/utils.c, without a delimiter).
func scanAddr6(b []byte) (packet.Addr, int) {
	var words [8]uint16
	n, gap, i, quad := 0, -1, 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		gap, i = 0, 2
	}
	for n < 8 {
		start, w := i, uint32(0)
		for i < len(b) && w <= 0xfff {
			d, ok := hexDigit(b[i])
			if !ok {
				break
			}
			w = w<<4 | d
			i++
		}
		if i == start {
			if gap == n { // the text ends with "::"
				break
			}
			return packet.Addr{}, 0
		}
		if i < len(b) && b[i] == '.' && n <= 6 && (gap >= 0 || n == 6) {
			v, l := scanAddr4(b[start:])
			if l == 0 {
				return packet.Addr{}, 0
			}
			words[n], words[n+1] = uint16(v.Lo>>16), uint16(v.Lo)
			n, i, quad = n+2, start+l, true
			break
		}
		words[n] = uint16(w)
		n++
		if i < len(b) {
			if _, more := hexDigit(b[i]); more {
				return packet.Addr{}, 0
			}
		}
		if i >= len(b) || b[i] != ':' || n == 8 {
			break
		}
		i++
		if i < len(b) && b[i] == ':' {
			if gap >= 0 {
				return packet.Addr{}, 0
			}
			gap, i = n, i+1
		}
	}
	if gap < 0 && n != 8 || gap >= 0 && n == 8 {
		return packet.Addr{}, 0
	}
	if i < len(b) && !quad && (b[i] == ':' || b[i] == '.') {
		return packet.Addr{}, 0
	}
	var raw [16]byte
	tail := 8 - n // words that the gap stands for
	for j := range n {
		at := j
		if gap >= 0 && j >= gap {
			at += tail
		}
		binary.BigEndian.PutUint16(raw[2*at:], words[j])
	}
	return packet.Addr{Hi: binary.BigEndian.Uint64(raw[:8]), Lo: binary.BigEndian.Uint64(raw[8:])}, i
}

// scanNumber reads a decimal number at the start of b and returns it and its length; 0, 0 if there is none, if it
// exceeds 2³²-1, or if it has more than eleven digits (sip_strtouint, net/netfilter/nf_conntrack_sip.c).
func scanNumber(b []byte) (uint32, int) {
	var v uint64
	i := 0
	for ; i < len(b) && isDigit(b[i]); i++ {
		v = v*10 + uint64(b[i]-'0')
		if v > 1<<32-1 || i >= 11 {
			return 0, 0
		}
	}
	return uint32(v), i
}

// digitsLen and alphaLen return how many digits or letters b begins with.
func digitsLen(b []byte) int {
	i := 0
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	return i
}

func alphaLen(b []byte) int {
	i := 0
	for i < len(b) && isAlpha(b[i]) {
		i++
	}
	return i
}
