package rules

import (
	"fmt"
	"strings"
	"testing"

	"corewire/internal/packet"
)

func parseRaw(line string, fam Family) (*File, error) {
	return Parse("raw", []byte("*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:c - [0:0]\n-A PREROUTING "+line+"\nCOMMIT\n"), fam)
}

// What iptables 1.8.9 prints back for each line; "" where it refuses the line or cannot be followed here, with a part of
// the error.
func TestRawTargets(t *testing.T) {
	for _, x := range []struct{ line, want, refused string }{
		{"-j NOTRACK", "=", ""},
		{"-j CT --notrack", "=", ""},
		{"-j CT", "=", ""},
		{"-j CT --zone 0", "-j CT", ""},
		{"-j CT --zone 0x10", "-j CT --zone 16", ""},
		{"-j CT --zone 65535", "=", ""},
		{"-j CT --zone 65536", "", "a zone from 0 to 65535"},
		{"-j CT --zone -1", "", "a zone from 0 to 65535"},
		{"-j CT --zone mark", "", "no mark before the raw table"},
		{"-j CT --zone-orig 5", "", "for both directions"},
		{"-j CT --zone-reply 5", "", "for both directions"},
		{"-j CT --zone 5 --zone 6", "", "--zone once"},
		{"-j CT --notrack --zone 3", "=", ""},
		{"-p tcp -j CT --zone 5 --ctevents destroy,new --expevents new --helper ftp", "-p tcp -j CT --helper ftp --ctevents new,destroy --expevents new --zone 5", ""},
		{"-j CT --ctevents new,related,destroy,reply,assured,protoinfo,helper,mark", "=", ""},
		{"-j CT --ctevents foo", "", "found \"foo\""},
		{"-j CT --expevents destroy", "", "the event new"},
		{"-p udp -j CT --helper tftp", "=", ""},
		{"-p udp -j CT --helper ftp", "", "-p tcp with helper ftp"},
		{"-j CT --helper ftp", "", "-p without !"},
		{"! -p udp -j CT --helper ftp", "", "-p without !"},
		{"-p udp -j CT --helper sip", "=", ""},
		{"-p tcp -j CT --helper h323", "=", ""},
		{"-p udp -j CT --helper amanda", "=", ""},
		{"-p udp -j CT --helper netbios-ns", "=", ""},
		{"-p udp -j CT --helper snmp", "=", ""},
		{"-p tcp -j CT --helper sane", "=", ""},
		{"-p tcp -j CT --helper pptpp", "", "did you mean pptp?"},
		{"-p tcp -j CT --timeout slow", "=", ""},
		{"-j CT --timeout slow", "", "-p without !"},
		{"-j DROP", "=", ""},
		{"-g c", "=", ""},
		{"-j REJECT", "", "it in table filter"},
		{"-o eth0 -j DROP", "", "no -o in table raw"},
		{"-m conntrack --ctstate NEW -j NOTRACK", "", "known before tracking"},
		{"-m state --state NEW -j NOTRACK", "", "known before tracking"},
	} {
		for _, fam := range []Family{IPv4, IPv6} {
			f, err := parseRaw(x.line, fam)
			if x.want == "" {
				if err == nil || !strings.Contains(err.Error(), x.refused) {
					t.Errorf("%s: %v", x.line, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", x.line, err)
				continue
			}
			want := x.want
			if want == "=" {
				want = x.line
			}
			if got := string(f.Tables[0].chain("PREROUTING").Rules[0].AppendSave(nil, "PREROUTING")); got != "-A PREROUTING "+want {
				t.Errorf("%s: prints as %s", x.line, got)
			}
		}
	}
	if _, err := parseRaw("-p tcp -j CT --helper irc", IPv6); err == nil || !strings.Contains(err.Error(), "IPv4") {
		t.Errorf("irc over IPv6: %v", err)
	}
	if _, err := Parse("x", []byte("*filter\n-A FORWARD -j CT --notrack\nCOMMIT\n"), IPv4); err == nil || !strings.Contains(err.Error(), "table raw") {
		t.Errorf("CT in filter: %v", err)
	}
}

func TestRawWarnings(t *testing.T) {
	f, err := Parse("x", []byte("*raw\n:OUTPUT DROP [0:0]\n-A OUTPUT -j NOTRACK\n-A PREROUTING -j CT --ctevents new\n-A PREROUTING -p udp -j CT --helper amanda\nCOMMIT\n"), Both)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, w := range f.Warnings {
		all = append(all, w.String())
	}
	if s := strings.Join(all, "\n"); len(all) != 3 || !strings.Contains(s, "x:3") || !strings.Contains(s, "OUTPUT ignored") || !strings.Contains(s, "--ctevents ignored") || !strings.Contains(s, "x:5:37: --helper amanda ignored") {
		t.Error(s)
	}
}

func TestCheckTimeouts(t *testing.T) {
	f, err := Parse("x", []byte("*raw\n-A PREROUTING -p tcp -j CT --timeout slow\n-A PREROUTING -p 50 -j CT --timeout esp\nCOMMIT\n"), Both)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		defined map[string]uint8
		want    string
	}{
		{nil, "x:2:"},
		{map[string]uint8{"slow": 6}, "--timeout esp"},
		{map[string]uint8{"slow": 17, "esp": 0}, "slow is for udp"},
		{map[string]uint8{"slow": 0, "esp": 0}, "without a tracker"},
		{map[string]uint8{"slow": 6, "esp": 0}, ""},
		{map[string]uint8{"slaw": 6, "esp": 0}, "did you mean slaw?"},
	} {
		_, err := Compile([]*File{f}, Options{Timeouts: x.defined})
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%v: %v", x.defined, err)
		}
	}
}

