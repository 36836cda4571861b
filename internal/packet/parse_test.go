package packet_test

import (
	"encoding/binary"
	"reflect"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

var (
	a4, b4 = pt.AP("10.0.0.1:40000"), pt.AP("10.0.0.2:80")
	a6, b6 = pt.AP("[2001:db8::1]:40000"), pt.AP("[2001:db8::2]:80")
)

// parse parses a frame into a Packet full of old contents, through the twin as well.
func parse(t *testing.T, frame []byte) packet.Packet {
	t.Helper()
	return checkTwin(t, frame)
}

func TestClass(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame []byte
		want  packet.Class
		vlan  uint16
	}{
		{"ipv4", pt.NewUDP(a4, b4), packet.ClassIPv4, 0},
		{"ipv6", pt.NewUDP(a6, b6), packet.ClassIPv6, 0},
		{"vlan", pt.NewUDP(a4, b4, pt.VLAN(4094)), packet.ClassIPv4, 4094},
		{"vlan with priority", pt.NewUDP(a4, b4, pt.VLAN(0xe001)), packet.ClassIPv4, 1},
		{"qinq", pt.NewUDP(a6, b6, pt.QinQ(7, 8)), packet.ClassIPv6, 7},
		{"eight tags", pt.NewUDP(a4, b4, pt.VLAN(1, 2, 3, 4, 5, 6, 7, 8)), packet.ClassIPv4, 1},
		{"nine tags", pt.NewUDP(a4, b4, pt.VLAN(1, 2, 3, 4, 5, 6, 7, 8, 9)), packet.ClassOther, 1},
		{"arp", pt.NewARP(), packet.ClassARP, 0},
		{"arp in vlan", pt.NewARP(pt.VLAN(5)), packet.ClassARP, 5},
		{"lldp", pt.NewLLDP(), packet.ClassLLDP, 0},
		{"stp", pt.NewSTP(), packet.ClassSTP, 0},
		{"stp by LLC only", pt.NewSTP(pt.Ether([6]byte{1, 0, 0x0c, 0xcc, 0xcc, 0xcd}, [6]byte{2})), packet.ClassSTP, 0},
		{"stp in vlan", pt.NewSTP(pt.VLAN(3)), packet.ClassSTP, 3},
		{"pvst", pt.NewLLC(pt.Payload([]byte{0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b})), packet.ClassSTP, 0},
		{"lacp", pt.NewLACP(), packet.ClassLACP, 0},
		{"eapol", pt.NewEAPOL(), packet.ClassEAPOL, 0},
		{"pppoe", pt.NewEther(0x8864, pt.PayloadLen(30)), packet.ClassOther, 0},
		{"mpls", pt.NewEther(0x8847, pt.PayloadLen(30)), packet.ClassOther, 0},
		{"llc", pt.NewLLC(pt.PayloadLen(40)), packet.ClassOther, 0},
		{"empty", nil, packet.ClassOther, 0},
		{"13 bytes", make([]byte, 13), packet.ClassOther, 0},
		{"tag cut off", pt.NewUDP(a4, b4, pt.VLAN(9))[:17], packet.ClassOther, 0},
		{"type only", pt.NewUDP(a4, b4)[:14], packet.ClassIPv4, 0},
	} {
		p := parse(t, c.frame)
		if p.Class != c.want || p.VLAN != c.vlan {
			t.Errorf("%s: class %v vlan %d, want %v %d", c.name, p.Class, p.VLAN, c.want, c.vlan)
		}
	}
}

