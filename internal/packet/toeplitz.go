package packet

import "math/bits"

// SymmetricKey is the period of the RSS key that makes the Toeplitz hash symmetric: a key of 6d5a repeated gives both
// directions of a flow the same hash (Woo and Park, "Scalable TCP Session Monitoring with Symmetric Receive-side
// Scaling", KAIST, 2012).
const SymmetricKey = 0x6d5a

// Toeplitz returns the Toeplitz hash of data under key: the exclusive or of the 32-bit windows of key that start at
// the one bits of data (Microsoft, "RSS hashing functions"; values in toeplitz_test.go). key must be at least four bytes
// longer than data. It is the plain definition, for checking and for NICs with another key; the packet path uses
// SymmetricHash.
func Toeplitz(key, data []byte) uint32 {
	var sum uint32
	window := uint64(key[0])<<32 | uint64(key[1])<<24 | uint64(key[2])<<16 | uint64(key[3])<<8 | uint64(key[4])
	for i, d := range data {
		for b := 0; b < 8; b++ {
			if d&(0x80>>b) != 0 {
				sum ^= uint32(window >> (8 - b))
			}
		}
		window = window << 8 & 0xffffffffff
		if i+5 < len(key) {
			window |= uint64(key[i+5])
		}
	}
	return sum
}

// SymmetricHash returns the Toeplitz hash of p under SymmetricKey, which is the RSS hash that a NIC with this key gives
// the packet's flow: over addresses and ports for TCP, UDP and SCTP, over addresses for everything else and for
// fragments. An ICMP error has the hash of the flow that it quotes, which is not the NIC's: that is how it reaches the
// shard that owns the flow. p must have been parsed, and not be of a Class other than IP or have a header problem:
// such packets all have hash 0.
//
// As the key repeats every 16 bits, the hash depends only on the exclusive or of the input's 16-bit words, and its two
// halves are equal: it has 16 bits of entropy, and anybody can choose them. It is for choosing a shard, not for a table.
func SymmetricHash(p *Packet) uint32 {
	k := &p.Key
	// For IPv4 the constant part of the two mapped addresses cancels.
	x := k.A.Hi ^ k.A.Lo ^ k.B.Hi ^ k.B.Lo
	if k.Proto == ProtoTCP || k.Proto == ProtoUDP || k.Proto == ProtoSCTP {
		x ^= uint64(k.APort ^ k.BPort) // 0 for fragments
	}
	x ^= x >> 32
	x ^= x >> 16
	h := uint32(symmetric[uint8(x>>8)] ^ bits.RotateLeft16(symmetric[uint8(x)], 8))
	return h<<16 | h
}

// symmetric is the lower half of the symmetric hash of a 16-bit word by its upper byte. The lower byte's is the same
// rotated by 8, since the window moves with the bit.
var symmetric = func() (t [256]uint16) {
	for v := range t {
		for b := range 8 {
			if v&(0x80>>b) != 0 {
				t[v] ^= bits.RotateLeft16(SymmetricKey, b)
			}
		}
	}
	return t
}()
