package rules

// first is the way of nearly all packets: the first rule of the chain that they enter by agrees by its entry alone and
// decides. It does what run does, without what is only needed to go on behind a rule. It returns none when no rule agrees,
// and a verb that does not decide when run has to look.
//
// All trees first, then the runs: the memory accesses of each step do not wait for one another. A run is left where the
// ranks are beyond what another one has given.
func (g *program) first(h *header) (rank uint32, verb Verb) {
	ch := g.chains[0]
	var leaves [treeSlots]slot
	slots := g.slots
	trees := g.trees[ch.first : ch.first+ch.n]
	for t, s := range trees {
		for !s.leaf() {
			s = slots[s.child(h)]
		}
		leaves[t&(treeSlots-1)] = s
	}
	if g.v6 {
		return g.firstWide(h, leaves[:len(trees)])
	}
	q := h.probe()
	places, list := g.places, g.narrow
	best, found := none, VerbNone
	shapes := g.shapes
	for _, s := range leaves[:len(trees)] {
		for ; s != 0; s = s.behind(places) {
			x := &list[s.entry()]
			s := &shapes[x.shape()]
			r := x.ranked()
			if off := x.off(s, &q, h.allow); off == 0 || r >= best {
				if r < best {
					best, found = r, s.verb()
				}
				break
			}
		}
	}
	return best, found
}

// firstWide is the end of first for IPv6.
func (g *program) firstWide(h *header, leaves []slot) (rank uint32, verb Verb) {
	src, dst := h.addrs()
	sport, dport, proto, bit := h.sport(), h.dport(), h.proto(), h.allow&15
	best, entry := none, uint32(0)
	for _, s := range leaves {
		for ; s != 0; s = s.behind(g.places) {
			n := s.entry()
			x := &g.wide[n]
			off := (src.Hi^x.src.Hi)&x.srcMask.Hi | (src.Lo^x.src.Lo)&x.srcMask.Lo |
				(dst.Hi^x.dst.Hi)&x.dstMask.Hi | (dst.Lo^x.dst.Lo)&x.dstMask.Lo | uint64((proto^x.proto)&x.protoMask)
			low := (uint32(x.sportSpan) - uint32(sport-x.sport)) >> 16
			low |= (uint32(x.dportSpan) - uint32(dport-x.dport)) >> 16
			low |= ^(uint32(x.allow) >> bit) & 1
			if r := x.rule &^ more; off|uint64(low) == 0 || r >= best {
				if r < best {
					best, entry = r, n
				}
				break
			}
		}
	}
	if best == none {
		return none, VerbNone
	}
	x := &g.wide[entry]
	if x.rule >= more {
		return best, VerbNone
	}
	return best, Verb(x.allow >> verbShift)
}

// decide is first for a packet. ok is false when run has to look.
func (m *Matcher) decide(g *program, policy RuleID, h *header) (v Verdict, id RuleID, ok bool) {
	rank, verb := g.first(h)
	switch {
	case rank == none:
		return g.policy, policy, true
	case verb == VerbAccept:
		return Accept, g.rule(rank).id, true
	case verb == VerbDrop || verb == VerbReject:
		return Drop, g.rule(rank).id, true
	}
	return Drop, 0, false
}
