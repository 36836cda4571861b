package packet

import (
	"encoding/binary"
	"math/bits"
)

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
	window := binary.BigEndian.Uint32(key)
	for i, d := range data {
		next := uint64(window)<<8 | uint64(key[i+4]) // 40 bits: the windows of this byte's bits
		for b := range 8 {
			if d&(0x80>>b) != 0 {
				sum ^= uint32(next >> (8 - b))
			}
		}
		window = uint32(next)
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
	return uint32(symmetric[uint8(x>>8)]^bits.RotateLeft16(symmetric[uint8(x)], 8)) * 0x10001
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