// TestDirections: a request and its answer have one key, and one of them is flipped.
func TestDirections(t *testing.T) {
	for _, c := range []struct {
		name      string
		there     []byte
		back      []byte
		flipped   bool   // there is
		port      uint16 // Key.APort
		bport     uint16
		symmetric bool // the RSS hash covers the ports
	}{
		{"tcp4", pt.NewTCP(a4, b4, pt.SYN), pt.NewTCP(b4, a4, pt.SYN|pt.ACK), false, 40000, 80, true},
		{"udp6", pt.NewUDP(b6, a6), pt.NewUDP(a6, b6), true, 40000, 80, true},
		{"same address", pt.NewUDP(pt.AP("10.0.0.1:9"), pt.AP("10.0.0.1:8")), pt.NewUDP(pt.AP("10.0.0.1:8"), pt.AP("10.0.0.1:9")), true, 8, 9, true},
		{"sctp", pt.NewSCTP(a4, b4, 1, nil), pt.NewSCTP(b4, a4, 1, nil), false, 40000, 80, true},
		{"udplite", pt.NewUDPLite(a4, b4), pt.NewUDPLite(b4, a4), false, 40000, 80, false},
		{"dccp", pt.NewDCCP(a4, b4, 0), pt.NewDCCP(b4, a4, 1), false, 0, 0, false},
		{"esp", pt.NewIP(a4.Addr(), b4.Addr(), pt.ProtoESP, pt.PayloadLen(9)), pt.NewIP(b4.Addr(), a4.Addr(), pt.ProtoESP), false, 0, 0, false},
		{"gre", pt.NewGRE(b4.Addr(), a4.Addr(), 0x0800), pt.NewGRE(a4.Addr(), b4.Addr(), 0x86dd), true, 0, 0, false},
		{"echo", pt.Echo(b4.Addr(), a4.Addr(), 77, 1), pt.EchoReply(a4.Addr(), b4.Addr(), 77, 2), false, 77, 8 << 8, false},
		{"echo6", pt.Echo(a6.Addr(), b6.Addr(), 77, 1), pt.EchoReply(b6.Addr(), a6.Addr(), 77, 1), false, 77, 128 << 8, false},
		{"timestamp", pt.NewICMP(a4.Addr(), b4.Addr(), 13, 0, 5, 1), pt.NewICMP(b4.Addr(), a4.Addr(), 14, 0, 5, 1), false, 5, 13 << 8, false},
		{"information", pt.NewICMP(a4.Addr(), b4.Addr(), 15, 0, 5, 1), pt.NewICMP(b4.Addr(), a4.Addr(), 16, 0, 5, 1), false, 5, 15 << 8, false},
		{"mask", pt.NewICMP(a4.Addr(), b4.Addr(), 17, 3, 5, 1), pt.NewICMP(b4.Addr(), a4.Addr(), 18, 3, 5, 1), false, 5, 17<<8 | 3, false},
		{"node information", pt.NewICMP(a6.Addr(), b6.Addr(), 139, 1, 5, 1), pt.NewICMP(b6.Addr(), a6.Addr(), 140, 1, 5, 1), false, 5, 139<<8 | 1, false},
		{"tcp6 with extension headers", pt.NewTCP(a6, b6, pt.ACK, pt.HopByHop(nil), pt.Routing(4, nil)), pt.NewTCP(b6, a6, pt.ACK, pt.AH(12)), false, 40000, 80, true},
	} {
		p, q := parse(t, c.there), parse(t, c.back)
		if p.Problem != 0 || q.Problem != 0 || p.Key != q.Key {
			t.Errorf("%s: keys %v (%v) and %v (%v)", c.name, p.Key, p.Problem, q.Key, q.Problem)
		}
		if p.Is(packet.Flipped) != c.flipped || q.Is(packet.Flipped) == c.flipped {
			t.Errorf("%s: flipped %v and %v, want %v and %v", c.name, p.Is(packet.Flipped), q.Is(packet.Flipped), c.flipped, !c.flipped)
		}
		if p.Key.APort != c.port || p.Key.BPort != c.bport {
			t.Errorf("%s: key %v, want ports %d and %d", c.name, p.Key, c.port, c.bport)
		}
		in := rss(p.Src, p.Dst, p.Family)
		if c.symmetric {
			in = binary.BigEndian.AppendUint16(in, p.SrcPort)
			in = binary.BigEndian.AppendUint16(in, p.DstPort)
		}
		var key []byte
		for range 20 {
			key = append(key, 0x6d, 0x5a)
		}
		if got, want := packet.SymmetricHash(&p), packet.Toeplitz(key, in); got != want || packet.SymmetricHash(&q) != want {
			t.Errorf("%s: symmetric hash %#x and %#x, want %#x", c.name, got, packet.SymmetricHash(&q), want)
		}
	}
	// A reply with another code than the request's is of no connection.
	p, q := parse(t, pt.NewICMP(a4.Addr(), b4.Addr(), 8, 1, 5, 1)), parse(t, pt.NewICMP(b4.Addr(), a4.Addr(), 0, 0, 5, 1))
	if p.Key == q.Key {
		t.Errorf("keys of an echo request with code 1 and of a reply with code 0 are the same: %v", p.Key)
	}
	// PPTP: each direction has its own call id, and so its own key until a helper knows both.
	p, q = parse(t, pt.NewPPTP(a4.Addr(), b4.Addr(), 7)), parse(t, pt.NewPPTP(b4.Addr(), a4.Addr(), 9))
	if p.Key.BPort != 7 || p.Key.APort != 0 || q.Key.APort != 9 || q.Key.BPort != 0 || !q.Is(packet.Flipped) {
		t.Errorf("PPTP keys are %v and %v", p.Key, q.Key)
	}
	var k1, k2 packet.Key
	if f1, f2 := k1.Set(p.Src, p.Dst, 9, 7, packet.ProtoGRE, 4), k2.Set(q.Src, q.Dst, 7, 9, packet.ProtoGRE, 4); k1 != k2 || f1 == f2 {
		t.Errorf("PPTP keys with both call ids are %v and %v", k1, k2)
	}
}

