package rules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"corewire/internal/packet"
)

// changed is a rule file that is kept as lines, to be changed beside a rule set.
type changed struct {
	table  string
	fam    Family
	policy string
	names  []string
	lines  map[string][]string
}

func (x *changed) text() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", x.table)
	for k, n := range x.names {
		policy := "-"
		if k < x.bases() {
			policy = x.policy
		}
		fmt.Fprintf(&b, ":%s %s [0:0]\n", n, policy)
	}
	for _, n := range x.names {
		for _, l := range x.lines[n] {
			b.WriteString(l + "\n")
		}
	}
	b.WriteString("COMMIT\n")
	return []byte(b.String())
}

// bases returns how many of the names are base chains': the first ones.
func (x *changed) bases() int {
	return slices.IndexFunc(append(slices.Clip(x.names), ""), func(name string) bool {
		return !slices.ContainsFunc(baseTable[:], func(b base) bool { return b.table == x.table && b.chain == name })
	})
}

// conditions returns a rule for a chain, without a target: none with turns, which are state that the twin does not carry over. In
// mangle many ask for a way in or out, which some of its chains do not know.
func (x *changed) conditions(g generator, chain string) string {
	for {
		l := "-A " + chain + g.Conditions(version(x.fam), false)
		if x.table == "mangle" && g.IntN(3) == 0 {
			if g.IntN(2) == 0 {
				l = "-A " + chain
			}
			l += g.Pick(" "+g.Not()+"-i ", " "+g.Not()+"-o ", " -m physdev "+g.Not()+"--physdev-in ", " -m physdev "+g.Not()+"--physdev-out ") + g.Pick("inside", "outside", "eth+", "+")
		}
		has := func(s string) bool { return strings.Contains(l, s) }
		switch {
		case has("nth") || has("quota") || strings.Count(l, " -i ") > 1 || strings.Count(l, " -o ") > 1:
		case chain == "PREROUTING" && has(" -o "):
		case chain == "POSTROUTING" && (has(" -i ") || has("-m mac") || has("-m eui64")):
		default:
			return l
		}
	}
}

// step makes one random change to the lines and to the rule set, and checks the renumbering.
func (x *changed) step(t *testing.T, g generator, rs *Ruleset) *Ruleset {
	t.Helper()
	at := Place{Table: x.table, Chain: x.names[g.IntN(len(x.names))], Family: x.fam}
	list := x.lines[at.Chain]
	var next *Ruleset
	var m Mapping
	var err error
	kind := g.IntN(5)
	if len(list) == 0 {
		kind = 0
	}
	if kind == 4 { // delete
		at.Number = 1 + g.IntN(len(list))
		x.lines[at.Chain] = slices.Delete(slices.Clone(list), at.Number-1, at.Number)
		next, m, err = rs.Delete(at)
	} else {
		line := x.conditions(g, at.Chain)
		to := x.names[max(slices.Index(x.names, at.Chain)+1, x.bases()):] // where it may jump
		if len(to) > 0 && g.IntN(16) == 0 {
			line += g.Pick(" -j ", " -j ", " -g ") + to[g.IntN(len(to))]
		} else {
			line += g.Pick("", " -j ACCEPT", " -j DROP", " -j RETURN", " -j LOG --log-prefix x", " -j MARK --set-xmark 0x5/0xf", " -j CONNMARK --set-xmark 0x2/0xf")
		}
		chain, rules, e := ParseRule("change", x.table, x.fam, line)
		if e != nil || chain != at.Chain || len(rules) != 1 {
			t.Fatalf("%s: %v", line, e)
		}
		if kind == 3 {
			at.Number = 1 + g.IntN(len(list))
			list = slices.Clone(list)
			list[at.Number-1] = line
			x.lines[at.Chain] = list
			next, m, err = rs.Replace(at, rules[0])
		} else {
			at.Number = g.IntN(len(list) + 2)
			k := at.Number - 1
			if at.Number == 0 {
				k = len(list)
			}
			x.lines[at.Chain] = slices.Insert(slices.Clone(list), k, line)
			next, m, err = rs.Insert(at, rules[0])
		}
	}
	if err != nil {
		t.Fatalf("%v: %v", at, err)
	}
	// Each rule became itself, the others are new or have gone.
	became, seen := make(map[*Rule]RuleID), 0
	for id, info := range next.Rules() {
		became[info.Rule] = id
	}
	for id, info := range rs.Rules() {
		if want, stays := became[info.Rule]; stays {
			if seen++; m.New(id) != want {
				t.Fatalf("%s became %d, not %d", rs.RuleName(id), m.New(id), want)
			}
		} else if m.New(id) != NoRule {
			t.Fatalf("%s has gone, and became %d", rs.RuleName(id), m.New(id))
		}
	}
	for k := range idExtra {
		if id := rs.extra(k); m.New(id) != next.extra(k) {
			t.Fatalf("%s became %d", rs.RuleName(id), m.New(id))
		}
	}
	if kind >= 3 && seen != rs.Len()-1 || kind < 3 && seen != rs.Len() {
		t.Fatalf("%d of %d rules kept", seen, rs.Len())
	}
	if next.Follows(rs) != (next.patches > 0) {
		t.Fatal("a changed rule set does not follow the one before")
	}
	return next
}

