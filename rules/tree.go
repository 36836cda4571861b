package rules

import (
	"math"
	"math/bits"
	"slices"
)

// slot is a place in a tree: a node, which cuts, or a leaf, which is a run of entries.
//
//	leaf   0 | 63                                     see run.go; 0 when it is empty
//	node   1 | key:3 | mask:12 | bits:8 | shift:8 | base:32   goes to slots[base + (header key >> shift & mask)]
//
// mask has as many bits as bits says: what is quicker depends on the processor.
type slot uint64

const nodeFlag slot = 1 << 63

func nodeSlot(base int, k cut, v6 bool) slot {
	key, shift := keyOf(k.word, v6)
	return nodeFlag | slot(key)<<60 | (1<<k.bits-1)<<48 | slot(k.bits)<<40 | slot(shift+k.shift)<<32 | slot(base)
}

func (s slot) leaf() bool             { return int64(s) >= 0 }
func (s slot) key() uint8             { return uint8(s >> 60 & (keys - 1)) }
func (s slot) shift() uint8           { return uint8(s >> 32 & 63) }
func (s slot) mask() uint32           { return uint32(s >> 48 & (1<<maxCutBits - 1)) }
func (s slot) child(h *header) uint32 { return uint32(s) + uint32(h.key[s.key()]>>s.shift())&s.mask() }

// transport says that a node cuts by ports, or by the protocol if that is asked too.
func (s slot) transport(proto bool) bool {
	return s.key() == keyRest && (s.shift() < 32 || proto)
}

// cut returns what a node cuts by.
func (s slot) cut(v6 bool) cut {
	for w := uint8(words - 1); w > 0; w-- {
		if key, shift := keyOf(w, v6); key == s.key() && s.shift() >= shift && s.shift()-shift < wordBits(w) {
			return cut{w, s.shift() - shift, uint8(s >> 40)}
		}
	}
	return cut{0, s.shift() - 32, uint8(s >> 40)}
}

// wordBits returns the width of a word.
func wordBits(w uint8) uint8 {
	switch w {
	case wordSport, wordDport:
		return 16
	case wordProto:
		return 8
	}
	return 32
}

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
	leafSize    = 2    // a run this short is not cut further; shorter runs cost more nodes than they save comparisons
	sampleSize  = 100  // boxes that a cut is judged by; more makes building slower and cuts hardly better
	maxCutBits  = 12   // of one node: 4096 slots are 32 KiB; wider roots push everything else out of the first-level cache
	maxCopies   = 2000 // copies of one box in one tree before it is put into the next: fewer make the last trees' runs long
	maxPlaces   = 64   // places of one tree for each of its boxes: 100,000 generated rules need up to 40, else long runs remain where building ends
	maxLevels   = 24   // levels of a tree; sets that need more are hostile
	priceCopies = 0.8  // bits of selection that doubling the places must bring
	priceSlots  = 0.6  // bits of selection that a slot for each box must bring
	entryCost   = 2.0  // nanoseconds for a place of a run, half of which is walked: comparing takes some 40 instructions
	placeBits   = 11   // of how many places, as a power of two, it is remembered what stands there, so that runs share their ends
	nodeCost    = 1.5  // nanoseconds for a step down: some 20 instructions, and a cache miss that a burst's other packets overlap
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
	picked [sampleSize]uint32
	asked  []asked // see ask
	masks  []asked // likewise, one for each mask
	ports  bool    // asked is about ports
	hash   [256]uint8
	turn   uint64                  // of judge
	worse  [maxCutBits + 1]int     // by the bits of a cut: one that makes so many boxes of a sample is not better than the best so far
	count  [1 << maxCutBits]uint64 // by child: the turn, and below 32 bits how many boxes
	places [1 << placeBits]uint32  // by hash: where the end of a run was written
	kids   []uint32                // arena of build
	starts []int32                 // likewise
	seen   []uint64                // likewise

	entries []uint32 // reused by run
}

func newBuilder(g *program) *builder {
	b := new(builder)
	b.use(g)
	return b
}