// rss returns the addresses of an RSS hash input.
func rss(src, dst packet.Addr, family uint8) []byte {
	if family == 4 {
		return append(src.Netip().AsSlice(), dst.Netip().AsSlice()...)
	}
	return append(src.Netip6().AsSlice(), dst.Netip6().AsSlice()...)
}

// TestICMPError: an error has the key and the direction of the packet that it quotes, and the same shard.
func TestICMPError(t *testing.T) {
	router4, router6 := pt.IP("192.0.2.1"), pt.IP("fe80::1")
	udp6 := pt.NewUDP(a6, b6, pt.PayloadLen(1400))
	for _, c := range []struct {
		name  string
		flow  []byte
		error []byte
	}{
		{"udp4", pt.NewUDP(a4, b4), pt.NewICMPError(router4, a4.Addr(), 3, 3, 0, pt.NewUDP(a4, b4), 28)},
		{"tcp4 back", pt.NewTCP(b4, a4, pt.ACK), pt.NewICMPError(router4, b4.Addr(), 11, 0, 0, pt.NewTCP(b4, a4, pt.ACK), 28)},
		{"ports only", pt.NewTCP(b4, a4, pt.ACK), pt.NewICMPError(router4, b4.Addr(), 12, 0, 0, pt.NewTCP(b4, a4, pt.ACK), 24)},
		{"options", pt.NewTCP(b4, a4, pt.ACK), pt.NewICMPError(router4, b4.Addr(), 4, 0, 0, pt.NewTCP(b4, a4, pt.ACK, pt.IPv4Options([]byte{1, 1, 1, 1})), 32)},
		{"redirect", pt.NewUDP(a4, b4), pt.NewICMPError(router4, a4.Addr(), 5, 1, 0, pt.NewUDP(a4, b4), 28)},
		{"echo", pt.Echo(a4.Addr(), b4.Addr(), 4, 4), pt.NewICMPError(router4, a4.Addr(), 3, 1, 0, pt.Echo(a4.Addr(), b4.Addr(), 4, 4), 0)},
		{"echo reply", pt.EchoReply(a4.Addr(), b4.Addr(), 4, 4), pt.NewICMPError(router4, a4.Addr(), 3, 1, 0, pt.EchoReply(a4.Addr(), b4.Addr(), 4, 4), 0)},
		{"first fragment", pt.NewUDP(a4, b4), pt.NewICMPError(router4, a4.Addr(), 3, 4, 1400, pt.Fragments(pt.NewUDP(a4, b4, pt.PayloadLen(90)), 1, 48)[0], 0)},
		{"generic", pt.NewIP(a4.Addr(), b4.Addr(), 99), pt.NewICMPError(router4, a4.Addr(), 3, 2, 0, pt.NewIP(a4.Addr(), b4.Addr(), 99), 0)},
		{"packet too big", udp6, pt.NewICMPError(router6, a6.Addr(), 2, 0, 1280, udp6, 1232)},
		{"unknown error type", udp6, pt.NewICMPError(router6, a6.Addr(), 100, 0, 0, udp6, 1232)},
		{"extension headers", pt.NewTCP(b6, a6, pt.ACK), pt.NewICMPError(router6, b6.Addr(), 1, 0, 0, pt.NewTCP(b6, a6, pt.ACK, pt.HopByHop(nil), pt.DestinationOptions(nil)), 0)},
		{"first fragment6", udp6, pt.NewICMPError(router6, a6.Addr(), 3, 1, 0, pt.Fragments(udp6, 1, 600)[0], 0)},
		{"echo6", pt.Echo(a6.Addr(), b6.Addr(), 4, 4), pt.NewICMPError(router6, a6.Addr(), 1, 3, 0, pt.Echo(a6.Addr(), b6.Addr(), 4, 4), 0)},
		{"redirect6", udp6, pt.NewRedirect(router6, a6.Addr(), b6.Addr(), udp6)},
		{"vlan", pt.NewUDP(a4, b4), pt.NewICMPError(router4, a4.Addr(), 3, 3, 0, pt.NewUDP(a4, b4), 28, pt.VLAN(2))},
	} {
		p, e := parse(t, c.flow), parse(t, c.error)
		if !e.Is(packet.ICMPError) || e.Problem != 0 {
			t.Errorf("%s: flags %b, problem %v", c.name, e.Flags, e.Problem)
			continue
		}
		if e.Key != p.Key || e.Is(packet.Flipped) != p.Is(packet.Flipped) {
			t.Errorf("%s: key %v flags %b, want %v %b", c.name, e.Key, e.Flags, p.Key, p.Flags)
		}
		if packet.SymmetricHash(&e) != packet.SymmetricHash(&p) {
			t.Errorf("%s: another shard than the quoted flow's", c.name)
		}
		var q packet.Packet
		if !e.Quoted(&q) || q.Src != p.Src || q.Dst != p.Dst || q.Proto != p.Proto || q.SrcPort != p.SrcPort && p.Is(packet.PortsValid) && p.Proto != packet.ProtoDCCP {
			t.Errorf("%s: quoted %+v, want %+v", c.name, q, p)
		}
	}
}

