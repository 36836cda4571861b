package main

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// frames makes a stream of frames that come in on one port.
func frames(in packet.Port, list ...[]byte) []shot {
	var s []shot
	for _, f := range list {
		s = append(s, shot{in: in, frame: f})
	}
	return s
}

// headersRules have rules that ask for a protocol and rules that do not, in both tables.
const headersRules = `*raw
:PREROUTING ACCEPT [0:0]
:asks - [0:0]
-A PREROUTING -6 -s 2001:db8::77 -j asks
-A asks -p udp -m udp --dport 9999 -j DROP
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -6 -s 2001:db8::1 -j ACCEPT
-A FORWARD -6 -s 2001:db8::33 ! -p tcp -j ACCEPT
-A FORWARD -6 -d 2001:db8::5 -p tcp -m tcp --dport 1 -j DROP
-A FORWARD -6 -p 59 -s 2001:db8::3 -j DROP
-A FORWARD -6 -m conntrack --ctstate INVALID -p tcp -s 2001:db8::4 -j ACCEPT
COMMIT
`

// Headers on which a Linux bridge has views of its own: tags that are cut off or nested, extension headers that cannot be
// followed, before rules that ask for a protocol and rules that do not, hop-by-hop options that show late.
func TestHeaders(t *testing.T) {
	need(t)
	a, b := pt.AP("[2001:db8::1]:1000"), pt.AP("[2001:db8::2]:2000")
	var list [][]byte
	tagged := pt.NewUDP(a, b, pt.VLAN(5), pt.PayloadLen(9))
	for n := packet.EthernetHeader; n < 24; n++ {
		list = append(list, tagged[:n])
	}
	for _, etherType := range []uint16{0x8100, 0x88a8, 0x0806, 0x8864, 0x88b5} {
		for n := range 10 {
			list = append(list, pt.NewEther(etherType, pt.PayloadLen(n)), pt.NewEther(etherType, pt.VLAN(5), pt.PayloadLen(n)), pt.NewEther(etherType, pt.QinQ(5, 6), pt.PayloadLen(n)))
		}
	}
	list = append(list, tagged, pt.NewUDP(a, b, pt.QinQ(5, 6)), pt.NewUDP(a, b, pt.VLAN(5, 6)), pt.NewUDP(a, b, pt.VLAN(5, 6, 7)),
		pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2"), pt.QinQ(5, 6)), pt.NewARP(pt.QinQ(1, 2)), pt.NewUDP(a, b, pt.QinQ(5, 6), pt.BadChecksum()))
	for _, src := range []string{"2001:db8::1", "2001:db8::3", "2001:db8::4", "2001:db8::33", "2001:db8::77", "2001:db8::9"} {
		for _, dst := range []string{"2001:db8::2", "2001:db8::5"} {
			s, d := pt.IP(src), pt.IP(dst)
			ip := func(proto uint8, o ...pt.Option) { list = append(list, pt.NewIP(s, d, proto, o...)) }
			for _, inner := range []uint8{6, 17, 58, 59, 60, 253} {
				ip(inner)
				ip(inner, pt.ExtHeader(60, []byte{0, 9, 0, 0, 0, 0, 0, 0}))
				ip(inner, pt.ExtHeader(43, []byte{0, 0}))
				ip(inner, pt.ExtHeader(43, []byte{0, 0, 0, 0}))
				ip(inner, pt.ExtHeader(51, []byte{0}))
				ip(inner, pt.FragmentHeader(8, true, 1), pt.PayloadLen(9))
				ip(inner, pt.DestinationOptions(nil), pt.FragmentHeader(8, true, 1), pt.PayloadLen(9))
				ip(inner, pt.AtomicFragment(2), pt.FragmentHeader(16, false, 1), pt.PayloadLen(16))
				ip(inner, pt.AtomicFragment(3), pt.HopByHop([]byte{9, 200, 1}), pt.PayloadLen(8))
				ip(inner, pt.AtomicFragment(4), pt.HopByHop(nil), pt.PayloadLen(8))
			}
			ip(0, pt.Pad(20))
			udp := pt.NewUDP(netip.AddrPortFrom(s, 7), netip.AddrPortFrom(d, 8), pt.HopByHop([]byte{9, 200, 1}), pt.PayloadLen(40))
			// The hop-by-hop header comes behind the fragment header, so that it shows only when the datagram is whole.
			hidden := bytes.Clone(udp)
			hidden[20] = 253
			for _, f := range pt.Fragments(hidden, 77, 16) {
				f[packet.EthernetHeader+40] = 0
				list = append(list, f)
			}
		}
	}
	r, err := newRuleFile("headers", []byte(headersRules))
	if err != nil {
		t.Fatal(err)
	}
	c := newConfig(t, "")
	c.rules = r
	c.stop = 10
	// A generic connection that exists shows that a packet dropped late has refreshed it.
	x, y := pt.IP("2001:db8::9"), pt.IP("2001:db8::2")
	known := frames(packet.Inside, pt.NewIP(x, y, 253, pt.PayloadLen(8)))
	known = append(known, frames(packet.Outside, pt.NewIP(y, x, 253, pt.AtomicFragment(3), pt.HopByHop([]byte{9, 200, 1}), pt.PayloadLen(8)))...)
	s, err := newComparison(t, c).run("headers", slices.Values(append(known, frames(packet.Inside, list...)...)))
	report(t, s, err)
	if s.Entries == 0 || s.States["INVALID"] == 0 {
		t.Errorf("%+v", s)
	}
}
