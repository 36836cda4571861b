package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

func TestCheck(t *testing.T) {
	const text = `*filter
:FORWARD DROP [0:0]
:used - [0:0]
:unused - [0:0]
-A FORWARD -s 10.0.0.0/8 -p tcp -m tcp --dport 80:90 -j ACCEPT
-A FORWARD -s 10.1.0.0/16 -p tcp -m tcp --dport 85 -j DROP
-A FORWARD -s 10.1.0.0/16 -p tcp -m tcp --dport 91 -j DROP
-A FORWARD -p tcp -m multiport --dports 81,82 -s 10.0.0.1 -j DROP
-A FORWARD -j used
-A FORWARD -m conntrack --ctstate NEW,RELATED -j ACCEPT
-A FORWARD -m conntrack --ctstate NEW -p udp -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED -p udp -j DROP
-A used -p udp
-A used -j RETURN
-A used -j DROP
-A unused -j DROP
COMMIT
`
	f, err := Parse("t", []byte(text), Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range rs.Check(nil) {
		got = append(got, w.String())
	}
	want := []string{
		"t:6:4: rule FORWARD 2 is never reached: FORWARD 1 in line 5 takes every packet that it would match (remove it, or put it before that one)",
		"t:8:4: rule FORWARD 4 is never reached: FORWARD 1 in line 5 takes every packet that it would match (remove it, or put it before that one)",
		"t:11:4: rule FORWARD 7 is never reached: FORWARD 6 in line 10 takes every packet that it would match (remove it, or put it before that one)",
		"t:15:4: rule used 3 is never reached: used 2 in line 14 takes every packet that it would match (remove it, or put it before that one)",
		"t:4:2: chain unused is not reached from FORWARD (no rule that packets come to jumps there)",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCheckForsaken: a chain that a change took the last jump to from drops nothing any more, for that version.
func TestCheckForsaken(t *testing.T) {
	rs := mustCompile(t, "*filter\n:FORWARD ACCEPT [0:0]\n:u - [0:0]\n-A FORWARD -p tcp -j u\n-A u -s 10.0.0.1 -j DROP\n-A u -s 2001:db8::1 -j DROP\nCOMMIT\n")
	for _, tc := range []struct{ do, want string }{
		{"-4 -D FORWARD 1", "every IPv4 packet is accepted: no rule and no policy drops any (is a rule file for it missing?)"},
		{"-D FORWARD 1", "t:3:2: chain u is not reached from FORWARD (no rule that packets come to jumps there)\n" +
			"every IPv4 packet is accepted: no rule and no policy drops any (is a rule file for it missing?)\nevery IPv6 packet is accepted: no rule and no policy drops any (is a rule file for it missing?)"},
	} {
		to, _, err := edit(rs, tc.do)
		if err != nil || to.Patches() != 1 {
			t.Fatalf("%s: %d changes, error %v", tc.do, to.Patches(), err)
		}
		var got []string
		for _, f := range to.Check(nil) {
			got = append(got, f.String())
		}
		if strings.Join(got, "\n") != tc.want {
			t.Errorf("%s: found\n%s\nwant\n%s", tc.do, strings.Join(got, "\n"), tc.want)
		}
	}
}

// TestCheckRandom: what is called unreachable is reached by no packet, as the slow twin judges it.
func TestCheckRandom(t *testing.T) {
	found := map[FindingKind]int{}
	for seed := range uint64(120) {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(seed, 9)
		f, err := Parse("random", []byte(g.RuleSet(version(fam))), fam)
		if err != nil {
			t.Fatal(err)
		}
		opt := Options{Clock: true, Wall: true, Counts: true}
		rs, err := Compile([]*File{f}, opt)
		if err != nil {
			t.Fatal(err)
		}
		m, twin := rs.NewMatcher(), newLinear([]*File{f}, fam, opt)
		for range 300 {
			p, c := g.packet(g.Flow(version(fam)))
			compare(t, m, twin, p, c)
		}
		n := make([]Counter, rs.Counters())
		m.Counters(n)
		for _, w := range rs.Check(nil) {
			if w.Kind != FindingShadowed && w.Kind != FindingNever {
				continue
			}
			found[w.Kind]++
			if n[w.Rule].Packets > 0 {
				t.Errorf("seed %d: %s, but %d packets reached it", seed, w.Text, n[w.Rule].Packets)
			}
		}
	}
	if found[FindingShadowed] < 1000 || found[FindingNever] == 0 {
		t.Error("the test proves little")
	}
	t.Logf("%v", found)
}

// TestCheckTogether: rules that others hide, alone or together, in one chain or by the way through several, over spaces so
// small that every header can be tried. What is called unreachable is matched by none, and all that none matches is found.
func TestCheckTogether(t *testing.T) {
	const header, rule = "*filter\n:FORWARD ACCEPT [0:0]\n:a - [0:0]\n:b - [0:0]\n", "-A %s -s 10.0.0.%d/%d %s-p %s -m %s --dport %d:%d -%s\n"
	together, alone, reached, never, ways := 0, 0, 0, 0, 0
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 5))
		text := header
		for k := range 24 {
			chain := []string{"FORWARD", "a", "b"}[k%3]
			bits := 30 + rng.IntN(3)
			lo := rng.IntN(4)
			proto := []string{"tcp", "udp"}[rng.IntN(2)]
			in := []string{"", "", "-i inside ", "-i outside ", "-m conntrack --ctstate NEW ", "-m conntrack ! --ctstate NEW ", "-i inside -o inside ", "-m conntrack --ctstate NEW -m state --state ESTABLISHED "}[min(rng.IntN(20), rng.IntN(8))]
			targets := []string{"j ACCEPT", "j DROP", "j RETURN", "j LOG", "j a", "j b", "g a", "g b"}
			switch chain {
			case "a":
				targets = []string{"j ACCEPT", "j DROP", "j RETURN", "j RETURN", "j LOG", "j b", "g b"}
			case "b":
				targets = targets[:4]
			}
			target := targets[rng.IntN(len(targets))]
			text += fmt.Sprintf(rule, chain, rng.IntN(4)&^(1<<(32-bits)-1), bits, in, proto, proto, 100+lo, 100+min(3, lo+rng.IntN(4)), target)
		}
		rs := mustCompile(t, text+"COMMIT\n")
		found := map[RuleID]Finding{}
		var unused []string
		for _, f := range rs.Check(nil) {
			switch f.Kind {
			case FindingOpen:
				continue
			case FindingUnused:
				unused = append(unused, strings.Fields(f.Text)[1])
				continue
			}
			if f.Kind == FindingUnsure {
				t.Errorf("seed %d: %s", seed, f)
			}
			found[f.Rule] = f
		}
		m := rs.NewMatcher()
		for host := range 4 {
			for port := range 4 {
				for k := range 2 * 2 * int(States) {
					src, dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(host)}), 1), netip.AddrPortFrom(netip.MustParseAddr("10.9.9.9"), uint16(100+port))
					p := packet.Packet{Frame: pt.NewTCP(src, dst, 2), In: packet.Port(k & 1)}
					if k&2 != 0 {
						p.Frame = pt.NewUDP(src, dst)
					}
					packet.Parse(&p)
					m.Count(m.Match(&p, &Context{State: State(k >> 2)}).Trace, 1)
				}
			}
		}
		n := make([]Counter, rs.Counters())
		m.Counters(n)
		for id, r := range rs.Rules() {
			f, ok := found[id]
			if slices.Contains(unused, r.Chain) {
				if ok || n[id].Packets > 0 {
					t.Errorf("seed %d: chain %s is called unused; %d packets, %q", seed, r.Chain, n[id].Packets, f)
				}
				continue
			}
			switch hidden := n[id].Packets == 0; {
			case hidden != ok && f.Kind != FindingDuplicate:
				t.Errorf("seed %d: %s matched %d packets, found %q\n%s", seed, rs.RuleName(id), n[id].Packets, f, text)
			case f.Kind == FindingNever:
				never++
			case hidden && strings.Contains(f.Text, "leads to chain"):
				ways++
			case hidden && strings.Contains(f.Text, "together"):
				together++
			case hidden:
				alone++
			default:
				reached++
			}
		}
	}
	t.Logf("%d rules hidden by several, %d by one, %d by the way to their chain, %d that match nothing, %d reached", together, alone, ways, never, reached)
	if together < 50 || alone < 100 || reached < 1000 || never < 20 || ways < 20 {
		t.Error("the test proves little")
	}
}

