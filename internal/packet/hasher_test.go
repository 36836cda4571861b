package packet_test

import (
	"math/big"
	"math/bits"
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
)

func newHasher(r *rand.Rand) (packet.Hasher, [packet.HasherSecret]uint64) {
	var s [packet.HasherSecret]uint64
	for i := range s {
		s[i] = r.Uint64()
	}
	return packet.NewHasher(s), s
}

// randomKey returns the key of a random flow.
func randomKey(r *rand.Rand) (k packet.Key) {
	k.Set(packet.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, packet.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, uint16(r.Uint32()), uint16(r.Uint32()),
		uint8(r.Uint32()), 6)
	k.Zone = uint16(r.Uint32())
	return k
}

// TestHasherDefinition compares Sum with the formula in Hasher's comment, in big integers.
func TestHasherDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	word := func(hi, lo uint64) *big.Int {
		v := new(big.Int).SetUint64(hi)
		return v.Lsh(v, 64).Add(v, new(big.Int).SetUint64(lo))
	}
	for range 2000 {
		h, s := newHasher(r)
		k := randomKey(r)
		if r.IntN(8) == 0 { // the largest carries
			s = [packet.HasherSecret]uint64{}
			for i := range s {
				s[i] = ^uint64(0)
			}
			h = packet.NewHasher(s)
			k = packet.Key{A: packet.Addr{Hi: s[0], Lo: s[0]}, B: packet.Addr{Hi: s[0], Lo: s[0]}, APort: 65535, BPort: 65535, Zone: 65535, Proto: 255, Family: 255}
		}
		x := [5]uint64{k.A.Hi, k.A.Lo, k.B.Hi, k.B.Lo,
			uint64(k.APort) | uint64(k.BPort)<<16 | uint64(k.Zone)<<32 | uint64(k.Proto)<<48 | uint64(k.Family)<<56}
		sum := word(s[6], s[0])
		for i, v := range x {
			sum.Add(sum, new(big.Int).Mul(word(s[6+i+1], s[i+1]), word(0, v)))
		}
		sum.Rsh(sum, 64)
		want := sum.And(sum, word(0, ^uint64(0))).Uint64()
		want = (want ^ want>>32) * 0x9e3779b97f4a7c15
		want ^= want >> 32
		if got := h.Sum(&k); got != want {
			t.Fatalf("Sum(%v) = %#x, want %#x", k, got, want)
		}
	}
}

// TestHasherAvalanche checks over many secrets that a flip of any one bit of the key flips each bit of the hash half of
// the time, which is what pairwise independence means for two keys that differ in one bit.
func TestHasherAvalanche(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	const secrets = 2000
	flips := []func(*packet.Key, int){
		func(k *packet.Key, b int) { k.A.Hi ^= 1 << b },
		func(k *packet.Key, b int) { k.A.Lo ^= 1 << b },
		func(k *packet.Key, b int) { k.B.Hi ^= 1 << b },
		func(k *packet.Key, b int) { k.B.Lo ^= 1 << b },
		func(k *packet.Key, b int) { k.APort ^= 1 << (b % 16) },
		func(k *packet.Key, b int) { k.BPort ^= 1 << (b % 16) },
		func(k *packet.Key, b int) { k.Zone ^= 1 << (b % 16) },
		func(k *packet.Key, b int) { k.Proto ^= 1 << (b % 8) },
		func(k *packet.Key, b int) { k.Family ^= 1 << (b % 8) },
	}
	for n, flip := range flips {
		for _, b := range []int{0, 7, 31, 63} {
			var count [64]int
			for range secrets {
				h, _ := newHasher(r)
				k := randomKey(r)
				x := h.Sum(&k)
				flip(&k, b)
				x ^= h.Sum(&k)
				for i := range count {
					count[i] += int(x >> i & 1)
				}
			}
			for i, c := range count {
				// Six standard deviations of a fair coin: sqrt(2000)/2 = 22.4.
				if c < secrets/2-134 || c > secrets/2+134 {
					t.Errorf("word %d bit %d flips hash bit %d in %d of %d", n, b, i, c, secrets)
				}
			}
		}
	}
}

