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
//
// The packets that are looked up lie side by side in lanes, as vectors load them. As long as a packet at hand is as its lane's key
// and kind say and begins a connection, found is its result, whatever has become of the burst.
type ahead struct {
	key   [2][BurstSize]uint64          // by keyAddrs and keyRest
	kind  [BurstSize]uint64             // what else Match looks at, see kindOf
	found [BurstSize]uint64             // of the entries that agreed so far, the lowest meta; noEntry; then as settled
	at    [treeSlots * BurstSize]slot   // by tree, then lane: where the packet is, and then what is left of the run
	list  [treeSlots * BurstSize]uint16 // what is not done with a step
	lane  [BurstSize]uint8              // by packet; noLane
	same  [4]uint64                     // bits by protocol: without odd headers alike says yes
	form  form                          // how the steps are done
}

// form is a way to do the steps, with the same outcome.
type form uint8

const (
	plainForm form = iota // in Go
	entryForm             // in assembly, an entry in a vector of 16 bytes
	burstForm             // in assembly, eight lanes in vectors of 64 bytes
)

// newAhead returns one whose steps are done as this processor does them fastest.
func newAhead() *ahead {
	a := &ahead{form: fastest()}
	a.none()
	for proto := range 256 {
		if alike(&packet.Packet{Proto: uint8(proto)}, &Context{State: New}) {
			a.same[proto>>6] |= 1 << (proto & 63)
		}
	}
	return a
}

// noEntry is above every narrow.meta.
const noEntry = 1<<64 - 1

// noLane is what packets have that are left to Match.
const noLane = 255

// few is below how many packets a burst is left to Match: the loops here are for many.
const few = 4

// group is how many lanes a vector has.
const group = 8

// Flags that Match looks at, and of these what says that there are ports, or that the transport header cannot be found.
const (
	portsValid  = packet.PortsValid
	lostHeaders = packet.BrokenChain | packet.LaterFragment
	askedFlags  = portsValid | oddHeaders
)

// kindOf is the kind of a packet that begins a connection: its length behind the IP header:32 | 0:16 | flags:16.
func kindOf(p *packet.Packet) uint64 {
	return uint64(p.End-p.L4)<<32 | uint64(p.Flags&askedFlags)
}

// Settled lanes: trace:24 | 0:5 | keep:2 | verdict:1 | rule:32; 0 when Match has to look. Where these are:
const (
	settledVerdict = 32
	settledKeep    = 33
	settledState   = 40
	settledPort    = settledState + traceStateBits
	settledRule    = settledPort + tracePortBits
)

// Prepare looks up the rules for the packets of a burst, for BurstSize of them at most, that the flow table has no hint for
// (Packet.Hint): those that probably begin connections. MatchPrepared then has less to do; what it returns is the same with
// and without, and packets may change in between. It allocates nothing.
func (m *Matcher) Prepare(pkts []packet.Packet) {
	a := m.ahead
	if m.rs.long || len(pkts) < few {
		return
	}
	n := a.lanes(pkts[:min(len(pkts), BurstSize)])
	if n < few {
		a.none()
		return
	}
	g := &m.rs.prog[filterPlace]
	ch := g.chains[0]
	a.lookup(g, g.trees[ch.first:ch.first+ch.n], n)
	a.finish(g, uint64(m.rs.policyID(filterPlace))|uint64(g.policy)<<settledVerdict, n)
}

// none forgets which lanes packets have.
func (a *ahead) none() {
	for i := range a.lane {
		a.lane[i] = noLane
	}
}

// forget forgets what was found.
func (a *ahead) forget() { clear(a.found[:]) }

// lanes gives lanes to the packets that are looked up, and returns how many these are.
func (a *ahead) lanes(pkts []packet.Packet) int {
	if a.form == burstForm && len(pkts) >= group {
		return fillBurst(a, pkts)
	}
	return a.fill(pkts)
}

// fill is lanes in Go.
func (a *ahead) fill(pkts []packet.Packet) int {
	a.none()
	n := 0
	for i := range pkts {
		p := &pkts[i]
		if p.Hint != 0 || p.Family != 4 || !wholeHeader(p) {
			continue
		}
		l := n & (BurstSize - 1)
		a.key[keyAddrs][l], a.key[keyRest][l] = addrsOf(p), restOf(p.SrcPort, p.DstPort, p.Proto, p.In)
		a.kind[l] = kindOf(p)
		a.lane[i&(BurstSize-1)] = uint8(l)
		n++
	}
	return n
}

// lookup leads the first n lanes down the trees of a chain, and finds in the runs there the entry of the lowest rank that
// agrees with each as the first packet of a connection.
func (a *ahead) lookup(g *program, trees []slot, n int) {
	for l := range a.found {
		a.found[l] = noEntry
	}
	switch a.form {
	case burstForm:
		descendBurst(a, trees, g.slots, n)
		left := runsBurst(a, len(trees), g.places, g.narrow, g.shapes, n)
		restVector(a, g.places, g.narrow, g.shapes, left)
	case entryForm:
		descendVector(a, trees, g.slots, n)
		runsVector(a, len(trees), g.places, g.narrow, g.shapes, n)
	default:
		a.descend(trees, g.slots, n)
		a.runs(len(trees), g.places, g.narrow, g.shapes, n)
	}
}

