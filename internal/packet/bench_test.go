package packet_test

import (
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// benchFrames are frames of the kinds whose cost matters, 64 bytes with check sequence where they are that short.
var benchFrames = []struct {
	name  string
	frame []byte
}{
	{"udp4", pt.NewUDP(pt.AP("10.0.0.1:40000"), pt.AP("10.0.0.2:53"), pt.PayloadLen(18))},
	{"tcp4", pt.NewTCP(pt.AP("10.0.0.2:80"), pt.AP("10.0.0.1:40000"), pt.ACK, pt.Minimum())},
	{"tcp4-vlan", pt.NewTCP(pt.AP("10.0.0.2:80"), pt.AP("10.0.0.1:40000"), pt.ACK, pt.VLAN(7), pt.Minimum())},
	{"udp6", pt.NewUDP(pt.AP("[2001:db8::1]:40000"), pt.AP("[2001:db8::2]:53"))},
	{"tcp6", pt.NewTCP(pt.AP("[2001:db8::2]:80"), pt.AP("[2001:db8::1]:40000"), pt.ACK)},
	{"tcp6-ext", pt.NewTCP(pt.AP("[2001:db8::2]:80"), pt.AP("[2001:db8::1]:40000"), pt.ACK, pt.HopByHop(nil), pt.DestinationOptions(nil))},
	{"echo4", pt.Echo(pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), 1, 1, pt.Minimum())},
	{"error4", pt.NewICMPError(pt.IP("10.0.0.9"), pt.IP("10.0.0.1"), 3, 1, 0, pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2")), 28)},
	{"frag4", pt.Fragments(pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2"), pt.PayloadLen(40)), 7, 24)[1]},
	{"arp", pt.NewARP()},
}

// BenchmarkParse parses a burst of 64 frames of one kind, half of them in each direction, and reports the time per frame.
func BenchmarkParse(b *testing.B) {
	for _, f := range benchFrames {
		b.Run(f.name, func(b *testing.B) {
			burst := make([]packet.Packet, 64)
			for i := range burst {
				burst[i].Frame = append([]byte(nil), f.frame...)
			}
			b.ResetTimer()
			for i := 0; i < b.N; i++ {
				packet.Parse(&burst[i&63])
			}
		})
	}
}

func BenchmarkHasher(b *testing.B) {
	h := packet.NewHasher([packet.HasherSecret]uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	burst := make([]packet.Packet, 64)
	for i := range burst {
		burst[i].Frame = benchFrames[0].frame
		packet.Parse(&burst[i])
	}
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		p := &burst[i&63]
		p.Hash = h.Sum(&p.Key)
	}
}

func BenchmarkVerifyChecksum(b *testing.B) {
	for _, n := range []int{18, 1472} {
		p := packet.Packet{Frame: pt.NewUDP(pt.AP("10.0.0.1:40000"), pt.AP("10.0.0.2:53"), pt.PayloadLen(n))}
		packet.Parse(&p)
		b.Run(map[int]string{18: "64", 1472: "1518"}[n], func(b *testing.B) {
			for i := 0; i < b.N; i++ {
				if !p.VerifyChecksum() {
					b.Fatal("wrong checksum")
				}
			}
		})
	}
}