// TestProblems: one frame for each problem, and the ones that are none.
func TestProblems(t *testing.T) {
	set := func(f []byte, at int, v ...byte) []byte {
		f = append([]byte(nil), f...)
		copy(f[at:], v)
		return f
	}
	udp4, udp6 := pt.NewUDP(a4, b4, pt.PayloadLen(20)), pt.NewUDP(a6, b6, pt.PayloadLen(20))
	a, b, r := a6.Addr(), b6.Addr(), pt.IP("fe80::1")
	for _, c := range []struct {
		name    string
		frame   []byte
		problem packet.Problem
		header  bool
	}{
		{"none", udp4, packet.ProblemNone, false},
		{"19 bytes", udp4[:33], packet.ProblemIPShort, true},
		{"39 bytes", udp6[:53], packet.ProblemIPShort, true},
		{"version 6 in 0x0800", set(udp4, 14, 0x65), packet.ProblemIPVersion, true},
		{"version 4 in 0x86dd", set(udp6, 14, 0x45), packet.ProblemIPVersion, true},
		{"ihl 4", pt.FixChecksums(set(udp4, 14, 0x44)), packet.ProblemIPHeaderLength, true},
		{"ihl beyond the end", set(pt.NewIP(a4.Addr(), b4.Addr(), 99), 14, 0x46), packet.ProblemIPHeaderLength, true},
		{"checksum", pt.NewUDP(a4, b4, pt.BadHeaderChecksum()), packet.ProblemIPChecksum, true},
		{"checksum with options", pt.NewUDP(a4, b4, pt.BadHeaderChecksum(), pt.IPv4Options([]byte{1})), packet.ProblemIPChecksum, true},
		{"total length beyond the end", udp4[:len(udp4)-1], packet.ProblemIPLength, true},
		{"total length 19", repair(set(udp4, 16, 0, 19)), packet.ProblemIPLength, true},
		{"payload length beyond the end", udp6[:len(udp6)-1], packet.ProblemIPLength, true},
		{"jumbo payload too small", pt.NewIP(a, b, 0, pt.Payload([]byte{6, 0, 0xc2, 4, 0, 0, 1, 0})), packet.ProblemHopByHop, true},
		{"option beyond hop-by-hop", pt.NewIP(a, b, 0, pt.Payload([]byte{6, 0, 1, 5, 0, 0, 0, 0})), packet.ProblemHopByHop, true},
		{"hop-by-hop cut off", pt.NewIP(a, b, 0, pt.Payload([]byte{6, 1, 1, 4, 0, 0, 0, 0})), packet.ProblemHopByHop, true},
		{"hop-by-hop behind the payload", set(pt.NewIP(a, b, 0, pt.Payload([]byte{6, 0, 0, 0, 0, 0, 0, 0})), 18, 0, 0), packet.ProblemExtHeader, false},
		{"bad hop-by-hop in an atomic fragment", pt.NewIP(a, b, 0, pt.AtomicFragment(1), pt.Payload([]byte{99, 0, 1, 5, 0, 0, 0, 0, 1})), packet.ProblemNone, false},
		{"vlan tag cut off", pt.NewARP(pt.VLAN(7))[:19], packet.ProblemLinkShort, true},
		{"nothing behind a vlan tag", pt.NewEther(0x88b5, pt.VLAN(7)), packet.ProblemLinkShort, true},
		{"second vlan tag cut off", pt.NewEther(0x8100, pt.QinQ(7, 8))[:21], packet.ProblemLinkShort, true},
		{"second provider tag cut off", pt.NewEther(0x88a8, pt.VLAN(7), pt.PayloadLen(2)), packet.ProblemNone, false},
		{"third vlan tag cut off", pt.NewEther(0x8100, pt.VLAN(7, 8), pt.PayloadLen(2)), packet.ProblemNone, false},
		{"pppoe header cut off", pt.NewEther(0x8864, pt.VLAN(7), pt.PayloadLen(7)), packet.ProblemLinkShort, true},
		{"pppoe header alone", pt.NewEther(0x8864, pt.PayloadLen(8)), packet.ProblemNone, false},
		{"two bytes behind a vlan tag", pt.NewEther(0x88b5, pt.VLAN(7), pt.PayloadLen(2)), packet.ProblemNone, false},
		{"fragment header of 2 bytes", pt.NewIP(a, b, 44, pt.Payload([]byte{17, 0})), packet.ProblemFragmentHeader, true},
		{"first fragment header of 4 bytes", pt.NewIP(a, b, 44, pt.Payload([]byte{17, 0, 0, 0})), packet.ProblemUDPShort, false},
		{"later fragment header of 4 bytes", pt.NewIP(a, b, 44, pt.Payload([]byte{17, 0, 0, 8})), packet.ProblemFragmentHeader, true},
		{"first fragment of 9 bytes", pt.NewIP(a, b, 99, pt.FragmentHeader(0, true, 1), pt.PayloadLen(9)), packet.ProblemNone, false},
		{"later fragment of 9 bytes", pt.NewIP(a, b, 99, pt.FragmentHeader(8, true, 1), pt.PayloadLen(9)), packet.ProblemExtHeader, false},
		{"empty atomic fragment", pt.NewIP(a, b, 59, pt.AtomicFragment(1)), packet.ProblemFragmentHeader, true},
		{"no next header", pt.NewIP(a, b, 59), packet.ProblemExtHeader, false},
		{"routing header cut off", pt.NewIP(a, b, 43, pt.Payload([]byte{6})), packet.ProblemExtHeader, false},
		{"tcp 19", pt.NewIP(a4.Addr(), b4.Addr(), 6, pt.PayloadLen(19)), packet.ProblemTCPShort, false},
		{"tcp behind the end", pt.NewIP(a, b, 60, pt.Payload([]byte{6, 9, 0, 0, 0, 0, 0, 0})), packet.ProblemTCPShort, false},
		{"generic behind the end", pt.NewIP(a, b, 60, pt.Payload([]byte{99, 9, 0, 0, 0, 0, 0, 0})), packet.ProblemNone, false},
		{"tcp offset 4", set(pt.NewTCP(a4, b4, pt.ACK), 46, 0x40), packet.ProblemTCPOffset, false},
		{"tcp offset beyond the end", set(pt.NewTCP(a4, b4, pt.ACK), 46, 0x60), packet.ProblemTCPOffset, false},
		{"udp 7", pt.NewIP(a4.Addr(), b4.Addr(), 17, pt.PayloadLen(7)), packet.ProblemUDPShort, false},
		{"udp length 7", set(udp4, 38, 0, 7), packet.ProblemUDPLength, false},
		{"udp length beyond the end", set(udp4, 38, 0, 29), packet.ProblemUDPLength, false},
		{"udp length 0 in IPv6", set(udp6, 58, 0, 0), packet.ProblemUDPLength, false},
		{"udp length shorter", set(udp4, 38, 0, 8), packet.ProblemNone, false},
		{"udplite 7", pt.NewIP(a, b, 136, pt.PayloadLen(7)), packet.ProblemUDPShort, false},
		{"udplite coverage 7", pt.NewUDPLite(a4, b4, pt.Coverage(7)), packet.ProblemUDPLiteCoverage, false},
		{"udplite coverage 9", pt.NewUDPLite(a4, b4, pt.Coverage(9)), packet.ProblemUDPLiteCoverage, false},
		{"udplite without checksum", pt.NewUDPLite(a4, b4, pt.NoChecksum()), packet.ProblemUDPLiteNoChecksum, false},
		{"sctp 11", pt.NewIP(a, b, 132, pt.PayloadLen(11)), packet.ProblemSCTPShort, false},
		{"icmp 7", pt.NewIP(a4.Addr(), b4.Addr(), 1, pt.PayloadLen(7)), packet.ProblemICMPShort, false},
		{"icmpv6 7", pt.NewIP(a, b, 58, pt.PayloadLen(7)), packet.ProblemICMPShort, false},
		{"icmp router advertisement", pt.NewICMP(a4.Addr(), b4.Addr(), 9, 0, 0, 0), packet.ProblemICMPType, false},
		{"icmp type 19", pt.NewICMP(a4.Addr(), b4.Addr(), 19, 0, 0, 0), packet.ProblemICMPType, false},
		{"icmpv6 router renumbering", pt.NewICMP(a, b, 138, 0, 0, 0), packet.ProblemICMPType, false},
		{"icmp in IPv6", pt.NewIP(a, b, 1, pt.PayloadLen(8)), packet.ProblemICMPFamily, false},
		{"icmpv6 in IPv4", pt.NewIP(a4.Addr(), b4.Addr(), 58, pt.PayloadLen(8)), packet.ProblemICMPFamily, false},
		{"redirect cut off", pt.NewICMPMessage(r, a, 137, 0, 0, pt.PayloadLen(31), pt.TTL(255)), packet.ProblemICMPShort, false},
		{"redirect with hop limit 64", pt.NewRedirect(r, a, b, udp6, pt.TTL(64)), packet.ProblemICMPRedirect, false},
		{"redirect from afar", pt.NewRedirect(b, a, b, udp6), packet.ProblemICMPRedirect, false},
		{"redirect without option", pt.NewICMPMessage(r, a, 137, 0, 0, pt.PayloadLen(32), pt.TTL(255)), packet.ProblemICMPRedirect, false},
		{"quote of 23 bytes", pt.NewICMPError(b4.Addr(), a4.Addr(), 3, 0, 0, udp4, 23), packet.ProblemICMPQuote, false},
		{"quote of a later fragment", pt.NewICMPError(b4.Addr(), a4.Addr(), 3, 0, 0, pt.Fragments(udp4, 1, 8)[1], 0), packet.ProblemICMPQuote, false},
		{"quote of an error", pt.NewICMPError(b4.Addr(), a4.Addr(), 3, 0, 0, pt.NewICMPError(a4.Addr(), b4.Addr(), 3, 0, 0, udp4, 0), 0), packet.ProblemICMPQuote, false},
		{"empty quote in IPv6", pt.NewICMPMessage(b, a, 1, 0, 0), packet.ProblemICMPQuote, false},
		{"quote of another's packet", pt.NewICMPError(b4.Addr(), a4.Addr(), 3, 0, 0, pt.NewUDP(b4, a4), 0), packet.ProblemICMPQuoteAddr, false},
		{"gre 1 without ppp", pt.NewIP(a4.Addr(), b4.Addr(), 47, pt.Payload([]byte{0, 1, 8, 0, 0, 0, 0, 0})), packet.ProblemGREProtocol, false},
		{"gre 1 cut off", pt.NewIP(a4.Addr(), b4.Addr(), 47, pt.Payload([]byte{0, 1, 8, 0, 0, 0, 0})), packet.ProblemNone, false},
		{"gre empty", pt.NewIP(a4.Addr(), b4.Addr(), 47), packet.ProblemNone, false},
		{"empty esp", pt.NewIP(a, b, 50), packet.ProblemNone, false},
	} {
		p := parse(t, c.frame)
		if p.Problem != c.problem || p.Problem.Header() != c.header {
			t.Errorf("%s: problem %q, header %v; want %q, %v", c.name, p.Problem, p.Problem.Header(), c.problem, c.header)
		}
	}
	names := map[string]bool{}
	for i := range packet.Problems {
		if names[i.String()] {
			t.Errorf("two problems are spelled %q", i)
		}
		names[i.String()] = true
	}
}