// flows are sets of flows that an attacker may choose without knowing the secret.
var flows = []struct {
	name string
	make func(i int, k *packet.Key)
}{
	{"sequential ports", func(i int, k *packet.Key) {
		k.Set(ip4(0x0a000001), ip4(0x0a000002), uint16(i), uint16(80+i>>16), packet.ProtoTCP, 4)
	}},
	{"sequential addresses", func(i int, k *packet.Key) {
		k.Set(ip4(0x0a000000+uint32(i)), ip4(0xc0a80001), 1000, 80, packet.ProtoTCP, 4)
	}},
	{"addresses in steps of 64 Ki", func(i int, k *packet.Key) {
		k.Set(ip4(uint32(i)<<16), ip4(uint32(i)), 1000, 80, packet.ProtoTCP, 4)
	}},
	{"high bits of IPv6 addresses only", func(i int, k *packet.Key) {
		k.Set(packet.Addr{Hi: uint64(i) << 40}, packet.Addr{Hi: 0xff << 56, Lo: 1}, 1, 2, packet.ProtoUDP, 6)
	}},
	// All of the same symmetric Toeplitz hash: the change in one 16-bit word is undone in another.
	{"one Toeplitz hash", func(i int, k *packet.Key) {
		k.Set(ip4(0x0a000000|uint32(i>>8)), ip4(0x14000000), uint16(i), uint16(i)^uint16(i>>8), packet.ProtoTCP, 4)
	}},
	{"one Toeplitz hash, IPv6", func(i int, k *packet.Key) {
		x := uint64(uint16(i * 40503))
		k.Set(packet.Addr{Hi: 0x20010db8 << 32, Lo: x<<48 | uint64(i)<<16}, packet.Addr{Hi: 0x20010db9 << 32, Lo: x<<16 | uint64(uint16(i))},
			1, uint16(i>>16), packet.ProtoTCP, 6)
	}},
	{"same exclusive or of the ends", func(i int, k *packet.Key) {
		k.Set(ip4(uint32(i)), ip4(uint32(i)^0xffffffff), uint16(i), ^uint16(i), packet.ProtoTCP, 4)
	}},
}

func ip4(v uint32) packet.Addr { return packet.Addr{Lo: 0xffff<<32 | uint64(v)} }

// TestHasherFlood puts chosen flows into buckets by the low and by the high bits of their hash and compares the spread
// with that of a random function: the variance of the load, and the fullest bucket.
func TestHasherFlood(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	const n, logBuckets = 1 << 16, 13
	const mean = n >> logBuckets // 8
	for _, f := range flows {
		seen := map[packet.Key]bool{}
		var keys []packet.Key
		for i := 0; len(keys) < n && i < 2*n; i++ {
			var k packet.Key
			f.make(i, &k)
			if !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
		if len(keys) < n {
			t.Fatalf("%s: only %d different flows", f.name, len(keys))
		}
		for range 4 {
			h, _ := newHasher(r)
			for _, bit := range []int{0, 20, 64 - logBuckets} {
				var load [1 << logBuckets]int
				for i := range keys {
					load[h.Sum(&keys[i])>>bit&(1<<logBuckets-1)]++
				}
				most, squares := 0, 0
				for _, c := range load {
					most = max(most, c)
					squares += (c - mean) * (c - mean)
				}
				variance := float64(squares) / float64(len(load))
				// A random function gives a variance of 8 with standard deviation 0.13, and a fullest bucket of about 22.
				if variance > mean+1 || most > 4*mean {
					t.Errorf("%s, bits from %d: variance %.1f, fullest bucket %d, mean %d", f.name, bit, variance, most, mean)
				}
			}
		}
	}
}

// TestToeplitzFlood shows why the table has a hash of its own: the flows called so do have one Toeplitz hash.
func TestToeplitzFlood(t *testing.T) {
	for _, f := range flows {
		if len(f.name) < 17 || f.name[:17] != "one Toeplitz hash" {
			continue
		}
		var first, p packet.Packet
		f.make(0, &first.Key)
		for i := range 1 << 16 {
			f.make(i, &p.Key)
			if got, want := packet.SymmetricHash(&p), packet.SymmetricHash(&first); got != want {
				t.Fatalf("%s: flow %d has hash %#x, the first has %#x", f.name, i, got, want)
			}
		}
	}
}

// TestHasherPairs estimates the collision probability in 16 bits of two fixed keys over random secrets.
func TestHasherPairs(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	var a, b packet.Key
	a.Set(ip4(1), ip4(2), 3, 4, packet.ProtoTCP, 4)
	b.Set(ip4(1), ip4(2), 3, 5, packet.ProtoTCP, 4)
	const trials = 1 << 19
	low, high := 0, 0
	for range trials {
		h, _ := newHasher(r)
		x := h.Sum(&a) ^ h.Sum(&b)
		if bits.TrailingZeros64(x) >= 16 {
			low++
		}
		if bits.LeadingZeros64(x) >= 16 {
			high++
		}
	}
	// 8 expected, Poisson: more than 27 has probability 10^-8.
	if low > 27 || high > 27 {
		t.Errorf("in %d trials %d collisions of the low 16 bits and %d of the high ones, expected 8", trials, low, high)
	}
}
