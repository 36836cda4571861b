package rules

import (
	"fmt"

	"corewire/internal/packet"
)

// Early is the outcome of the raw table.
type Early struct {
	Verdict Verdict
	Rule    RuleID // what decided
	// Assign is what the packet's connection is given: 0 for nothing, else the number from 1 of an element of
	// Ruleset.Assignments.
	Assign uint32
	Mark   uint32 // the packet's mark behind the table, for Context.Mark
}

// HasRaw says whether the rule set has a raw table: packets must then be shown to Matcher.Raw before they are tracked.
func (rs *Ruleset) HasRaw() bool { return rs.has[rawPlace] || rs.has[rawPlace+1] }

// Assignments returns what the rules of the raw table give to packets, by Early.Assign minus 1. The caller must not
// change it.
func (rs *Ruleset) Assignments() []*CTTarget { return rs.assignments }

// Raw judges a packet by the raw table's PREROUTING, before it is tracked, as a whole datagram (nf_defrag_ipv4 comes
// before, NF_IP_PRI_RAW_BEFORE_DEFRAG aside). It counts the packet at once. Of c it looks at Now and the like; State must
// be Invalid, which is what the packet is as long as nobody has tracked it. It allocates nothing.
func (m *Matcher) Raw(p *packet.Packet, c *Context) Early {
	m.nLogged = 0
	f := rawPlace
	if p.Family == 6 {
		f++
	}
	w := walk{m: m, g: &m.rs.prog[f], policy: m.rs.policyID(f), bytes: uint32(p.End - p.L3), full: true}
	if len(w.g.rules) == 0 {
		w.note(w.policy)
		return Early{Verdict: w.g.policy, Rule: w.policy}
	}
	w.h.fill(p, c)
	c.Mark = 0
	v, id := w.run(p, c)
	return Early{Verdict: v, Rule: id, Assign: w.assign, Mark: c.Mark}
}

// assign notes what a rule of the raw table gives to packets.
func (c *compiler) assign(id RuleID, t *CTTarget) {
	if t == nil {
		return
	}
	rs := c.rs
	for len(rs.assign) <= int(id) {
		rs.assign = append(rs.assign, 0)
	}
	rs.assignments = append(rs.assignments, t)
	rs.assign[id] = uint32(len(rs.assignments))
}

// CheckTimeouts checks that every timeout policy that the rules name is defined, for the protocol of the rule. defined
// holds their protocols by name, 0 for a policy of the protocols that have no tracker. The error is *Errors.
func (rs *Ruleset) CheckTimeouts(defined map[string]uint8) error {
	var errs Errors
	for _, info := range rs.Rules() {
		r := info.Rule
		if r.Target.CT == nil || r.Target.CT.Timeout == "" {
			continue
		}
		name := r.Target.CT.Timeout
		proto, ok := defined[name]
		switch {
		case !ok:
			names := make([]string, 0, len(defined))
			for n := range defined {
				names = append(names, n)
			}
			hint := "policies are defined by the setting timeouts"
			if near := nearestSorted(name, names); near != "" {
				hint = "did you mean " + near + "?"
			}
			errs.add(&Error{Pos: r.Target.Pos, Found: "--timeout " + name, Expected: "a timeout policy that the configuration defines", Hint: hint})
		case proto != r.Proto.Num && (proto != 0 || tracked(r.Proto.Num)):
			what := "a protocol without a tracker of its own"
			if proto != 0 {
				what = protocolName(proto)
			}
			errs.add(&Error{Pos: r.Target.Pos, Found: "--timeout " + name, Expected: "a timeout policy for the protocol of the rule", Hint: fmt.Sprintf("%s is for %s", name, what)})
		}
	}
	return errs.orNil()
}

// tracked says whether a protocol has a tracker of its own, so that the generic timeout is not for it.
func tracked(proto uint8) bool {
	switch proto {
	case protoTCP, protoUDP, protoUDPLite, protoICMP, protoICMPv6, protoSCTP, packet.ProtoGRE:
		return true
	}
	return false
}
