package rules

import (
	"fmt"
	"strings"
	"testing"
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
	rs, err := Compile([]*File{f}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range rs.Check() {
		got = append(got, w.String())
	}
	want := []string{
		"t:6:4: rule FORWARD 2 is never reached: FORWARD 1 in line 5 takes every packet that it would match",
		"t:8:4: rule FORWARD 4 is never reached: FORWARD 1 in line 5 takes every packet that it would match",
		"t:11:4: rule FORWARD 7 is never reached: FORWARD 6 in line 10 takes every packet that it would match",
		"t:15:4: rule used 3 is never reached: used 2 in line 14 takes every packet that it would match",
		"t:4:2: chain unused is not reached from FORWARD",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCheckRandom: what is called unreachable is reached by no packet.
func TestCheckRandom(t *testing.T) {
	found := 0
	for seed := range uint64(120) {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(seed, 9)
		f, err := Parse("random", []byte(g.RuleSet(version(fam))), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := rs.NewMatcher()
		for range 300 {
			p, c := g.packet(g.Flow(version(fam)))
			m.Count(m.Match(p, c).Trace, 1)
		}
		n := make([]Counter, rs.Counters())
		m.Counters(n)
		for _, w := range rs.Check() {
			var name string
			var number int
			if _, err := fmt.Sscanf(w.Text, "rule %s %d is never", &name, &number); err != nil {
				continue
			}
			found++
			for id, r := range rs.Rules() {
				if r.Table == "filter" && r.Chain == name && r.Number == number && n[id].Packets > 0 {
					t.Errorf("seed %d: %s, but %d packets reached it", seed, w.Text, n[id].Packets)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no unreachable rule in any set")
	}
	t.Logf("%d rules unreachable", found)
}