// ids returns the RuleIDs in the order of the rules.
func ids(rs *Ruleset) (out []RuleID) {
	number := 0
	chain := ""
	for id, info := range rs.Rules() {
		if name := info.Table + " " + info.Chain; name != chain {
			chain, number = name, 0
		}
		number++
		if one, ok := rs.Rule(id); !ok || one.Rule != info.Rule || one.Number != info.Number || number == 1 != (one.Number == 1) && one.Family == Both {
			panic(fmt.Sprintf("%s is told as number %d", rs.RuleName(id), info.Number))
		}
		out = append(out, id)
	}
	return out
}

// sameRule says whether two rule sets with the same rules name the same one of them, or the same policy.
func sameRule(a *Ruleset, x RuleID, b *Ruleset, y RuleID) bool {
	if a.isRule(x) != b.isRule(y) || a.RuleName(x) != b.RuleName(y) {
		return false
	}
	return !a.isRule(x) || a.info(x).Rule.Text == b.info(y).Rule.Text && a.info(x).piece == b.info(y).piece
}

// sameLogged is sameRule for what is logged.
func sameLogged(a *Matcher, b *Matcher) bool {
	return slices.EqualFunc(a.Logged(), b.Logged(), func(x, y Logged) bool { return x.Mark == y.Mark && sameRule(a.rs, x.Rule, b.rs, y.Rule) })
}

// same says in what two rule sets that should mean the same differ for listings.
func same(a, b *Ruleset) string {
	x, y := ids(a), ids(b)
	if len(x) != len(y) || len(a.chains) != len(b.chains) || a.Len() != len(x) {
		return fmt.Sprintf("%d rules, %d chains; %d rules, %d chains", len(x), len(a.chains), len(y), len(b.chains))
	}
	for i := range x {
		r, _ := a.Rule(x[i])
		s, _ := b.Rule(y[i])
		if r.Table != s.Table || r.Chain != s.Chain || r.Number != s.Number || r.Family != s.Family || r.Rule.Text != s.Rule.Text {
			return fmt.Sprintf("rule %d: %s and %s", i, a.RuleName(x[i]), b.RuleName(y[i]))
		}
	}
	for i := range a.chains {
		x, y := &a.chains[i], &b.chains[i]
		if x.Table != y.Table || x.Name != y.Name || x.Family != y.Family || x.Policy != y.Policy || a.lists[i].Len() != b.lists[i].Len() {
			return "chain " + x.Name
		}
	}
	if s, u := string(a.AppendSave(nil, Both, nil)), string(b.AppendSave(nil, Both, nil)); s != u {
		return s + u
	}
	if b.needs&^a.needs != 0 {
		return "needs"
	}
	return ""
}

