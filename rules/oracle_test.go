package rules

import (
	"fmt"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// Cases that the comparison with the running kernel (tools/oracle) found: rules, a frame, and whether the first rule of
// FORWARD counts it.
func TestAsInKernel(t *testing.T) {
	udp := func(src, dst string) []byte { return packettest.NewUDP(packettest.AP(src), packettest.AP(dst)) }
	for _, x := range []struct {
		name, rule string
		family     Family
		frame      []byte
		counts     bool
	}{
		{"types of an IPv6 address are asked for together", "-m addrtype --src-type LOCAL,MULTICAST", IPv6, udp("[ff02::1]:1", "[2001:db8::1]:2"), false},
		{"both types", "-m addrtype --src-type LOCAL,UNICAST", IPv6, udp("[::1]:1", "[2001:db8::1]:2"), true},
		{"one of two types of an IPv4 address", "-m addrtype --src-type LOCAL,MULTICAST", IPv4, udp("224.0.0.1:1", "10.0.0.1:2"), true},
		{"no broadcast", "-m addrtype --src-type BROADCAST", IPv4, udp("0.0.1.128:1", "10.0.0.1:2"), false},
		{"loopback of one interface", "-m addrtype --src-type LOCAL --limit-iface-in", IPv4, udp("127.0.0.1:1", "10.0.0.1:2"), false},
		{"a mask that is no prefix", "-m conntrack --ctorigsrc 10.1.2.3/255.0.255.0", IPv4, udp("10.9.2.3:1", "10.0.0.1:2"), false},
		{"a mask that is a prefix", "-m conntrack --ctorigsrc 10.1.2.3/255.255.0.0", IPv4, udp("10.1.9.3:1", "10.0.0.1:2"), true},
		// An atomic fragment whose headers are cut off keeps its fragment header.
		{"cut off after a fragment header", "-m frag --fragid 9", IPv6, packettest.NewIP(packettest.IP("2001:db8::1"), packettest.IP("2001:db8::2"), 253, packettest.AtomicFragment(9)), true},
	} {
		f, err := Parse("x", []byte("*filter\n-A FORWARD "+x.rule+"\nCOMMIT\n"), x.family)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := rs.NewMatcher()
		p := packet.Packet{Frame: x.frame}
		packet.Parse(&p)
		m.Count(m.Match(&p, &Context{State: New}).Trace, 1)
		n := make([]Counter, rs.Counters())
		m.Counters(n)
		if n[0].Packets == 1 != x.counts {
			t.Errorf("%s: %+v", x.name, n[0])
		}
	}
}

// Rules that iptables or the kernel refuses, with the column of what is wrong.
func TestRefusedAsInKernel(t *testing.T) {
	for _, x := range []struct {
		table, rule string
		col         int // 0: accepted
	}{
		{"filter", "-A FORWARD -m limit --limit 1/day", 15},
		{"filter", "-A FORWARD -m limit --limit 1/day --limit-burst 4", 15},
		{"filter", "-A FORWARD -m limit --limit 1/day --limit-burst 1", 0},
		{"filter", "-A FORWARD -m limit --limit 1/hour --limit-burst 9", 0},
		{"mangle", "-A POSTROUTING -m mac --mac-source 02:00:00:00:00:01", 19},
		{"mangle", "-A FORWARD -m mac --mac-source 02:00:00:00:00:01", 0},
		{"mangle", "-A POSTROUTING -m addrtype --src-type LOCAL --limit-iface-in", 19},
		{"mangle", "-A PREROUTING -m addrtype --src-type LOCAL --limit-iface-out", 18},
		{"mangle", "-A FORWARD -m addrtype --src-type LOCAL --limit-iface-out", 0},
	} {
		_, err := Parse("x", []byte("*"+x.table+"\n"+x.rule+"\nCOMMIT\n"), IPv4)
		where := fmt.Sprintf("x:2:%d:", x.col)
		if (err == nil) != (x.col == 0) || err != nil && !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v, want %s", x.rule, err, where)
		}
	}
}
