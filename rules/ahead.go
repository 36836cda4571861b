package rules

import "corewire/internal/packet"

// BurstSize is how many packets Prepare works on together.
const BurstSize = 64

// ahead is what a Matcher found out of a burst's packets before Match asks: the rule that decides each of them as the first
// packet of a connection. Each step is done for all packets before the next: so the cache misses of a step overlap, and no
// branch depends on one packet's bytes, which a processor would guess wrongly at the end of each tree and each run. What is
// not done yet with a step is a list, which is written without branches.
type ahead struct {
	lanes [BurstSize]lane
	words [BurstSize][16]uint32         // as header.w
	at    [treeSlots * BurstSize]slot   // by tree, then lane: where the packet is
	list  [treeSlots * BurstSize]uint16 // what is not done with a step
	todo  [BurstSize]uint16             // the lanes of the burst that are in use
	skip  int                           // bursts that are left to Match, see uniform
}

// lane is what is known of one packet. As long as a packet at hand is as addr, ports and kind say and begins a connection, found
// is its result, whatever has become of the burst. 64 bytes.
type lane struct {
	addr  uint64 // source:32 | destination:32
	ports uint64 // as in probe
	meta  uint64 // protocol, and the bit of narrow.meta's allow
	kind  uint64 // what else Match looks at, see kindOf
	found uint64 // of the entries that agreed so far, the lowest meta; noEntry; then as settled
	run   uint64 // of the tree at hand: the places not looked at, as in a leaf
	_     [2]uint64
}

// noEntry is above every narrow.meta; taken for a signed number it is positive.
const noEntry = 1<<63 - 1

// Where the packets of a burst go the same way, as in a flood, a processor guesses the branches right and the caches have what
// is needed: then Match is cheaper by what Prepare writes and Match compares. A burst is uniform when fewer than a packet in
// uniform ends in another leaf than the one before; the next skipped bursts are then not prepared, nor are ever fewer packets
// than few.
const (
	uniform = 8
	skipped = 31
	few     = 4
)

// askedFlags are the flags that Match looks at.
const askedFlags = packet.PortsValid | oddHeaders

// kindOf is lane.kind for a packet that begins a connection: its length behind the IP header:32 | flags:16 | port:8 | protocol:8.
func kindOf(p *packet.Packet) uint64 {
	return uint64(p.End-p.L4)<<32 | uint64(p.Flags&askedFlags)<<16 | uint64(p.In)<<8 | uint64(p.Proto)
}

// Settled lanes: trace:24 | 0:6 | cacheable:1 | accept:1 | rule:32; 0 when Match has to look.
const (
	settledAccept    = 1 << 32
	settledCacheable = 1 << 33
	settledTrace     = 40
)

// Prepare looks up the rules for the packets of a burst, for BurstSize of them at most, that the flow table has no hint for
// (Packet.Hint): those that probably begin connections. MatchPrepared then has less to do; what it returns is the same with
// and without, and packets may change in between. It allocates nothing.
func (m *Matcher) Prepare(pkts []packet.Packet) {
	a := m.ahead
	if m.rs.long {
		return
	}
	if a.skip > 0 {
		a.skip--
		return
	}
	n := 0
	for i := range pkts[:min(len(pkts), BurstSize)] {
		p := &pkts[i]
		a.todo[n&(BurstSize-1)] = uint16(i)
		if p.Hint == 0 && p.Family == 4 {
			n++
		}
	}
	if n >= few {
		m.prepareNarrow(pkts, a.todo[:n])
	}
}

// prepareNarrow is Prepare for the IPv4 packets that are in todo.
func (m *Matcher) prepareNarrow(pkts []packet.Packet, todo []uint16) {
	a, g := m.ahead, &m.rs.prog[filterPlace]
	n := 0
	for _, i := range todo {
		p, l, w := &pkts[i], &a.lanes[i&(BurstSize-1)], &a.words[i&(BurstSize-1)]
		if !wholeHeader(p) {
			continue
		}
		src, dst := uint32(p.Src.Lo), uint32(p.Dst.Lo)
		l.addr = uint64(src)<<32 | uint64(dst)
		l.ports = uint64(p.DstPort)<<32 | uint64(p.SrcPort) | portBorrow
		l.meta = 1<<(16+allowBit(New, p.In)) | uint64(p.Proto)
		l.kind = kindOf(p)
		l.found = noEntry
		w[wordSrc+3], w[wordDst+3] = src, dst
		w[wordSport], w[wordDport], w[wordProto] = uint32(p.SrcPort), uint32(p.DstPort), uint32(p.Proto)
		todo[n] = i
		n++
	}
	todo = todo[:n]
	ch := g.chains[0]
	trees := g.trees[ch.first : ch.first+ch.n]
	a.descend(g.slots, trees, todo)
	changes := 0
	for t := range trees {
		changes += a.scanNarrow(g, t, todo)
	}
	if changes*uniform < n {
		a.skip = skipped
	}
	a.settle(m, g, pkts, todo)
}