// descend leads the lanes down the trees, a level of all of them at a time: then at has their leaves.
func (a *ahead) descend(trees, slots []slot, lanes int) {
	n := 0
	for t, s := range trees {
		for l := range lanes {
			e := uint16(t*BurstSize+l) & (treeSlots*BurstSize - 1)
			a.at[e] = s
			a.list[n&(len(a.list)-1)] = e
			n += int(s >> 63)
		}
	}
	for n > 0 {
		list := a.list[:n]
		n = 0
		for _, e := range list {
			s := a.at[e&(treeSlots*BurstSize-1)]
			s = slots[uint32(s)+uint32(a.key[s.key()&1][e&(BurstSize-1)]>>s.shift())&s.mask()]
			a.at[e&(treeSlots*BurstSize-1)] = s
			a.list[n&(len(a.list)-1)] = e
			n += int(s >> 63)
		}
	}
}

// runs finds in the leaves that at has the entry of the lowest rank that agrees with each lane.
func (a *ahead) runs(trees int, places []slot, entries []narrow, shapes []shape, lanes int) {
	n := 0
	for t := range trees {
		for l := range lanes {
			e := uint16(t*BurstSize+l) & (treeSlots*BurstSize - 1)
			a.list[n&(len(a.list)-1)] = e
			n += int((-uint64(a.at[e])) >> 63)
		}
	}
	// An entry of all runs at a time. A run is done where the ranks are beyond what has been found.
	for round := 0; n > 0; round++ {
		list := a.list[:n]
		n = 0
		for _, e := range list {
			s, l := a.at[e&(treeSlots*BurstSize-1)], e&(BurstSize-1)
			if round > 0 {
				s = s.behind(places)
				a.at[e&(treeSlots*BurstSize-1)] = s
			}
			x := &entries[s.entry()]
			rest := a.key[keyRest][l]
			q := newProbe(a.key[keyAddrs][l], rest)
			meta, found := x.meta, a.found[l]
			if x.off(&shapes[x.shape()], &q, allowBit(New, packet.Port(rest>>48))) != 0 {
				meta = noEntry
			}
			found = min(found, meta)
			a.found[l] = found
			a.list[n&(len(a.list)-1)] = e
			_, below := bits.Sub64(x.meta, found, 0)
			_, goes := bits.Sub64(0, uint64(s&^(entryMask<<entryShift)), 0)
			n += int(below & goes) // below what was found, and the run goes on
		}
	}
}

// finish writes what Match is to return for the first n lanes, policy where no rule decides.
func (a *ahead) finish(g *program, policy uint64, n int) {
	low, shift := uint64(g.low())<<rankShift, uint64(rankShift+g.gap)
	if a.form == burstForm && len(g.narrow) > 0 {
		settleBurst(a, g.shapes, g.rules, low, shift, policy, n)
	} else {
		a.settle(g.shapes, g.rules, low, shift, policy, n)
	}
}

// settle is finish in Go. Where the first rule does not decide, or came by a change, nothing is written that Match could return: an
// entry's meta has an index of list from bit shift on, and all of low if the rule was compiled. Protocols and verbs are looked up in
// words of bits: they change from packet to packet.
func (a *ahead) settle(shapes []shape, list []compiledRule, low, shift, policy uint64, lanes int) {
	for l := range lanes {
		l &= BurstSize - 1
		r := policy
		if f := a.found[l]; f != noEntry {
			verb := shapes[f>>shapeShift&shapeMask].verb()
			if decides>>verb&1 == 0 {
				a.found[l] = 0
				continue
			}
			if f&low != low { // it came by a change
				a.found[l] = 0
				continue
			}
			r = uint64(list[f>>shift].id()) | accepts>>verb&1<<settledVerdict
		}
		rest := a.key[keyRest][l]
		same := a.same[rest>>38&3] >> (rest >> 32 & 63) & 1
		if a.kind[l]&uint64(oddHeaders) != 0 {
			same = 0
		}
		a.found[l] = r | same<<settledKeep | (r+1)<<settledRule | rest>>48<<settledPort | uint64(New)<<settledState
	}
}

// Verbs as bits: those that decide, and those that accept.
const (
	accepts uint64 = 1 << VerbAccept
	decides uint64 = 1<<VerbAccept | 1<<VerbDrop | 1<<VerbReject
)

// MatchPrepared is Match for packet i of the burst that Prepare was called with. The packet need not be the same: it is looked at.
func (m *Matcher) MatchPrepared(i int, p *packet.Packet, c *Context) Result {
	a := m.ahead
	if l := a.lane[i&(BurstSize-1)]; l < BurstSize {
		if f := a.found[l]; f != 0 && c.State == New && a.key[keyRest][l] == restOf(p.SrcPort, p.DstPort, p.Proto, p.In) && a.key[keyAddrs][l] == addrsOf(p) && a.kind[l] == kindOf(p) && p.Family == 4 {
			m.nLogged = 0
			return Result{Verdict: Verdict(f >> settledVerdict & 1), Keep: Keep(f >> settledKeep & 3), Rule: RuleID(f), Trace: uint32(f >> settledState)}
		}
	}
	return m.Match(p, c)
}

// longestHeader is as much of a transport header as any match reads, whatever the protocol, see wholeLength.
const longestHeader = 20

// wholeHeader says that the transport header is certainly there as far as any match reads it.
func wholeHeader(p *packet.Packet) bool {
	return p.Flags&lostHeaders == 0 && (p.Flags&portsValid != 0 || int32(p.End-p.L4) >= longestHeader)
}
