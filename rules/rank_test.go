package rules

import (
	"fmt"
	"slices"
	"testing"
)

// tighten leaves fewer ranks free in a rule set that was just compiled, as if it had very many rules.
func tighten(rs *Ruleset, gap uint8) {
	for f := range rs.prog {
		g := &rs.prog[f]
		tight := func(rank uint32) uint32 { return rank>>g.gap<<gap | (1<<gap - 1) }
		for i := range g.narrow {
			x := &g.narrow[i]
			x.meta = x.meta&(1<<rankShift-1) | uint64(tight(x.ranked()))<<rankShift
		}
		for i := range g.wide {
			x := &g.wide[i]
			x.rule = x.rule&more | tight(x.ranked())
		}
		g.gap = gap
	}
}

// TestRanks: rules that come to one place in any way get ranks in their order, also where room has to be made for them, and so
// do those around them; other rules keep theirs as long as none has to be made.
func TestRanks(t *testing.T) {
	const text = "*filter\n:FORWARD DROP [0:0]\n:u - [0:0]\n-A FORWARD -p 1 -j ACCEPT\n-A FORWARD -p 2 -j u\n-A FORWARD -p 3 -j ACCEPT\n-A u -p 4 -j ACCEPT\nCOMMIT\n"
	for name, number := range map[string]func(k, n int) int{
		"first":          func(k, n int) int { return 1 },
		"last":           func(k, n int) int { return n + 1 },
		"before two":     func(k, n int) int { return n - 1 },
		"one place":      func(k, n int) int { return 2 },
		"behind another": func(k, n int) int { return 2 + k },
		"in between":     func(k, n int) int { return 2 + k/2 },
	} {
		seldom := map[string]int{"in between": maxOverlay / 2}[name] // each of those who halve what is free
		if seldom == 0 {
			seldom = maxOverlay / 32
		}
		for _, chain := range []string{"FORWARD", "u"} {
			for _, gap := range []uint8{2, 3, 4, maxGap} {
				rs := mustCompile(t, text)
				tighten(rs, gap)
				made := 0
				for k := range maxOverlay {
					n := rs.lists[slices.IndexFunc(rs.chains, func(c ChainInfo) bool { return c.Name == chain })].Len()
					_, list, err := ParseRule("t", "filter", Both, fmt.Sprintf("-A %s -p %d -j DROP", chain, 10+k%90))
					if err != nil {
						t.Fatal(err)
					}
					to, _, err := rs.Insert(Place{"filter", chain, Both, min(max(1, number(k, n)), n+1)}, list[0])
					if err != nil {
						t.Fatal(err)
					}
					if to.patches != k+1 {
						t.Fatalf("%s of %s, gap %d: everything was compiled anew after %d changes", name, chain, gap, k)
					}
					for f := range filterPlace + 2 {
						if len(to.prog[f].rules) > len(rs.prog[f].rules) {
							made++
						}
						if s := misplaced(to, f); s != "" {
							t.Fatalf("%s of %s, gap %d, change %d: %s", name, chain, gap, k, s)
						}
					}
					rs = to
				}
				if gap < maxGap && made == 0 || made > 2*seldom {
					t.Errorf("%s of %s, gap %d: room was made %d times", name, chain, gap, made)
				}
			}
		}
	}
}

// TestRankReplaced: a rule that comes before one that came in the place of another, or behind it, stands there.
func TestRankReplaced(t *testing.T) {
	for _, do := range []string{"-I FORWARD 2 -p 9", "-I FORWARD 3 -p 9", "-R FORWARD 2 -p 9", "-D FORWARD 2"} {
		rs := mustCompile(t, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p 1\n-A FORWARD -p 2\n-A FORWARD -p 3\nCOMMIT\n")
		for k, do := range []string{"-R FORWARD 2 -p 7 -j DROP", do, "-I FORWARD 2 -p 8"} {
			to, _, err := edit(rs, do)
			if err != nil || to.Patches() != k+1 {
				t.Fatalf("%s: %d changes, error %v", do, to.Patches(), err)
			}
			rs = to
			if s := misplaced(rs, filterPlace); s != "" {
				t.Errorf("%s: %s", do, s)
			}
		}
	}
}

// misplaced says what is wrong with the ranks of a program's rules.
func misplaced(rs *Ruleset, f int) string {
	g := &rs.prog[f]
	for name, n := range g.names {
		var want, got []RuleID
		for i, c := range rs.chains {
			if c.Name == name && c.Table == baseTable[f/2].table {
				for id := range rs.lists[i].All() {
					if rs.info(id).Family&(1<<(f&1)) != 0 {
						want = append(want, id)
					}
				}
			}
		}
		last := -1
		for rank := range g.ranks(g.chains[n]) {
			got = append(got, g.rule(rank).id)
			if int(rank) <= last || rank >= 1<<rankBits {
				return fmt.Sprintf("rank %d behind %d", rank, last)
			}
			last = int(rank)
			if back, ok := g.rankOfRule(g.chains[n], g.rule(rank).id); !ok || back != rank {
				return fmt.Sprintf("rule %d has rank %d, and is found at %d", g.rule(rank).id, rank, back)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Sprintf("the rules of %s are %v, and should be %v", name, got, want)
		}
	}
	return ""
}

// TestGapFor: as many rules as there may be leave ranks free, and all have one.
func TestGapFor(t *testing.T) {
	for _, n := range []int{1, 1000, 10_000, 100_000, MaxRules} {
		gap := gapFor(n)
		if gap < minGap || uint64(n)<<gap > 1<<rankBits || gap < maxGap && uint64(2*n+n/32)<<gap <= 1<<rankBits {
			t.Errorf("%d rules: %d bits", n, gap)
		}
	}
}
