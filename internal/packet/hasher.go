package packet

import "math/bits"

// HasherSecret is the number of secret words that a Hasher needs.
const HasherSecret = 12

// Hasher is a keyed hash of Keys for flow tables, where an attacker who can choose flows must not be able to choose
// buckets.
//
// It is the multilinear family over words of 64 bits with coefficients of 128 bits,
//
//	h(x) = mix((s0 + s1·x1 + … + s5·x5 mod 2^128) / 2^64)
//
// which is strongly universal (Dietzfelbinger, "Universal hashing and k-wise independent random variables via integer
// arithmetic without primes", STACS 1996; Lemire and Kaser, "Strongly universal string hashing is fast", The Computer
// Journal 57, 2014, theorem 3.1 with K = 128 and L = 64): with a uniformly random secret the hashes of two different
// keys are uniform and independent. So two flows chosen without knowledge of the secret agree in any n chosen bits of
// the hash with probability exactly 2^-n, be they the lowest or the highest, and the expected number of flows that
// share a bucket with a given one is that of a random function.
//
// mix is a bijection without a secret, which takes nothing from this. It is there for what the theorem leaves open:
// without it flows in arithmetic progression, such as those of a port scan, have hashes in arithmetic progression, and
// for some secrets the loads of the buckets then vary five times as much as those of a random function
// (TestHasherFlood shows it).
//
// The secret must come from a random source and must not leave the process. A Hasher is immutable and may be copied and
// used by any number of goroutines.
type Hasher struct {
	lo, hi [6]uint64 // the coefficients' halves; s0 first
}

// NewHasher returns the Hasher with the given secret.
func NewHasher(secret [HasherSecret]uint64) Hasher {
	return Hasher{[6]uint64(secret[:6]), [6]uint64(secret[6:])}
}

// Sum returns the hash of k, 64 bits of which any part may be used. It allocates nothing.
func (h *Hasher) Sum(k *Key) uint64 {
	meta := uint64(k.APort) | uint64(k.BPort)<<16 | uint64(k.Zone)<<32 | uint64(k.Proto)<<48 | uint64(k.Family)<<56
	h1, l1 := bits.Mul64(h.lo[1], k.A.Hi)
	h2, l2 := bits.Mul64(h.lo[2], k.A.Lo)
	h3, l3 := bits.Mul64(h.lo[3], k.B.Hi)
	h4, l4 := bits.Mul64(h.lo[4], k.B.Lo)
	h5, l5 := bits.Mul64(h.lo[5], meta)
	hi := h.hi[0] + h.hi[1]*k.A.Hi + h.hi[2]*k.A.Lo + h.hi[3]*k.B.Hi + h.hi[4]*k.B.Lo + h.hi[5]*meta
	// The low halves count only by their carries.
	l, c := bits.Add64(h.lo[0], l1, 0)
	hi += h1 + c
	l, c = bits.Add64(l, l2, 0)
	hi += h2 + c
	l, c = bits.Add64(l, l3, 0)
	hi += h3 + c
	l, c = bits.Add64(l, l4, 0)
	hi += h4 + c
	_, c = bits.Add64(l, l5, 0)
	return mix(hi + h5 + c)
}

// mix is a bijection of words after which every output bit depends on every input bit, and not linearly: xor-shift,
// multiplication by an odd number (2^64 over the golden ratio), xor-shift.
func mix(x uint64) uint64 {
	x ^= x >> 32
	x *= 0x9e3779b97f4a7c15
	return x ^ x>>32
}