// rawSet writes the rules of a raw table, and the same as a filter table with FORWARD for PREROUTING and without CT, which
// the linear twin reads. gives has what the rule of each RuleID gives.
func (g generator) rawSet(fam Family) (raw, twin string, gives []string) {
	var a, b strings.Builder
	users := g.IntN(4)
	policy := g.Pick("ACCEPT", "DROP")
	fmt.Fprintf(&a, "*raw\n:PREROUTING %s [0:0]\n", policy)
	fmt.Fprintf(&b, "*filter\n:FORWARD %s [0:0]\n", policy)
	for i := range users {
		fmt.Fprintf(&a, ":u%d - [0:0]\n", i)
		fmt.Fprintf(&b, ":u%d - [0:0]\n", i)
	}
	chain := func(in, out string, first int) {
		for range g.IntN(14) {
			line := g.Conditions(version(fam), false)
			for {
				if _, err := parseRaw(line, fam); err == nil {
					break
				}
				line = g.Conditions(version(fam), false)
			}
			target, give := "", ""
			switch g.IntN(7) {
			case 0:
				target = g.Pick(" -j ACCEPT", " -j DROP", " -j RETURN")
			case 1, 2:
				if first < users {
					target = fmt.Sprintf(" %s u%d", g.Pick("-j", "-j", "-g"), first+g.IntN(users-first))
				}
			case 3, 4, 5:
				give = " -j " + g.Pick("NOTRACK", "CT --notrack", "CT --zone 1", "CT --zone 2", "CT")
			}
			fmt.Fprintf(&a, "-A %s%s%s%s\n", in, line, target, give)
			fmt.Fprintf(&b, "-A %s%s%s\n", out, line, target)
			gives = append(gives, give)
		}
	}
	chain("PREROUTING", "FORWARD", 0)
	for i := range users {
		chain(fmt.Sprintf("u%d", i), fmt.Sprintf("u%d", i), i+1)
	}
	a.WriteString("COMMIT\n")
	b.WriteString("COMMIT\n")
	return a.String(), b.String(), gives
}

