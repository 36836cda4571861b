package rules

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestFollow: a matcher that follows changes of one rule judges, names and counts as one made anew for each rule set would, and
// what it found ahead under rules before is forgotten. Rules that stay go on counting; the one that comes begins at zero.
func TestFollow(t *testing.T) {
	for seed := range uint64(12) {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(seed, 21)
		x := &changed{table: "filter", fam: fam, policy: g.Pick("ACCEPT", "DROP"), names: []string{"FORWARD", "u0", "u1"}, lines: make(map[string][]string)}
		for _, n := range x.names {
			for range 20 {
				l := ""
				for l == "" || strings.Contains(l, "nth") || strings.Contains(l, "quota") || strings.Contains(l, "limit") || strings.Contains(l, "random") {
					l = "-A " + n + g.Conditions(version(fam), false)
				}
				x.lines[n] = append(x.lines[n], l+g.Pick("", " -j ACCEPT", " -j DROP", " -j RETURN"))
			}
		}
		f, err := Parse("follow", x.text(), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{InsideName: "eth0", OutsideName: "eth1", Logs: true, Clock: true, Wall: true, Counts: true})
		if err != nil {
			t.Fatal(err)
		}
		m := rs.NewMatcher()
		want := make(map[*Rule]Counter)
		policies := make(map[RuleID]Counter)
		for k := range 60 {
			next := x.step(t, g, rs)
			if !next.Follows(rs) { // compiled anew
				m, want, policies = next.NewMatcher(), make(map[*Rule]Counter), make(map[RuleID]Counter)
			} else {
				m.Follow(next, Mapping{but: goneOf(rs, next)})
			}
			rs = next
			fresh := rs.NewMatcher()
			for range 8 {
				p, c := g.packet(g.Flow(version(fam)))
				q, d := *p, *c
				r, s := m.Match(p, c), fresh.Match(&q, &d)
				if r.Verdict != s.Verdict || r.Rule != s.Rule || r.Cacheable() != s.Cacheable() {
					t.Fatalf("seed %d, change %d: %+v, made anew %+v", seed, k, r, s)
				}
				if x := m.TraceResult(r.Trace); r.Trace != 0 && (x.Rule != r.Rule || x.Verdict != r.Verdict) {
					t.Fatalf("seed %d, change %d: the trace says %+v, not %+v", seed, k, x, r)
				}
				m.Count(r.Trace, 100)
				before := make([]Counter, rs.Counters())
				fresh.Counters(before)
				fresh.Count(s.Trace, 100)
				after := make([]Counter, rs.Counters())
				fresh.Counters(after)
				for id := range after {
					n := Counter{after[id].Packets - before[id].Packets, after[id].Bytes - before[id].Bytes}
					if s.Trace == 0 { // counted by Match, on both sides
						t.Fatal("no room for a path")
					}
					if rs.isRule(RuleID(id)) {
						w := want[rs.info(RuleID(id)).Rule]
						want[rs.info(RuleID(id)).Rule] = Counter{w.Packets + n.Packets, w.Bytes + n.Bytes}
					} else if n.Packets > 0 {
						w := policies[RuleID(id)]
						policies[RuleID(id)] = Counter{w.Packets + n.Packets, w.Bytes + n.Bytes}
					}
				}
			}
			got := make([]Counter, rs.Counters())
			m.Counters(got)
			for id, info := range rs.Rules() {
				if got[id] != want[info.Rule] {
					t.Fatalf("seed %d, change %d: %s counted %v, want %v", seed, k, rs.RuleName(id), got[id], want[info.Rule])
				}
			}
			for id, n := range policies {
				if got[id] != n {
					t.Fatalf("seed %d, change %d: %s counted %v, want %v", seed, k, rs.RuleName(id), got[id], n)
				}
			}
		}
	}
}

// goneOf returns what a change took away.
func goneOf(from, to *Ruleset) map[RuleID]RuleID {
	gone := map[RuleID]RuleID{}
	for id := range from.Rules() {
		if to.at(id) < 0 {
			gone[id] = NoRule
		}
	}
	return gone
}