func TestFragments(t *testing.T) {
	for _, whole := range [][]byte{pt.NewUDP(a4, b4, pt.PayloadLen(50), pt.VLAN(6)), pt.NewUDP(b6, a6, pt.PayloadLen(50), pt.HopByHop(nil))} {
		w := parse(t, whole)
		next, frames := 0, pt.Fragments(whole, 0x1234, 24)
		for i, f := range frames {
			p := parse(t, f)
			last := i == len(frames)-1
			if !p.Is(packet.Fragment) || p.Is(packet.FragLast) != last || int(p.FragOff) != next || p.IPID != 0x1234 || p.Proto != 17 {
				t.Fatalf("fragment %d of %v: %+v", i, w.Key, p)
			}
			if p.Key.A != w.Key.A || p.Key.B != w.Key.B || p.Key.APort|p.Key.BPort != 0 || p.Is(packet.PortsValid) || p.Is(packet.Flipped) != w.Is(packet.Flipped) {
				t.Errorf("fragment %d: key %v, whole %v", i, p.Key, w.Key)
			}
			if p.Family == 6 && p.Frame[p.FragHdr] != 17 || p.Family == 4 && p.FragHdr != 0 {
				t.Errorf("fragment %d: fragment header at %d", i, p.FragHdr)
			}
			next += len(p.Transport())
		}
		if next != 58 {
			t.Errorf("fragments of %v have %d bytes of payload, want 58", w.Key, next)
		}
	}
	// Atomic fragments and first ones without their transport header are not held.
	p := parse(t, pt.NewUDP(a6, b6, pt.AtomicFragment(7), pt.PayloadLen(4)))
	if p.Is(packet.Fragment) || p.IPID != 7 || p.FragHdr != 54 || p.DstPort != 80 {
		t.Errorf("atomic fragment: %+v", p)
	}
	p = parse(t, pt.NewIP(a6.Addr(), b6.Addr(), 6, pt.FragmentHeader(0, true, 1), pt.PayloadLen(16)))
	if p.Is(packet.Fragment) || p.Problem != packet.ProblemTCPShort {
		t.Errorf("first fragment with 16 bytes of TCP: %+v", p)
	}
	p = parse(t, pt.NewIP(a6.Addr(), b6.Addr(), 132, pt.FragmentHeader(0, true, 1), pt.PayloadLen(8)))
	if !p.Is(packet.Fragment) {
		t.Errorf("first fragment with 8 bytes of SCTP: %+v", p)
	}
}

