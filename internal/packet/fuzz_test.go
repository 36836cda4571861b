package packet_test

import (
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// seeds are frames of every kind that Parse tells apart.
func seeds() [][]byte {
	a4, b4, a6, b6 := pt.AP("10.0.0.1:40000"), pt.AP("10.0.0.2:80"), pt.AP("[2001:db8::1]:40000"), pt.AP("[2001:db8::2]:80")
	r6 := pt.IP("fe80::9")
	var out [][]byte
	add := func(f ...[]byte) { out = append(out, f...) }
	add(pt.NewARP(), pt.NewSTP(), pt.NewLLDP(), pt.NewLACP(), pt.NewEAPOL(), pt.NewEther(0x8863, pt.PayloadLen(10)), nil,
		pt.NewLLC(pt.Payload([]byte{0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b, 0, 0})), pt.NewSTP(pt.VLAN(4)), pt.NewARP(pt.QinQ(4, 5)))
	for _, e := range [][]pt.Option{nil, {pt.VLAN(100)}, {pt.QinQ(10, 20)}, {pt.VLAN(1, 2, 3, 4, 5, 6, 7, 8)}, {pt.VLAN(1, 2, 3, 4, 5, 6, 7, 8, 9)}} {
		add(pt.NewTCP(a4, b4, pt.SYN, append(e, pt.TCPOptions(pt.MSS(1460), pt.WindowScale(7), pt.SACKPermitted()))...))
		add(pt.NewUDP(b6, a6, append(e, pt.PayloadLen(30), pt.Pad(5))...))
	}
	add(pt.NewTCP(b4, a4, pt.SYN|pt.ACK, pt.IPv4Options([]byte{7, 7, 4, 1, 2, 3, 4}), pt.Minimum()), pt.NewUDP(a4, b4, pt.BadHeaderChecksum()),
		pt.NewUDP(a4, b4, pt.NoChecksum()), pt.NewUDP(a4, b4, pt.BadChecksum()))
	for _, p := range [][2]int{{0, 0}, {1, 1}} {
		a, b := a4, b4
		if p[0] == 1 {
			a, b = a6, b6
		}
		udp := pt.NewUDP(a, b, pt.PayloadLen(100))
		add(pt.NewUDPLite(a, b, pt.Coverage(8), pt.PayloadLen(9)), pt.NewDCCP(a, b, 0), pt.NewSCTP(b, a, 7, pt.SCTPChunk(1, 0, make([]byte, 16))),
			pt.NewGRE(a.Addr(), b.Addr(), 0x0800), pt.NewPPTP(b.Addr(), a.Addr(), 77), pt.NewIP(a.Addr(), b.Addr(), pt.ProtoESP, pt.PayloadLen(20)),
			pt.Echo(b.Addr(), a.Addr(), 3, 4), pt.EchoReply(a.Addr(), b.Addr(), 3, 4))
		for _, q := range [][]byte{udp, pt.NewTCP(a, b, pt.ACK), pt.Echo(a.Addr(), b.Addr(), 1, 2), pt.EchoReply(a.Addr(), b.Addr(), 1, 2),
			pt.NewSCTP(a, b, 1, nil), pt.NewPPTP(a.Addr(), b.Addr(), 5), pt.NewIP(a.Addr(), b.Addr(), 253), pt.Fragments(udp, 1, 40)[0],
			pt.Fragments(udp, 1, 40)[1]} {
			add(pt.NewICMPError(b.Addr(), a.Addr(), 3, 1, 0, q, 64), pt.NewICMPError(a.Addr(), b.Addr(), 1, 3, 0, q, 0),
				pt.NewICMPError(b.Addr(), a.Addr(), 11, 0, 0, q, 27))
		}
		add(pt.Fragments(udp, 99, 40)...)
	}
	for _, typ := range []uint8{9, 13, 14, 15, 16, 17, 18, 19, 40} {
		add(pt.NewICMP(a4.Addr(), b4.Addr(), typ, 0, 1, 1))
	}
	for _, typ := range []uint8{130, 131, 132, 133, 134, 135, 136, 138, 139, 140, 143, 151, 152, 153} {
		add(pt.NewICMP(a6.Addr(), b6.Addr(), typ, 0, 1, 1))
	}
	udp6 := pt.NewUDP(a6, b6, pt.PayloadLen(64))
	add(pt.NewRedirect(r6, a6.Addr(), b6.Addr(), udp6), pt.NewRedirect(r6, a6.Addr(), b6.Addr(), udp6, pt.TTL(64)),
		pt.NewRedirect(b6.Addr(), a6.Addr(), b6.Addr(), udp6),
		pt.NewTCP(a6, b6, pt.ACK, pt.HopByHop([]byte{5, 2, 0, 0}), pt.Routing(0, make([]byte, 16)), pt.DestinationOptions(nil), pt.AH(12)),
		pt.NewUDP(a6, b6, pt.AtomicFragment(5), pt.PayloadLen(9)), pt.NewUDP(a6, b6, pt.HopByHop(nil), pt.AtomicFragment(5), pt.AtomicFragment(6)),
		pt.NewIP(a6.Addr(), b6.Addr(), 59, pt.AtomicFragment(1)), pt.NewIP(a6.Addr(), b6.Addr(), 59, pt.HopByHop(nil)),
		pt.NewIP(a6.Addr(), b6.Addr(), 6, pt.FragmentHeader(0, true, 1), pt.PayloadLen(10)),
		pt.NewIP(a6.Addr(), b6.Addr(), 6, pt.FragmentHeader(8, true, 1), pt.PayloadLen(10)),
		pt.NewIP(a6.Addr(), b6.Addr(), 0, pt.Payload([]byte{6, 0, 0xc2, 4, 0, 1, 0, 0})), pt.NewIP(a6.Addr(), b6.Addr(), 1, pt.PayloadLen(8)),
		pt.NewIP(a4.Addr(), b4.Addr(), 58, pt.PayloadLen(8)),
		pt.NewIP(a6.Addr(), b6.Addr(), 253, pt.ExtHeader(60, []byte{0, 9, 0, 0, 0, 0, 0, 0})), pt.NewIP(a6.Addr(), b6.Addr(), 253, pt.ExtHeader(43, []byte{0, 0})),
		pt.NewIP(a6.Addr(), b6.Addr(), 6, pt.DestinationOptions(nil), pt.FragmentHeader(8, true, 1), pt.PayloadLen(9)),
		pt.NewIP(a6.Addr(), b6.Addr(), 59, pt.FragmentHeader(8, true, 1), pt.PayloadLen(9)), pt.NewIP(a6.Addr(), b6.Addr(), 60, pt.FragmentHeader(8, true, 1), pt.PayloadLen(9)),
		pt.NewIP(a6.Addr(), b6.Addr(), 17, pt.AtomicFragment(3), pt.HopByHop([]byte{9, 200, 1}), pt.PayloadLen(8)),
		pt.NewIP(a6.Addr(), b6.Addr(), 0, pt.PayloadLen(0), pt.Pad(20)),
		pt.NewICMPError(b6.Addr(), a6.Addr(), 3, 0, 0, pt.NewTCP(a6, b6, pt.ACK, pt.DestinationOptions(nil), pt.AtomicFragment(4)), 0))
	return out
}

// FuzzParse compares Parse with its twin on any frame.
func FuzzParse(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		p := checkTwin(t, frame)
		p.VerifyChecksum()
		packet.SymmetricHash(&p)
		checkTwin(t, repair(frame))
	})
}

