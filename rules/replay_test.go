package rules

import "testing"

// TestReplay: changes made of a rule set and carried out on it compiled anew give the same rules, each with what it was mapped to.
func TestReplay(t *testing.T) {
	replayed := 0
	for seed := range uint64(20) {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(seed, 31)
		x := &changed{table: "filter", fam: fam, policy: "DROP", names: []string{"FORWARD", "u0", "u1"}, lines: map[string][]string{
			"FORWARD": {"-A FORWARD -p 17 -j u0", "-A FORWARD -j ACCEPT"}, "u0": {"-A u0 -p 17 -j u1"}, "u1": {"-A u1 -j RETURN"}}}
		f, err := Parse("replay", x.text(), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{Logs: true, Clock: true, Wall: true, Counts: true, InsideName: "eth0", OutsideName: "eth1"})
		if err != nil {
			t.Fatal(err)
		}
		for range g.IntN(10) {
			rs = x.step(t, g, rs)
		}
		from := rs
		compiled, m, err := from.Recompile()
		if err != nil {
			t.Fatal(err)
		}
		for range g.IntN(20) {
			rs = x.step(t, g, rs)
		}
		to, m, ok := rs.Replay(from, compiled, m)
		if ok != (rs == from || rs.Follows(from)) {
			t.Fatalf("seed %d: carried out %v, and follows %v", seed, ok, rs.Follows(from))
		}
		if !ok {
			continue
		}
		replayed += rs.patches - from.patches
		if s := same(rs, to); s != "" {
			t.Fatalf("seed %d: %s", seed, s)
		}
		for id, info := range rs.Rules() {
			if now := m.New(id); now == NoRule || to.info(now).Rule != info.Rule {
				t.Fatalf("seed %d: %s became rule %d", seed, rs.RuleName(id), now)
			}
		}
		if rs.Patches() > 0 && to.Patches() != rs.patches-from.patches {
			t.Errorf("seed %d: %d changes of %d", seed, to.Patches(), rs.patches-from.patches)
		}
	}
	if replayed < 50 {
		t.Errorf("%d changes were carried out again", replayed)
	}
}
