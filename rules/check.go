package rules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"corewire/internal/packet"
)

// FindingKind says what a Finding is about.
type FindingKind string

// Kinds of findings.
const (
	FindingShadowed  FindingKind = "shadowed"  // no packet reaches the rule: earlier ones take all that it would match
	FindingDuplicate FindingKind = "duplicate" // the rule stands in its chain already
	FindingUnused    FindingKind = "unused"    // nothing leads to the chain
	FindingUnsure    FindingKind = "unsure"    // whether other rules hide it together was not found out within bounds
	FindingNever     FindingKind = "never"     // what the rule asks contradicts itself
	FindingOpen      FindingKind = "open"      // every packet of an IP version is accepted
)

// Finding is something in a rule set that is legal and probably not meant.
type Finding struct {
	Pos  Pos
	Kind FindingKind
	Rule RuleID // NoRule for what is about none
	Text string
	Hint string
}

// String returns "file:line:column: text (hint)"; what is about no place begins with the text.
func (f Finding) String() string {
	s := f.Text
	if f.Pos.File != "" {
		s = f.Pos.String() + ": " + s
	}
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

// Check looks for what is legal and probably not meant:
//
//   - rules that no packet can come to, because earlier rules take every packet that they would match, or because what leads
//     to their chain has none of these; of one chain or several, one rule or several together;
//   - rules that cannot match any packet, rules that are there twice, chains that nothing leads to;
//   - an IP version of which everything is accepted.
//
// Addresses, ports, protocol, state and port of the wire are compared exactly. Excepted are addresses and protocols behind a !, masks of
// IPv4 that are no prefix, of which the first bits alone are compared, lists that ask for either port (--ports), and lists of so many
// ports that a rule would be more than 64 boxes. A rule that asks one of these, or anything else, is taken to let some packet
// pass, and to match some. For a rule that thousands of others touch the search may be given up, which is
// said. The result is in the order of the rules; the time is near to proportional to their number. Where progress is not nil
// it is told now and then how many rules of how many have been looked at.
func (rs *Ruleset) Check(progress func(done, all int)) []Finding {
	x := shadows{rules: make([]shadow, rs.Counters()), left: reachTotal, rng: rand.New(rand.NewPCG(1, 2))}
	all, done := 0, 0
	for f := range rs.prog {
		all += len(rs.prog[f].rules)
	}
	for f := range rs.prog {
		rs.shadowed(f, &x, func() {
			if done++; progress != nil && done%1024 == 0 {
				progress(done, all)
			}
		})
	}
	var out []Finding
	first := make(map[string]RuleID)
	var key []byte
	for me, r := range rs.Rules() {
		s := &x.rules[me]
		if !s.compiled {
			continue
		}
		key = r.appendIdentity(key[:0])
		before, twice := first[string(key)]
		if !twice {
			first[string(key)] = me
		}
		add := func(kind FindingKind, text, hint string) {
			out = append(out, Finding{r.Rule.Pos, kind, me, "rule " + rs.RuleName(me) + " " + text, hint})
		}
		switch {
		case twice && (s.reached || !s.never && !s.unsure && len(s.by) < 2):
			add(FindingDuplicate, "is the same as "+rs.ruleAt(before), "one of them can go")
		case s.reached:
		case s.warned:
		case r.Rule.Fragment == FragmentYes:
			add(FindingNever, "cannot match any packet: datagrams are judged whole, so that there are no fragments", "")
		case s.never:
			add(FindingNever, "cannot match any packet: what it asks contradicts itself", "")
		case s.unsure:
			add(FindingUnsure, "may be hidden: whether the rules before it take all its packets together was not found out", "the search was given up")
		case len(s.by) == 0:
			add(FindingShadowed, "is never reached: nothing that leads to chain "+r.Chain+" passes on a packet that it would match", "")
		case len(s.by) == 1:
			add(FindingShadowed, "is never reached: "+rs.ruleAt(s.by[0])+" takes every packet that it would match", "remove it, or put it before that one")
		default:
			names := ""
			for k, other := range s.by {
				if k == 4 {
					names += fmt.Sprintf(" and %d more", len(s.by)-k)
					break
				}
				if k > 0 {
					names += ", "
				}
				names += rs.ruleAt(other)
			}
			add(FindingShadowed, "is never reached: together, "+names+" take every packet that it would match", "remove it, or put it before these")
		}
	}
	for i, c := range rs.chains {
		if rs.lists[i].Len() == 0 || c.Policy != PolicyNone {
			continue
		}
		led := false
		for id := range rs.lists[i].All() {
			led = led || x.rules[id].compiled
		}
		if !led {
			out = append(out, Finding{c.Chain.Pos, FindingUnused, NoRule, "chain " + c.Name + " is not reached from " + baseNames(c.Table), "no rule that packets come to jumps there"})
		}
	}
	return append(out, rs.unguarded()...)
}

// unguarded finds IP versions of which no packet is dropped.
func (rs *Ruleset) unguarded() (out []Finding) {
	for v, f := range []Family{IPv4, IPv6} {
		drops := false
		for k := range baseTable {
			g := &rs.prog[2*k+v]
			drops = drops || g.policy == Drop && (k == baseFilter || rs.has[2*k+v])
			led := g.led()
			for n, ch := range g.chains {
				if !led[n] {
					continue
				}
				for rank := range g.ranks(ch) {
					v := g.deed(rank).verb
					drops = drops || v == VerbDrop || v == VerbReject
				}
			}
		}
		if !drops {
			out = append(out, Finding{Pos{}, FindingOpen, NoRule, fmt.Sprintf("every %v packet is accepted: no rule and no policy drops any", f), "is a rule file for it missing?"})
		}
	}
	return out
}

// led says of each chain whether packets come there: a change may have taken away what led to it, see program.forsake.
func (g *program) led() []bool {
	led := make([]bool, len(g.chains))
	for _, n := range g.names {
		led[n] = true
	}
	return led
}

// ruleAt names a rule with its place.
func (rs *Ruleset) ruleAt(id RuleID) string {
	return fmt.Sprintf("%s in line %d", rs.RuleName(id), rs.info(id).Rule.Pos.Line)
}

// baseNames lists the base chains of a table that packets pass.
func baseNames(table string) string {
	var names []string
	for _, k := range basesOf(table) {
		names = append(names, baseTable[k].chain)
	}
	return strings.Join(names, " or ")
}

// shadow is what is found out about a rule. A rule for both IP versions, or below several base chains, is unreachable if it
// is so for each.
type shadow struct {
	by       []RuleID // the rules that hide it
	compiled bool     // packets may come to its chain
	reached  bool
	never    bool // it matches nothing, for one version at least
	warned   bool // that it matches nothing is said already: it names an interface that is neither port
	unsure   bool
}

// shadows is what is found out about the rules of a set, program by program.
type shadows struct {
	rules []shadow // by RuleID
	left  int      // effort
	rng   *rand.Rand
}

// shadowed looks at the rules of one program; each is called for each of its rules.
func (rs *Ruleset) shadowed(place int, found *shadows, each func()) {
	g := &rs.prog[place]
	if len(g.rules) == 0 {
		return
	}
	// The boxes are made again: those of rules that building found unreachable are in no tree.
	c := compiler{rs: &Ruleset{}, opt: rs.opt, place: place}
	c.cur = &program{v6: g.v6}
	search := newReach(g, &found.left, found.rng)
	led := g.led()
	for n, ch := range g.chains {
		if ch.n == 0 || !led[n] {
			continue
		}
		search.enter(uint32(n))
		for rank := range g.ranks(ch) {
			each()
			id := g.rule(rank).id
			s := &found.rules[id]
			s.compiled = true
			if s.reached {
				continue
			}
			*c.cur = program{v6: g.v6}
			never, r := true, rs.info(id).Rule
			if c.ports(r.In, packet.Inside, packet.Outside) == 0 || c.ports(r.Out, packet.Outside, packet.Inside) == 0 {
				s.warned = true
			}
			var by []RuleID
			for _, b := range c.boxes(nil, &deed{}, r) {
				x := b.wide()
				if x.allow &= stateMask; x.allow == 0 {
					continue
				}
				never = false
				if one := search.holder(&x, rank); one != none {
					by = append(by, g.rule(one).id)
					continue
				}
				switch search.box(rank, &x) {
				case open:
					s.reached = true
				case unsure:
					s.unsure = true
				default:
					for _, r := range search.used {
						by = append(by, g.rule(r).id)
					}
				}
				if s.reached {
					break
				}
			}
			slices.Sort(by)
			s.never = s.never || never
			if !never {
				s.by = slices.Compact(by)
			}
		}
	}
}