// TestRandomRaw compares the raw table with the linear twin: verdict, deciding rule, what is given, every counter; beside a
// filter table whose chains have the same names.
func TestRandomRaw(t *testing.T) {
	sets := 120
	if testing.Short() {
		sets = 30
	}
	opt := Options{InsideName: "eth0", OutsideName: "eth1", Clock: true, Wall: true, Counts: true}
	given := 0
	for seed := range sets {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(uint64(seed), 7)
		text, same, gives := g.rawSet(fam)
		text += g.RuleSet(version(fam))
		f, err := Parse("raw", []byte(text), fam)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		rs, err := Compile([]*File{f}, opt)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		tf, err := Parse("twin", []byte(same), fam)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, same)
		}
		ids := map[*Rule]int{}
		for _, c := range tf.Tables[0].Chains {
			for _, r := range c.Rules {
				ids[r] = len(ids)
			}
		}
		m, l := rs.NewMatcher(), newLinear([]*File{tf}, fam, opt)
		n := rs.Counters()
		for range 60 {
			p, c := g.packet(g.Flow(version(fam)))
			c.State, c.Dir, c.Status = Invalid, Original, 0
			before, after := make([]Counter, n), make([]Counter, n)
			m.Counters(before)
			e := m.Raw(p, c)
			m.Counters(after)
			v := l.judge(p, c)
			want, last, give := make([]uint64, n), -1, ""
			for _, r := range l.path {
				last = ids[r]
				want[last]++
				if give == "" {
					give = gives[last]
				}
			}
			switch {
			case len(l.policies) > 0:
				last = int(rs.ChainPolicyID("raw", "PREROUTING", fam))
				want[last]++
			case l.decided == nil:
				last = int(rs.extra(idShort))
				want[last]++
			}
			if e.Verdict != v || int(e.Rule) != last {
				t.Fatalf("seed %d: verdict %v by %s, want %v by %s\n%s", seed, e.Verdict, rs.RuleName(e.Rule), v, rs.RuleName(RuleID(last)), text)
			}
			got := ""
			if e.Assign != 0 {
				x := rs.Assignments()[e.Assign-1]
				got = " -j " + x.Name() + string(x.AppendSave(nil))
				given++
			}
			if got != give {
				t.Fatalf("seed %d: gives %q, want %q\n%s", seed, got, give, text)
			}
			for i := range want {
				if k := after[i].Packets - before[i].Packets; k != want[i] || after[i].Bytes-before[i].Bytes != want[i]*uint64(p.End-p.L3) {
					t.Fatalf("seed %d: counter of %s: %d packets, want %d\n%s", seed, rs.RuleName(RuleID(i)), k, want[i], text)
				}
			}
		}
	}
	if given < sets {
		t.Errorf("only %d packets were given something", given)
	}
}

// The raw table of one IP version, an empty one, and none.
func TestRawPresence(t *testing.T) {
	for _, x := range []struct {
		text string
		raw  bool
	}{
		{"*filter\nCOMMIT\n", false},
		{"*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n", false},
		{"*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", true},
		{"*raw\n-A PREROUTING -j NOTRACK\nCOMMIT\n", true},
	} {
		f, err := Parse("x", []byte(x.text), IPv4)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if rs.HasRaw() != x.raw {
			t.Errorf("%q: %v", x.text, rs.HasRaw())
		}
	}
	f, _ := Parse("x", []byte("*raw\n:PREROUTING DROP [0:0]\nCOMMIT\n"), IPv4)
	rs, err := Compile([]*File{f}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := rs.NewMatcher()
	g := newGenerator(1, 1)
	var p *packet.Packet
	allocs := testing.AllocsPerRun(10, func() {})
	for _, fam := range []Family{IPv4, IPv6} {
		var c *Context
		p, c = g.packet(g.Flow(version(fam)))
		c.State = Invalid
		e := m.Raw(p, c)
		if (e.Verdict == Drop) != (fam == IPv4) || rs.RuleName(e.Rule) != "raw PREROUTING policy" || e.Rule != rs.ChainPolicyID("raw", "PREROUTING", fam) {
			t.Errorf("%v: %+v", fam, e)
		}
		allocs += testing.AllocsPerRun(10, func() { m.Raw(p, c) })
	}
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// A rule set with both tables prints back as one that judges alike.
func TestRawSave(t *testing.T) {
	const text = "*raw\n:PREROUTING DROP [1:2]\n:u - [0:0]\n[0:0] -A PREROUTING -j u\n[3:4] -A u -j CT --zone 5\nCOMMIT\n" +
		"*filter\n:FORWARD ACCEPT [5:6]\n:u - [0:0]\n[7:8] -A FORWARD -g u\n[0:0] -A u -j DROP\nCOMMIT\n"
	f, err := Parse("x", []byte(text), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(rs.AppendSave(nil, IPv4, nil)); got != text {
		t.Errorf("got\n%s, want\n%s", got, text)
	}
	n := make([]Counter, rs.Counters())
	n[rs.ChainPolicyID("raw", "PREROUTING", IPv4)] = Counter{9, 10}
	if got := string(rs.AppendSave(nil, IPv4, n)); !strings.Contains(got, ":PREROUTING DROP [9:10]") || !strings.Contains(got, ":FORWARD ACCEPT [0:0]") {
		t.Error(got)
	}
}
