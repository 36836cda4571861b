package rules

import "corewire/internal/packet"

// Work is what a lookup in the rules costs, in counts that no clock blurs.
type Work struct {
	Trees   int // trees of the chain
	Nodes   int // nodes visited on the way to the leaves
	Entries int // entries compared
	Lines   int // distinct cache lines of 64 bytes read, the trees' roots and the rule found included
}

// Add adds another lookup's.
func (w *Work) Add(x Work) {
	w.Trees += x.Trees
	w.Nodes += x.Nodes
	w.Entries += x.Entries
	w.Lines += x.Lines
}

// Work counts what finding the first rule of filter's FORWARD costs for a packet with a whole transport header: a slow twin of
// what Match does first, for measurements.
func (rs *Ruleset) Work(p *packet.Packet, c *Context) Work {
	g := &rs.prog[filterPlace]
	if p.Family == 6 {
		g = &rs.prog[filterPlace+1]
	}
	var h header
	h.fill(p, c)
	var w Work
	const (
		inTrees = iota << 32
		inSlots
		inPlaces
		inEntries
		inShapes
		inRules
	)
	lines := make(map[uint64]bool)
	read := func(array, index, size uint64) {
		for at := index * size; at < (index+1)*size; at++ {
			lines[array|at/64] = true
		}
	}
	size := uint64(16)
	if g.v6 {
		size = 80
	}
	best := none
	ch := g.chains[0]
	for t, s := range g.trees[ch.first : ch.first+ch.n] {
		w.Trees++
		read(inTrees, uint64(ch.first)+uint64(t), 8)
		for !s.leaf() {
			w.Nodes++
			read(inSlots, uint64(s.child(&h)), 8)
			s = g.slots[s.child(&h)]
		}
		for ; s != 0; s = s.behind(g.places) {
			w.Entries++
			n := s.entry()
			read(inEntries, uint64(n), size)
			if !g.v6 {
				read(inShapes, uint64(g.narrow[n].shape()), 16)
			}
			r := g.rankOf(n)
			if r >= best {
				break
			}
			k := cursor{at: slot(n+1) << entryShift} // it alone
			if g.v6 {
				g.scanWide(&h, &k, 0)
			} else {
				g.scanNarrow(&h, &k, 0)
			}
			if k.rank != none {
				best = r
				break
			}
			if s < 1<<moreShift {
				read(inPlaces, uint64(uint32(s)), 8)
			}
		}
	}
	if best != none {
		read(inRules, uint64(best>>g.gap), 4)
	}
	w.Lines = len(lines)
	return w
}
