package rules

// A leaf is a run: entries in order of rank that a header is compared with, one by one. Entries are numbered as leaves meet them, so
// that a run begins with some that lie behind one another, which the slot names itself. Few leaves need more: the slot leads on to
// another one of the same form, in places, and so on. Runs that end alike share their ends.
//
//	0 | more:5 | entry:26 | next:32    the entry and so many more behind it, then those of place next
//
// Entries are numbered from 1 here. 0 is an empty run, and so is place 0, which the last part of a run leads to.
const (
	moreShift  = 58
	moreMax    = 1<<5 - 1
	entryShift = 32
	entryMask  = 1<<(moreShift-entryShift) - 1
)

// There is room for the entries of all rules, and of all changes: each may write those of a mark and those of a rule.
const _ = uint(entryMask - MaxRules*maxBoxes - 2*maxPatches*maxBoxes)

// entry returns the index of a run's first entry. The run is not empty.
func (s slot) entry() uint32 { return uint32(s>>entryShift)&entryMask - 1 }

// behind returns the run that is left behind a run's first entry.
func (s slot) behind(places []slot) slot {
	if s >= 1<<moreShift {
		return s - 1<<moreShift + 1<<entryShift
	}
	return places[uint32(s)]
}

// below returns the slots of the subtree of a node: they are one run, for a subtree is written at once, and belongs to one node alone.
func (g *program) below(s slot) []slot {
	first, end := uint32(s), uint32(0)
	for !s.leaf() {
		end = uint32(s) + s.mask() + 1
		last := slot(0) // the child that was written last
		for _, c := range g.slots[uint32(s):end] {
			if !c.leaf() && uint32(c) >= uint32(last) {
				last = c
			}
		}
		s = last
	}
	return g.slots[first:end]
}

// run makes a leaf of the entries of boxes.
func (b *builder) run(list []uint32) slot {
	entries := b.entries[:0]
	for _, i := range list {
		x := &b.boxes[i]
		if !b.last && x.copies >= maxCopies {
			if x.copies == maxCopies {
				b.out = append(b.out, i)
				x.copies++
			}
			continue
		}
		x.copies++
		if x.entry == 0 {
			b.g.appendEntry(x)
			x.entry = uint32(b.g.entries())
		}
		entries = append(entries, x.entry)
	}
	b.entries = entries
	b.budget -= len(entries)
	run := slot(0)
	for end := len(entries); end > 0; {
		first := end - 1
		for first > 0 && entries[first-1]+1 == entries[first] && end-first <= moreMax {
			first--
		}
		run = slot(end-first-1)<<moreShift | slot(entries[first])<<entryShift | b.place(run)
		end = first
	}
	return run
}

// place writes what is left of a run, unless it is there already, and returns where.
func (b *builder) place(run slot) slot {
	if run == 0 {
		return 0
	}
	known := &b.places[uint64(run)*0x9e3779b97f4a7c15>>(64-placeBits)]
	if n := *known; n > 0 && n < uint32(len(b.g.places)) && b.g.places[n] == run { // it may be of another program
		return slot(n)
	}
	*known = uint32(len(b.g.places))
	b.g.places = append(b.g.places, run)
	return slot(*known)
}
