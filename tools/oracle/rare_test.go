package main

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"corewire/rules"
	"corewire/rules/rulestest"
)

// rareTrial makes a rule set that asks for what few rule files ask, and frames. Even seeds are IPv4, odd ones IPv6.
func rareTrial(seed uint64) *trial {
	t := &trial{name: fmt.Sprintf("rare-%d", seed), family: rules.IPv4}
	version := 4
	if seed%2 == 1 {
		t.family, version = rules.IPv6, 6
	}
	g := rulestest.New(seed, 24)
	g.Side = rulestest.Kernel
	t.text = g.Rare(version)
	f, err := rules.Parse(t.name, []byte(t.text), t.family)
	if err != nil {
		return t // run tells what is wrong with the text
	}
	t.frames = newShaper(rand.New(rand.NewPCG(seed, 25)), f, t.family, t.options()).stream(framesPerSet)
	return t
}

// Programs, segment routing, DCCP, IPComp, nodes of a cluster, marks made of hashes, and what no packet of a wire has: each
// counts as in the kernel, with a fixed seed and, if asked, with one at random, which the log has. Each option decides both ways.
func TestRare(t *testing.T) {
	j := newTestJudges(t)
	n := *judged / 2
	if testing.Short() {
		n /= 4
	}
	for name, seed := range seeds() {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			s := newRuleSummary(seed)
			j.cover = s.cover
			defer func() { j.cover = nil }()
			for i := uint64(0); s.Pairs < n; i++ {
				x := rareTrial(seed<<20 + i)
				if err := j.judge(s, x); err != nil {
					t.Fatalf("%v\n%s", err, x.text)
				}
				if len(s.Differences) > 0 {
					t.Fatalf("seed %d: %s", seed, s.Differences[0])
				}
			}
			if name == "fixed" && !testing.Short() {
				for _, option := range []string{"bpf --bytecode", "dccp --dccp-types", "dccp ! --dccp-types", "dccp --dccp-option", "ipcomp --ipcompspi", "ipcomp ! --ipcompspi", "cluster --cluster-local-node",
					"cluster ! --cluster-local-node", "cluster --cluster-local-nodemask", "rt --rt-type", "rt --rt-len", "rt --rt-segsleft", "rt --rt-0-addrs", "srh --srh-next-hdr",
					"srh --srh-tag", "srh --srh-hdr-len-eq", "srh --srh-hdr-len-gt", "srh --srh-hdr-len-lt", "srh --srh-segs-left-eq", "srh --srh-segs-left-gt", "srh --srh-segs-left-lt",
					"srh --srh-last-entry-eq", "srh --srh-last-entry-gt", "srh --srh-last-entry-lt", "srh --srh-psid", "srh --srh-nsid", "srh --srh-lsid", "srh ! --srh-psid", "owner --uid-owner", "realm --realm"} {
					if n := s.cover.options[option]; n == nil || n[1] == 0 && option != "owner --uid-owner" {
						t.Errorf("%s never held", option)
					}
				}
			}
			t.Logf("seed %d, %v: %d pairs of %d rule sets, %d of %d rules counted; not comparable %v, known %v",
				seed, time.Since(begin).Round(time.Millisecond), s.Pairs, s.Sets, s.RulesHit, s.Rules, s.Skipped, s.Odd)
		})
	}
}
