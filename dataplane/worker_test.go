package dataplane

import (
	"slices"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

var (
	client = pt.AP("10.0.0.1:40000")
	server = pt.AP("10.0.0.2:80")
	c6     = pt.AP("[2001:db8::1]:40000")
	s6     = pt.AP("[2001:db8::2]:80")
)

const web = `-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i inside -p tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -i inside -p udp --dport 53 -j ACCEPT
-A FORWARD -p tcp --dport 23 -j DROP`

// TestFrames passes frames one by one and compares what became of each.
func TestFrames(t *testing.T) {
	type step struct {
		in      packet.Port
		frame   []byte
		verdict Verdict
		reason  string
		rule    string
		state   conntrack.State
	}
	udp, dns := pt.AP("10.0.0.1:5000"), pt.AP("10.0.0.2:53")
	quoted := pt.NewUDP(udp, dns, pt.PayloadLen(20))
	for _, c := range []struct {
		name  string
		steps []step
		conns int
	}{
		{"tcp handshake", []step{
			{packet.Inside, pt.NewTCP(client, server, syn, pt.Seq(1), pt.Window(1000)), Accept, "", "FORWARD 2", conntrack.StateNew},
			{packet.Outside, pt.NewTCP(server, client, syn|ack, pt.Seq(9), pt.Ack(2), pt.Window(1000)), Accept, "", "FORWARD 1", conntrack.StateEstablished},
			{packet.Inside, pt.NewTCP(client, server, ack, pt.Seq(2), pt.Ack(10), pt.Window(1000)), Accept, "", "FORWARD 1", conntrack.StateEstablished},
		}, 1},
		{"a dropped packet leaves no entry", []step{
			{packet.Inside, pt.NewTCP(client, pt.AP("10.0.0.2:23"), syn), Drop, "rule", "FORWARD 4", conntrack.StateNew},
			{packet.Outside, pt.NewTCP(server, client, syn), Drop, "rule", "FORWARD policy", conntrack.StateNew},
		}, 0},
		{"not the start of a connection", []step{
			{packet.Inside, pt.NewTCP(client, server, syn|ack), Drop, "rule", "FORWARD policy", conntrack.StateInvalid},
		}, 0},
		{"ipv6", []step{
			{packet.Inside, pt.NewTCP(c6, s6, syn, pt.Seq(1)), Accept, "", "FORWARD 2", conntrack.StateNew},
			{packet.Outside, pt.NewTCP(s6, c6, syn|ack, pt.Seq(9), pt.Ack(2)), Accept, "", "FORWARD 1", conntrack.StateEstablished},
		}, 1},
		{"vlan is looked through", []step{
			{packet.Inside, pt.NewUDP(udp, dns, pt.VLAN(7)), Accept, "", "FORWARD 3", conntrack.StateNew},
			{packet.Outside, pt.NewUDP(dns, udp, pt.VLAN(7)), Accept, "", "FORWARD 1", conntrack.StateEstablished},
		}, 1},
		{"icmp error is related", []step{
			{packet.Inside, quoted, Accept, "", "FORWARD 3", conntrack.StateNew},
			{packet.Outside, pt.NewICMPError(pt.IP("10.9.9.9"), pt.IP("10.0.0.1"), 3, 1, 0, quoted, 28), Accept, "", "FORWARD 1", conntrack.StateRelated},
		}, 1},
		{"icmp error for nothing known", []step{
			{packet.Outside, pt.NewICMPError(pt.IP("10.9.9.9"), pt.IP("10.0.0.1"), 3, 1, 0, quoted, 28), Drop, "rule", "FORWARD policy", conntrack.StateInvalid},
		}, 0},
		{"malformed header", []step{
			{packet.Inside, pt.NewUDP(udp, dns, pt.BadHeaderChecksum()), Drop, packet.ProblemIPChecksum.String(), "", 0},
		}, 0},
		{"not ip", []step{
			{packet.Outside, pt.NewARP(), Accept, "", "", 0},
			{packet.Inside, pt.NewLLDP(), Accept, "", "", 0},
			{packet.Inside, pt.NewSTP(), Drop, "class-blocked", "", 0},
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1, web, func(c *Config) { c.Policy[packet.ClassSTP] = Block })
			for i, s := range c.steps {
				got := r.send(s.in, s.frame)
				rule := ""
				if got.Tracked {
					rule = r.e.Ruleset().RuleName(got.Rule)
				}
				if got.In != s.in || got.Verdict != s.verdict || got.Reason.String() != s.reason || rule != s.rule || got.State != s.state {
					t.Errorf("frame %d: %v %v %q rule %q state %v, want %v %v %q rule %q state %v", i+1,
						got.In, got.Verdict, got.Reason, rule, got.State, s.in, s.verdict, s.reason, s.rule, s.state)
				}
				want := []string{string(s.frame)}
				if s.verdict == Drop {
					want = nil
				}
				if sent := r.out(s.in.Other()); !slices.Equal(sent, want) {
					t.Errorf("frame %d: %d frames sent, want %d unchanged", i+1, len(sent), len(want))
				}
				if back := r.out(s.in); len(back) != 0 {
					t.Errorf("frame %d: %d frames sent back", i+1, len(back))
				}
			}
			if n := r.e.Count(); n != c.conns {
				t.Errorf("%d connections, want %d", n, c.conns)
			}
			r.balanced()
		})
	}
}

