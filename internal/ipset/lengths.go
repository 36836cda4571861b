package ipset

import "sync/atomic"

// nets keeps account of the prefix lengths of a set, as mtype_add_cidr and mtype_del_cidr do.
type nets struct {
	lens  [2][129]atomic.Int32
	masks [2][2]atomic.Uint64 // lengths from 1 that occur, by length-1; a bit may stay when its last element went
	zero  [2]atomic.Bool      // length 0 occurs, likewise
}

// account counts a network's prefix lengths.
func (s *Set) account(k *key, by int32) {
	if s.nets == nil {
		return
	}
	misc := s.misc(k)
	for d, n := range [2]uint8{uint8(misc), uint8(misc >> 32)} {
		if s.kind == HashNetIface && d == 1 {
			break
		}
		s.nets.lens[d][n].Add(by)
		if by < 0 {
			continue
		}
		if n == 0 {
			if !s.nets.zero[d].Load() {
				s.nets.zero[d].Store(true)
			}
			continue
		}
		m, bit := &s.nets.masks[d][(n-1)>>6], uint64(1)<<((n-1)&63)
		if m.Load()&bit == 0 {
			m.Or(bit)
		}
	}
}

// longest returns the longest prefix of a dimension, the whole address's for an empty set (INIT_CIDR).
func (s *Set) longest(d int) uint8 {
	host := hostBits(s.v6)
	if s.nets == nil {
		return uint8(host)
	}
	for n := host; n >= 0; n-- {
		if s.nets.lens[d][n].Load() > 0 {
			return uint8(n)
		}
	}
	return uint8(host)
}

// pivot is the length of the prefix that chunks are made by: long enough to tell networks apart, short enough for
// most elements to be in one chunk only.
func pivot(v6 bool) int {
	if v6 {
		return 32
	}
	return 16
}

// chunkOf returns where an address's chunk is.
func (t *table) chunkOf(a address, v6 bool) uint64 {
	x := a.lo >> 16
	if v6 {
		x = a.hi >> 32
	}
	return x * 0x9e3779b97f4a7c15 >> 32 & t.chunkMask
}

// chunk notes a network's length in its chunk, where it is longer than the chunk's.
func (s *Set) chunk(t *table, k *key) {
	if t.chunks == nil {
		return
	}
	var f fields
	s.decode(k, &f)
	n := int(f.cidr)
	if n <= pivot(s.v6) {
		return
	}
	at := t.chunkOf(f.a, s.v6)
	if s.v6 {
		at = at*2 + uint64(n-1)>>6
	}
	bit := uint64(1) << ((n - 1) & 63)
	if atomic.LoadUint64(&t.chunks[at])&bit == 0 {
		atomic.OrUint64(&t.chunks[at], bit)
	}
}

// lengths returns the prefix lengths to try for an address, as bits by length - 1.
func (s *Set) lengths(t *table, a address) (lo, hi uint64) {
	lo, hi = s.nets.masks[0][0].Load(), s.nets.masks[0][1].Load()
	if t.chunks == nil {
		return lo, hi
	}
	short := uint64(1)<<pivot(s.v6) - 1
	at := t.chunkOf(a, s.v6)
	if s.v6 {
		return lo & (short | atomic.LoadUint64(&t.chunks[at*2])), hi & atomic.LoadUint64(&t.chunks[at*2+1])
	}
	return lo & (short | atomic.LoadUint64(&t.chunks[at])), 0
}

// renew clears the bits of lengths that no element has any more.
func (n *nets) renew() {
	for d := range n.lens {
		n.zero[d].Store(n.lens[d][0].Load() > 0)
		for l := 1; l <= 128; l++ {
			if n.lens[d][l].Load() <= 0 {
				n.masks[d][(l-1)>>6].And(^(uint64(1) << ((l - 1) & 63)))
			}
		}
	}
}
