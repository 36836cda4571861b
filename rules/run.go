package rules

import "slices"

// A leaf is a run: entries in order of rank that a header is compared with, one by one. The first one stands in the slot itself, so
// that nothing else is read before it and a leaf of one entry takes no more than its slot. The others are places, up to one that says it
// is the last. So a run may be the end of another one, and those that end alike share that end.
//
//	leaf    0 | entry:31 | 0:4 | tail:28   the first entry, and where the places of the others begin; tail 0: there are none
//	place   last:1 | entry:31
//
// Entries are numbered from 1 here. The slot 0 is an empty run, and place 0 says so of what is behind a run's last entry.

const (
	lastPlace = 1 << 31
	maxTail   = 1<<28 - 1 // tail has as many bits
)

// entry returns the index of a run's first entry. The run is not empty.
func (s slot) entry() uint32 { return uint32(s>>32) - 1 }

// behind returns the run that is left behind a run's first entry.
func (s slot) behind(places []uint32) slot {
	tail := uint32(s)
	p := places[tail]
	return slot(p&^lastPlace)<<32 | slot((tail+1)&(p>>31-1))
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

// run writes a leaf of the entries of boxes.
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
	if len(entries) == 0 {
		return 0
	}
	return slot(entries[0])<<32 | slot(b.tail(entries[1:]))
}

// tail writes the places of entries, unless some run ends with the same ones, and returns where they begin.
func (b *builder) tail(entries []uint32) int {
	if len(entries) == 0 {
		return 0
	}
	mix := func(hash uint64, entry uint32) uint64 {
		hash = (hash ^ uint64(entry)) * 0x9e3779b97f4a7c15
		return hash ^ hash>>29
	}
	n := len(entries)
	entries[n-1] |= lastPlace
	hash := uint64(0)
	for i := n - 1; i >= 0; i-- {
		hash = mix(hash, entries[i])
	}
	first := len(b.g.places)
	if at := int(b.ends[hash%endsSize]); at > 0 && at+n <= first && slices.Equal(b.g.places[at:at+n], entries) {
		return at
	}
	b.g.places = append(b.g.places, entries...)
	hash = 0
	for i := n - 1; i >= 0; i-- {
		hash = mix(hash, entries[i])
		b.ends[hash%endsSize] = uint32(first + i)
	}
	return first
}
