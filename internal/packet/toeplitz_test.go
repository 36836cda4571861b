package packet

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The verification suite of Microsoft's RSS documentation, "Verifying the RSS hash calculation"
// (learn.microsoft.com/windows-hardware/drivers/network/verifying-the-rss-hash-calculation).
const microsoftKey = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"

var microsoftVectors = []struct {
	src, dst        string
	addr, addrPorts uint32
}{
	{"66.9.149.187:2794", "161.142.100.80:1766", 0x323e8fc2, 0x51ccc178},
	{"199.92.111.2:14230", "65.69.140.83:4739", 0xd718262a, 0xc626b0ea},
	{"24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0a5de, 0x5c2b394a},
	{"38.27.205.30:48228", "209.142.163.6:2217", 0x82989176, 0xafc7327f},
	{"153.39.163.191:44251", "202.188.127.2:1303", 0x5d1809c5, 0x10e828a2},
	{"[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc18cd5, 0x40207d3d},
	{"[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c461c, 0xdde51bbf},
	{"[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x4b61e985, 0x02d1feef},
}

// rssInput is the input of the RSS hash: addresses and ports in network order.
func rssInput(src, dst netip.AddrPort) []byte {
	b := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}

func TestToeplitzMicrosoft(t *testing.T) {
	key, err := hex.DecodeString(microsoftKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range microsoftVectors {
		in := rssInput(netip.MustParseAddrPort(v.src), netip.MustParseAddrPort(v.dst))
		if got := Toeplitz(key, in[:len(in)-4]); got != v.addr {
			t.Errorf("Toeplitz(%s, %s) over addresses = %#08x, want %#08x", v.src, v.dst, got, v.addr)
		}
		if got := Toeplitz(key, in); got != v.addrPorts {
			t.Errorf("Toeplitz(%s, %s) over addresses and ports = %#08x, want %#08x", v.src, v.dst, got, v.addrPorts)
		}
	}
}

// toeplitzBits is the definition, bit by bit: the twin of Toeplitz.
func toeplitzBits(key, data []byte) (sum uint32) {
	bit := func(b []byte, i int) uint32 { return uint32(b[i/8]>>(7-i%8)) & 1 }
	for i := range len(data) * 8 {
		if bit(data, i) == 0 {
			continue
		}
		var window uint32
		for j := range 32 {
			window = window<<1 | bit(key, i+j)
		}
		sum ^= window
	}
	return sum
}

// symmetricKey40 is the 40-byte RSS key that SymmetricHash stands for.
func symmetricKey40() []byte {
	var k []byte
	for range 20 {
		k = append(k, SymmetricKey>>8, SymmetricKey&0xff)
	}
	return k
}

func TestToeplitzBitByBit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		data := make([]byte, r.IntN(48))
		key := make([]byte, len(data)+4+r.IntN(8))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		for i := range key {
			key[i] = byte(r.Uint32())
		}
		if got, want := Toeplitz(key, data), toeplitzBits(key, data); got != want {
			t.Fatalf("Toeplitz(%x, %x) = %#x, want %#x", key, data, got, want)
		}
	}
}

// TestSymmetricHash compares the fast hash with the definition under the repeated key, both directions, both families.
func TestSymmetricHash(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	key := symmetricKey40()
	for range 5000 {
		var src, dst netip.Addr
		var a, b [16]byte
		for i := range a {
			a[i], b[i] = byte(r.Uint32()), byte(r.Uint32())
		}
		family := uint8(6)
		src, dst = netip.AddrFrom16(a), netip.AddrFrom16(b)
		if r.IntN(2) == 0 {
			family = 4
			src, dst = netip.AddrFrom4([4]byte(a[:4])), netip.AddrFrom4([4]byte(b[:4]))
		}
		s, d := netip.AddrPortFrom(src, uint16(r.Uint32())), netip.AddrPortFrom(dst, uint16(r.Uint32()))
		in := rssInput(s, d)
		for _, proto := range []uint8{ProtoTCP, ProtoUDP, ProtoSCTP, ProtoUDPLite, ProtoGRE, ProtoESP} {
			want := toeplitzBits(key, in)
			if proto != ProtoTCP && proto != ProtoUDP && proto != ProtoSCTP {
				want = toeplitzBits(key, in[:len(in)-4])
			}
			var p, q Packet
			p.Key.Set(AddrFrom(src), AddrFrom(dst), s.Port(), d.Port(), proto, family)
			q.Key.Set(AddrFrom(dst), AddrFrom(src), d.Port(), s.Port(), proto, family)
			if got := SymmetricHash(&p); got != want {
				t.Fatalf("SymmetricHash(%v > %v, %d) = %#x, want %#x", s, d, proto, got, want)
			}
			if SymmetricHash(&q) != want || p.Key != q.Key {
				t.Fatalf("%v > %v, %d: reverse direction differs", s, d, proto)
			}
		}
	}
}

func BenchmarkSymmetricHash(b *testing.B) {
	var p Packet
	p.Key.Set(Addr{1, 2}, Addr{3, 4}, 5, 6, ProtoTCP, 6)
	var x uint32
	for b.Loop() {
		p.Key.A.Lo++
		x ^= SymmetricHash(&p)
	}
	_ = x
}
