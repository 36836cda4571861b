package ipset

import "math"

// layout is how a kind's elements are laid out in keys.
type layout struct {
	words   int    // of a key
	hashed  int    // words of it that are hashed
	last    uint64 // mask of the last word hashed
	v6      bool
	chunked bool   // networks of one dimension, the first: prefix lengths are kept per chunk
	tagged  uint64 // the slots from which on a table has tags
}

// fields are an element, taken apart.
type fields struct {
	a, b        address
	cidr, cidr2 uint8
	proto       uint8
	port        uint16
	physdev     bool
	wildcard    bool
	mark        uint32
	mac         uint64
	iface       [2]uint64 // the name's bytes, first in the high ones, and zeros behind
}

// The word that holds what is no address, or for an IPv4 address the upper half of its word:
//
//	 39        32 31     16 15     8 7       0
//	[ 2nd length ][ port   ][ proto ][ length ]     all but those below
//	             [ - ][ wildcard 9 ][ physdev 8 ][ length ]   hash:net,iface
//	             [ mark                         ]   hash:ip,mark
const (
	miscPhysdev  = 1 << 8
	miscWildcard = 1 << 9
)

func layoutOf(k Kind, v6 bool) layout {
	l := layout{words: 1, last: ^uint64(0), v6: v6, tagged: largeTable}
	if kindTable[k].noMatch {
		l.tagged = 0
	}
	if v6 {
		l.words = 3
	}
	switch k {
	case HashIP:
		if v6 {
			l.words = 2
		}
	case HashMAC:
		l.words = 1
	case HashIPMAC:
		if !v6 {
			l.words = 2
		}
	case HashNet, HashNetPort:
		l.chunked = true
	case HashIPPortIP, HashIPPortNet, HashNetNet, HashNetPortNet:
		l.words = 2
		if v6 {
			l.words = 5
		}
	case HashNetIface:
		// Elements of one network are found by its address and length alone, and looked at in order, as in the kernel:
		// a name may be the beginning of an interface's.
		l.chunked = true
		l.tagged = math.MaxUint64
		l.hashed, l.last = 1, 1<<40-1
		l.words = 3
		if v6 {
			l.hashed, l.last = 3, 1<<8-1
			l.words = 5
		}
		return l
	}
	l.hashed = l.words
	return l
}

// encode writes an element's key.
func (s *Set) encode(f *fields, k *key) {
	misc := uint64(f.cidr) | uint64(f.proto)<<8 | uint64(f.port)<<16 | uint64(f.cidr2)<<32
	switch s.kind {
	case HashMAC:
		k[0] = f.mac
		return
	case HashIPMAC:
		k[0], k[1] = f.a.lo, f.mac
		if s.v6 {
			k[0], k[1], k[2] = f.a.hi, f.a.lo, f.mac
		}
		return
	case HashIPMark:
		misc = uint64(f.mark)
	case HashNetIface:
		misc = uint64(f.cidr)
		if f.physdev {
			misc |= miscPhysdev
		}
		if f.wildcard {
			misc |= miscWildcard
		}
		if s.v6 {
			*k = key{f.a.hi, f.a.lo, misc, f.iface[0], f.iface[1]}
		} else {
			k[0], k[1], k[2] = f.a.lo|misc<<32, f.iface[0], f.iface[1]
		}
		return
	}
	switch s.layout.words {
	case 1:
		k[0] = f.a.lo | misc<<32
	case 2:
		if s.v6 {
			k[0], k[1] = f.a.hi, f.a.lo
		} else {
			k[0], k[1] = f.a.lo|f.b.lo<<32, misc
		}
	case 3:
		k[0], k[1], k[2] = f.a.hi, f.a.lo, misc
	default:
		*k = key{f.a.hi, f.a.lo, f.b.hi, f.b.lo, misc}
	}
}

// decode is the inverse of encode.
func (s *Set) decode(k *key, f *fields) {
	*f = fields{}
	low := func(w uint64) address { return address{0, w & (1<<32 - 1)} }
	switch s.kind {
	case HashMAC:
		f.mac = k[0]
		return
	case HashIPMAC:
		f.a, f.mac = low(k[0]), k[1]
		if s.v6 {
			f.a, f.mac = address{k[0], k[1]}, k[2]
		}
		return
	}
	misc := s.misc(k)
	switch {
	case s.v6:
		f.a = address{k[0], k[1]}
		if s.layout.words == 5 && s.kind != HashNetIface {
			f.b = address{k[2], k[3]}
		}
	case s.layout.words == 2:
		f.a, f.b = low(k[0]), address{0, k[0] >> 32}
	default:
		f.a = low(k[0])
	}
	switch s.kind {
	case HashIPMark:
		f.mark = uint32(misc)
	case HashNetIface:
		f.cidr, f.physdev, f.wildcard = uint8(misc), misc&miscPhysdev != 0, misc&miscWildcard != 0
		f.iface = [2]uint64(k[s.layout.words-2:])
	default:
		f.cidr, f.proto, f.port, f.cidr2 = uint8(misc), uint8(misc>>8), uint16(misc>>16), uint8(misc>>32)
	}
}

// misc returns the word of a key that holds what is no address.
func (s *Set) misc(k *key) uint64 {
	switch {
	case s.kind == HashIP:
		return 0
	case s.kind == HashNetIface && s.v6:
		return k[2]
	case s.v6:
		return k[s.layout.words-1]
	case s.layout.words == 2:
		return k[1]
	}
	return k[0] >> 32
}
