package dataplane

import (
	"context"
	"strings"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
	"corewire/rules"
)

// newRaw makes a rig with the rules of *raw PREROUTING and of *filter FORWARD, whose policy is DROP.
func newRaw(t testing.TB, workers int, raw, forward string, change func(*Config)) *rig {
	t.Helper()
	return newRig(t, workers, "", func(c *Config) {
		if change != nil {
			change(c)
		}
		c.Ruleset = compileRaw(t, raw, forward, c.Settings)
	})
}

func compileRaw(t testing.TB, raw, forward string, s *conntrack.Settings) *rules.Ruleset {
	t.Helper()
	if s == nil {
		s = conntrack.DefaultSettings()
	}
	f, err := rules.Parse("test.rules", []byte("*raw\n"+raw+"\nCOMMIT\n"+filter(forward)), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Timeouts: s.TimeoutPolicies()})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func datagram(from, to string) []byte {
	return packettest.NewUDP(packettest.AP(from), packettest.AP(to), packettest.PayloadLen(10))
}

// The chain's ways: dropped, untracked, and on to the rules, with their counters.
func TestRawVerdicts(t *testing.T) {
	r := newRaw(t, 1, `:PREROUTING ACCEPT [0:0]
:more - [0:0]
-A PREROUTING -s 192.0.2.66 -j DROP
-A PREROUTING -p udp --dport 53 -j NOTRACK
-A PREROUTING -p udp --sport 53 -j CT --notrack
-A PREROUTING -p udp -j more
-A more -p udp --dport 9 -j DROP
-A more -j RETURN`, `-A FORWARD -m conntrack --ctstate UNTRACKED,NEW -j ACCEPT`, nil)
	rs := r.e.Ruleset()
	for _, x := range []struct {
		from, to string
		want     Result
		rule     string
	}{
		{"192.0.2.66:1", "192.0.2.2:53", Result{Verdict: Drop, Reason: DropRule, Early: true}, "raw PREROUTING 1"},
		{"192.0.2.1:1", "192.0.2.2:9", Result{Verdict: Drop, Reason: DropRule, Early: true}, "raw more 1"},
		{"192.0.2.1:1", "192.0.2.2:53", Result{Verdict: Accept, Tracked: true, State: conntrack.StateUntracked}, "FORWARD 1"},
		{"192.0.2.2:53", "192.0.2.1:1", Result{Verdict: Accept, Tracked: true, State: conntrack.StateUntracked}, "FORWARD 1"},
		{"192.0.2.1:1", "192.0.2.2:54", Result{Verdict: Accept, Tracked: true, State: conntrack.StateNew}, "FORWARD 1"},
		{"[2001:db8::1]:1", "[2001:db8::2]:53", Result{Verdict: Accept, Tracked: true, State: conntrack.StateUntracked}, "FORWARD 1"},
	} {
		got := r.send(packet.Inside, datagram(x.from, x.to))
		if got.Verdict != x.want.Verdict || got.Reason != x.want.Reason || got.Early != x.want.Early || got.Tracked != x.want.Tracked || got.State != x.want.State || rs.RuleName(got.Rule) != x.rule {
			t.Errorf("%s to %s: %+v by %s", x.from, x.to, got, rs.RuleName(got.Rule))
		}
	}
	if n := len(r.listing()); n != 1 {
		t.Errorf("%d connections", n)
	}
	_, counters, err := r.e.RuleCounters(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"raw PREROUTING 1": 1, "raw PREROUTING 2": 2, "raw PREROUTING 3": 1, "raw PREROUTING 4": 5, "raw more 1": 1, "raw more 2": 4,
		"FORWARD 1": 4, "FORWARD policy": 0}
	for id := range rs.Rules() {
		if n, ok := want[rs.RuleName(id)]; !ok || counters[id].Packets != n {
			t.Errorf("%s: %d packets, want %d", rs.RuleName(id), counters[id].Packets, n)
		}
	}
	policy := counters[rs.ChainPolicyID("raw", "PREROUTING", rules.IPv4)].Packets + counters[rs.ChainPolicyID("raw", "PREROUTING", rules.IPv6)].Packets
	if policy != 4 {
		t.Errorf("policy: %d packets", policy)
	}
	r.balanced()
}

// Connections of different zones have nothing to do with each other, and each is on the shard of its addresses, whatever
// its zone.
func TestRawZone(t *testing.T) {
	for _, workers := range []int{1, 3} {
		r := newRaw(t, workers, `-A PREROUTING -m tos --tos 8/0xfc -j CT --zone 7
-A PREROUTING -m tos --tos 16/0xfc -j CT --zone 8`, `-A FORWARD -i inside -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT`, nil)
		const a, b = "192.0.2.1:1000", "192.0.2.2:2000"
		frame := func(from, to string, tos uint8) []byte {
			return packettest.NewUDP(packettest.AP(from), packettest.AP(to), packettest.TOS(tos))
		}
		pass := func(port packet.Port, f []byte, want int) {
			t.Helper()
			r.inject(0, port, f)
			r.settle()
			if n := len(r.out(port.Other())); n != want {
				t.Errorf("%d workers: %d frames left, want %d", workers, n, want)
			}
		}
		pass(packet.Inside, frame(a, b, 8), 1)
		pass(packet.Outside, frame(b, a, 0), 0)
		pass(packet.Outside, frame(b, a, 16), 0)
		pass(packet.Outside, frame(b, a, 8), 1)
		pass(packet.Inside, frame(a, b, 16), 1)
		pass(packet.Inside, frame(a, b, 0), 1)
		all := strings.Join(r.listing(), "\n")
		if n := strings.Count(all, "src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=2000"); n != 3 || strings.Count(all, "zone=7") != 1 || strings.Count(all, "zone=8") != 1 {
			t.Errorf("%d workers:\n%s", workers, all)
		}
	}
}

