package main

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"corewire/dataplane"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// most is the largest maximum that the test fills: more takes too long and too much memory.
const most = 1 << 20

const fullRules = `*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -m udp --dport 9999 -j DROP
COMMIT
`

// fullTable is both sides with tables that are full: nf_conntrack_max belongs to the machine, and is compared with each
// namespace's own connections, so filling one to the brim harms nobody else.
func fullTable(t *testing.T, assured bool) (*comparison, int) {
	t.Helper()
	r, err := newRuleFile("full", []byte(fullRules))
	if err != nil {
		t.Fatal(err)
	}
	c := newConfig(t, "")
	c.rules = r
	both := newComparison(t, c)
	if err := both.reset(); err != nil {
		t.Fatal(err)
	}
	both.name, both.pace = "full", newPacer(0)
	both.views, both.tainted = map[packet.Key]view{}, map[packet.Key]bool{}
	both.result = summary{States: map[string]int{}, Skipped: map[string]int{}, Known: map[string]int{}}
	n, err := maximum()
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 || n > most {
		if os.Getenv("CI") == "true" {
			t.Fatalf("nf_conntrack_max is %d, and only a table of at most %d is filled: nothing would be compared", n, most)
		}
		t.Skipf("nf_conntrack_max is %d: this machine's table is not filled", n)
	}
	if err := both.kernel.fill(0, n, assured, 600); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		a, b := fillFlow(i)
		shots := frames(packet.Inside, pt.NewUDPLite(a, b))
		if assured {
			shots = append(shots, frames(packet.Outside, pt.NewUDPLite(b, a))...)
			shots = append(shots, shots[0])
		}
		for _, s := range shots {
			if _, err := both.corewire.send(s.in, s.frame, both.pace.now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	counts(t, both, n, n)
	return both, n
}

// counts checks how many connections both sides have: between least and most of them.
func counts(t *testing.T, c *comparison, least, most int) {
	t.Helper()
	k, err := c.kernel.count()
	if err != nil {
		t.Fatal(err)
	}
	if own := c.corewire.engine.Count(); k < least || k > most || own < least || own > most {
		t.Errorf("the kernel has %d connections, corewire %d; want %d to %d", k, own, least, most)
	}
}

// stats returns how often both sides found no room, and how many connections they evicted for it.
func stats(t *testing.T, c *comparison) (kernel, own [2]uint64) {
	t.Helper()
	for i, name := range []string{"drop", "early_drop"} {
		var err error
		if kernel[i], err = c.kernel.counter(name); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.corewire.engine.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return kernel, [2]uint64{s.Workers[0].Conntrack.Drop, s.Workers[0].Conntrack.EarlyDrop}
}

// A full table of ASSURED connections: what would begin one is dropped before the rules, whether they or its own tracker
// would have accepted it or not; everything else goes on.
func TestFullTable(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	need(t)
	c, n := fullTable(t, true)
	a, b := pt.AP("10.0.0.1:1000"), pt.AP("10.0.0.2:2000")
	six, seven := pt.AP("[2001:db8::1]:1000"), pt.AP("[2001:db8::2]:2000")
	port := func(a netip.AddrPort, p uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), p) }
	cut := func(f []byte, n int) []byte { // the transport header alone, to so many bytes
		return pt.NewIP(a.Addr(), b.Addr(), f[packet.EthernetHeader+9], pt.Payload(f[packet.EthernetHeader+20:][:n]))
	}
	from, to := fillFlow(5)
	for _, step := range []struct {
		what  string
		in    packet.Port
		frame []byte
		full  bool
	}{
		{"UDP", packet.Inside, pt.NewUDP(a, b), true},
		{"UDP that the rules would drop", packet.Inside, pt.NewUDP(a, port(b, 9999)), true},
		{"UDP with a bad checksum", packet.Inside, pt.NewUDP(a, b, pt.BadChecksum()), true},
		{"TCP SYN", packet.Inside, pt.NewTCP(a, b, pt.SYN), true},
		{"TCP SYN and FIN", packet.Inside, pt.NewTCP(a, b, pt.SYN|pt.FIN), true},
		{"TCP of 12 bytes", packet.Inside, cut(pt.NewTCP(a, b, pt.SYN), 12), true},
		{"TCP of 3 bytes", packet.Inside, cut(pt.NewTCP(a, b, pt.SYN), 3), false},
		{"UDP of 7 bytes", packet.Inside, cut(pt.NewUDP(a, b), 7), true},
		{"ICMP request", packet.Inside, pt.Echo(a.Addr(), b.Addr(), 1, 1), true},
		{"ICMP reply", packet.Inside, pt.EchoReply(a.Addr(), b.Addr(), 1, 1), true},
		{"ICMP request with a bad checksum", packet.Inside, pt.Echo(a.Addr(), b.Addr(), 1, 1, pt.BadChecksum()), false},
		{"ICMP router advertisement", packet.Inside, pt.NewICMP(a.Addr(), b.Addr(), 9, 0, 0, 0), false},
		{"ICMP error of nothing", packet.Inside, pt.NewICMPError(b.Addr(), a.Addr(), 3, 1, 0, pt.NewUDP(a, b), 0), false},
		{"ICMP error of a connection", packet.Outside, pt.NewICMPError(to.Addr(), from.Addr(), 3, 1, 0, pt.NewUDPLite(from, to), 0), false},
		{"a connection's packet", packet.Inside, pt.NewUDPLite(from, to), false},
		{"a connection's reply", packet.Outside, pt.NewUDPLite(to, from), false},
		{"a connection's packet with a bad checksum", packet.Inside, pt.NewUDPLite(from, to, pt.BadChecksum()), false},
		{"generic", packet.Inside, pt.NewIP(a.Addr(), b.Addr(), 99), true},
		{"GRE 1 without PPP", packet.Inside, pt.NewIP(a.Addr(), b.Addr(), 47, pt.Payload([]byte{0, 1, 8, 0, 0, 0, 0, 0})), false},
		{"SCTP of 8 bytes", packet.Inside, pt.NewIP(a.Addr(), b.Addr(), 132, pt.PayloadLen(8)), true},
		{"IPv6 UDP", packet.Inside, pt.NewUDP(six, seven), true},
		{"neighbour solicitation", packet.Inside, pt.NewICMP(six.Addr(), seven.Addr(), 135, 0, 0, 0, pt.TTL(255)), false},
		{"IPv6 without a next header", packet.Inside, pt.NewIP(six.Addr(), seven.Addr(), 59), false},
		{"ICMPv6 in IPv4", packet.Inside, pt.NewIP(a.Addr(), b.Addr(), 58, pt.Payload([]byte{128, 0, 0, 0, 0, 1, 0, 1})), true},
		{"ICMP in IPv6", packet.Inside, pt.NewIP(six.Addr(), seven.Addr(), 1, pt.Payload([]byte{8, 0, 0, 0, 0, 1, 0, 1})), true},
	} {
		kernel, own := stats(t, c)
		k, err := c.kernel.send(step.in, step.frame)
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.corewire.send(step.in, step.frame, c.pace.now())
		if err != nil {
			t.Fatal(err)
		}
		kernelAfter, ownAfter := stats(t, c)
		seen := fmt.Sprint("full ", kernelAfter[0] != kernel[0], ", out ", len(k.out), ", at the rules ", len(k.sights))
		tracked := 0
		if d.Tracked {
			tracked = 1
		}
		if mine := fmt.Sprint("full ", ownAfter[0] != own[0], ", out ", len(d.out), ", at the rules ", tracked); mine != seen || (d.Reason == dataplane.DropTableFull) != step.full {
			t.Errorf("%s: the kernel: %s; corewire: %s, %v (want full: %v)", step.what, seen, mine, d.Reason, step.full)
		}
	}
	counts(t, c, n, n)
	if kernel, own := stats(t, c); kernel[1] != 0 || own[1] != 0 {
		t.Errorf("evicted: %d by the kernel, %d by corewire, though all are ASSURED", kernel[1], own[1])
	}
}

// A full table of connections that are not ASSURED: each packet that would begin one evicts one first, also if the rules or
// its tracker then refuse it, and passes if they accept it.
func TestEarlyDrop(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	need(t)
	c, n := fullTable(t, false)
	send := func(what string, frame []byte, passes bool) {
		t.Helper()
		k, err := c.kernel.send(packet.Inside, frame)
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.corewire.send(packet.Inside, frame, c.pace.now())
		if err != nil {
			t.Fatal(err)
		}
		if (len(k.out) > 0) != passes || (len(d.out) > 0) != passes || len(k.sights) != 1 || !d.Tracked {
			t.Errorf("%s: the kernel sent %d, saw %d; corewire sent %d: %v", what, len(k.out), len(k.sights), len(d.out), d.Reason)
		}
	}
	// Until one was evicted for nothing there is no free place, which only the first of a kind shows: Linux evicts all of a
	// chain at once.
	a, b := pt.AP("10.0.0.1:1000"), pt.AP("10.0.0.2:9999")
	before, own := stats(t, c)
	send("dropped by a rule", pt.NewUDP(a, b), false)
	counts(t, c, n-20, n-1)
	after, ownAfter := stats(t, c)
	if after[1] == before[1] || ownAfter[1] != own[1]+1 || after[0] != before[0] || ownAfter[0] != own[0] {
		t.Errorf("the kernel evicted %d, corewire %d", after[1]-before[1], ownAfter[1]-own[1])
	}
	for i := range 100 {
		send("accepted", pt.NewUDP(netip.AddrPortFrom(a.Addr(), uint16(2000+i)), netip.AddrPortFrom(b.Addr(), 53)), true)
	}
	counts(t, c, n-200, n)
	if after, own := stats(t, c); after[1] < 50 || own[1] != 100 || after[0] != 0 || own[0] != 0 {
		t.Errorf("evicted: %d by the kernel, %d by corewire; dropped %d and %d", after[1], own[1], after[0], own[0])
	}
}