// TestChanges changes rule sets one rule at a time and compares the outcome with compiling the changed text, and both
// with the linear twin: RuleIDs, names, verdicts, counters. In mangle a user chain is in three programs, in each of which a rule asks
// something else.
func TestChanges(t *testing.T) {
	sets, steps := 12, 50
	if testing.Short() {
		sets = 6
	}
	opt := Options{InsideName: "eth0", OutsideName: "eth1", Logs: true, Clock: true, Wall: true, Counts: true}
	patched, widest, jumps, made := 0, 0, 0, 0
	for seed := range sets {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(uint64(seed), 77)
		x := &changed{table: "filter", fam: fam, policy: g.Pick("ACCEPT", "DROP"), names: []string{"FORWARD", "u0", "u1", "u2"}, lines: make(map[string][]string)}
		if seed%4 > 1 {
			x.table, x.names = "mangle", []string{"PREROUTING", "FORWARD", "POSTROUTING", "u0", "u1"}
		}
		steps := steps
		if seed%6 == 5 { // one chain that is changed often: its overlay becomes a tree, and too large
			x.names, steps = x.names[:1], 8*steps
		}
		for _, n := range x.names {
			for range g.IntN([]int{5, 60, 400}[seed%3]) {
				x.lines[n] = append(x.lines[n], x.conditions(g, n)+g.Pick("", " -j ACCEPT", " -j DROP", " -j RETURN"))
			}
			if x.table == "mangle" && len(x.names) > x.bases() && n != "u1" {
				x.lines[n] = slices.Insert(x.lines[n], 0, "-A "+n+" -j u"+strconv.Itoa(max(0, slices.Index(x.names, n)-x.bases()+1)))
			}
		}
		f, err := Parse("change", x.text(), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, opt)
		if err != nil {
			t.Fatal(err)
		}
		for k := range steps {
			if rs.patches == 0 && seed&1 == seed>>1&1 {
				tighten(rs, minGap)
			}
			before := rs.prog
			rs = x.step(t, g, rs)
			for f := range before {
				if rs.patches > 0 && len(rs.prog[f].rules) > len(before[f].rules) {
					made++
				}
				if s := misplaced(rs, f); s != "" {
					t.Fatalf("seed %d, change %d: %s", seed, k, s)
				}
			}
			f, err := Parse("change", x.text(), fam)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Compile([]*File{f}, opt)
			if err != nil {
				t.Fatal(err)
			}
			if rs.patches > 0 {
				patched++
			}
			for f := range rs.prog {
				jumps = max(jumps, rs.patches*rs.prog[f].depth)
			}
			for _, g := range rs.prog {
				for _, o := range g.overlays {
					widest = max(widest, len(o.entries))
				}
			}
			if a, b := rs.Check(nil), want.Check(nil); len(a) != len(b) {
				t.Fatalf("seed %d, change %d: checked as %v, compiled anew as %v", seed, k, a, b)
			}
			if s := same(rs, want); s != "" {
				t.Fatalf("seed %d, change %d: %s", seed, k, s)
			}
			m, twin, l := rs.NewMatcher(), want.NewMatcher(), newLinear(rs.filesNow(nil, nil), fam, opt)
			for range 6 {
				p, c := g.packet(g.Flow(version(fam)))
				ok := t.Run("", func(t *testing.T) {
					began := *c
					r := compare(t, m, l, p, c)
					c.Mark, c.ConnMark, c.Labels = began.Mark, began.ConnMark, began.Labels
					s := twin.Match(p, c)
					if r.Verdict != s.Verdict || !sameRule(m.rs, r.Rule, twin.rs, s.Rule) || r.Cacheable() != s.Cacheable() || !sameLogged(m, twin) {
						t.Fatalf("%+v, compiled anew %+v", r, s)
					}
				})
				if !ok {
					t.Fatalf("seed %d, change %d, packet %+v %+v\n%s", seed, k, *p, *c, x.text())
				}
			}
		}
	}
	if patched < sets*steps*3/4 || widest < maxOverlay-20 || jumps == 0 || made == 0 {
		t.Errorf("%d rule sets were patched, overlays of up to %d entries: the test does not test patching", patched, widest)
	}
	t.Logf("%d rule sets patched, overlays of up to %d entries, room made %d times", patched, widest, made)
}

