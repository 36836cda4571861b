package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"corewire/dataplane"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// rejectRules refuse by the destination port or the protocol, each with an answer of its own.
const rejectRules = `*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p tcp -m tcp --dport 1000 -j REJECT --reject-with tcp-reset
-A FORWARD -4 -p tcp -m tcp --dport 1001 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -4 -p udp -m udp --dport 1002 -j REJECT --reject-with icmp-net-unreachable
-A FORWARD -4 -p udp -m udp --dport 1003 -j REJECT --reject-with icmp-host-unreachable
-A FORWARD -4 -p udp -m udp --dport 1004 -j REJECT --reject-with icmp-proto-unreachable
-A FORWARD -4 -p udp -m udp --dport 1005 -j REJECT --reject-with icmp-admin-prohibited
-A FORWARD -6 -p tcp -m tcp --dport 1001 -j REJECT --reject-with icmp6-port-unreachable
-A FORWARD -6 -p udp -m udp --dport 1002 -j REJECT --reject-with icmp6-no-route
-A FORWARD -6 -p udp -m udp --dport 1003 -j REJECT --reject-with icmp6-adm-prohibited
-A FORWARD -6 -p udp -m udp --dport 1004 -j REJECT --reject-with icmp6-addr-unreachable
-A FORWARD -6 -m hl --hl-eq 33 -j REJECT
-A FORWARD -p 99 -j REJECT
-A FORWARD -4 -p icmp -j REJECT
-A FORWARD -6 -p icmpv6 -j REJECT
COMMIT
`

// answerRoutes lets the namespace of the kernel answer: Linux sends a REJECT's answer by the routing table. Both hosts get a
// MAC address, and the bridge knows behind which port each is.
func answerRoutes(hosts [packet.Ports][]netip.Addr) error {
	for name, value := range map[string]string{
		"net/ipv4/icmp_ratemask": "0", "net/ipv6/icmp/ratemask": "255", // no answers too many
		"net/ipv6/conf/" + bridgeName + "/disable_ipv6": "0",
		"net/ipv6/conf/" + bridgeName + "/accept_dad":   "0", "net/ipv6/conf/" + bridgeName + "/router_solicitations": "0",
	} {
		if err := setSysctl(name, value); err != nil {
			return err
		}
	}
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	for _, a := range []string{"10.0.0.254/24", "fd00::fe/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = 2 // IFA_F_NODAD, include/uapi/linux/if_addr.h
		if err := netlink.AddrAdd(bridge, addr); err != nil {
			return fmt.Errorf("give the bridge %s: %w", a, err)
		}
	}
	for port, list := range hosts {
		mac := net.HardwareAddr{2, 0, 0, 0, 0xaa, byte(port + 1)}
		tap, err := netlink.LinkByName(packet.Port(port).String())
		if err != nil {
			return err
		}
		if err := netlink.NeighAdd(&netlink.Neigh{LinkIndex: tap.Attrs().Index, Family: 7, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac}); err != nil {
			return fmt.Errorf("tell the bridge where %v is: %w", mac, err)
		}
		for _, a := range list {
			if err := netlink.NeighAdd(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}); err != nil {
				return fmt.Errorf("make %v a neighbour: %w", a, err)
			}
		}
	}
	return nil
}

// answered says of frames that were sent back what kind of answers they are: to whom, what, and what they quote.
func answered(list [][]byte) (kinds []string) {
	for _, f := range list {
		p := packet.Packet{Frame: f}
		packet.Parse(&p)
		t := p.Transport()
		switch {
		case p.Proto == packet.ProtoTCP && len(t) >= 20: // everything in it is the packet's own
			kinds = append(kinds, fmt.Sprintf("%v > %v: TCP % x", p.Src, p.Dst, t))
		case p.Family != 0 && len(t) >= 8+8:
			kinds = append(kinds, fmt.Sprintf("to %v: %d type %d code %d", p.Dst, p.Proto, t[0], t[1]))
		default:
			kinds = append(kinds, fmt.Sprintf("% x", f))
		}
	}
	return kinds
}

