package rules

import (
	"math"
	"math/bits"
	"slices"
)

// slot is a place in a tree: a node, which cuts, or a leaf, which is a run of places: numbers of entries.
//
//	leaf   0 | count:31 | first:32                    places first … first+count
//	node   1 | 0:18 | word:4 | bits:4 | shift:5 | base:32   goes to slots[base + (header word >> shift) % 2^bits]
type slot uint64

const nodeFlag slot = 1 << 63

func leafSlot(first, count int) slot { return slot(count)<<32 | slot(first) }

func nodeSlot(base int, k cut) slot {
	return nodeFlag | slot(k.word)<<41 | slot(k.bits)<<37 | slot(k.shift)<<32 | slot(base)
}

func (s slot) leaf() bool               { return int64(s) >= 0 }
func (s slot) run() (first, end uint32) { return uint32(s), uint32(s) + uint32(s>>32) }
func (s slot) word() int                { return int(s >> 41 & 15) }
func (s slot) child(h *header) uint32   { return uint32(s) + h.w[s>>41&15]>>(s>>32&31)&(1<<(s>>37&15)-1) }
func (s slot) size() uint32             { return 1 << (s >> 37 & 15) }

// cut is a window of bits of one word.
type cut struct{ word, shift, bits uint8 }

// maxTrees bounds the trees that compiling makes of one chain; an overlay may come to them. Room for trees is made by
// treeSlots, a power of two.
const (
	maxTrees  = 4
	treeSlots = 8
)

// box is a rule, or a part of one, while trees are built: what it asks of each word.
type box struct {
	val, mask [8]uint32 // addresses
	port      [2]PortRange
	proto     uint8
	protoMask uint8
	final     bool // it has no conditions beside these, and no rule behind it is reached by a packet that it matches
	allow     uint16
	rule      uint32
	copies    int32
	entry     uint32 // number of its entry, from 1; 0: not written yet
}

// Numbers of the builder. They were found by measuring the ClassBench sets: lookup time first, then memory.
const (
	leafSize    = 6    // a run this short is not cut further; shorter runs cost more nodes than they save comparisons
	sampleSize  = 100  // boxes that a cut is judged by; more makes building slower and cuts hardly better
	maxCutBits  = 12   // of one node: 4096 slots are 32 KiB; wider roots push everything else out of the first-level cache
	maxCopies   = 2000 // copies of one box in one tree before it is put into the next: fewer make the last trees' runs long
	maxPlaces   = 16   // places of one tree for each of its boxes: rules with ranges in many words need up to 12, else long runs remain
	maxLevels   = 24   // levels of a tree; sets that need more are hostile
	priceCopies = 0.7  // bits of selection that doubling the places must bring
	priceSlots  = 0.5  // bits of selection that a slot for each box must bring
	entryCost   = 1.3  // nanoseconds for a place of a run, half of which is walked
	nodeCost    = 9.0  // nanoseconds for a step down
)

// builder makes the trees of one program.
type builder struct {
	g      *program
	boxes  []box
	vary   []uint8  // words that can differ between boxes of this IP version
	out    []uint32 // boxes that had too many copies
	last   bool     // nothing can be put off to a further tree
	patch  bool     // it makes an overlay: that a rule hides others there need not be noted
	budget int      // entries that may still be written for the tree
	count  []int32
}

func newBuilder(g *program) *builder {
	b := &builder{g: g, vary: []uint8{3, 7, wordSport, wordDport, wordProto}}
	if g.v6 {
		b.vary = []uint8{0, 1, 2, 3, 4, 5, 6, 7, wordSport, wordDport, wordProto}
	}
	return b
}

// known is what the cuts above a node say of the headers that come there.
type known struct{ val, mask [words]uint32 }

