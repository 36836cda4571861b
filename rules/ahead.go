package rules

import (
	"math/bits"

	"corewire/internal/packet"
)

// BurstSize is how many packets Prepare works on together.
const BurstSize = 64

// ahead is what a Matcher found out of a burst's packets before Match asks: the rule that decides each of them as the first
// packet of a connection. Each step is done for all packets before the next: so the cache misses of a step overlap, and no
// branch depends on one packet's bytes, which a processor would guess wrongly at the end of each tree and each run. What is
// not done yet with a step is a list, which is written without branches.
type ahead struct {
	lanes   [BurstSize]lane
	at      [treeSlots * BurstSize]slot   // by tree, then lane: where the packet is, and then what is left of the run
	list    [treeSlots * BurstSize]uint16 // what is not done with a step
	todo    [BurstSize]uint16             // the lanes of the burst that are in use
	same    [4]uint64                     // bits by protocol: without odd headers alike says yes
	vectors bool                          // descendVector and runsVector run on this processor
}

func newAhead() *ahead {
	a := &ahead{vectors: hasVectors()}
	for proto := range 256 {
		if alike(&packet.Packet{Proto: uint8(proto)}, &Context{State: New}) {
			a.same[proto>>6] |= 1 << (proto & 63)
		}
	}
	return a
}

// lane is what is known of one packet. As long as a packet at hand is as key and kind say and begins a connection, found
// is its result, whatever has become of the burst. 32 bytes.
type lane struct {
	key   [2]uint64 // keyAddrs, keyRest
	found uint64    // of the entries that agreed so far, the lowest meta; noEntry; then as settled
	kind  uint64    // what else Match looks at, see kindOf
}

// noEntry is above every narrow.meta.
const noEntry = 1<<64 - 1

// few is below how many packets a burst is left to Match: Prepare's loops are for many.
const few = 4

// askedFlags are the flags that Match looks at.
const askedFlags = packet.PortsValid | oddHeaders

// kindOf is lane.kind for a packet that begins a connection: its length behind the IP header:32 | 0:16 | flags:16.
func kindOf(p *packet.Packet) uint64 {
	return uint64(p.End-p.L4)<<32 | uint64(p.Flags&askedFlags)
}

// Settled lanes: trace:24 | 0:5 | keep:2 | accept:1 | rule:32; 0 when Match has to look.
const (
	settledAccept = 1 << 32
	settledKeep   = 1 << 33
	settledTrace  = 40
)

