package rules

import (
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// TestVLAN judges tagged and untagged frames by -m vlan, and one rule a line of what is refused.
func TestVLAN(t *testing.T) {
	tagged := func(tci uint16) []byte {
		b := packettest.NewUDP(packettest.AP("10.0.0.1:1"), packettest.AP("10.0.0.2:2"), packettest.VLAN(tci&0xfff))
		b[14] |= byte(tci >> 8 & 0xe0)
		return b
	}
	for _, c := range []struct {
		match string
		tci   int // -1: no tag
		want  Verdict
	}{
		{"--vlan-id 7", 7, Accept}, {"--vlan-id 7", 8, Drop}, {"--vlan-id 7", 7 | 5<<13, Accept}, {"! --vlan-id 7", 8, Accept},
		{"--vlan-id 7:9", 9, Accept}, {"--vlan-id 7:9", 10, Drop}, {"--vlan-id 0", -1, Accept}, {"! --vlan-id 0", -1, Drop},
		{"--vlan-pcp 5", 7 | 5<<13, Accept}, {"--vlan-pcp 5", 7, Drop}, {"--vlan-pcp 4:", 7 | 7<<13, Accept}, {"--vlan-pcp 0", -1, Accept},
		{"! --vlan-pcp 5 --vlan-id 7", 7, Accept}, {"! --vlan-pcp 5 --vlan-id 7", 7 | 5<<13, Drop},
	} {
		f, err := Parse("vlan", []byte("*filter\n:FORWARD DROP\n-A FORWARD -m vlan "+c.match+" -j ACCEPT\nCOMMIT\n"), Both)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := packet.Packet{Frame: packettest.NewUDP(packettest.AP("10.0.0.1:1"), packettest.AP("10.0.0.2:2"))}
		if c.tci >= 0 {
			p.Frame = tagged(uint16(c.tci))
		}
		packet.Parse(&p)
		if r := rs.NewMatcher().Match(&p, &Context{State: New}); r.Verdict != c.want || r.Cacheable() {
			t.Errorf("%s, tag %#x: %v, cacheable %v", c.match, c.tci, r.Verdict, r.Cacheable())
		}
	}
	for _, s := range []string{"", "--vlan-id 4096", "--vlan-id 9:7", "--vlan-pcp 8", "--vlan-id x", "--vlan-id 1 --vlan-id 2"} {
		if _, err := Parse("vlan", []byte("*filter\n-A FORWARD -m vlan "+s+" -j ACCEPT\nCOMMIT\n"), Both); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}