func TestNoTrack(t *testing.T) {
	for typ := range 256 {
		p := parse(t, pt.NewICMP(a6.Addr(), b6.Addr(), uint8(typ), 0, 1, 1, pt.PayloadLen(64)))
		want := typ >= 130 && typ <= 136 || typ == 143 || typ == 151 || typ == 152
		if p.Is(packet.NoTrack) != want {
			t.Errorf("type %d: NoTrack %v, want %v", typ, p.Is(packet.NoTrack), want)
		}
	}
}

// TestJumbo: a jumbogram, RFC 2675, and a reassembled datagram longer than 65535 bytes with its Ethernet header.
func TestJumbo(t *testing.T) {
	f := pt.NewIP(a6.Addr(), b6.Addr(), 0, pt.Payload([]byte{99, 0, 0xc2, 4, 0, 1, 0, 8}))
	f = append(f, make([]byte, 65536+8-8+5)...)
	f[18], f[19] = 0, 0
	if p := parse(t, f); p.Problem != 0 || int(p.End) != 14+40+65544 || p.Proto != 99 {
		t.Errorf("jumbogram: problem %v, end %d, protocol %d", p.Problem, p.End, p.Proto)
	}
	f = pt.NewUDP(a4, b4, pt.PayloadLen(65507))
	if p := parse(t, f); p.Problem != 0 || int(p.End) != 14+65535 || !p.VerifyChecksum() {
		t.Errorf("longest UDP datagram: problem %v, end %d", p.Problem, p.End)
	}
}

