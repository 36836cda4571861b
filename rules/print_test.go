package rules

import (
	"fmt"
	"strings"
	"testing"
)

// TestPrint: rules that print the same have the same print: each rule has that of what is read of what it prints, of whatever kind, and
// of addresses that are written and not asked for.
func TestPrint(t *testing.T) {
	prints := map[uint32]bool{}
	every := 0 // addresses that hold something and are not asked for
	check := func(text string, fam Family) {
		f, err := Parse("t", []byte(text), fam)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for _, table := range f.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					line := string(r.AppendSave(nil, c.Name))
					_, again, err := ParseRule("t", table.Name, r.Family, line)
					if err != nil || len(again) != 1 {
						t.Fatalf("%s prints as %s: %d rules, %v", r.Text, line, len(again), err)
					}
					if r.print() != again[0].print() {
						t.Errorf("%s of %s prints as %s, and has another print", r.Text, fam, line)
					}
					prints[r.print()] = true
					for _, a := range []AddrMatch{r.Src, r.Dst} {
						if !a.Set && !a.Not && a.Addr.Lo != 0 {
							every++
						}
					}
				}
			}
		}
	}
	for seed := range uint64(60) {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(seed, 7)
		g.Memory = true
		check(g.RuleSet(version(fam)), fam)
	}
	for fam, nets := range map[Family][]string{IPv4: {"0.0.0.0/0", "1.2.3.4/0", "0/0.0.0.0", "10.0.0.0/8"}, IPv6: {"::/0", "2001:db8::1/0", "::/::", "2001:db8::/32"}} {
		var b strings.Builder
		b.WriteString("*filter\n")
		for _, src := range nets {
			for _, dst := range nets {
				for _, not := range []string{"", "! "} {
					fmt.Fprintf(&b, "-A FORWARD %s-s %s -j ACCEPT\n-A FORWARD -d %s -j ACCEPT\n-A FORWARD -s %s %s-d %s -p tcp -j DROP\n", not, src, dst, src, not, dst)
				}
			}
		}
		check(b.String()+"COMMIT\n", fam)
	}
	if every == 0 || len(prints) < 1000 {
		t.Errorf("%d addresses that are not asked for, %d different prints: the test proves little", every, len(prints))
	}
}

// TestDeleteEveryAddress: a rule is found by its words whether they say every address or none, as with iptables, for both print the same.
func TestDeleteEveryAddress(t *testing.T) {
	for fam, net := range map[Family]string{IPv4: "0.0.0.0/0", IPv6: "::/0"} {
		words := []string{"-p tcp -j DROP", "-s " + net + " -p tcp -j DROP", "-d " + net + " -p tcp -j DROP", "-s " + net + " -d " + net + " -p tcp -j DROP"}
		for _, have := range words {
			for _, given := range words {
				f, err := Parse("t", []byte("*filter\n-A FORWARD -p udp -j ACCEPT\n-A FORWARD "+have+"\nCOMMIT\n"), fam)
				if err != nil {
					t.Fatal(err)
				}
				rs, err := Compile([]*File{f}, Options{})
				if err != nil {
					t.Fatal(err)
				}
				came, _, err := edit(rs, "-I FORWARD 2 "+have) // a rule that came by a change is found likewise
				if err != nil {
					t.Fatal(err)
				}
				for _, from := range []*Ruleset{rs, came} {
					to, _, err := edit(from, "-D FORWARD "+given)
					if err != nil {
						t.Errorf("%s: delete %q of %q: %v", fam, given, have, err)
						continue
					}
					if n := strings.Count(saved(to, fam), "-p tcp -j DROP\n"); n != from.Len()-2 || to.Len() != from.Len()-1 {
						t.Errorf("%s: delete %q of %q: %d of the rules are left, %d in all", fam, given, have, n, to.Len())
					}
				}
			}
		}
	}
}