// TestFragments holds fragments until their datagram can be judged, and sends them on as they came.
func TestFragments(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame []byte
		pass  bool
	}{
		{"ipv4 accepted", pt.NewUDP(pt.AP("10.0.0.1:5000"), pt.AP("10.0.0.2:53"), pt.PayloadLen(3000)), true},
		{"ipv4 dropped", pt.NewUDP(pt.AP("10.0.0.1:5000"), pt.AP("10.0.0.2:54"), pt.PayloadLen(3000)), false},
		{"ipv6 accepted", pt.NewUDP(pt.AP("[2001:db8::1]:5000"), pt.AP("[2001:db8::2]:53"), pt.PayloadLen(3000)), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1, web, nil)
			pieces := pt.Fragments(c.frame, 77, 1200)
			slices.Reverse(pieces)
			var want []string
			for i, f := range pieces {
				want = append(want, string(f))
				got := r.send(packet.Inside, f)
				if i < len(pieces)-1 {
					if got.Verdict != Hold || len(r.out(packet.Outside)) != 0 {
						t.Fatalf("fragment %d: %v, want it held", i+1, got.Verdict)
					}
					if l := r.balanced(); l.Held != i+1 {
						t.Fatalf("%d frames held, want %d", l.Held, i+1)
					}
					continue
				}
				if (got.Verdict == Accept) != c.pass || got.State != conntrack.StateNew {
					t.Fatalf("last fragment: %v %v", got.Verdict, got.State)
				}
			}
			if !c.pass {
				want = nil
			}
			if got := r.out(packet.Outside); !slices.Equal(got, want) {
				t.Errorf("%d fragments sent, want %d in the order of arrival", len(got), len(want))
			}
			if l := r.balanced(); l.Held != 0 {
				t.Errorf("%d frames still held", l.Held)
			}
		})
	}
	t.Run("never completed", func(t *testing.T) {
		r := newRig(t, 1, web, nil)
		for _, f := range pt.Fragments(pt.NewUDP(client, server, pt.PayloadLen(3000)), 78, 1200)[:2] {
			r.send(packet.Inside, f)
		}
		r.now += 31_000
		r.settle()
		if l := r.balanced(); l.Held != 0 {
			t.Errorf("%d frames held 31 s later", l.Held)
		}
		if n := r.stats(); n.Workers[0].Counters.Drop[fragmentReason(conntrack.DefragTimeout)] != 2 {
			t.Errorf("%d frames counted as timed out, want 2", n.Workers[0].Counters.Drop[fragmentReason(conntrack.DefragTimeout)])
		}
	})
}

// TestTableFull drops new connections at the maximum when nothing may be evicted, and counts them.
func TestTableFull(t *testing.T) {
	r := newRig(t, 1, "-A FORWARD -j ACCEPT", func(c *Config) { c.Max = 8 })
	for i := range 8 {
		c := pt.AP("10.0.0.1:40000")
		s := pt.AP("10.0.1.1:80")
		s = addrPort(s, i)
		r.send(packet.Inside, pt.NewTCP(c, s, syn, pt.Seq(1), pt.Window(1000)))
		r.send(packet.Outside, pt.NewTCP(s, c, syn|ack, pt.Seq(9), pt.Ack(2), pt.Window(1000)))
		r.send(packet.Inside, pt.NewTCP(c, s, ack, pt.Seq(2), pt.Ack(10), pt.Window(1000)))
		r.send(packet.Outside, pt.NewTCP(s, c, ack, pt.Seq(10), pt.Ack(2), pt.Window(1000)))
	}
	if n := r.e.Count(); n != 8 {
		t.Fatalf("%d connections, want 8", n)
	}
	got := r.send(packet.Inside, pt.NewUDP(client, server))
	if got.Verdict != Drop || got.Reason != DropTableFull {
		t.Errorf("connection 9: %v %q, want dropped for a full table", got.Verdict, got.Reason)
	}
	if n := r.e.Count(); n != 8 {
		t.Errorf("%d connections after it, want 8: an ASSURED one was evicted", n)
	}
	if _, counters, err := r.e.RuleCounters(t.Context()); err != nil || counters[0].Packets != 32 || got.Tracked {
		t.Errorf("the rules saw it: %+v, %+v, %v", got, counters[0], err)
	}
}

// TestEarlyDropBeforeRules: at the maximum a packet makes room for its connection before the rules drop it, as in Linux.
func TestEarlyDropBeforeRules(t *testing.T) {
	const most = 2000 // so many that every bucket has some
	r := newRig(t, 1, "-A FORWARD -p tcp -j ACCEPT", func(c *Config) { c.Max = most })
	for i := range most {
		r.send(packet.Inside, pt.NewTCP(client, addrPort(server, i), syn))
	}
	if got := r.send(packet.Inside, pt.NewUDP(client, server)); got.Reason != DropRule || !got.Tracked {
		t.Errorf("%+v, want dropped by the rules", got)
	}
	if n := r.e.workers[0].table.Len(); n != most-1 {
		t.Errorf("%d connections, want %d: one was evicted", n, most-1)
	}
	r.send(packet.Inside, pt.NewTCP(client, addrPort(server, most+1), syn))
	if n, used := r.e.workers[0].table.Len(), r.e.capacity.Used(); n != most || used != most {
		t.Errorf("%d connections, %d credits given out, want %d", n, used, most)
	}
}
