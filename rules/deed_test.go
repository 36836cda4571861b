package rules

import (
	"fmt"
	"strings"
	"testing"
)

// TestManyDeeds: where rules do more different things than one has room to name, each still does its own, before changes and after,
// also when it is a change that makes them too many.
func TestManyDeeds(t *testing.T) {
	for _, n := range []int{deedsMost - 2, deedsMost, deedsMost + 200} {
		var b strings.Builder
		b.WriteString("*filter\n:FORWARD DROP [0:0]\n")
		for i := range n {
			fmt.Fprintf(&b, "-A FORWARD -s 10.%d.%d.0/24 -m length --length %d -j ACCEPT\n", i>>8, i&255, i)
		}
		rs := mustCompile(t, b.String()+"COMMIT\n")
		if g := &rs.prog[filterPlace]; (len(g.deeds) > deedsMost+1) != (g.does != nil) {
			t.Errorf("%d deeds, %d rules that name them apart", len(g.deeds), len(g.does))
		}
		for i := range 6 {
			_, list, err := ParseRule("line", "filter", Both, fmt.Sprintf("-A FORWARD -s 10.200.%d.0/24 -m length --length %d -j ACCEPT", i, i))
			if err != nil {
				t.Fatal(err)
			}
			if rs, _, err = rs.Insert(Place{Table: "filter", Chain: "FORWARD", Family: Both, Number: 1 + i*300}, list[0]); err != nil {
				t.Fatal(err)
			}
		}
		g := &rs.prog[filterPlace]
		for rank := range g.ranks(g.chains[0]) {
			d, text := g.deed(rank), rs.info(g.rule(rank).id).Rule.Text
			if q := g.preds[d.pred]; d.rest != 1 || fmt.Sprint(q.lo) != strings.Fields(text)[7] {
				t.Fatalf("%d rules, rank %d: %+v, %+v of %s", n, rank, *d, q, text)
			}
		}
	}
}
