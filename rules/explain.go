package rules

import (
	"fmt"
	"slices"

	"corewire/internal/packet"
)

// Step is one rule that was tried for a packet.
type Step struct {
	Rule    RuleID
	Matched bool
	Why     string   // what did not hold; empty when the rule matched
	Did     string   // what a rule that matched changed: "mark 0x0 becomes 0x1", "the packet is changed"; else empty
	Asked   []string // what it asked that the next packet of the connection may answer otherwise, or did: then no verdict is cached
}

// opNames say what a condition asks, for Explain.
var opNames = [...]string{
	opNever: "fragment", opSrc: "source address", opDst: "destination address", opProto: "protocol", opPorts: "interface",
	opSport: "source port", opDport: "destination port", opHeader: "transport header", opFlags: "TCP flags", opOption: "TCP option",
	opICMP: "ICMP type", opMulti: "ports", opState: "connection state", opTracked: "no connection", opDir: "direction of the connection",
	opCtProto: "protocol of the connection", opCtAddr: "address of the connection", opCtPort: "port of the connection",
	opCtStatus: "status of the connection", opCtExpire: "time the connection has left", opRange: "address range", opType: "type of address",
	opLength: "length", opTTL: "TTL or hop limit", opTOS: "TOS or traffic class", opCWR: "ECN flags", opMark: "mark", opConnMark: "mark of the connection",
	opMAC: "MAC address", opLink: "packet type", opRouting: "routing header", opLimit: "limit", opNth: "turn", opRandom: "chance",
	opMSS: "segment size", opVLAN: "VLAN", opPCP: "VLAN priority", opText: "text", opSet: "set",
	opHashlimit: "rate of the address", opRecent: "list of recent addresses", opConnlimit: "connections of the address",
	opSPI: "SPI", opAuth: "authentication header", opFrag: "fragment header", opHeaders: "extension headers", opOptions: "options of the header",
	opMobility: "type of mobility header", opU32: "words", opTime: "time", opQuota: "quota", opBytes: "traffic of the connection",
	opHelper: "helper", opLabel: "label of the connection", opChunks: "SCTP chunks",
	opDCCPType: "type of DCCP packet", opDCCPOption: "DCCP option", opSegments: "segment routing header", opEUI64: "EUI-64 address", opCPI: "CPI",
	opCluster: "node of the cluster", opBPF: "BPF program",
}

// Explain walks the rules one by one, as iptables does, and tells what was tried in order, through all base chains that
// the packet passes; the result is that of Match, but without Trace, and with KeepOn where Match says KeepUntilSets. It is slow, counts nothing, and takes no token of a
// limit, nor a turn: they are looked at as they stand. Chance is what it is. What rules change is changed in copies of p and c;
// the frame grows if p's has room.
func (rs *Ruleset) Explain(p *packet.Packet, c *Context) ([]Step, Result) {
	f := filterPlace
	if p.Family == 6 {
		f++
	}
	x := &rs.way[f]
	d := *c
	d.looking, c = true, &d
	if rs.long {
		p = copied(p)
	}
	var steps []Step
	result := Result{Verdict: Accept}
	connMark := c.ConnMark
	for _, place := range x.place[:x.n] {
		v, id := rs.explain(int(place), &steps, p, c)
		if v != Accept || int(place) == f {
			result.Verdict, result.Rule = v, id
		}
		if v != Accept {
			break
		}
	}
	if alike(p, c) && c.ConnMark == connMark && !slices.ContainsFunc(steps, func(s Step) bool { return len(s.Asked) > 0 }) {
		result.Keep = KeepOn
	}
	return steps, result
}

// ExplainRaw is Explain for the raw table's PREROUTING, before tracking; the outcome is that of Matcher.Raw. Without a raw
// table nothing is tried, and the packet accepted.
func (rs *Ruleset) ExplainRaw(p *packet.Packet, c *Context) ([]Step, Early) {
	f := rawPlace
	if p.Family == 6 {
		f++
	}
	if !rs.HasRaw() {
		return nil, Early{Verdict: Accept, Rule: rs.policyID(f)}
	}
	d := *c
	d.looking, d.State, d.Mark = true, Invalid, 0
	var steps []Step
	e := Early{}
	e.Verdict, e.Rule = rs.explain(f, &steps, copied(p), &d)
	e.Mark = d.Mark
	for _, s := range steps {
		if s.Matched && e.Assign == 0 && int(s.Rule) < len(rs.assign) {
			e.Assign = rs.assign[s.Rule]
		}
	}
	return steps, e
}

// copied returns a copy of a packet and its frame, with as much room behind it.
func copied(p *packet.Packet) *packet.Packet {
	q := *p
	q.Frame = append(make([]byte, 0, cap(p.Frame)), p.Frame...)
	return &q
}

