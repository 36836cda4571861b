package ipset

import "math"

// maxRange bounds how many elements one command may stand for.
const maxRange = 1 << 24

// expand calls visit with every single element that an element stands for, until it returns false.
func (r *Registry) expand(s *Set, e *element, visit func(*fields) bool) {
	f := e.fields
	second := func() bool {
		if !e.bRange {
			return visit(&f)
		}
		for at := e.b.lo; ; {
			last, n := rangeToPrefix(uint32(at), uint32(e.bTo.lo))
			f.b, f.cidr2 = address{0, at}, n
			if !visit(&f) {
				return false
			}
			if uint64(last) >= e.bTo.lo {
				return true
			}
			at = uint64(last) + 1
		}
	}
	ports := func() bool {
		if !s.kind.has(partPort) || s.kind.hash() && !e.withPort {
			return second()
		}
		for p := int(e.port); p <= int(e.portTo); p++ {
			f.port = uint16(p)
			if !second() {
				return false
			}
		}
		return true
	}
	step := uint64(1)
	switch s.kind {
	case HashIP, HashIPPort, HashNetNet:
		f.a = f.a.and(s.spec.mask)
		f.b = f.b.and(s.spec.mask)
		if s.kind == HashIP && s.spec.NetMask != 0 {
			step = 1 << (32 - s.spec.NetMask&31)
		}
	case BitmapIP:
		if s.spec.NetMask != 0 {
			step = 1 << (32 - s.spec.NetMask)
		}
	}
	if !e.aRange {
		ports()
		return
	}
	network := kindTable[s.kind].parts[0] == partNet
	for at := f.a.lo; at <= e.aTo.lo; {
		last := at + step - 1
		if network {
			end, n := rangeToPrefix(uint32(at), uint32(e.aTo.lo))
			last, f.cidr = uint64(end), n
		}
		f.a = address{0, at}
		if s.kind == HashIPPort {
			f.a = f.a.and(s.spec.mask)
		}
		if !ports() {
			return
		}
		at = last + 1
	}
}

// rangeToPrefix returns the largest network that begins at from and ends at or before to: its last address and its
// length, at least 1 (ip_set_range_to_cidr in pfxlen.c).
func rangeToPrefix(from, to uint32) (last uint32, length uint8) {
	for n := uint8(1); n < 32; n++ {
		m := uint32(math.MaxUint32) << (32 - n)
		if from&m == from && from|^m <= to {
			return from | ^m, n
		}
	}
	return from, 32
}
