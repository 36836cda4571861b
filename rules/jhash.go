package rules

import "math/bits"

// jhashInit is where Bob Jenkins' lookup3 begins in Linux (JHASH_INITVAL in include/linux/jhash.h).
const jhashInit = 0xdeadbeef

// jhash3 is jhash_3words, or with words for another number of them jhash_1word and jhash_2words: what is not given is 0.
func jhash3(a, b, c, seed uint32, words uint32) uint32 {
	seed += jhashInit + words<<2
	return jhashFinal(a+seed, b+seed, c+seed)
}

func jhashFinal(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}

// scale maps a hash to 0 … n-1 (reciprocal_scale in include/linux/kernel.h).
func scale(hash, n uint32) uint32 { return uint32(uint64(hash) * uint64(n) >> 32) }