// use makes a builder that has built one program's trees build another's.
func (b *builder) use(g *program) {
	b.g, b.vary, b.boxes = g, []uint8{3, 7, wordSport, wordDport, wordProto}, b.boxes[:0]
	if g.v6 {
		b.vary = []uint8{0, 1, 2, 3, 4, 5, 6, 7, wordSport, wordDport, wordProto}
	}
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

func (b *builder) narrowSrc(i int) bool { return b.narrowAddr(b.boxes[i].mask[0:4]) }
func (b *builder) narrowDst(i int) bool { return b.narrowAddr(b.boxes[i].mask[4:8]) }

// narrowAddr says that a mask leaves few addresses, as prefixes go: IPv4 from /13, or where there are more boxes than such
// prefixes, one that leaves about one of them; IPv6 from /33. With 100,000 rules a /16 is copied into very many leaves.
func (b *builder) narrowAddr(m []uint32) bool {
	n := 0
	for _, w := range m {
		n += bits.OnesCount32(w)
	}
	return n > 32 || n >= max(13, bits.Len(uint(len(b.boxes)))) && m[0]|m[1]|m[2] == 0
}

// build makes the subtree for the boxes of list, which are in order of rank. It writes slots in the order of a walk, so that those of a
// subtree are one run; entries are numbered as they are met, so that those of a leaf lie together.
func (b *builder) build(list []uint32, at known, depth int) slot {
	list = b.prune(list, &at)
	if len(list) <= leafSize || depth > maxLevels {
		return b.run(list)
	}
	k, ok := b.choose(list)
	if !ok {
		return b.run(list)
	}
	size := 1 << k.bits
	kidsMark, startMark, seenMark := len(b.kids), len(b.starts), len(b.seen)
	defer func() { b.kids, b.starts, b.seen = b.kids[:kidsMark], b.starts[:startMark], b.seen[:seenMark] }()
	// Sort the boxes into the children: count, then place.
	start := take(&b.starts, size+1)
	clear(start)
	total := 0
	for _, i := range list {
		total += b.children(i, k, func(c uint32) { start[c]++ })
	}
	if total > b.budget && depth > 0 {
		return b.run(list)
	}
	kids := take(&b.kids, total)
	end := int32(0)
	for c, n := range start { // where each child's begin; placing moves that to where they end
		start[c] = end
		end += n
	}
	for _, i := range list {
		b.children(i, k, func(c uint32) { kids[start[c]] = i; start[c]++ })
	}
	base := len(b.g.slots)
	b.g.slots = append(b.g.slots, make([]slot, size)...)
	// Children with the same boxes are one subtree. A place of the hash table seen has a hash and, above it, a child's number plus 1.
	seen := take(&b.seen, 2*size)
	clear(seen)
	first := int32(0)
	for c := range size {
		from := first
		mine := kids[from:start[c]]
		first = start[c]
		if len(mine) == 0 {
			continue
		}
		hash := uint64(len(mine))
		for _, i := range mine {
			hash = (hash ^ uint64(i)) * 0x9e3779b97f4a7c15
			hash ^= hash >> 29
		}
		twin := -1
		for at := hash; ; at++ {
			x := &seen[at&uint64(2*size-1)]
			if *x == 0 {
				*x = uint64(c+1)<<32 | hash&(1<<32-1)
				break
			}
			if uint32(*x) != uint32(hash) {
				continue
			}
			o, begin := int(*x>>32)-1, int32(0)
			if o > 0 {
				begin = start[o-1]
			}
			if slices.Equal(kids[begin:start[o]], mine) {
				twin = o
				break
			}
		}
		if twin >= 0 {
			b.g.slots[base+c] = b.g.slots[base+twin]
			continue
		}
		below := at
		if k.word != wordSport && k.word != wordDport {
			// For ports the bits are not noted: a twin may have others, and a range may cover the one and not the other.
			below.mask[k.word] |= uint32(size-1) << k.shift
			below.val[k.word] |= uint32(c) << k.shift
		}
		s := b.build(mine, below, depth+1)
		b.g.slots[base+c] = s
	}
	return nodeSlot(base, k, b.g.v6)
}

// take returns n elements at the end of an arena. They stay valid when it grows.
func take[T any](arena *[]T, n int) []T {
	at := len(*arena)
	*arena = slices.Grow(*arena, n)[:at+n]
	return (*arena)[at : at+n : at+n]
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
				b.g.rules[x.rule>>b.g.gap] |= hides
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

// choose finds the cut that selects best.
//
// A cut is judged by how many boxes the child of a header holds, when headers fall where boxes are: the sum of the
// squares of the children's sizes by their sum. What that gains is counted in bits; copies of boxes and slots cost.
func (b *builder) choose(list []uint32) (best cut, ok bool) {
	sample := list
	if len(list) > sampleSize {
		sample = b.picked[:]
		for i := range sample {
			sample[i] = list[i*len(list)/sampleSize]
		}
	}
	n := float64(len(list))
	if (n-1)*entryCost <= nodeCost {
		return best, false
	}
	most := min(bits.Len(uint(len(list)))+1, maxCutBits)
	score := 0.0
	for k := range b.worse {
		b.worse[k] = 4*len(sample) + 1 // more copies than that are never worth it
	}
	for _, w := range b.vary {
		use, width := b.ask(sample, w)
		if use == 0 {
			continue
		}
		for k := min(most, width); k >= 1; k-- {
			if k < most && (most-k)%2 == 1 && k > 2 || b.worse[k] <= len(sample) {
				continue
			}
			last := width - k
			for from := use&(1<<last-1) | 1<<last; from != 0; from &= from - 1 { // begin where bits differ, or at the end
				shift := bits.TrailingZeros32(from)
				if use>>shift&(1<<k-1) == 0 || k > 2 && use>>(shift+k-2)&3 == 0 { // the narrower one does it as well
					continue
				}
				// A cut that cannot have a better score than the best one so far, copying as much as it does, is not looked at further.
				c := cut{w, uint8(shift), uint8(k)}
				total := b.total(c)
				if total >= b.worse[k] {
					continue
				}
				if bounded(len(sample), total, k, n) <= score {
					b.worse[k] = total
					continue
				}
				if s, expect := b.judge(len(sample), total, c, n); s > score && (n-expect)*entryCost > nodeCost {
					best, score, ok = c, s, true
				}
			}
		}
	}
	return best, ok
}

// asked is what boxes of a sample ask of the word that a cut is sought in: those that ask for the same are one.
type asked struct {
	lo, hi uint32 // ports: the range; else the value and its mask
	n      int32  // boxes
}

// ask fills b.asked with what a sample asks of a word, and b.masks with the masks in it. It returns which bits of the word
// differ between boxes that ask for them, and the word's width.
func (b *builder) ask(sample []uint32, w uint8) (use uint32, width int) {
	var ones, zeros uint32
	width = int(wordBits(w))
	list := b.asked[:0]
	b.ports = false
	switch w {
	case wordSport, wordDport:
		b.ports = true
		for _, i := range sample {
			r := b.boxes[i].port[w-wordSport]
			if r.Lo != 0 || r.Hi != 65535 {
				ones |= uint32(r.Lo | r.Hi)
				zeros |= uint32(^r.Lo | ^r.Hi)
			}
			list = append(list, asked{uint32(r.Lo), uint32(r.Hi), 1})
		}
	case wordProto:
		for _, i := range sample {
			x := &b.boxes[i]
			ones |= uint32(x.proto & x.protoMask)
			zeros |= uint32(^x.proto & x.protoMask)
			list = append(list, asked{uint32(x.proto & x.protoMask), uint32(x.protoMask), 1})
		}
	default:
		for _, i := range sample {
			x := &b.boxes[i]
			v, m := x.val[w], x.mask[w]
			ones |= v & m
			zeros |= ^v & m
			list = append(list, asked{v & m, m, 1})
		}
	}
	b.asked = list
	use = ones & zeros
	if use == 0 {
		return 0, width
	}
	b.asked = unite(list, &b.hash)
	b.masks = b.masks[:0]
	if !b.ports {
	next:
		for i := range b.asked {
			x := &b.asked[i]
			for k := range b.masks {
				if b.masks[k].hi == x.hi {
					b.masks[k].n += x.n
					continue next
				}
			}
			b.masks = append(b.masks, asked{0, x.hi, x.n})
		}
	}
	return use, width
}

// unite puts those that are alike together, in the order of the first of each.
func unite(list []asked, table *[256]uint8) []asked {
	clear(table[:])
	out := list[:0]
	for _, x := range list {
		h := uint8((x.lo*0x9e3779b1 ^ x.hi*0x85ebca6b) >> 24)
		for ; ; h++ {
			at := table[h]
			if at == 0 {
				out = append(out, x)
				table[h] = uint8(len(out))
				break
			}
			if y := &out[at-1]; y.lo == x.lo && y.hi == x.hi {
				y.n += x.n
				break
			}
		}
	}
	return out
}

// total returns how many boxes a cut of the word that ask was called for makes of those of the sample.
func (b *builder) total(k cut) (total int) {
	all := uint32(1)<<k.bits - 1
	if b.ports {
		for i := range b.asked {
			x := &b.asked[i]
			total += int(x.n) * int(min(x.hi>>k.shift-x.lo>>k.shift, all)+1)
		}
		return total
	}
	for i := range b.masks {
		x := &b.masks[i]
		total += int(x.n) << bits.OnesCount32(all&^(x.hi>>k.shift))
	}
	return total
}

// judge returns the score of a cut of the word that ask was called for, and how many of n boxes the child of a header holds. Of a
// sample of s boxes it makes total.
func (b *builder) judge(s, total int, k cut, n float64) (score, expect float64) {
	all := uint32(1)<<k.bits - 1
	// Boxes that have a part in every child are added to all at once at the end.
	b.turn++
	turn, everywhere, some, squares := b.turn<<32, int64(0), int64(0), int64(0)
	count := &b.count
	add := func(child uint32, n int64) {
		c := &count[child&(1<<maxCutBits-1)]
		had := int64(0)
		if *c>>32 == turn>>32 {
			had = int64(*c & (1<<32 - 1))
		}
		*c = turn | uint64(had+n)
		squares += n * (2*had + n)
	}
	for i := range b.asked {
		x := &b.asked[i]
		m := int64(x.n)
		if b.ports {
			lo, hi := x.lo>>k.shift, x.hi>>k.shift
			if hi-lo >= all {
				everywhere += m
				continue
			}
			some += m * int64(hi-lo+1)
			for v := lo; v <= hi; v++ {
				add(v&all, m)
			}
			continue
		}
		mask := x.hi >> k.shift & all
		free := all &^ mask
		if mask == 0 {
			everywhere += m
			continue
		}
		val := x.lo >> k.shift & all
		some += m << bits.OnesCount32(free)
		for c := uint32(0); ; c = (c - free) & free { // every part of the free bits
			add(val|c, m)
			if c == free {
				break
			}
		}
	}
	squares += 2*everywhere*some + int64(all+1)*everywhere*everywhere
	expect = 1 + float64(squares-int64(total))/float64(total)*n/float64(s)
	return log2(n/expect) - price(s, total, float64(all+1), n), expect
}

// price is what a cut into so many children costs, in bits, of which s boxes of a sample make total.
func price(s, total int, size, n float64) float64 {
	copies := 0.0
	if total > s {
		copies = priceCopies * log2(float64(total)/float64(s))
	}
	return copies + priceSlots*size/n
}

// bounded returns the best score that a cut of so many bits may have, of which s boxes of a sample make total: children cannot be
// better filled than evenly.
func bounded(s, total, bits int, n float64) float64 {
	size := float64(int(1) << bits)
	return log2(n/(1+max(0, float64(total)/size-1)*n/float64(s))) - price(s, total, size, n)
}

// log2 is the binary logarithm of a positive number, within 0.0002. Cuts are compared by it often.
func log2(x float64) float64 {
	u := math.Float64bits(x)
	e := float64(int(u>>52) - 1023)
	m := math.Float64frombits(u&(1<<52-1) | 1023<<52)
	// The polynomial of degree four through five Chebyshev nodes of [1, 2].
	return e + (((-0.0784406762*m+0.6260321822)*m-2.0783351683)*m+4.0292113911)*m - 2.4983531488
}