// TestChangeWays: what asks for a way in or out goes from each program as it is there, and leaves nothing behind.
func TestChangeWays(t *testing.T) {
	opt := Options{InsideName: "eth0", OutsideName: "eth1"}
	for _, asks := range []string{"! -o outside", "! -i inside", "-o +", "! -i +", "-m physdev --physdev-out inside", "-m physdev ! --physdev-out outside", "-m physdev ! --physdev-in outside"} {
		for _, base := range []string{"PREROUTING", "FORWARD", "POSTROUTING"} {
			for _, comes := range []string{"", "-A u -p 99 -j DROP"} {
				f, err := Parse("t", fmt.Appendf(nil, "*mangle\n:%s ACCEPT [0:0]\n:u - [0:0]\n-A %[1]s -j u\n-A u %s -j DROP\nCOMMIT\n", base, asks), IPv4)
				if err != nil {
					t.Fatal(err)
				}
				rs, err := Compile([]*File{f}, opt)
				if err != nil {
					t.Fatal(err)
				}
				var rule *Rule
				if comes != "" {
					_, list, err := ParseRule("t", "mangle", IPv4, comes)
					if err != nil {
						t.Fatal(err)
					}
					rule = list[0]
				}
				to, _, err := rs.Replace(Place{"mangle", "u", IPv4, 1}, rule)
				if err != nil || to.Patches() != 1 {
					t.Fatalf("%s from %s: %d changes, %v", asks, base, to.Patches(), err)
				}
				for _, in := range []packet.Port{packet.Inside, packet.Outside} {
					p := tcpPacket()
					p.In = in
					compare(t, to.NewMatcher(), newLinear(to.filesNow(nil, nil), IPv4, opt), p, &Context{State: New})
				}
			}
		}
	}
}

// TestChangeJump: the only jump to a chain gives way to another one there, for both IP versions or for one of two, without anything
// compiled anew, and the chain goes on being changed.
func TestChangeJump(t *testing.T) {
	const text = "*filter\n:FORWARD ACCEPT [0:0]\n:a - [0:0]\n:b - [0:0]\n-A FORWARD -p 6 -j a\n-A a -j b\n-A b -p 6 -j DROP\nCOMMIT\n"
	for _, do := range []string{"-R FORWARD 1 -j a", "-R FORWARD 1 -j b", "-4 -R FORWARD 1 -j a", "-6 -R FORWARD 1 -g a", "-4 -D FORWARD 1", "-6 -R FORWARD 1 -p 17 -j DROP", "-R a 1 -p 6 -j b"} {
		rs := mustCompile(t, text)
		for _, do := range []string{do, "-I b 1 -s 10.0.0.1 -j ACCEPT", "-D b 2"} {
			to, m, err := edit(rs, do)
			if err != nil || !to.Follows(rs) {
				t.Fatalf("%s: compiled anew, error %v", do, err)
			}
			checkMapping(t, do, rs, to, m)
			rs = to
			for f, fam := range []Family{IPv4, IPv6} {
				if s := misplaced(rs, filterPlace+f); s != "" {
					t.Fatalf("%s: %s", do, s)
				}
				g := newGenerator(uint64(f), 5)
				for range 50 {
					p, c := g.packet(g.Flow(version(fam)))
					compare(t, rs.NewMatcher(), newLinear(rs.filesNow(nil, nil), fam, rs.opt), p, c)
				}
			}
		}
	}
}

