package rules

import (
	"strings"
	"testing"
)

// TestFirst: where first decides it decides as run does, and it does so for many packets.
func TestFirst(t *testing.T) {
	packets, decided := 0, 0
	for seed := range uint64(60) {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(seed, 9)
		x := &changed{table: "filter", fam: fam, policy: g.Pick("ACCEPT", "DROP"), names: []string{"FORWARD", "u"}, lines: make(map[string][]string)}
		for _, n := range x.names {
			for range g.IntN([]int{10, 100, 600}[seed%3]) {
				verb := g.Pick(" -j DROP", " -j ACCEPT", " -j ACCEPT", " -j RETURN", " -j LOG", "", " -j u")
				if n == "u" && verb == " -j u" {
					verb = ""
				}
				if l := "-A " + n + g.Conditions(version(fam), false) + verb; !strings.Contains(l, "nth") && !strings.Contains(l, "quota") {
					x.lines[n] = append(x.lines[n], l)
				}
			}
		}
		f, err := Parse("first", x.text(), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{InsideName: "eth0", OutsideName: "eth1", Clock: true, Wall: true, Counts: true})
		if err != nil {
			t.Fatal(err)
		}
		place := filterPlace
		if fam == IPv6 {
			place++
		}
		m := rs.NewMatcher()
		for range 100 {
			p, c := g.packet(g.Flow(version(fam)))
			w := walk{m: m, g: &rs.prog[place], policy: rs.policyID(place)}
			w.h.fill(p, c)
			if !w.h.whole {
				continue
			}
			packets++
			v, id, ok := m.decide(w.g, w.policy, &w.h)
			if !ok {
				continue
			}
			decided++
			if v2, id2 := w.run(p, c); v != v2 || id != id2 || w.path != uint32(id)+1 {
				t.Fatalf("seed %d: %v by %s, want %v by %s\n%s", seed, v, rs.RuleName(id), v2, rs.RuleName(id2), x.text())
			}
		}
	}
	if decided < packets/5 {
		t.Errorf("%d of %d packets were decided", decided, packets)
	}
}

// TestWork: the counts of a lookup that can be seen by hand.
func TestWork(t *testing.T) {
	rs := mustCompile(t, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -s 10.0.0.1 -j ACCEPT\n-A FORWARD -s 10.0.0.2 -j ACCEPT\nCOMMIT\n")
	g := newGenerator(1, 1)
	for range 20 {
		p, c := g.packet(g.Flow(4))
		w := rs.Work(p, c)
		want := Work{Trees: 1, Entries: 2}
		if p.Src.Netip().As4() == [4]byte{10, 0, 0, 1} {
			want.Entries = 1
		}
		if want := 4 + w.Entries/2; w.Lines < want-1 || w.Lines > want { // the root, the entries, their shapes, the places behind the first one, and the rule where there is one
			t.Errorf("%d cache lines", w.Lines)
		}
		w.Lines = 0
		if w != want {
			t.Fatalf("%v: %+v, want %+v", p.Src, w, want)
		}
	}
}