// TestSiblings: rule sets that several changes make of one and the same, at the same time, do not see each other's rules, and
// only one of them goes on in the place of the first.
func TestSiblings(t *testing.T) {
	rs := mustCompile(t, "*filter\n:FORWARD DROP [0:0]\n:u - [0:0]\n-A FORWARD -p udp -m multiport --dports 1,3,5 -j ACCEPT\n-A FORWARD -p tcp -j u\n-A u -j RETURN\nCOMMIT\n")
	const branches, steps = 6, 30
	var ends [branches]*Ruleset
	var wg sync.WaitGroup
	for k := range branches {
		wg.Go(func() {
			at := rs
			for i := range steps {
				_, list, err := ParseRule("t", "filter", Both, fmt.Sprintf("-A FORWARD -p tcp -m multiport --dports %d,%d -m limit --limit %d/sec -j ACCEPT", 1000*k+i, 60000, i+1))
				if err == nil {
					at, _, err = at.Insert(Place{"filter", "FORWARD", Both, 1 + i%3}, list[0])
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			ends[k] = at
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	follow := 0
	for k, end := range ends {
		if end.Patches() != steps || end.Len() != rs.Len()+steps {
			t.Fatalf("%d changes, %d rules", end.Patches(), end.Len())
		}
		if end.Follows(rs) {
			follow++
		}
		m := end.NewMatcher()
		for other := range branches {
			for i := range steps {
				p := tcpPacket()
				p.DstPort = uint16(1000*other + i)
				if r := m.Match(p, &Context{State: New}); (r.Verdict == Accept) != (other == k) {
					t.Fatalf("branch %d: port %d: %v by %s", k, p.DstPort, r.Verdict, end.RuleName(r.Rule))
				}
			}
		}
	}
	if follow > 1 {
		t.Errorf("%d of the rule sets follow the first one", follow)
	}
}

// TestFilled: what is said to be taken grows with each change, and the first change that compiles everything anew comes when
// all is. Compiled anew, nothing is taken.
func TestFilled(t *testing.T) {
	at := Place{"filter", "FORWARD", Both, 1}
	for name, tc := range map[string]struct {
		deletes bool // every other change takes away what the one before brought
		most    int  // changes
	}{"overlay": {false, maxOverlay}, "number": {true, maxPatches}} {
		first := mustCompile(t, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n")
		rs, steps := first, 0
		for {
			before := rs.Filled()
			var next *Ruleset
			var err error
			if tc.deletes && steps%2 == 1 {
				next, _, err = rs.Delete(at)
			} else {
				var list []*Rule
				if _, list, err = ParseRule("t", "filter", Both, fmt.Sprintf("-A FORWARD -s 10.0.0.0/8 -p tcp -m tcp --dport %d -j DROP", 1+steps)); err == nil {
					next, _, err = rs.Insert(at, list[0])
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if !next.Follows(rs) {
				if before != 100 || next.Filled() != 0 {
					t.Errorf("%s: compiled anew with %d %% taken, and then there are %d", name, before, next.Filled())
				}
				break
			}
			rs = next
			steps++
			if want := 100 * steps / tc.most; rs.Filled() != want {
				t.Fatalf("%s: after %d changes %d %% are taken, want %d", name, steps, rs.Filled(), want)
			}
		}
		again, _, err := rs.Recompile()
		if err != nil || again.Filled() != 0 || again.Len() != rs.Len() {
			t.Errorf("%s: compiled anew, %d %% are taken, by %d rules of %d, %v", name, again.Filled(), again.Len(), rs.Len(), err)
		}
	}
}

// TestJumpGone: a chain that no rule leads to any more is one that packets do not come to, as if it had been compiled so; a
// jump that comes back leads there, with the rules that it has by then.
func TestJumpGone(t *testing.T) {
	rs := mustCompile(t, "*filter\n:FORWARD DROP [0:0]\n:u - [0:0]\n:v - [0:0]\n-A FORWARD -p tcp -j u\n-A u -j v\n-A v -p tcp -j ACCEPT\nCOMMIT\n")
	do := func(text string, patched bool) {
		t.Helper()
		to, m, err := edit(rs, text)
		if err != nil {
			t.Fatal(err)
		}
		checkMapping(t, text, rs, to, m)
		if to.Follows(rs) != patched {
			t.Errorf("%s: patched %v, want %v", text, !patched, patched)
		}
		rs = to
	}
	verdict := func() Verdict { return rs.NewMatcher().Match(tcpPacket(), &Context{State: New}).Verdict }
	unused := func() (n int) {
		for _, f := range rs.Check(nil) {
			if f.Kind == FindingUnused {
				n++
			}
		}
		return n
	}
	do("-D FORWARD 1", true)
	if verdict() != Drop || unused() != 2 {
		t.Errorf("without the jump: %v, %d chains unused", verdict(), unused())
	}
	do("-I v 1 -p tcp -j DROP", true)
	do("-I FORWARD 1 -p tcp -j u", false)
	if verdict() != Drop || unused() != 0 {
		t.Errorf("with the jump again: %v, %d chains unused", verdict(), unused())
	}
	do("-D v 1", true)
	if verdict() != Accept {
		t.Errorf("without the rule in between: %v", verdict())
	}
}

// TestEditError: what is wrong is shown under the words that were given.
func TestEditError(t *testing.T) {
	rs := mustCompile(t, editable)
	long := strings.Repeat("a", 30)
	for _, tc := range []struct {
		rule []string
		want string
	}{
		{[]string{"-p", "tpc", "-j", "DROP"}, "insert FORWARD 2: expected a protocol's name or number up to 255, found \"tpc\"\n  -p tpc -j DROP\n     ^^^"},
		{[]string{"-p", "tcp", "-j"}, "\n  -p tcp -j\n           ^"},
		{[]string{"-m", "comment", "--comment", "naïve \"words\"", "-p", "tpc"}, "\n  -m comment --comment \"naïve \\\"words\\\"\" -p tpc\n" + strings.Repeat(" ", 44) + "^^^"},
		{[]string{"-m", "comment", "--comment", long, "-m", "comment", "--comment", long, "-p", "tpc", "-m", "comment", "--comment", long, "-m", "comment", "--comment", long},
			"\n  … " + long + " -m comment --comment " + long + " -p tpc -m comment --comment " + long + " -m …\n" + strings.Repeat(" ", 2+2+30+1+21+30+1+3) + "^^^"},
		{[]string{"-j", "a", "-j", "nowhere"}, "\n  -j a -j nowhere\n          ^^^^^^^"},
		{[]string{"-j", "nowhere"}, "insert FORWARD 2: expected a target or a chain of this table, found \"nowhere\""},
	} {
		_, _, err := rs.Edit(Edit{Op: EditInsert, Chain: "FORWARD", Number: 2, Rule: tc.rule, Source: "change", Line: 7}, rs.opt)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q:\n%v\nwant\n%s", tc.rule, err, tc.want)
		}
	}
}

// TestChangeUnreached: a rule of a chain that packets do not come to may lead to chains that are there, and not back to itself.
func TestChangeUnreached(t *testing.T) {
	rs := mustCompile(t, "*filter\n:FORWARD DROP [0:0]\n:u - [0:0]\n:v - [0:0]\n-A u -j v\n-A v -p tcp -j ACCEPT\nCOMMIT\n")
	for text, want := range map[string]string{"-A u -j nowhere": "nowhere", "-R u 1 -g nowhere": "nowhere", "-A v -j u": "loop", "-I u 1 -j u": "loop"} {
		if _, _, err := edit(rs, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, _, err := edit(rs, "-A u -p udp -j v"); err != nil {
		t.Error(err)
	}
}