// TestCheckLarge: many rules are checked in steps near to proportional to their number.
func TestCheckLarge(t *testing.T) {
	steps := func(n int) int {
		rng := rand.New(rand.NewPCG(3, 4))
		var b strings.Builder
		b.WriteString("*filter\n:FORWARD DROP [0:0]\n")
		for range n {
			fmt.Fprintf(&b, "-A FORWARD -s 10.%d.%d.0/%d -d 192.0.2.%d -p tcp -m tcp --dport %d -j ACCEPT\n", rng.IntN(256), rng.IntN(256), 20+rng.IntN(5), rng.IntN(256), rng.IntN(1024))
		}
		b.WriteString("-A FORWARD -j DROP\n-A FORWARD -s 10.0.0.0/8 -j ACCEPT\nCOMMIT\n")
		rs := mustCompile(t, b.String())
		x := shadows{rules: make([]shadow, rs.Counters()), left: reachTotal, rng: rng}
		rs.shadowed(filterPlace, &x, func() {})
		if s := &x.rules[n+1]; len(s.by) != 1 || s.reached {
			t.Errorf("%d rules: the last is hidden by %v", n, s.by)
		}
		for id := range x.rules {
			if x.rules[id].unsure {
				t.Errorf("%d rules: unsure of %d", n, id)
			}
		}
		return reachTotal - x.left
	}
	small, large := steps(2000), steps(20000)
	t.Logf("%d steps for 2,000 rules, %d for 20,000", small, large)
	if large > 30*max(small, 1000) {
		t.Errorf("%d steps for ten times as many rules, %d before", large, small)
	}
}