func TestParseIP(t *testing.T) {
	for _, f := range seeds() {
		p := packet.Packet{Frame: f}
		packet.Parse(&p)
		if p.Family == 0 || p.Problem == packet.ProblemIPVersion || p.Problem == packet.ProblemIPShort {
			continue
		}
		q := packet.Packet{Frame: f}
		packet.ParseIP(&q, int(p.L3))
		p.VLAN = 0
		if q.Key != p.Key || q.Flags != p.Flags || q.L3 != p.L3 || q.L4 != p.L4 || q.End != p.End || q.Class != p.Class || q.Problem != p.Problem || q.VLAN != 0 {
			t.Errorf("ParseIP: %+v, Parse: %+v", q, p)
		}
	}
	for _, f := range [][]byte{nil, {0x50}, {0x60}} {
		p := packet.Packet{Frame: f}
		if packet.ParseIP(&p, 0); !p.Problem.Header() {
			t.Errorf("ParseIP of %x: problem %v", f, p.Problem)
		}
	}
}

// TestNoAllocations: nothing on the packet path allocates.
func TestNoAllocations(t *testing.T) {
	all := seeds()
	h := packet.NewHasher([packet.HasherSecret]uint64{1, 2, 3})
	var p, q packet.Packet
	var sum uint64
	n := testing.AllocsPerRun(10, func() {
		for _, f := range all {
			p.Frame = f
			packet.Parse(&p)
			sum += h.Sum(&p.Key) + uint64(packet.SymmetricHash(&p))
			p.VerifyChecksum()
			p.Quoted(&q)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations in %d frames", n, len(all))
	}
	if sum == 0 {
		t.Error("all hashes are 0")
	}
}

// TestSizes holds the sizes that the flow table and the bursts count on.
func TestSizes(t *testing.T) {
	if n := reflect.TypeFor[packet.Key]().Size(); n != 40 {
		t.Errorf("Key has %d bytes, want 40", n)
	}
	if n := reflect.TypeFor[packet.Packet]().Size(); n != 152 {
		t.Errorf("Packet has %d bytes, want 152", n)
	}
}