// explain is Explain for one base chain.
func (rs *Ruleset) explain(f int, steps *[]Step, p *packet.Packet, c *Context) (Verdict, RuleID) {
	g := &rs.prog[f]
	cc := compiler{rs: &Ruleset{memory: rs.memory, movedSets: rs.movedSets}, live: g, opt: rs.opt, cur: &program{v6: g.v6}, place: f}
	cc.opt.Clock = true
	at := slices.Collect(g.ranks(g.chains[0])) // what is left of the chain
	var stack [][]uint32
	for {
		if len(at) == 0 {
			if len(stack) == 0 {
				return g.policy, rs.policyID(f)
			}
			at = stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			continue
		}
		x := g.rule(at[0])
		at = at[1:]
		id, r := x.id, g.deedOf(x)
		cc.liveRule, cc.liveConns, cc.liveMatches = id, 0, rs.info(id).Rule.Matches
		why, o := cc.try(rs.info(id).Rule, p, c)
		*steps = append(*steps, Step{Rule: id, Matched: o == yes || o == doomed, Why: why, Asked: cc.asked})
		switch {
		case o == short:
			return Drop, rs.extra(idShort)
		case o == full:
			return Drop, rs.extra(idFull)
		case o == no:
			continue
		}
		switch r.verb {
		case VerbAccept:
			if o != doomed {
				return Accept, id
			}
		case VerbDrop, VerbReject:
			return Drop, id
		case VerbLog:
			if rs.opt.Logs {
				s := &(*steps)[len(*steps)-1]
				s.Asked = append(s.Asked, whyLogged)
			}
		case VerbEffect:
			mark, conn, w := c.Mark, c.ConnMark, walk{g: g, full: true, cacheable: true}
			kept := w.apply(&g.effects[r.arg], p, c)
			s := &(*steps)[len(*steps)-1]
			why := g.effects[r.arg].kind.forbids(p.Proto)
			switch {
			case c.Mark != mark:
				s.Did = fmt.Sprintf("mark %#x becomes %#x", mark, c.Mark)
			case c.ConnMark != conn:
				s.Did = fmt.Sprintf("mark of the connection %#x becomes %#x", conn, c.ConnMark)
			default:
				s.Did = why
			}
			if why != "" {
				s.Asked = append(s.Asked, why)
			}
			if !kept {
				return Drop, id
			}
		case VerbReturn:
			at = nil
		case VerbJump:
			stack = append(stack, at)
			fallthrough
		case VerbGoto:
			at = slices.Collect(g.ranks(g.chains[r.arg]))
		}
		if o == doomed {
			return Drop, rs.extra(idShort)
		}
	}
}

// try tests a rule's conditions one by one and says which did not hold.
func (c *compiler) try(r *Rule, p *packet.Packet, ctx *Context) (string, outcome) {
	c.asked = nil
	list := c.conditions(r)
	c.rs.moveSets(c.cur)
	inOrder := false // what is left is asked in this order
	all := yes
	for i, q := range list {
		inOrder = inOrder || q.op.effect() || q.op.hot()
		switch q.op {
		case opSrc:
			q.a = c.addr(r.Src)
		case opDst:
			q.a = c.addr(r.Dst)
		default:
			if p.Flags&packet.BrokenChain != 0 && r.Proto.Num != 0 {
				return "extension headers", short
			}
		}
		if p.Flags&packet.LaterFragment != 0 && q.op == opHeader {
			return opNames[q.op], no
		}
		if q.n == 1 && q.op >= opDir && (ctx.State == Invalid || ctx.State == Untracked) {
			continue
		}
		if c.cur.volatile(&q, p.Proto) && (inOrder || c.agrees(list, i, p, ctx)) {
			c.asked = append(c.asked, opNames[q.op])
		}
		switch o := c.cur.test(&q, p, ctx); {
		case o == yes:
		case o == doomed:
			all = doomed
		case all == doomed:
			return opNames[q.op], short
		default:
			return opNames[q.op], o
		}
	}
	return "", all
}

// agrees says whether what the matcher asks before the i-th condition of a list holds: conditions behind it that an entry
// holds, as far as they may be asked before (see boxes). Ports of the wire may not behind a header that must be there.
func (c *compiler) agrees(list []pred, i int, p *packet.Packet, ctx *Context) bool {
	header := false
	for k, q := range list {
		header = header || q.op == opHeader
		if k <= i || q.op == opPorts && header {
			continue
		}
		if q.op.effect() || q.op.hot() {
			return true
		}
		switch q.op {
		case opProto, opPorts, opState, opTracked, opSport, opDport, opMulti:
			if !c.cur.volatile(&q, p.Proto) && c.cur.test(&q, p, ctx) == no {
				return false
			}
		}
	}
	return true
}
