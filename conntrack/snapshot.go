package conntrack

import (
	"math/bits"

	"corewire/internal/packet"
)

// Snapshot is a part of a table as it was between two bursts. The table's owner takes it, which is a straight copy of
// memory and costs him about 10 ns an entry; whoever asked for it makes Infos of it in his own time. It may be used
// again and again, by one goroutine at a time.
type Snapshot struct {
	tab    *Table // for what never changes: the secret that ids are made with
	now    Tick
	ext    uint64 // now, extended
	n      int    // blocks taken
	blocks [snapshotBlocks]block
	aside  []aside
}

// snapshotBlocks is how many blocks of 64 entries one Snapshot takes: some microseconds of the owner's time, less than a
// burst of 64 frames takes.
const snapshotBlocks = 8

// SnapshotSize is how many entries a Snapshot holds at most.
const SnapshotSize = snapshotBlocks * sweepBlock

// block is a copy of the entries that one word of the slots covers. What is behind hot is copied where the table has it.
type block struct {
	base   uint32 // index of the first
	used   uint64 // one bit for each entry
	hot    [sweepBlock]entry
	acct   [sweepBlock]acct
	stamp  [sweepBlock]uint64
	labels [sweepBlock]Labels
}

// aside is what only few entries have.
type aside struct {
	ref    uint32
	aid    aid
	gre    greState
	tags   [2]uint32 // SCTP's
	hasAid bool
	hasGRE bool
}

// NewSnapshot makes an empty Snapshot, of some 70 KiB.
func NewSnapshot() *Snapshot {
	return &Snapshot{aside: make([]aside, 0, sweepBlock)}
}

// Copy takes a Snapshot of the table from the place that cursor names (0 to begin), and returns the cursor to go on with;
// 0 when the listing is complete. An entry that is there during the whole listing is in it exactly once; one that comes or
// goes meanwhile is in it or not. The cost of a call is bounded: it copies SnapshotSize entries at most, 64 that have
// helpers, masters, GRE keys or SCTP tags, and examines 64 times as many empty places, so that it may copy nothing and still not be
// the last. It allocates nothing.
func (t *Table) Copy(cursor uint64, s *Snapshot, now Tick) (next uint64) {
	t.sweep.listed, t.sweep.dumped = true, now
	s.tab, s.now, s.ext, s.n, s.aside = t, now, t.sweep.extend(now), 0, s.aside[:0]
	end := (t.slots.top + sweepBlock - 1) / sweepBlock
	empty := 64 * snapshotBlocks
	for w := uint32(cursor); w < end; w++ {
		m := t.slots.word(w)
		if m == 0 {
			if empty--; empty < 0 {
				return uint64(w)
			}
			continue
		}
		if s.n == snapshotBlocks || !t.copyBlock(s, w*sweepBlock, m) {
			return uint64(w)
		}
	}
	return 0
}

// copyBlock appends a block to a Snapshot; false if there is no room for what stands aside, of which a first block
// always has enough.
func (t *Table) copyBlock(s *Snapshot, base uint32, used uint64) bool {
	b := &s.blocks[s.n]
	b.base, b.used = base, used
	end := base + sweepBlock
	copy(b.hot[:], t.hot.items[base:end])
	had := len(s.aside)
	for m := used; m != 0; m &= m - 1 {
		i := uint32(bits.TrailingZeros64(m))
		e := &b.hot[i]
		helped := uint32(e.status)&(StatusHelper|StatusExpected) != 0 && t.aids.items != nil
		if !helped && e.key.Proto != packet.ProtoGRE && e.key.Proto != packet.ProtoSCTP {
			continue
		}
		if len(s.aside) == cap(s.aside) {
			s.aside = s.aside[:had]
			return false
		}
		a := aside{ref: base + i, hasAid: helped, hasGRE: e.key.Proto == packet.ProtoGRE}
		if a.hasAid {
			a.aid = t.aids.items[base+i]
		}
		if a.hasGRE {
			a.gre = *t.cold.items[base+i].gre()
		}
		if e.key.Proto == packet.ProtoSCTP {
			a.tags = t.cold.items[base+i].sctp().tag
		}
		s.aside = append(s.aside, a)
	}
	if t.acct.items != nil {
		copy(b.acct[:], t.acct.items[base:end])
	}
	if t.stamp.items != nil {
		copy(b.stamp[:], t.stamp.items[base:end])
	}
	if t.labels.items != nil {
		copy(b.labels[:], t.labels.items[base:end])
	}
	s.n++
	return true
}

// Infos appends the entries of a Snapshot to out and returns it. Those that had expired are left out.
func (s *Snapshot) Infos(out []Info) []Info {
	at := 0
	for n := range s.blocks[:s.n] {
		b := &s.blocks[n]
		for m := b.used; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m)
			e := &b.hot[i]
			for at < len(s.aside) && s.aside[at].ref < b.base+uint32(i) {
				at++
			}
			if e.expired(s.now) {
				continue
			}
			out = append(out, Info{})
			info := &out[len(out)-1]
			s.tab.outline(e, info, s.now)
			if e.flags&entryAcct != 0 {
				info.setCounters(&b.acct[i])
			}
			if at < len(s.aside) && s.aside[at].ref == b.base+uint32(i) {
				a := &s.aside[at]
				if a.hasAid {
					info.setAid(&a.aid)
				}
				if a.hasGRE {
					info.setGRE(&a.gre)
				}
				info.Tags = a.tags
			}
			if e.flags&entryStamp != 0 {
				info.setAge(s.ext, b.stamp[i])
			}
			if e.flags&entryLabel != 0 {
				info.Labels = b.labels[i]
			}
		}
	}
	return out
}