// trees builds the trees for the boxes of one chain and appends them to the program.
func (b *builder) trees() (first, n int) {
	first = len(b.g.trees)
	groups := b.groups()
	for k := 0; k < len(groups); k++ {
		list := groups[k]
		b.out = b.out[:0]
		b.last = k == maxTrees-1
		b.budget = maxPlaces*len(list) + 1024
		for _, i := range list {
			b.boxes[i].copies = 0
		}
		root := b.build(list, known{}, 0)
		b.g.trees = append(b.g.trees, root)
		if len(b.out) > 0 {
			slices.Sort(b.out)
			rest := slices.Compact(slices.Clone(b.out))
			if k+1 < len(groups) {
				rest = append(rest, groups[k+1]...)
				slices.Sort(rest)
				groups[k+1] = slices.Compact(rest)
			} else {
				groups = append(groups, rest)
			}
		}
	}
	return first, len(b.g.trees) - first
}

// groups parts the boxes by which of their addresses are narrow: a cut of an address copies the boxes that do not ask
// for it into every child. Few boxes stay together, for each tree costs a walk.
func (b *builder) groups() [][]uint32 {
	all := make([]uint32, len(b.boxes))
	for i := range all {
		all[i] = uint32(i)
	}
	const few = 24
	if len(all) <= few {
		return [][]uint32{all}
	}
	src, dst := 0, 0
	for i := range b.boxes {
		if b.narrowSrc(i) {
			src++
		}
		if b.narrowDst(i) {
			dst++
		}
	}
	one, two := b.narrowDst, b.narrowSrc
	if src > dst {
		one, two = two, one
	}
	var g [3][]uint32
	for i := range b.boxes {
		switch {
		case one(i):
			g[0] = append(g[0], uint32(i))
		case two(i):
			g[1] = append(g[1], uint32(i))
		default:
			g[2] = append(g[2], uint32(i))
		}
	}
	var out [][]uint32
	for _, l := range g {
		if len(l) == 0 {
			continue
		}
		if len(out) > 0 && (len(l) <= few || len(out[len(out)-1]) <= few) {
			m := append(out[len(out)-1], l...)
			slices.Sort(m)
			out[len(out)-1] = m
			continue
		}
		out = append(out, l)
	}
	return out
}

func (b *builder) narrowSrc(i int) bool { return narrowAddr(b.boxes[i].mask[0:4]) }
func (b *builder) narrowDst(i int) bool { return narrowAddr(b.boxes[i].mask[4:8]) }

// narrowAddr says that a mask leaves few addresses, as prefixes go: IPv4 from /13, IPv6 from /33.
func narrowAddr(m []uint32) bool {
	n := 0
	for _, w := range m {
		n += bits.OnesCount32(w)
	}
	return n > 32 || n > 12 && m[0]|m[1]|m[2] == 0
}

// build makes the subtree for the boxes of list, which are in order of rank. It writes places in the order of a walk,
// so that those of a subtree are one run; entries are numbered as they are met, so that those of a leaf lie together.
func (b *builder) build(list []uint32, at known, depth int) slot {
	list = b.prune(list, &at)
	if len(list) <= leafSize || depth > maxLevels {
		return b.leaf(list)
	}
	k, ok := b.choose(list)
	if !ok {
		return b.leaf(list)
	}
	size := 1 << k.bits
	// Sort the boxes into the children: count, then place.
	start := make([]int32, size+1)
	total := 0
	for _, i := range list {
		total += b.children(i, k, func(c uint32) { start[c+1]++ })
	}
	if total > b.budget && depth > 0 {
		return b.leaf(list)
	}
	for c := range size {
		start[c+1] += start[c]
	}
	kids := make([]uint32, total)
	fill := slices.Clone(start[:size])
	for _, i := range list {
		b.children(i, k, func(c uint32) { kids[fill[c]] = i; fill[c]++ })
	}
	base := len(b.g.slots)
	b.g.slots = append(b.g.slots, make([]slot, size)...)
	// Children with the same boxes are one subtree.
	seen := make(map[uint64][]int32, size)
	for c := range size {
		mine := kids[start[c]:start[c+1]]
		if len(mine) == 0 {
			continue
		}
		hash := uint64(len(mine))
		for _, i := range mine {
			hash = (hash ^ uint64(i)) * 0x9e3779b97f4a7c15
			hash ^= hash >> 29
		}
		twin := int32(-1)
		for _, o := range seen[hash] {
			if slices.Equal(kids[start[o]:start[o+1]], mine) {
				twin = o
				break
			}
		}
		if twin >= 0 {
			b.g.slots[base+c] = b.g.slots[base+int(twin)]
			continue
		}
		seen[hash] = append(seen[hash], int32(c))
		below := at
		if k.word != wordSport && k.word != wordDport {
			// For ports the bits are not noted: a twin may have others, and a range may cover the one and not the other.
			below.mask[k.word] |= uint32(size-1) << k.shift
			below.val[k.word] |= uint32(c) << k.shift
		}
		s := b.build(mine, below, depth+1)
		b.g.slots[base+c] = s
	}
	return nodeSlot(base, k)
}

