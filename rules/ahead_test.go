package rules

import (
	"fmt"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/rules/rulestest"
)

// TestPrepare: for bursts of any length, with packets that changed or changed places in between, in any state, MatchPrepared
// returns what Match does, after changes of rules too; and it has something to return for many.
func TestPrepare(t *testing.T) {
	packets, settled := 0, 0
	for seed := range uint64(60) {
		fam := []Family{IPv4, IPv4, IPv6}[seed%3]
		g := newGenerator(seed, 12)
		x := &changed{table: "filter", fam: fam, policy: g.Pick("ACCEPT", "DROP"), names: []string{"FORWARD", "u"}, lines: make(map[string][]string)}
		line := func(chain, verb string) string {
			for {
				l := "-A " + chain + g.Conditions(version(fam), false) + verb
				// Their answers depend on how often they are asked.
				if !strings.Contains(l, "-m limit") && !strings.Contains(l, "-m statistic") && !strings.Contains(l, "-m quota") {
					return l
				}
			}
		}
		for _, n := range x.names {
			for range g.IntN([]int{5, 60, 400}[seed/3%3]) {
				verb := g.Pick(" -j DROP", " -j ACCEPT", " -j ACCEPT", " -j REJECT", " -j LOG", "", " -j u")
				if n == "u" && verb == " -j u" {
					verb = " -j RETURN"
				}
				x.lines[n] = append(x.lines[n], line(n, verb))
			}
		}
		f, err := Parse("ahead", x.text(), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{InsideName: "eth0", OutsideName: "eth1", Clock: true, Wall: true, Counts: true, Logs: seed%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			m := rs.NewMatcher()
			for range 12 {
				n, s := burstOf(t, g, m, fam)
				packets, settled = packets+n, settled+s
			}
			verb := g.Pick(" -j DROP", " -j ACCEPT")
			chain, list, err := ParseRule("line", "filter", fam, line("FORWARD", verb))
			if err != nil {
				t.Fatal(err)
			}
			at := Place{Table: "filter", Chain: chain, Family: fam, Number: 1 + g.IntN(1+len(rs.Chains()[0].Rules))}
			if rs, _, err = rs.Insert(at, list[0]); err != nil {
				t.Fatal(err)
			}
			at.Number = 1 + g.IntN(len(rs.Chains()[0].Rules))
			if rs, _, err = rs.Delete(at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if settled < packets/20 {
		t.Errorf("%d of %d packets were settled", settled, packets)
	}
}

// burstOf compares Match and MatchPrepared for one burst, and says how many packets were judged and how many of these were
// settled by Prepare.
func burstOf(t *testing.T, g generator, m *Matcher, fam Family) (n, settled int) {
	t.Helper()
	n = g.IntN(BurstSize + 9)
	pkts, list := make([]packet.Packet, n), make([]*Context, n)
	var flow rulestest.Flow
	for i := range pkts {
		if i == 0 || g.IntN(3) > 0 {
			flow = g.Flow(version(fam))
		}
		p, c := g.packet(flow)
		if g.IntN(2) == 0 {
			c.State = New
		}
		pkts[i], list[i] = *p, c
		if g.IntN(8) == 0 {
			pkts[i].Hint = 1
		}
	}
	m.Prepare(pkts)
	for i := range pkts {
		p, c := &pkts[i], list[i]
		other := g.IntN(n)
		switch g.IntN(16) {
		case 0:
			p.In = p.In.Other()
		case 1:
			p.SrcPort++
		case 2:
			p.DstPort--
		case 3:
			p.Src, p.Dst = p.Dst, p.Src
		case 4:
			p.Src.Hi ^= 1
		case 5:
			p.Flags &^= packet.PortsValid
		case 6:
			p.Flags |= packet.ICMPError
		case 7:
			p.Flags |= packet.LaterFragment
		case 8:
			*p = pkts[other]
		case 9:
			c.State = State(g.IntN(int(States)))
		case 10:
			if p.End > p.L4 {
				p.End -= uint32(g.IntN(int(p.End-p.L4) + 1)) // a short transport header has no ports
				p.Flags &^= packet.PortsValid
			}
		}
		b, d := *c, *c
		want := m.Match(p, &b)
		logged := fmt.Sprint(m.Logged())
		got := m.MatchPrepared(i, p, &d)
		if got != want || fmt.Sprint(m.Logged()) != logged {
			t.Fatalf("packet %d of %d, %+v: %+v, want %+v", i, n, *p, got, want)
		}
		if i < BurstSize && m.ahead.lanes[i].found != 0 && c.State == New {
			settled++
		}
	}
	return n, settled
}

// TestPrepareAllocates nothing, and neither does what comes behind it.
func TestPrepareAllocates(t *testing.T) {
	set, text := classBench(t, "acl1_1k")
	m := compiled(t, text).NewMatcher()
	pkts := headers(set, BurstSize, 2)
	c := Context{State: New}
	if n := testing.AllocsPerRun(100, func() {
		m.Prepare(pkts)
		for i := range pkts {
			m.MatchPrepared(i, &pkts[i], &c)
		}
	}); n != 0 {
		t.Errorf("%v allocations a burst", n)
	}
}