// A helper given by a rule: the connection that it announces is RELATED, and without the rule it is not.
func TestRawHelper(t *testing.T) {
	r := newRaw(t, 1, `-A PREROUTING -p tcp --dport 2121 -j CT --helper ftp`, `-A FORWARD -p tcp -m multiport --dports 21,2121 -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`, nil)
	for _, x := range []struct {
		port string
		want conntrack.State
	}{{"2121", conntrack.StateRelated}, {"21", conntrack.StateNew}} {
		k := &talk{r, map[string]uint32{}}
		client, server := packettest.AP("192.0.2.10:4"+x.port), packettest.AP("198.51.100.1:"+x.port)
		k.say(0, packet.Inside, client, server, packettest.SYN, "")
		k.say(0, packet.Outside, server, client, packettest.SYN|packettest.ACK, "")
		k.say(0, packet.Inside, client, server, packettest.ACK, "")
		k.say(0, packet.Outside, server, client, packettest.ACK, "220 ready\r\n")
		k.say(0, packet.Outside, server, client, packettest.ACK, "227 Entering Passive Mode (198,51,100,1,200,10).\r\n")
		got := r.send(packet.Inside, packettest.NewTCP(packettest.AP("192.0.2.10:5"+x.port), packettest.AP("198.51.100.1:51210"), packettest.SYN))
		if got.State != x.want || (got.Verdict == Accept) != (x.want == conntrack.StateRelated) {
			t.Errorf("port %s: %+v", x.port, got)
		}
	}
}

// A timeout policy shows in the listing, and follows changes while it runs.
func TestRawTimeout(t *testing.T) {
	settings := func(list string) *conntrack.Settings {
		s, err := conntrack.DefaultSettings().WithTimeouts(list)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	r := newRaw(t, 1, `-A PREROUTING -p udp --dport 5060 -j CT --timeout voip`, `-A FORWARD -j ACCEPT`, func(c *Config) {
		c.Settings = settings("voip udp unreplied 77 replied 300")
	})
	shows := func(want ...string) {
		t.Helper()
		all := strings.Join(r.listing(), "\n")
		for _, w := range want {
			if !strings.Contains(all, w) {
				t.Errorf("no %q in\n%s", w, all)
			}
		}
	}
	voip, other := datagram("192.0.2.1:1", "192.0.2.2:5060"), datagram("192.0.2.1:1", "192.0.2.2:5061")
	r.send(packet.Inside, voip)
	r.send(packet.Inside, other)
	shows(" 77 src=192.0.2.1 dst=192.0.2.2 sport=1 dport=5060", " 30 src=192.0.2.1 dst=192.0.2.2 sport=1 dport=5061")
	if err := r.e.SetSettings(context.Background(), settings("voip udp unreplied 66")); err != nil {
		t.Fatal(err)
	}
	r.send(packet.Inside, voip)
	shows(" 66 src=192.0.2.1 dst=192.0.2.2 sport=1 dport=5060")
	// Another rule set without the rule: connections keep their policy.
	if err := r.e.SetRuleset(context.Background(), compile(t, filter("-A FORWARD -j ACCEPT"))); err != nil {
		t.Fatal(err)
	}
	r.send(packet.Inside, voip)
	r.send(packet.Inside, datagram("192.0.2.3:1", "192.0.2.2:5060"))
	shows(" 66 src=192.0.2.1 dst=192.0.2.2 sport=1 dport=5060", " 30 src=192.0.2.3 dst=192.0.2.2 sport=1 dport=5060")
}

// Fragments are judged by the raw table as the datagram that they make.
func TestRawFragments(t *testing.T) {
	r := newRaw(t, 1, `-A PREROUTING -p udp --dport 53 -j NOTRACK
-A PREROUTING -p udp --dport 54 -j DROP`, `-A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT`, nil)
	for port, want := range map[string]int{"53": 3, "54": 0, "55": 0} {
		for _, f := range packettest.Fragments(packettest.NewUDP(packettest.AP("192.0.2.1:1"), packettest.AP("192.0.2.2:"+port), packettest.PayloadLen(1000)), 1, 400) {
			r.inject(0, packet.Inside, f)
		}
		r.settle()
		if n := len(r.out(packet.Outside)); n != want {
			t.Errorf("port %s: %d frames left, want %d", port, n, want)
		}
	}
	r.balanced()
}

// The packet path allocates nothing with a raw table either.
func TestRawAllocations(t *testing.T) {
	r := newRaw(t, 1, `-A PREROUTING -p udp --dport 53 -j CT --zone 3`, `-A FORWARD -j ACCEPT`, func(c *Config) { c.Record = false })
	f := datagram("192.0.2.1:1", "192.0.2.2:53")
	if n := testing.AllocsPerRun(100, func() {
		r.inject(0, packet.Inside, f)
		r.step()
		r.wires[0].Collect(packet.Outside, func([]byte) {})
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
