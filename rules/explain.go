package rules

import "corewire/internal/packet"

// Step is one rule that was tried for a packet.
type Step struct {
	Rule    RuleID
	Matched bool
	Why     string // what did not hold; empty when the rule matched
}

// opNames say what a condition asks, for Explain.
var opNames = [...]string{
	opNever: "fragment", opSrc: "source address", opDst: "destination address", opProto: "protocol", opPorts: "interface",
	opSport: "source port", opDport: "destination port", opHeader: "transport header", opFlags: "TCP flags", opOption: "TCP option",
	opICMP: "ICMP type", opMulti: "ports", opState: "connection state", opTracked: "no connection", opDir: "direction of the connection",
	opCtProto: "protocol of the connection", opCtAddr: "address of the connection", opCtPort: "port of the connection",
	opCtStatus: "status of the connection", opCtExpire: "time the connection has left", opRange: "address range", opType: "type of address",
	opLength: "length", opTTL: "TTL or hop limit", opTOS: "TOS or traffic class", opCWR: "ECN flags", opMark: "mark", opConnMark: "mark of the connection",
	opMAC: "MAC address", opLink: "packet type", opRtType: "routing header's type", opRtSegs: "segments left", opRtLen: "routing header's length",
	opRtReserved: "routing header's reserved bytes", opLimit: "limit", opNth: "turn", opRandom: "chance",
	opMSS: "segment size", opVLAN: "VLAN", opPCP: "VLAN priority", opText: "text", opSet: "set",
	opHashlimit: "rate of the address", opRecent: "list of recent addresses", opConnlimit: "connections of the address",
	opSPI: "SPI", opAuth: "authentication header", opFrag: "fragment header", opHeaders: "extension headers", opOptions: "options of the header",
	opMobility: "type of mobility header", opU32: "words", opTime: "time", opQuota: "quota", opBytes: "traffic of the connection",
	opHelper: "helper", opLabel: "label of the connection", opChunks: "SCTP chunks",
}

// Explain walks the rules one by one, as iptables does, and tells what was tried in order, through all base chains that
// the packet passes; the result is that of Match, without Trace. It is slow, counts nothing, and takes no token of a
// limit: each is looked at as if it were full. What rules change is changed in copies of p and c.
func (rs *Ruleset) Explain(p *packet.Packet, c *Context) ([]Step, Result) {
	f := filterPlace
	if p.Family == 6 {
		f++
	}
	x := &rs.way[f]
	d := *c
	d.looking, c = true, &d
	if rs.long {
		q := *p
		q.Frame = append([]byte(nil), p.Frame...)
		p = &q
	}
	var steps []Step
	result := Result{Verdict: Accept}
	for _, place := range x.place[:x.n] {
		v, id := rs.explain(int(place), &steps, p, c)
		if v != Accept {
			return steps, Result{Verdict: v, Rule: id}
		}
		if int(place) == f {
			result.Rule = id
		}
	}
	return steps, result
}

// explain is Explain for one base chain.
func (rs *Ruleset) explain(f int, steps *[]Step, p *packet.Packet, c *Context) (Verdict, RuleID) {
	g := &rs.prog[f]
	cc := compiler{rs: &Ruleset{memory: rs.memory}, live: g, opt: rs.opt, cur: &program{v6: g.v6}, place: f}
	cc.opt.Clock = true
	type place struct{ rank, end uint32 }
	at := place{g.chains[0].firstRank, g.chains[0].rank}
	var stack []place
	for {
		if at.rank == at.end {
			if len(stack) == 0 {
				return g.policy, rs.policyID(f)
			}
			at = stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			continue
		}
		r := &g.rules[at.rank]
		at.rank++
		cc.liveRule, cc.liveConns = r.id, 0
		why, o := cc.try(rs.rules[r.id].Rule, p, c)
		*steps = append(*steps, Step{Rule: r.id, Matched: o == yes, Why: why})
		switch {
		case o == short:
			return Drop, RuleID(len(rs.rules) + idShort)
		case o == full:
			return Drop, RuleID(len(rs.rules) + idFull)
		case o == no:
			continue
		}
		switch r.verb {
		case VerbAccept:
			return Accept, r.id
		case VerbDrop, VerbReject:
			return Drop, r.id
		case VerbEffect:
			if w := (walk{g: g, full: true}); !w.apply(&g.effects[r.arg], p, c) {
				return Drop, r.id
			}
		case VerbReturn:
			at.rank = at.end
		case VerbJump:
			stack = append(stack, at)
			fallthrough
		case VerbGoto:
			at = place{g.chains[r.arg].firstRank, g.chains[r.arg].rank}
		}
	}
}

// try tests a rule's conditions one by one and says which did not hold.
func (c *compiler) try(r *Rule, p *packet.Packet, ctx *Context) (string, outcome) {
	for _, q := range c.conditions(r) {
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
		if o := c.cur.test(&q, p, ctx); o != yes {
			return opNames[q.op], o
		}
	}
	return "", yes
}
