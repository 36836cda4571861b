package packet_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// sumWords is the definition of RFC 1071, the twin of SumBytes.
func sumWords(b []byte) uint16 {
	sum := 0
	for i, v := range b {
		if i%2 == 0 {
			sum += int(v) << 8
		} else {
			sum += int(v)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestSumBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	buf := make([]byte, 2200)
	for i := range 20000 {
		b := buf[r.IntN(8):][:r.IntN(100)]
		if i%50 == 0 {
			b = buf[:r.IntN(2200)]
		}
		for j := range b {
			b[j] = byte(r.Uint32())
			if i%3 == 0 {
				b[j] = 0xff // all carries
			}
		}
		if got, want := packet.Checksum(packet.SumBytes(0, b)), ^sumWords(b); got != want {
			t.Fatalf("checksum of %x is %#04x, want %#04x", b, got, want)
		}
		// In two parts.
		n := r.IntN(len(b)+1) &^ 1
		if got, want := packet.Checksum(packet.SumBytes(packet.SumBytes(0, b[:n]), b[n:])), ^sumWords(b); got != want {
			t.Fatalf("checksum of %x in parts of %d is %#04x, want %#04x", b, n, got, want)
		}
		if len(b) >= 4 {
			old := packet.Checksum(packet.SumBytes(0, b))
			was := uint16(b[2])<<8 | uint16(b[3])
			now := uint16(r.Uint32())
			b[2], b[3] = byte(now>>8), byte(now)
			got, want := packet.UpdateChecksum(old, was, now), packet.Checksum(packet.SumBytes(0, b))
			if got != want && got^want != 0xffff { // 0 and 0xffff are one number
				t.Fatalf("updated checksum %#04x, want %#04x", got, want)
			}
		}
	}
	// RFC 1071 section 3's example.
	if got := packet.Checksum(packet.SumBytes(0, []byte{0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7})); got != ^uint16(0xddf2) {
		t.Errorf("RFC 1071's example: %#04x", got)
	}
}

// TestVerifyChecksum: what the builders make is right, and wrong after any one bit of what the checksum covers changed.
func TestVerifyChecksum(t *testing.T) {
	a4, b4, a6, b6 := pt.AP("10.0.0.1:40000"), pt.AP("10.0.0.2:80"), pt.AP("[2001:db8::1]:40000"), pt.AP("[2001:db8::2]:80")
	for _, c := range []struct {
		name    string
		frame   []byte
		want    bool
		covered int // bytes of transport that the checksum covers
	}{
		{"tcp4", pt.NewTCP(a4, b4, pt.ACK, pt.PayloadLen(13), pt.Pad(3)), true, 33},
		{"tcp4 options", pt.NewTCP(a4, b4, pt.ACK, pt.IPv4Options([]byte{1, 1, 1}), pt.TCPOptions(pt.MSS(9))), true, 24},
		{"tcp6", pt.NewTCP(a6, b6, pt.ACK, pt.PayloadLen(13)), true, 33},
		{"tcp6 extension headers", pt.NewTCP(a6, b6, pt.ACK, pt.HopByHop(nil), pt.AtomicFragment(1), pt.PayloadLen(1)), true, 21},
		{"tcp4 wrong", pt.NewTCP(a4, b4, pt.ACK, pt.BadChecksum()), false, 0},
		{"tcp6 wrong", pt.NewTCP(a6, b6, pt.ACK, pt.BadChecksum()), false, 0},
		{"udp4", pt.NewUDP(a4, b4, pt.PayloadLen(100)), true, 108},
		{"udp6", pt.NewUDP(a6, b6, pt.PayloadLen(7)), true, 15},
		{"udp4 none", pt.NewUDP(a4, b4, pt.PayloadLen(9), pt.NoChecksum()), true, 0},
		{"udp6 none", pt.NewUDP(a6, b6, pt.PayloadLen(9), pt.NoChecksum()), true, 0},
		{"udp4 wrong", pt.NewUDP(a4, b4, pt.BadChecksum()), false, 0},
		{"icmp", pt.Echo(a4.Addr(), b4.Addr(), 1, 2, pt.PayloadLen(56)), true, 64},
		{"icmp wrong", pt.Echo(a4.Addr(), b4.Addr(), 1, 2, pt.BadChecksum()), false, 0},
		{"icmpv6", pt.Echo(a6.Addr(), b6.Addr(), 1, 2, pt.PayloadLen(56)), true, 64},
		{"icmpv6 wrong", pt.Echo(a6.Addr(), b6.Addr(), 1, 2, pt.BadChecksum()), false, 0},
		{"udplite", pt.NewUDPLite(a4, b4, pt.PayloadLen(9)), true, 17},
		{"udplite partial", pt.NewUDPLite(a6, b6, pt.PayloadLen(9), pt.Coverage(8)), true, 8},
		{"udplite of 255 bytes", pt.NewUDPLite(a4, b4, pt.PayloadLen(247)), true, 255},
		{"udplite of 256 bytes", pt.NewUDPLite(a4, b4, pt.PayloadLen(248)), false, 0},
		{"udplite of 256 bytes, ipv6", pt.NewUDPLite(a6, b6, pt.PayloadLen(248)), true, 256},
		{"udplite as in its RFC", asInRFC(pt.NewUDPLite(a4, b4, pt.PayloadLen(9))), false, 0},
		{"sctp", pt.NewSCTP(a4, b4, 3, pt.SCTPChunk(1, 0, make([]byte, 16))), true, 32},
		{"sctp wrong", pt.NewSCTP(a4, b4, 3, nil, pt.BadChecksum()), false, 0},
		{"dccp wrong", pt.NewDCCP(a4, b4, 0, pt.BadChecksum()), true, 0},
		{"gre", pt.NewGRE(a4.Addr(), b4.Addr(), 0x0800, pt.PayloadLen(3)), true, 0},
		{"first fragment", pt.Fragments(pt.NewUDP(a4, b4, pt.PayloadLen(100)), 1, 64)[0], true, 0},
		{"error", pt.NewICMPError(b4.Addr(), a4.Addr(), 3, 1, 0, pt.NewUDP(a4, b4), 28), true, 36},
		{"short tcp", pt.NewIP(a4.Addr(), b4.Addr(), 6, pt.PayloadLen(9)), true, 0},
	} {
		p := packet.Packet{Frame: c.frame}
		packet.Parse(&p)
		if got := p.VerifyChecksum(); got != c.want {
			t.Errorf("%s: VerifyChecksum = %v, want %v", c.name, got, c.want)
			continue
		}
		for i := range c.covered * 8 {
			at := int(p.L4) + i/8
			c.frame[at] ^= 1 << (i % 8)
			q := packet.Packet{Frame: c.frame}
			packet.Parse(&q)
			if q.Problem == packet.ProblemNone && q.Proto == p.Proto && q.VerifyChecksum() &&
				!(q.Proto == packet.ProtoUDPLite && i/8 >= 4 && i/8 < 6) {
				t.Errorf("%s: right also with bit %d of byte %d changed", c.name, i%8, i/8)
			}
			c.frame[at] ^= 1 << (i % 8)
		}
	}
}

// asInRFC changes the checksum of an UDPLite frame to that of RFC 3828, with UDPLite's protocol number.
func asInRFC(f []byte) []byte {
	var p packet.Packet
	p.Frame = f
	packet.Parse(&p)
	sum := f[p.L4+6:]
	binary.BigEndian.PutUint16(sum, packet.UpdateChecksum(binary.BigEndian.Uint16(sum), packet.ProtoUDP, packet.ProtoUDPLite))
	return f
}
