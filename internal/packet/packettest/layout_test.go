package packettest_test

import (
	"bytes"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// frames are one well-formed frame of each builder that makes IP.
func frames() map[string][]byte {
	a4, b4, a6, b6 := pt.AP("10.0.0.1:40000"), pt.AP("10.0.0.2:80"), pt.AP("[2001:db8::1]:40000"), pt.AP("[2001:db8::2]:80")
	return map[string][]byte{
		"tcp4":    pt.NewTCP(a4, b4, pt.SYN, pt.TCPOptions(pt.MSS(1460), pt.NOP(1), pt.WindowScale(7), pt.SACKPermitted(), pt.Timestamps(1, 2)), pt.VLAN(3)),
		"tcp6":    pt.NewTCP(a6, b6, pt.ACK, pt.TCPOptions(pt.NOP(2), pt.SACK(1, 2, 3, 4)), pt.HopByHop(nil), pt.Routing(0, nil), pt.DestinationOptions([]byte{5, 0})),
		"udp4":    pt.NewUDP(a4, b4, pt.PayloadLen(33), pt.IPv4Options([]byte{1, 1, 1}), pt.Minimum()),
		"udp6":    pt.NewUDP(a6, b6, pt.PayloadLen(33), pt.AH(12), pt.AtomicFragment(4), pt.Pad(9)),
		"udplite": pt.NewUDPLite(a4, b4, pt.PayloadLen(9), pt.Coverage(12)),
		"sctp":    pt.NewSCTP(a6, b6, 1, pt.SCTPChunk(1, 0, []byte{1, 2, 3})),
		"icmp":    pt.Echo(a4.Addr(), b4.Addr(), 1, 2, pt.PayloadLen(5)),
		"icmpv6":  pt.NewICMPError(a6.Addr(), b6.Addr(), 2, 0, 1280, pt.NewUDP(b6, a6, pt.PayloadLen(70)), 0),
	}
}

// TestBuilders: what the builders make is well formed and has right checksums, and FixChecksums gives the same ones.
func TestBuilders(t *testing.T) {
	for name, f := range frames() {
		p := packet.Packet{Frame: f}
		packet.Parse(&p)
		if p.Family == 0 || p.Problem != packet.ProblemNone || !p.VerifyChecksum() {
			t.Errorf("%s: problem %q, checksum right: %v", name, p.Problem, p.VerifyChecksum())
		}
		g := pt.FixChecksums(append([]byte(nil), f...))
		if !bytes.Equal(f, g) {
			t.Errorf("%s: FixChecksums changed\n%x to\n%x", name, f, g)
		}
		g[len(g)-1]++ // padding or payload
		g[int(p.L4)+1]++
		q := packet.Packet{Frame: pt.FixChecksums(g)}
		packet.Parse(&q)
		if !q.VerifyChecksum() {
			t.Errorf("%s: wrong checksum after FixChecksums", name)
		}
		if d := pt.Datagram(f); !bytes.Equal(d, f[p.L3:p.End]) {
			t.Errorf("%s: Datagram is %x", name, d)
		}
	}
}

// TestFragments: the fragments' payloads put together are the datagram's.
func TestFragments(t *testing.T) {
	for _, name := range []string{"udp4", "tcp6", "icmp"} {
		f := frames()[name]
		var whole packet.Packet
		whole.Frame = f
		packet.Parse(&whole)
		var got []byte
		for _, piece := range pt.Fragments(f, 9, 32) {
			p := packet.Packet{Frame: piece}
			packet.Parse(&p)
			if int(p.FragOff) != len(got) || p.IPID != 9 {
				t.Errorf("%s: fragment at %d has offset %d, identification %d", name, len(got), p.FragOff, p.IPID)
			}
			got = append(got, p.Transport()...)
		}
		if !bytes.HasSuffix(got, whole.Transport()) {
			t.Errorf("%s: fragments have %x, datagram %x", name, got, whole.Transport())
		}
	}
}