// repair sets the IPv4 header checksum of an untagged frame, so that changes behind it are seen.
func repair(frame []byte) []byte {
	if len(frame) < 34 || frame[12] != 8 || frame[13] != 0 {
		return frame
	}
	hl := max(20, int(frame[14]&15)*4)
	if len(frame) < 14+hl {
		return frame
	}
	frame = append([]byte(nil), frame...)
	frame[24], frame[25] = 0, 0
	c := packet.Checksum(packet.SumBytes(0, frame[14:14+hl]))
	frame[24], frame[25] = byte(c>>8), byte(c)
	return frame
}

// TestParseMutations compares Parse with its twin on frames of every kind with seeded random changes: bytes set, the
// frame cut off or made longer.
func TestParseMutations(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	all := seeds()
	rounds := 60_000
	if testing.Short() {
		rounds = 10_000
	}
	seen := map[packet.Problem]int{}
	// Values that mean something somewhere.
	values := []byte{0, 1, 2, 4, 5, 6, 17, 33, 43, 44, 47, 51, 58, 59, 60, 128, 132, 136, 0x45, 0x4f, 0x60, 0x81, 0xc2, 0xff}
	for range rounds {
		frame := append([]byte(nil), all[r.IntN(len(all))]...)
		for range r.IntN(4) {
			if len(frame) == 0 {
				break
			}
			i := r.IntN(len(frame))
			if r.IntN(2) == 0 {
				frame[i] = values[r.IntN(len(values))]
			} else {
				frame[i] = byte(r.Uint32())
			}
		}
		switch r.IntN(6) {
		case 0:
			frame = frame[:r.IntN(len(frame)+1)]
		case 1:
			frame = append(frame, make([]byte, r.IntN(100))...)
		}
		if r.IntN(8) != 0 {
			frame = repair(frame)
		}
		p := checkTwin(t, frame)
		seen[p.Problem]++
	}
	for i := range packet.Problems {
		if seen[i] == 0 {
			t.Errorf("no frame had the problem %q", i)
		}
	}
}