// Prepare looks up the rules for the packets of a burst, for BurstSize of them at most, that the flow table has no hint for
// (Packet.Hint): those that probably begin connections. MatchPrepared then has less to do; what it returns is the same with
// and without, and packets may change in between. It allocates nothing.
func (m *Matcher) Prepare(pkts []packet.Packet) {
	a := m.ahead
	if m.rs.long {
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

// forget forgets what was found.
func (a *ahead) forget() {
	for i := range a.lanes {
		a.lanes[i].found = 0
	}
}

// prepareNarrow is Prepare for the IPv4 packets that are in todo.
func (m *Matcher) prepareNarrow(pkts []packet.Packet, todo []uint16) {
	a, g := m.ahead, &m.rs.prog[filterPlace]
	n := 0
	for _, i := range todo {
		p, l := &pkts[i], &a.lanes[i&(BurstSize-1)]
		if !wholeHeader(p) {
			continue
		}
		l.key[keyAddrs], l.key[keyRest] = addrsOf(p), restOf(p.SrcPort, p.DstPort, p.Proto, p.In)
		l.kind = kindOf(p)
		l.found = noEntry
		todo[n] = i
		n++
	}
	todo = todo[:n]
	ch := g.chains[0]
	trees := g.trees[ch.first : ch.first+ch.n]
	a.lookup(g, trees, n)
	a.settle(m, g, todo)
}

// lookup leads the first n lanes of todo down the trees of a chain, and finds in the runs there the entry of the lowest rank that
// agrees with each as the first packet of a connection.
func (a *ahead) lookup(g *program, trees []slot, lanes int) {
	if a.vectors {
		descendVector(a, trees, g.slots, lanes)
		runsVector(a, len(trees), g.places, g.narrow, g.shapes, lanes)
	} else {
		a.descend(trees, g.slots, lanes)
		a.runs(len(trees), g.places, g.narrow, g.shapes, lanes)
	}
}

// descend leads the lanes down the trees, a level of all of them at a time: then at has their leaves.
func (a *ahead) descend(trees, slots []slot, lanes int) {
	todo := a.todo[:lanes]
	n := 0
	for t, s := range trees {
		for _, i := range todo {
			e := (uint16(t*BurstSize) | i) & (treeSlots*BurstSize - 1)
			a.at[e] = s
			a.list[n&(len(a.list)-1)] = e
			n += int(s >> 63)
		}
	}
	for n > 0 {
		list := a.list[:n]
		n = 0
		for _, e := range list {
			s, l := a.at[e&(treeSlots*BurstSize-1)], &a.lanes[e&(BurstSize-1)]
			s = slots[uint32(s)+uint32(l.key[s.key()&1]>>s.shift())&s.mask()]
			a.at[e&(treeSlots*BurstSize-1)] = s
			a.list[n&(len(a.list)-1)] = e
			n += int(s >> 63)
		}
	}
}

// runs finds in the leaves that at has the entry of the lowest rank that agrees with each lane.
func (a *ahead) runs(trees int, places []slot, entries []narrow, shapes []shape, lanes int) {
	todo := a.todo[:lanes]
	n := 0
	for t := range trees {
		for _, i := range todo {
			e := (uint16(t*BurstSize) | i) & (treeSlots*BurstSize - 1)
			a.list[n&(len(a.list)-1)] = e
			n += int((-uint64(a.at[e])) >> 63)
		}
	}
	// An entry of all runs at a time. A run is done where the ranks are beyond what has been found.
	for round := 0; n > 0; round++ {
		list := a.list[:n]
		n = 0
		for _, e := range list {
			s, l := a.at[e&(treeSlots*BurstSize-1)], &a.lanes[e&(BurstSize-1)]
			if round > 0 {
				s = s.behind(places)
				a.at[e&(treeSlots*BurstSize-1)] = s
			}
			x := &entries[s.entry()]
			q := newProbe(l.key[keyAddrs], l.key[keyRest])
			meta, found := x.meta, l.found
			if x.off(&shapes[x.shape()], &q, allowBit(New, packet.Port(l.key[keyRest]>>48))) != 0 {
				meta = noEntry
			}
			found = min(found, meta)
			l.found = found
			a.list[n&(len(a.list)-1)] = e
			_, below := bits.Sub64(x.meta, found, 0)
			_, goes := bits.Sub64(0, uint64(s&^(entryMask<<entryShift)), 0)
			n += int(below & goes) // below what was found, and the run goes on
		}
	}
}

// settle writes what Match is to return, where the first rule decides. Protocols and verbs are looked up in words of bits: they
// change from packet to packet.
func (a *ahead) settle(m *Matcher, g *program, todo []uint16) {
	policy := uint64(m.rs.policyID(filterPlace)) | uint64(g.policy)*settledAccept
	for _, i := range todo {
		l := &a.lanes[i&(BurstSize-1)]
		r := policy
		if f := l.found; f != noEntry {
			verb := g.shapes[f>>shapeShift&shapeMask].verb()
			if decides>>verb&1 == 0 {
				l.found = 0
				continue
			}
			r = uint64(g.rules[f>>rankShift].id()) | uint64(accepts>>verb&1)*settledAccept
		}
		rest := l.key[keyRest]
		same := a.same[rest>>38&3] >> (rest >> 32 & 63) & 1
		if l.kind&uint64(oddHeaders) != 0 {
			same = 0
		}
		l.found = r | same*settledKeep | (r+1)<<(tracePortBits+traceStateBits+settledTrace) | rest>>48<<(traceStateBits+settledTrace) | uint64(New)<<settledTrace
	}
}

// Verbs as bits: those that decide, and those that accept.
const (
	accepts = 1 << VerbAccept
	decides = 1<<VerbAccept | 1<<VerbDrop | 1<<VerbReject
)

// MatchPrepared is Match for packet i of the burst that Prepare was called with. The packet need not be the same: it is looked at.
func (m *Matcher) MatchPrepared(i int, p *packet.Packet, c *Context) Result {
	l := &m.ahead.lanes[i&(BurstSize-1)]
	if f := l.found; f != 0 && c.State == New && l.key[keyRest] == restOf(p.SrcPort, p.DstPort, p.Proto, p.In) && l.key[keyAddrs] == addrsOf(p) && l.kind == kindOf(p) && p.Family == 4 {
		m.nLogged = 0
		return Result{Verdict: Verdict(f / settledAccept & 1), Keep: Keep(f / settledKeep & 3), Rule: RuleID(f), Trace: uint32(f >> settledTrace)}
	}
	return m.Match(p, c)
}

// wholeHeader says that the transport header is there as far as any match reads it.
func wholeHeader(p *packet.Packet) bool {
	return p.Flags&(packet.BrokenChain|packet.LaterFragment) == 0 && (p.Flags&packet.PortsValid != 0 || int(p.End)-int(p.L4) >= wholeLength(p.Proto))
}