// Packets that REJECT rules refuse are dropped by both sides, and answered by the same kind of answer on the same port: a
// RST byte by byte from its IP addresses on, of an ICMP error type, code and receiver. Its sender is the bridge's own
// address in Linux, while a wire has none and speaks in the name of the host that was meant.
func TestReject(t *testing.T) {
	need(t)
	r, err := newRuleFile("reject", []byte(rejectRules))
	if err != nil {
		t.Fatal(err)
	}
	c := newConfig(t, "")
	c.rules = r
	both := newComparison(t, c)
	if err := both.reset(); err != nil {
		t.Fatal(err)
	}
	both.pace = newPacer(0)
	a4, b4, a6, b6 := pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), pt.IP("fd00::1"), pt.IP("fd00::2")
	if err := both.kernel.do(func() error { return answerRoutes([packet.Ports][]netip.Addr{{a4, a6}, {b4, b6}}) }); err != nil {
		t.Fatal(err)
	}
	// The first answers of a namespace may be a moment late.
	deadline := time.Now().Add(carrierTimeout)
	for in, ends := range [packet.Ports][4]netip.Addr{{a4, b4, a6, b6}, {b4, a4, b6, a6}} {
		for i := 0; i < 4; i += 2 {
			for quick := 0; quick < 3; quick++ {
				k, err := both.kernel.send(packet.Port(in), pt.NewTCP(netip.AddrPortFrom(ends[i], 1), netip.AddrPortFrom(ends[i+1], 1001), pt.SYN))
				if err != nil {
					t.Fatal(err)
				}
				if len(k.back) != 1 {
					if quick = -1; time.Now().After(deadline) {
						t.Fatal("the kernel does not answer")
					}
					time.Sleep(time.Millisecond)
				}
			}
		}
	}
	if err := both.kernel.flush(); err != nil {
		t.Fatal(err)
	}
	answers := 0
	play := func(what string, in packet.Port, frame []byte) {
		t.Helper()
		k, err := both.kernel.send(in, frame)
		if err != nil {
			t.Fatal(err)
		}
		d, err := both.corewire.send(in, frame, both.pace.now())
		if err != nil {
			t.Fatal(err)
		}
		group := func(f []byte) bool { return f[0]&1 != 0 } // what the bridge itself tells its neighbours
		k.out, k.back = slices.DeleteFunc(k.out, group), slices.DeleteFunc(k.back, group)
		for late := time.Now().Add(time.Second); len(k.back) < len(d.back) && time.Now().Before(late); time.Sleep(time.Millisecond) {
			k.back = append(k.back, slices.DeleteFunc(both.kernel.answers(in), group)...)
		}
		var b bytes.Buffer
		both.result = summary{States: map[string]int{}}
		if diff := both.check(&packet.Packet{Frame: frame, In: in}, &k, &d); diff != "" {
			fmt.Fprintf(&b, "%s differs\n", diff)
		}
		if kk, dd := fmt.Sprint(answered(k.back)), fmt.Sprint(answered(d.back)); kk != dd {
			fmt.Fprintf(&b, "the kernel answers %s\ncorewire answers   %s\n", kk, dd)
		}
		if b.Len() > 0 {
			t.Errorf("%s from %v: %s%s", what, in, b.String(), fmt.Sprintf("kernel %d out %d back %v, corewire %d out %d back %v %v", len(k.out), len(k.back), k.sights, len(d.out), len(d.back), d.Reason, d.State))
		}
		answers += len(d.back)
	}
	for _, ends := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		for in := range packet.Port(packet.Ports) {
			a, b := ends[in], ends[1-in]
			at := func(x netip.Addr, port int) netip.AddrPort { return netip.AddrPortFrom(x, uint16(port)) }
			echo := uint8(8)
			if a.Is6() {
				echo = 128
			}
			for port := 1000; port < 1007; port++ {
				for i, o := range [][]pt.Option{{pt.PayloadLen(20)}, {pt.PayloadLen(1400)}, {pt.BadChecksum(), pt.PayloadLen(9)}, {pt.VLAN(7), pt.PayloadLen(3)}} {
					what := fmt.Sprintf("port %d, variant %d", port, i)
					play("UDP "+what, in, pt.NewUDP(at(a, 4000+i), at(b, port), o...))
					for _, flags := range []uint8{pt.SYN, pt.ACK, pt.ACK | pt.PSH, pt.FIN | pt.ACK, pt.RST, pt.SYN | pt.ACK} {
						play(fmt.Sprintf("TCP %#x %s", flags, what), in, pt.NewTCP(at(a, 4000+int(flags)), at(b, port), flags, append(o, pt.Seq(1000), pt.Ack(77))...))
					}
				}
			}
			for i, o := range [][]pt.Option{{}, {pt.ExtHeader(60, []byte{0})}, {pt.FragmentHeader(8, true, 1), pt.PayloadLen(9)}, {pt.DestinationOptions(nil)}, {pt.PayloadLen(5)},
				{pt.ExtHeader(60, []byte{0, 9, 0, 0, 0, 0, 0, 0})}, {pt.DestinationOptions(nil), pt.PayloadLen(5)}} {
				for _, proto := range []uint8{59, 253, 99} {
					if a.Is6() {
						play(fmt.Sprintf("headers %d, protocol %d", i, proto), in, pt.NewIP(a, b, proto, append(o, pt.TTL(33))...))
					}
				}
			}
			play("generic", in, pt.NewIP(a, b, 99, pt.PayloadLen(30)))
			play("echo request", in, pt.NewICMP(a, b, echo, 0, 1, 1))
			play("error", in, pt.NewICMPError(a, b, 3-echo/128*2, 1, 0, pt.NewUDP(at(b, 1), at(a, 2)), 0))
			for i, f := range pt.Fragments(pt.NewUDP(at(a, 9), at(b, 1002), pt.PayloadLen(1000)), 9, 400) {
				play(fmt.Sprint("fragment ", i), in, f)
			}
		}
	}
	if answers < 50 {
		t.Errorf("only %d answers", answers)
	}
	t.Logf("%d answers", answers)
}

