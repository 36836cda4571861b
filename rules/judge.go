package rules

import (
	"encoding/binary"

	"corewire/internal/ipset"
	"corewire/internal/packet"
)

// Answer says whether rules would let a connection begin, as far as that can be told from what a connection table keeps.
type Answer uint8

const (
	Refused  Answer = iota // no packet that could have begun the connection is accepted
	Admitted               // some packet is, or it cannot be told
)

// Judge tells whether rules would let a connection begin again: not for a packet that is there, but for what is known of
// the first packet of a connection that has long begun. One goroutine uses it. It counts nothing, logs nothing, and takes
// nothing of what matches remember.
//
// Known are addresses, ports and ICMP type, protocol, the port of the wire, the connection's state, marks and tuple; a TCP
// connection begins with a SYN. Unknown is everything else that a rule may ask: length, TTL, options, MAC address, text,
// and whatever depends on time or on other packets, such as a limit, or a set that holds MAC addresses or marks, or is asked
// what its elements have counted, or that rules add to or delete from. Of a set whose elements expire it is known that one is
// there; whether one that is not there was there then, is not. A rule that asks such things may have agreed or not: the
// connection is refused only when it is refused either way.
type Judge struct {
	rs    *Ruleset
	m     Matcher // its stack and rule set only
	forks int     // left for the packet being judged
	vague bool    // marks depend on what is unknown
	frame [256]byte
}

// maxForks bounds how many ways one connection is followed: each rule that leads elsewhere on an unknown condition opens
// one, and a connection with more is taken for admitted.
const maxForks = 256

// NewJudge makes a Judge of the rule set.
func (rs *Ruleset) NewJudge() *Judge {
	j := &Judge{rs: rs}
	depth := 0
	for f := range rs.prog {
		depth = max(depth, rs.prog[f].depth)
	}
	j.m = Matcher{rs: rs, stack: make([]frame, depth+1)}
	return j
}

// Judge answers for a packet made by the caller of what is known: addresses, ports with packet.PortsValid, ICMP type,
// TCPFlags, Key and Flags as parsing would have set them; Frame is not looked at. c is the context of a packet that begins
// a connection; both are changed.
func (j *Judge) Judge(p *packet.Packet, c *Context) Answer {
	if !keyed(p.Proto) && wholeLength(p.Proto) > 0 {
		return Admitted // no table keeps the ports of these
	}
	// The frame has what is asked of transport headers: the same that the packet says.
	p.Frame, p.L3, p.L4, p.End = j.frame[:], 14, 54, uint32(len(j.frame))
	h := p.Frame[p.L4:]
	clear(h)
	switch p.Proto {
	case protoTCP:
		h[12], h[13] = 5<<4, p.TCPFlags
	case protoICMP, protoICMPv6:
		h[0], h[1] = p.ICMPType, p.ICMPCode
	}
	binary.BigEndian.PutUint16(h, p.SrcPort|binary.BigEndian.Uint16(h))
	binary.BigEndian.PutUint16(h[2:], p.DstPort)
	j.forks, j.vague = maxForks, false
	v := 0
	if p.Family == 6 {
		v = 1
	}
	state := c.State
	c.State = Invalid // the raw table is asked before tracking
	if j.rs.has[rawPlace+v] && j.table(rawPlace+v, p, c) == Refused {
		return Refused
	}
	c.State = state
	way := &j.rs.way[v]
	for _, place := range way.place[:way.n] {
		if j.table(int(place), p, c) == Refused {
			return Refused
		}
	}
	return Admitted
}

// table answers for one base chain.
func (j *Judge) table(place int, p *packet.Packet, c *Context) Answer {
	w := walk{m: &j.m, g: &j.rs.prog[place]}
	w.h.fill(p, c)
	w.enter(&j.m.stack[0], 0)
	return j.run(&w, j.m.stack, 0, p, c)
}

// run follows the packet's way on from where the stack stands, and both ways where a condition is unknown.
func (j *Judge) run(w *walk, stack []frame, sp int, p *packet.Packet, c *Context) Answer {
	g := w.g
	for {
		k := w.next(&stack[sp])
		if k == nil {
			if sp == 0 {
				if g.policy == Accept {
					return Admitted
				}
				return Refused
			}
			sp--
			continue
		}
		if k.verb == goneVerb {
			stack[sp].from = k.rank + 2
			continue
		}
		r := g.deed(k.rank)
		known := true
		if k.more {
			o := no
			if o, known = j.matches(w, r, p, c); known && o != yes {
				continue
			}
		}
		switch r.verb {
		case VerbAccept:
			return Admitted
		case VerbDrop, VerbReject:
			if known {
				return Refused
			}
		case VerbEffect:
			// Of what rules change, only marks are looked at here.
			switch e := &g.effects[r.arg]; e.kind {
			case effectMark, effectSet, effectSave, effectRestore:
				j.vague = j.vague || !known
				if known {
					w.apply(e, p, c)
				}
			case effectHash:
				j.vague = true
			case effectSets: // --map-mark
				j.vague = j.vague || g.setChanges[e.value].mapped != nil
			}
		case VerbReturn, VerbJump, VerbGoto:
			if known {
				sp = j.follow(w, stack, sp, r)
				continue
			}
			if j.forks--; j.forks < 0 {
				return Admitted
			}
			other := append([]frame(nil), stack...)
			if j.run(w, other, j.follow(w, other, sp, r), p, c) == Admitted {
				return Admitted
			}
		}
	}
}

// follow goes where a rule leads, and returns the new top of the stack.
func (j *Judge) follow(w *walk, stack []frame, sp int, r *deed) int {
	switch r.verb {
	case VerbReturn:
		stack[sp].n = 0
		return sp
	case VerbJump:
		sp++
	}
	w.enter(&stack[sp], r.arg)
	return sp
}

// matches tests the conditions of a rule that its entry does not hold; false when the answer depends on an unknown one.
func (j *Judge) matches(w *walk, r *deed, p *packet.Packet, c *Context) (outcome, bool) {
	first := r.pred + uint32(r.all)
	known := true
	list := w.g.preds[first : first+uint32(r.rest)]
	for i := range list {
		q := &list[i]
		if !w.g.kept(q) || j.vague && (q.op == opMark || q.op == opConnMark) {
			known = false
			continue
		}
		if q.n == 1 && q.op >= opDir && (c.State == Invalid || c.State == Untracked) {
			continue
		}
		if q.op == opSet {
			s := &w.g.sets[q.a]
			switch there := s.handle.Match(&s.look, p, tickOf(c.Now), c.Mark); {
			case !there && s.handle.Expires():
				known = false
			case there == q.not:
				return no, true
			}
			continue
		}
		if o := w.g.test(q, p, c); o != yes {
			return o, true
		}
	}
	return yes, known
}

// kept says that a condition of the program can be answered: op.kept, or a set that only orders and time change, of what is
// known.
func (g *program) kept(q *pred) bool {
	if q.op == opSet {
		s := &g.sets[q.a]
		return !s.moved && !s.handle.Loose() && s.query.PacketsIs|s.query.ByteIs == ipset.Any
	}
	return q.op.kept()
}

// kept says that what the condition asks is kept in a connection table, or is the same for all connections.
func (o op) kept() bool {
	switch o {
	case opNever, opSrc, opDst, opProto, opPorts, opSport, opDport, opHeader, opFlags, opICMP, opMulti, opState, opTracked, opDir, opCtProto, opCtAddr,
		opCtPort, opCtStatus, opRange, opType, opMark, opConnMark:
		return true
	}
	return false
}
