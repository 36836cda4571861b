package replay

import (
	"net/netip"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

func TestSides(t *testing.T) {
	s := NewSides([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")})
	in, out, new := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}, [6]byte{2, 0, 0, 0, 0, 3}
	from := func(mac [6]byte) pt.Option { return pt.Ether([6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac) }
	arp := func(mac [6]byte, sender string) []byte {
		body := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac[:]...)
		body = append(body, netip.MustParseAddr(sender).AsSlice()...)
		return pt.NewEther(0x0806, from(mac), pt.Payload(append(body, make([]byte, 10)...)))
	}
	malformed := pt.NewUDP(pt.AP("192.0.2.1:1"), pt.AP("10.0.0.1:1"), from(out), pt.BadHeaderChecksum())
	for i, step := range []struct {
		frame []byte
		want  packet.Port
	}{
		{pt.NewLLDP(from(out)), packet.Inside}, // nothing known yet
		{pt.NewUDP(pt.AP("10.1.2.3:1"), pt.AP("192.0.2.1:1"), from(in)), packet.Inside},
		{pt.NewUDP(pt.AP("192.0.2.1:1"), pt.AP("10.1.2.3:1"), from(out)), packet.Outside},
		{pt.NewLLDP(from(out)), packet.Outside},
		{pt.NewLLDP(from(in)), packet.Inside},
		{pt.NewUDP(pt.AP("[2001:db8::1]:1"), pt.AP("[2001:db8:1::1]:1"), pt.QinQ(7, 8)), packet.Inside},
		{pt.NewUDP(pt.AP("[2001:db9::1]:1"), pt.AP("[2001:db8::1]:1"), pt.VLAN(7)), packet.Outside},
		{malformed, packet.Outside},
		{malformed[:30], packet.Outside},
		{malformed[:20], packet.Outside}, // its source is cut off: by MAC address
		{arp(new, "192.0.2.9"), packet.Outside},
		{pt.NewSTP(from(new)), packet.Outside},
		{arp(in, "10.0.0.9"), packet.Inside},
		{arp(new, "0.0.0.0"), packet.Outside}, // a probe: by MAC address
		{pt.NewUDP(pt.AP("0.0.0.0:68"), pt.AP("255.255.255.255:67"), from(in)), packet.Inside},
		{pt.NewUDP(pt.AP("0.0.0.0:68"), pt.AP("255.255.255.255:67"), from(out)), packet.Outside},
		{nil, packet.Inside},
		{make([]byte, 13), packet.Inside},
	} {
		if got := s.Port(step.frame); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}

func FuzzSides(f *testing.F) {
	f.Add(pt.NewARP(), pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:1"), pt.VLAN(1, 2)))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		s := NewSides([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
		for _, frame := range [][]byte{a, b, a} {
			if s.Port(frame) > packet.Outside {
				t.Error("no port")
			}
			_ = Describe(frame)
		}
	})
}

func TestDescribe(t *testing.T) {
	for want, frame := range map[string][]byte{
		"tcp 10.0.0.1:1 > 10.0.0.2:2 SR":         pt.NewTCP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2"), 6),
		"udp [2001:db8::1]:1 > [2001:db8::2]:2":  pt.NewUDP(pt.AP("[2001:db8::1]:1"), pt.AP("[2001:db8::2]:2")),
		"icmp 10.0.0.1 > 10.0.0.2 type 8 code 0": pt.Echo(pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), 1, 1),
		"proto 89 10.0.0.1 > 10.0.0.2":           pt.NewIP(pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), 89),
		"arp":                                    pt.NewARP(),
		"ipv4 malformed":                         pt.NewIP(pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), 89, pt.BadHeaderChecksum()),
	} {
		if got := Describe(frame); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