// BenchmarkChange changes one rule of 10,000 and of 100,000.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		rs := mustCompile(b, string(manyRules(n)))
		_, list, err := ParseRule("change", "filter", Both, "-A FORWARD -s 10.1.2.3/32 -p tcp -m tcp --dport 77 -j DROP")
		if err != nil {
			b.Fatal(err)
		}
		at := Place{"filter", "FORWARD", Both, n / 3}
		b.Run(fmt.Sprintf("insert-%d", n), func(b *testing.B) {
			for b.Loop() {
				if next, _, err := rs.Insert(at, list[0]); err != nil || next.patches == 0 {
					b.Fatal(err)
				}
			}
		})
		for _, target := range []string{"user", "MARK --set-xmark 1"} {
			_, list, err := ParseRule("change", "filter", Both, "-A FORWARD -s 10.1.2.3/32 -p tcp -m tcp --dport 77 -j "+target)
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("insert-%s-%d", target[:4], n), func(b *testing.B) {
				for b.Loop() {
					if next, _, err := rs.Insert(at, list[0]); err != nil || next.patches == 0 {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("delete-%d", n), func(b *testing.B) {
			for b.Loop() {
				if next, _, err := rs.Delete(at); err != nil || next.patches == 0 {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("hundredth-%d", n), func(b *testing.B) {
			from := rs
			for range 99 {
				_, list, err := ParseRule("change", "filter", Both, fmt.Sprintf("-A FORWARD -s 10.1.2.%d -p tcp -m tcp --dport %d -j DROP", rand.IntN(256), rand.IntN(65536)))
				if err == nil {
					from, _, err = from.Insert(at, list[0])
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for b.Loop() {
				if next, _, err := from.Insert(at, list[0]); err != nil || next.patches == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}

// manyRules writes a file of n rules about hosts, networks and ports.
func manyRules(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := []byte("*filter\n:FORWARD DROP [0:0]\n:user - [0:0]\n")
	for range n {
		b = fmt.Appendf(b, "-A FORWARD -s 10.%d.%d.%d/%d -d 172.16.%d.%d -p tcp -m tcp --dport %d -j ACCEPT\n", r.IntN(40), r.IntN(256), r.IntN(256), []int{16, 24, 32}[r.IntN(3)], r.IntN(16), r.IntN(256), r.IntN(2000))
	}
	return append(b, "-A FORWARD -s 192.0.2.1 -j user\n-A user -j RETURN\nCOMMIT\n"...)
}

// TestChangeRefused: what cannot be changed is said, and nothing changes.
func TestChangeRefused(t *testing.T) {
	f, err := Parse("f", []byte("*filter\n:FORWARD DROP\n:a -\n:c -\n-A c -j a\n-A FORWARD -j a\n-A a -s 10.0.0.1 -j ACCEPT\nCOMMIT\n"), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	rule := func(line string) *Rule {
		t.Helper()
		_, list, err := ParseRule("change", "filter", IPv4, line)
		if err != nil {
			t.Fatal(err)
		}
		return list[0]
	}
	at := func(chain string, n int) Place { return Place{"filter", chain, IPv4, n} }
	for _, x := range []struct {
		err  error
		want string
	}{
		{second(rs.Insert(at("FORWARD", 3), rule("-A FORWARD -j DROP"))), "the chain has 1 rule"},
		{second(rs.Insert(at("b", 1), rule("-A b -j DROP"))), "no chain of this name"},
		{second(rs.Insert(at("a", 1), rule("-A a -j FORWARDS"))), "a target or a chain of this table"},
		{second(rs.Insert(at("a", 1), rule("-A a -j c"))), "chains without a loop"},
		{second(rs.Replace(at("a", 2), rule("-A a -j DROP"))), "the chain has 1 rule"},
		{second(rs.Delete(at("FORWARD", 2))), "the chain has 1 rule"},
		{second(rs.Delete(at("FORWARD", 0))), "the chain has 1 rule"},
		{second(rs.Delete(Place{"filter", "FORWARD", Both, 1})), "no chain of this name"},
	} {
		if x.err == nil || !strings.Contains(x.err.Error(), x.want) {
			t.Errorf("error %v, want %s", x.err, x.want)
		}
	}
	if rs.Len() != 3 {
		t.Error("the rule set changed")
	}
	for _, line := range []string{"", "-A", "-A INPUT -j DROP", "-D FORWARD 1", "-A FORWARD -j", "-A FORWARD -s ::1", "-A FORWARD \"x", "COMMIT", "-A FORWARD -s 10.0.0.0/33 -j DROP"} {
		if _, _, err := ParseRule("change", "filter", IPv4, line); err == nil {
			t.Errorf("%q is taken for a rule", line)
		}
	}
	if _, list, err := ParseRule("change", "filter", Both, "-A FORWARD -s 10.0.0.1,10.0.0.2 -j DROP"); err != nil || len(list) != 2 || list[0].Family != IPv4 {
		t.Errorf("a list of addresses: %v, %v", list, err)
	}
}

func second(_ *Ruleset, _ Mapping, err error) error { return err }

// FuzzChange: a rule set with one rule changed judges any frame as the changed rules compiled anew.
func FuzzChange(f *testing.F) {
	for seed := range uint64(20) {
		g := newGenerator(seed, 3)
		g.Memory = true
		fam := []Family{IPv4, IPv6}[seed%2]
		p, c := g.packet(g.Flow(version(fam)))
		f.Add(g.RuleSet(version(fam)), uint8(seed), uint8(g.IntN(20))|uint8(seed)<<7, "-A FORWARD"+g.Conditions(version(fam), false)+" -j DROP", p.Frame, uint8(c.State)|uint8(c.Dir)<<4|uint8(p.In)<<5)
	}
	f.Fuzz(func(t *testing.T, text string, where, number uint8, line string, frame []byte, bits uint8) {
		p := packet.Packet{Frame: frame, In: packet.Port(bits >> 5 & 1)}
		packet.Parse(&p)
		if p.Family == 0 || p.Problem.Header() || p.Flags&packet.Fragment != 0 {
			return
		}
		c := Context{State: State(bits & 7), Dir: Dir(bits >> 4 & 1), Status: uint32(bits >> 6), Expires: uint32(len(text))}
		if c.State >= States || p.Problem != packet.ProblemNone {
			c.State = Invalid
		}
		file, err := Parse("f", []byte(text), Both)
		if err != nil {
			return
		}
		opt := Options{InsideName: "eth0", OutsideName: "eth1", Wall: true, Counts: true, Clock: true, Logs: true}
		rs, err := Compile([]*File{file}, opt)
		if err != nil || len(rs.chains) == 0 {
			return
		}
		if number > 127 {
			tighten(rs, minGap)
		}
		at := rs.chains[int(where>>2)%len(rs.chains)]
		place := Place{at.Table, at.Name, at.Family, int(number & 127)}
		var next *Ruleset
		if where&3 == 0 {
			next, _, err = rs.Delete(place)
		} else {
			_, list, bad := ParseRule("change", at.Table, at.Family, line)
			if bad != nil {
				return
			}
			if where&3 == 1 {
				next, _, err = rs.Replace(place, list[0])
			} else {
				next, _, err = rs.Insert(place, list[0])
			}
		}
		if err != nil {
			return
		}
		want, err := Compile(next.filesNow(nil, nil), opt)
		if err != nil {
			t.Fatalf("what a change made is refused: %v", err)
		}
		if s := same(next, want); s != "" {
			t.Fatal(s)
		}
		for k := range next.prog {
			if slices.ContainsFunc(next.prog[k].preds, func(q pred) bool { return q.op == opRandom }) {
				return
			}
		}
		q, d := p, c
		q.Frame = slices.Clone(frame)
		c.Taken, d.Taken = make([]Ticket, 0, MaxTickets), make([]Ticket, 0, MaxTickets)
		m, twin := next.NewMatcher(), want.NewMatcher()
		r, s := m.Match(&p, &c), twin.Match(&q, &d)
		if r.Verdict != s.Verdict || !sameRule(next, r.Rule, want, s.Rule) || r.Cacheable() != s.Cacheable() || c.Mark != d.Mark || c.ConnMark != d.ConnMark || !sameLogged(m, twin) || string(p.Frame) != string(q.Frame) {
			t.Fatalf("%+v, compiled anew %+v", r, s)
		}
	})
}