// prune leaves out what cannot be reached: everything behind a final box that every header at this node agrees with.
func (b *builder) prune(list []uint32, at *known) []uint32 {
	for n, i := range list {
		x := &b.boxes[i]
		if !x.final || x.allow != allowAll {
			continue
		}
		if !x.port[0].full() || !x.port[1].full() || x.protoMask&^uint8(at.mask[wordProto]) != 0 {
			continue
		}
		open := uint32(0)
		for w := range x.mask {
			open |= x.mask[w] &^ at.mask[w]
		}
		if open == 0 {
			if n+1 < len(list) && !b.patch {
				b.g.rules[x.rule].flags |= hides
			}
			return list[:n+1]
		}
	}
	return list
}

// children calls f for every child of a cut that a box has a part in, and returns their number.
func (b *builder) children(i uint32, k cut, f func(uint32)) int {
	x := &b.boxes[i]
	all := uint32(1)<<k.bits - 1
	switch k.word {
	case wordSport, wordDport:
		r := x.port[k.word-wordSport]
		lo, hi := uint32(r.Lo)>>k.shift, uint32(r.Hi)>>k.shift
		if hi-lo >= all {
			for c := uint32(0); c <= all; c++ {
				f(c)
			}
			return int(all) + 1
		}
		for v := lo; v <= hi; v++ {
			f(v & all)
		}
		return int(hi - lo + 1)
	}
	val, mask := uint32(x.proto), uint32(x.protoMask)
	if k.word < wordSport {
		val, mask = x.val[k.word], x.mask[k.word]
	}
	val, mask = val>>k.shift&all, mask>>k.shift&all
	free := all &^ mask
	for c := uint32(0); ; c = (c - free) & free { // every part of the free bits
		f(val&mask | c)
		if c == free {
			return 1 << bits.OnesCount32(free)
		}
	}
}

// leaf writes a run of places.
func (b *builder) leaf(list []uint32) slot {
	first := len(b.g.places)
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
		b.g.places = append(b.g.places, x.entry-1)
	}
	n := len(b.g.places) - first
	b.budget -= n
	if n == 0 {
		return leafSlot(0, 0)
	}
	return leafSlot(first, n)
}

// choose finds the cut that selects best.
//
// A cut is judged by how many boxes the child of a header holds, when headers fall where boxes are: the sum of the
// squares of the children's sizes by their sum. What that gains is counted in bits; copies of boxes and slots cost.
func (b *builder) choose(list []uint32) (best cut, ok bool) {
	sample := list
	if len(list) > sampleSize {
		sample = make([]uint32, sampleSize)
		for i := range sample {
			sample[i] = list[i*len(list)/sampleSize]
		}
	}
	n := float64(len(list))
	most := min(bits.Len(uint(len(list)))+1, maxCutBits)
	score := 0.0
	for _, w := range b.vary {
		use, width := b.useful(sample, w)
		if use == 0 {
			continue
		}
		for k := most; k >= 1; k-- {
			if k > width {
				continue
			}
			if k < most && (most-k)%2 == 1 && k > 2 {
				continue
			}
			for shift := 0; shift+k <= width; shift++ {
				if use>>shift&1 == 0 && shift+k < width { // begin where bits differ
					continue
				}
				if use>>shift&(1<<k-1) == 0 {
					continue
				}
				c := cut{w, uint8(shift), uint8(k)}
				if s, expect := b.judge(sample, c, n); s > score && (n-expect)*entryCost > nodeCost {
					best, score, ok = c, s, true
				}
			}
		}
	}
	return best, ok
}