// How often Linux answers a host that sends quickly is its own affair only in part. What a host may have is exact: six
// answers, and one more for each interval (inet_peer_xrlim_allow, net/ipv4/inetpeer.c), counted in jiffies, at which both
// sides live here. What all hosts together may have is not: each answer takes none, one or two of the credit by chance
// (icmp_global_consume, net/ipv4/icmp.c), so that of 50 at least 25 are sure, whatever the host. Four hosts are asked.
func TestRejectRate(t *testing.T) {
	need(t)
	r, err := newRuleFile("reject", []byte(rejectRules))
	if err != nil {
		t.Fatal(err)
	}
	limits := dataplane.ICMPLimits{Interval: dataplane.DefaultICMPInterval, Interval6: dataplane.DefaultICMPInterval6, Mask: dataplane.DefaultICMPMask,
		PerSecond: dataplane.DefaultICMPPerSecond, Burst: dataplane.DefaultICMPBurst}
	c := newConfig(t, "")
	c.rules, c.engine = r, func(d *dataplane.Config) { d.ICMP = &limits }
	both := newComparison(t, c)
	if err := both.reset(); err != nil {
		t.Fatal(err)
	}
	both.pace = newPacer(0)
	hosts := []netip.Addr{pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), pt.IP("fd00::1"), pt.IP("fd00::2")}
	first := []netip.Addr{pt.IP("10.0.0.9"), pt.IP("fd00::9")} // whom the first answers, which may be late, are for
	peer := map[int]netip.Addr{32: pt.IP("10.0.0.8"), 128: pt.IP("fd00::8")}
	refused := func(a netip.Addr) []byte {
		return pt.NewUDP(netip.AddrPortFrom(a, 1), netip.AddrPortFrom(peer[a.BitLen()], 1003), pt.PayloadLen(9))
	}
	if err := both.kernel.do(func() error { return answerRoutes([packet.Ports][]netip.Addr{append(hosts, first...), nil}) }); err != nil {
		t.Fatal(err)
	}
	errorsOf := func(frames [][]byte) (n int) {
		for _, f := range frames {
			if p := parsed(f); f[0]&1 == 0 && (p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6 && p.ICMPType == 1) {
				n++
			}
		}
		return n
	}
	for _, a := range first {
		for quick, deadline := 0, time.Now().Add(carrierTimeout); quick < 3; quick++ {
			k, err := both.kernel.send(packet.Inside, refused(a))
			if err != nil {
				t.Fatal(err)
			}
			if len(k.back) != 1 {
				if quick = -1; time.Now().After(deadline) {
					t.Fatal("the kernel does not answer")
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	if err := both.kernel.do(func() error {
		if err := setSysctl("net/ipv4/icmp_ratemask", fmt.Sprint(limits.Mask)); err != nil {
			return err
		}
		return setSysctl("net/ipv6/icmp/ratemask", "0-1,3-127")
	}); err != nil {
		t.Fatal(err)
	}
	total, exact := 0, 0
	for _, a := range hosts {
		theirs, ours := 0, 0
		var begin, end uint32
		for i := range 12 {
			k, err := both.kernel.send(packet.Inside, refused(a))
			if err != nil {
				t.Fatal(err)
			}
			// What the bridge sends on its own, to groups, such as a question for a neighbour, leaves by both ports.
			passed := slices.ContainsFunc(k.out, func(f []byte) bool { return f[0]&1 == 0 })
			if len(k.sights) != 1 || passed {
				t.Fatalf("%v: %d sights, passed: %v", a, len(k.sights), passed)
			}
			if end = k.sights[0].Jiffies; i == 0 {
				begin = end
			}
			d, err := both.corewire.send(packet.Inside, refused(a), both.pace.at(end, both.kernel.hertz))
			if err != nil {
				t.Fatal(err)
			}
			theirs, ours = theirs+errorsOf(k.back), ours+errorsOf(d.back)
		}
		for late := time.Now().Add(time.Second); theirs < ours && time.Now().Before(late); time.Sleep(time.Millisecond) {
			theirs += errorsOf(both.kernel.answers(packet.Inside))
		}
		total += theirs
		interval := uint32(limits.Interval)
		if a.Is6() {
			interval = uint32(limits.Interval6)
		}
		if took := end - begin; (took+1)*1000 >= interval*both.kernel.hertz {
			// A jiffy may have begun between the witness and the answer, and just that one may have been worth it.
			t.Logf("%v: %d answers, the kernel's %d, but in %d jiffies", a, ours, theirs, took)
			continue
		}
		if exact++; theirs != ours || ours != 6 {
			t.Errorf("%v gets %d answers, from the kernel %d", a, ours, theirs)
		}
	}
	if more := errorsOf(both.kernel.answers(packet.Inside)); more != 0 {
		t.Errorf("the kernel sends %d answers more", more)
	}
	t.Logf("%d answers, %d hosts exactly alike", total, exact)
}
