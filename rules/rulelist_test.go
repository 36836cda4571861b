package rules

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRuleList: a list that many changes are made of is what the same changes make of a plain one, and those before stay what they
// were.
func TestRuleList(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 6))
		first := RuleID(r.IntN(5))
		l := RuleList{first: first, end: first + RuleID(r.IntN(12))}
		var plain []RuleID
		for id := l.first; id < l.end; id++ {
			plain = append(plain, id)
		}
		next := l.end + 20
		for range 60 {
			old, was := l, slices.Clone(plain)
			if k := r.IntN(len(plain) + 1); k < len(plain) && r.IntN(2) == 0 {
				gone := plain[k]
				l, plain = l.remove(k), slices.Delete(plain, k, k+1)
				if l.index(gone) != -1 {
					t.Fatalf("seed %d: rule %d, which went, is at %d", seed, gone, l.index(gone))
				}
			} else {
				l, plain = l.insert(k, next), slices.Insert(plain, k, next)
				next++
			}
			for _, x := range []struct {
				l    RuleList
				want []RuleID
			}{{l, plain}, {old, was}} {
				if got := slices.Collect(x.l.All()); !slices.Equal(got, x.want) || x.l.Len() != len(got) {
					t.Fatalf("seed %d: %d rules %v, want %v", seed, x.l.Len(), got, x.want)
				}
				for i, id := range x.want {
					if x.l.At(i) != id || x.l.index(id) != i {
						t.Fatalf("seed %d: rule %d of %v is %d, and %d is at %d", seed, i, x.want, x.l.At(i), id, x.l.index(id))
					}
				}
			}
		}
	}
}