// useful returns which bits of a word differ between boxes that ask for them, and the word's width.
func (b *builder) useful(sample []uint32, w uint8) (use uint32, width int) {
	var ones, zeros uint32
	width = 32
	for _, i := range sample {
		x := &b.boxes[i]
		switch {
		case w < wordSport:
			ones |= x.val[w] & x.mask[w]
			zeros |= ^x.val[w] & x.mask[w]
		case w == wordProto:
			ones |= uint32(x.proto & x.protoMask)
			zeros |= uint32(^x.proto & x.protoMask)
			width = 8
		default:
			width = 16
			r := x.port[w-wordSport]
			if r.Lo != 0 || r.Hi != 65535 {
				ones |= uint32(r.Lo | r.Hi)
				zeros |= uint32(^r.Lo | ^r.Hi)
			}
		}
	}
	return ones & zeros, width
}

func (b *builder) judge(sample []uint32, k cut, n float64) (score, expect float64) {
	size := 1 << k.bits
	if cap(b.count) < size {
		b.count = make([]int32, 1<<maxCutBits)
	}
	total := 0
	limit := 4 * len(sample) // more copies than that are never worth it
	for _, i := range sample {
		if total += b.copies(i, k); total > limit {
			return 0, n
		}
	}
	count := b.count[:size]
	clear(count)
	for _, i := range sample {
		b.add(i, k, count)
	}
	pairs := 0.0
	for _, c := range count {
		pairs += float64(c) * float64(c-1)
	}
	s := float64(len(sample))
	expect = 1 + pairs/float64(total)*n/s
	gain := math.Log2(n / expect)
	copies := math.Log2(float64(total) / s)
	return gain - priceCopies*copies - priceSlots*float64(size)/n, expect
}

// copies returns in how many children of a cut a box has a part.
func (b *builder) copies(i uint32, k cut) int {
	x := &b.boxes[i]
	all := uint32(1)<<k.bits - 1
	switch k.word {
	case wordSport, wordDport:
		r := x.port[k.word-wordSport]
		return int(min(uint32(r.Hi)>>k.shift-uint32(r.Lo)>>k.shift, all)) + 1
	case wordProto:
		return 1 << bits.OnesCount32(all&^(uint32(x.protoMask)>>k.shift))
	}
	return 1 << bits.OnesCount32(all&^(x.mask[k.word]>>k.shift))
}

// add counts a box in every child that it has a part in.
func (b *builder) add(i uint32, k cut, count []int32) {
	x := &b.boxes[i]
	all := uint32(1)<<k.bits - 1
	if k.word == wordSport || k.word == wordDport {
		r := x.port[k.word-wordSport]
		lo, hi := uint32(r.Lo)>>k.shift, uint32(r.Hi)>>k.shift
		if hi-lo >= all {
			lo, hi = 0, all
		}
		for v := lo; v <= hi; v++ {
			count[v&all]++
		}
		return
	}
	val, mask := uint32(x.proto), uint32(x.protoMask)
	if k.word < wordSport {
		val, mask = x.val[k.word], x.mask[k.word]
	}
	val, mask = val>>k.shift&all&(mask>>k.shift), mask>>k.shift&all
	free := all &^ mask
	for c := uint32(0); ; c = (c - free) & free {
		count[val|c]++
		if c == free {
			return
		}
	}
}