// descend leads the packets down the trees of a chain.
func (a *ahead) descend(slots, trees []slot, todo []uint16) {
	n := 0
	for t, root := range trees {
		at := (*[BurstSize]slot)(a.at[t*BurstSize:])
		if root.leaf() {
			for _, i := range todo {
				at[i&(BurstSize-1)] = root
			}
			continue
		}
		tree := uint16(t * BurstSize)
		for _, i := range todo {
			s := slots[root.child16(&a.words[i&(BurstSize-1)])]
			at[i&(BurstSize-1)] = s
			a.list[n&(len(a.list)-1)] = tree | i
			n += int(s >> 63)
		}
	}
	for n > 0 {
		list := a.list[:n]
		n = 0
		for _, e := range list {
			at := &a.at[e&(treeSlots*BurstSize-1)]
			s := slots[at.child16(&a.words[e&(BurstSize-1)])]
			*at = s
			a.list[n&(len(a.list)-1)] = e
			n += int(s >> 63)
		}
	}
}

// scanNarrow looks through the runs that tree t has led to, an entry of each at a time. A run is done where the ranks are
// beyond what has been found. It returns how many packets have another run than the one before.
func (a *ahead) scanNarrow(g *program, t int, todo []uint16) (changes int) {
	at := (*[BurstSize]slot)(a.at[t*BurstSize:])
	list := (*[BurstSize]uint16)(a.list[:])
	places, narrow := g.places, g.narrow
	n := 0
	before := uint64(0)
	for _, i := range todo {
		s := uint64(at[i&(BurstSize-1)])
		other := s ^ before
		changes += int((other | -other) >> 63)
		before = s
		a.lanes[i&(BurstSize-1)].run = s
		list[n&(BurstSize-1)] = i
		n += int((1<<32 - 1 - s) >> 63)
	}
	for n > 0 {
		runs := list[:n]
		n = 0
		for _, i := range runs {
			l := &a.lanes[i&(BurstSize-1)]
			s := l.run
			x := &narrow[places[uint32(s)]]
			m := x.meta
			lowest, span := x.ports&portLanes, x.ports>>16&portLanes
			past := (l.ports - lowest) & portLanes
			off := (l.addr^x.addr)&x.mask | ^((span|portBorrow)-past)&portBorrow | (l.meta^m)&(m>>8&0xff|l.meta&(allowAll<<16))
			found := m
			if off != 0 {
				found = noEntry
			}
			found = min(found, l.found)
			l.found = found
			s -= 1<<32 - 1 // one less, from the next on
			l.run = s
			list[n&(BurstSize-1)] = i
			n += int((m - found) & (1<<32 - 1 - s) >> 63) // below what was found, and the run goes on
		}
	}
	return changes
}

// settle writes what Match is to return, where the first rule decides.
func (a *ahead) settle(m *Matcher, g *program, pkts []packet.Packet, todo []uint16) {
	policy := uint64(m.rs.policyID(filterPlace)) | uint64(g.policy)*settledAccept
	for _, i := range todo {
		l, p := &a.lanes[i&(BurstSize-1)], &pkts[i]
		r := policy
		if f := l.found; f != noEntry {
			verb := Verb(f >> (16 + verbShift) & 15)
			if f&moreMeta != 0 || verb != VerbAccept && verb != VerbDrop && verb != VerbReject {
				l.found = 0
				continue
			}
			r = uint64(g.rules[f>>rankShift].id)
			if verb == VerbAccept {
				r |= settledAccept
			}
		}
		if alike := p.Proto == protoTCP || p.Proto == protoUDP || keyed(p.Proto) || wholeLength(p.Proto) == 0; alike && p.Flags&oddHeaders == 0 {
			r |= settledCacheable
		}
		l.found = r | (uint64(uint32(r))+1)<<(tracePortBits+traceStateBits+settledTrace) | uint64(p.In)<<(traceStateBits+settledTrace) | uint64(New)<<settledTrace
	}
}

// MatchPrepared is Match for packet i of the burst that Prepare was called with. The packet need not be the same: it is looked at.
func (m *Matcher) MatchPrepared(i int, p *packet.Packet, c *Context) Result {
	l := &m.ahead.lanes[i&(BurstSize-1)]
	if f := l.found; f != 0 && c.State == New && l.kind == kindOf(p) && l.addr == uint64(uint32(p.Src.Lo))<<32|uint64(uint32(p.Dst.Lo)) &&
		l.ports == uint64(p.DstPort)<<32|uint64(p.SrcPort)|portBorrow && p.Family == 4 {
		m.nLogged = 0
		return Result{Verdict: Verdict(f / settledAccept & 1), Cacheable: f&settledCacheable != 0, Rule: RuleID(f), Trace: uint32(f >> settledTrace)}
	}
	return m.Match(p, c)
}

// wholeHeader says that the transport header is there as far as any match reads it.
func wholeHeader(p *packet.Packet) bool {
	return p.Flags&(packet.BrokenChain|packet.LaterFragment) == 0 && (p.Flags&packet.PortsValid != 0 || int(p.End)-int(p.L4) >= wholeLength(p.Proto))
}
