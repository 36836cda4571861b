package dataplane

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"corewire/internal/ipset"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// TestSetsChanged changes sets and rules at random, so often that the numbers of the epochs are used up several times, while
// connections go on: each packet gets the verdict that sets and rules give at that moment, and a connection for which no set
// was asked keeps its cached verdict when sets change.
func TestSetsChanged(t *testing.T) {
	ctx := context.Background()
	sets := ipset.New(ipset.Options{})
	do := func(words ...string) {
		t.Helper()
		if _, err := sets.Do(words, true, 0); err != nil {
			t.Fatal(err)
		}
	}
	do("create", "blocked", "hash:ip")
	texts := []string{
		"-A FORWARD -p udp --dport 53 -j ACCEPT\n-A FORWARD -m set --match-set blocked src -j DROP\n-A FORWARD -j ACCEPT",
		"-A FORWARD -p udp --dport 54 -j ACCEPT\n-A FORWARD -p udp --dport 53 -m set --match-set blocked src -j DROP\n-A FORWARD -p udp --dport 53 -j ACCEPT",
	}
	var in []*rules.Ruleset
	for _, text := range texts {
		f, err := rules.Parse("test.rules", []byte(filter(text)), rules.Both)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := rules.Compile([]*rules.File{f}, rules.Options{Sets: sets})
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, rs)
	}
	r := newRig(t, 1, "", func(c *Config) { c.Ruleset, c.Sets = in[0], sets })
	rnd := rand.New(rand.NewPCG(1, 2))
	const hosts = 4
	blocked := [hosts]bool{}
	rule := 0
	warm := map[netip.AddrPort]bool{} // their verdict is cached, and no set was asked for it
	kept := 0
	for step := range 6000 {
		host := rnd.IntN(hosts)
		src := pt.AP(fmt.Sprintf("10.0.0.%d:1000", host+1))
		switch rnd.IntN(8) {
		case 0:
			verb := "add"
			if blocked[host] = !blocked[host]; !blocked[host] {
				verb = "del"
			}
			do(verb, "blocked", src.Addr().String())
			if err := r.e.SetsChanged(ctx); err != nil {
				t.Fatal(err)
			}
		case 1:
			if rnd.IntN(4) == 0 {
				rule = 1 - rule
				if err := r.e.SetRuleset(ctx, in[rule]); err != nil {
					t.Fatal(err)
				}
				clear(warm)
			}
		default:
			port := uint16(53 + rnd.IntN(2))
			want := Accept
			asked := (rule == 0) != (port == 53)
			if asked && blocked[host] {
				want = Drop
			}
			before := r.cached()
			src = netip.AddrPortFrom(src.Addr(), 1000+port)
			got := r.send(packet.Inside, pt.NewUDP(src, netip.AddrPortFrom(netip.MustParseAddr("10.9.9.9"), port)))
			if got.Verdict != want {
				t.Fatalf("step %d: port %d of host %d, blocked %v, rules %d: %v", step, port, host, blocked[host], rule, got.Verdict)
			}
			switch hit := r.cached() > before; {
			case warm[src] && !hit && r.e.epochs != firstEpochs():
				t.Fatalf("step %d: the verdict of a connection that asked no set was forgotten", step)
			case warm[src] && hit:
				kept++
			}
			// The first packet of a connection is judged in state NEW, and so are those behind it in the same direction.
			warm[src] = !asked && want == Accept
		}
		if r.e.epochs == firstEpochs() {
			clear(warm)
		}
	}
	if kept < 500 {
		t.Errorf("%d packets by verdicts that were kept", kept)
	}
}
