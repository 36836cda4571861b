package rules

import (
	"fmt"
	"slices"
	"strings"
)

// ruleParser reads the words of one rule, as iptables' getopt loop does (iptables/xshared.c, do_parse).
type ruleParser struct {
	p    *parser
	toks []token
	i    int
	end  int // column behind the line
	// chain is the one that the rule is for.
	chain string
	rule  Rule

	loaded []loaded
	not    bool // a "!" stands before the next option
	notCol int
	failed bool

	protoSet  bool
	srcs      []AddrMatch // -s with a list
	dsts      []AddrMatch
	jumpSet   bool
	protoCol  int // not 0: place of what needs -p, which protoFor names
	protoFor  string
	protoAuto bool // the protocol's own module was loaded by one of its options
}

func (rp *ruleParser) fail(col int, found, expected, hint string) {
	rp.failed = true
	rp.rule.bad = append(rp.rule.bad, &Error{Pos: rp.p.pos(col), Found: found, Expected: expected, Hint: hint})
}

// note adds a warning about the rule, which is told if its chain matters.
func (rp *ruleParser) note(col int, text string) {
	rp.rule.notes = append(rp.rule.notes, Warning{Pos: rp.p.pos(col), Text: text})
}

// didYouMean returns a hint that names the nearest word of list, or "".
func (rp *ruleParser) didYouMean(s string, list []string) string { return rp.p.didYouMean(s, list) }

// parse returns the rules that the words stand for. A rule with errors is returned as well (its target is needed to
// see which chains matter), with the errors in bad.
func (rp *ruleParser) parse() []*Rule {
	for rp.i < len(rp.toks) {
		t := rp.toks[rp.i]
		rp.i++
		switch {
		case t.quoted:
			rp.fail(t.col, t.text, "an option", "an argument too many?")
		case t.text == "!":
			if rp.not {
				rp.fail(t.col, "!", "one ! only", "")
			}
			rp.not, rp.notCol = true, t.col
			continue
		case strings.HasPrefix(t.text, "--") && len(t.text) > 2:
			rp.long(t)
		case strings.HasPrefix(t.text, "-") && len(t.text) > 1:
			rp.short(t)
		default:
			hint := "an argument too many?"
			if rp.i >= 2 && rp.toks[rp.i-2].text == "!" {
				hint = "! stands before the option: ! -s 10.0.0.0/8"
			}
			rp.fail(t.col, t.text, "an option", hint)
		}
		rp.not = false
		if len(rp.rule.bad) >= 10 { // hopeless; a rule has at most a few hundred words, but a hostile one thousands
			break
		}
	}
	if rp.not {
		rp.fail(rp.notCol, "!", "an option after !", "")
	}
	rp.finish()
	return rp.expand()
}

// short handles -x, with its argument attached or following.
func (rp *ruleParser) short(t token) {
	opt, attached := t.text[1:2], t.text[2:]
	long, ok := shortOptions[opt[0]]
	if !ok {
		hint := ""
		if rp.core(t.text[1:]) != nil || rp.find(t.text[1:]) {
			hint = "did you mean -" + t.text + "?"
		}
		rp.fail(t.col, t.text, "an option", hint)
		return
	}
	o := rp.core(long)
	if o.args == 0 && attached != "" {
		rp.fail(t.col, t.text, "an option", "did you mean -"+t.text+"?")
		return
	}
	rp.apply(token{text: "-" + opt, col: t.col}, o, nil, attached, t.col+2)
}

// long handles --name, --name=value and unique beginnings of a name, as getopt_long does.
func (rp *ruleParser) long(t token) {
	name, value, hasValue := strings.Cut(t.text[2:], "=")
	valueCol := 0
	if hasValue {
		valueCol = t.col + 3 + len(name)
	}
	head := token{text: "--" + name, col: t.col}
	for {
		if o, l, many := rp.lookup(name); o != nil {
			rp.apply(head, o, l, value, valueCol)
			return
		} else if many != "" {
			rp.fail(t.col, head.text, "an option's whole name", "it may be "+many)
			return
		}
		// An option that nothing knows loads the module of the rule's protocol, once.
		if !rp.loadProtocol(t.col) {
			break
		}
	}
	hint := ""
	if mods := modulesWith(name); mods != "" {
		hint = mods
	} else {
		hint = rp.didYouMean(name, rp.optionNames())
		if strings.HasPrefix(hint, "did you mean ") {
			hint = "did you mean --" + hint[len("did you mean "):]
		}
	}
	rp.fail(t.col, head.text, "an option known here", hint)
	// Skip its arguments, so that they are not reported as well.
	for rp.i < len(rp.toks) && (rp.toks[rp.i].quoted || !strings.HasPrefix(rp.toks[rp.i].text, "-") && rp.toks[rp.i].text != "!") {
		rp.i++
	}
}

// lookup finds an option by its whole name or a unique beginning, the module loaded last first.
func (rp *ruleParser) lookup(name string) (o *option, l *loaded, many string) {
	for k := len(rp.loaded) - 1; k >= 0; k-- {
		l := &rp.loaded[k]
		for j := range l.mod.options {
			if l.mod.options[j].name == name {
				return &l.mod.options[j], l, ""
			}
		}
	}
	if o := rp.core(name); o != nil {
		return o, nil, ""
	}
	var names []string
	consider := func(c *option, cl *loaded) {
		if !strings.HasPrefix(c.name, name) {
			return
		}
		if o == nil {
			o, l = c, cl
		} else if o.id != c.id || l != cl {
			names = append(names, "--"+c.name)
		}
	}
	for k := range rp.loaded {
		for j := range rp.loaded[k].mod.options {
			consider(&rp.loaded[k].mod.options[j], &rp.loaded[k])
		}
	}
	for k := range coreOptions {
		consider(&coreOptions[k], nil)
	}
	if len(names) > 0 {
		return nil, nil, "--" + o.name + " or " + strings.Join(names, " or ")
	}
	return o, l, ""
}

func (rp *ruleParser) find(name string) bool {
	o, _, _ := rp.lookup(name)
	return o != nil
}

func (rp *ruleParser) core(name string) *option {
	for k := range coreOptions {
		if coreOptions[k].name == name {
			return &coreOptions[k]
		}
	}
	return nil
}

// optionNames lists what could stand here.
func (rp *ruleParser) optionNames() []string {
	var out []string
	for _, l := range rp.loaded {
		for _, o := range l.mod.options {
			out = append(out, o.name)
		}
	}
	for _, o := range coreOptions {
		out = append(out, o.name)
	}
	return out
}

// modulesWith says which modules have an option of that name, as a hint.
func modulesWith(name string) string {
	var in []string
	for _, m := range modules {
		for _, o := range m.options {
			if o.name == name {
				if len(m.protos) == 1 {
					in = append(in, "-p "+protocolName(m.protos[0]))
				} else {
					in = append(in, "-m "+m.name)
				}
				break
			}
		}
	}
	if len(in) == 0 {
		return ""
	}
	return "it needs " + strings.Join(in, " or ") + " before it"
}

// apply collects an option's arguments and carries it out. inline is an argument attached to the option, when
// inlineCol is not 0.
func (rp *ruleParser) apply(head token, o *option, l *loaded, inline string, inlineCol int) {
	if rp.not && !o.not {
		rp.fail(rp.notCol, "! "+head.text, "no ! before "+head.text, "")
	}
	var args [2]token
	n := 0
	if inlineCol != 0 && (inline != "" || len(head.text) > 2) {
		if o.args == 0 {
			rp.fail(inlineCol, inline, head.text+" without an argument", "")
			return
		}
		args[0] = token{text: inline, col: inlineCol}
		n = 1
	}
	for ; n < int(o.args); n++ {
		if rp.i >= len(rp.toks) {
			rp.fail(rp.end, "", "an argument after "+head.text, "")
			return
		}
		args[n] = rp.toks[rp.i]
		if !args[n].quoted && args[n].text == "!" {
			rp.fail(args[n].col, "!", "an argument after "+head.text, "! stands before the option: ! "+head.text)
			rp.i++
			if rp.i < len(rp.toks) {
				rp.i++
			}
			return
		}
		rp.i++
	}
	if l != nil && o.id != 0 {
		if l.seen&(1<<o.id) != 0 {
			rp.fail(head.col, head.text, "--"+o.name+" once", "it or an option that excludes it is given already")
			return
		}
		l.seen |= 1 << o.id
	}
	if l == nil {
		rp.setCore(head, o.id, rp.not, args[:o.args])
		return
	}
	o.set(rp, l.m, rp.not, args[:o.args])
}

// finish checks the rule as a whole.
func (rp *ruleParser) finish() {
	r := &rp.rule
	for k := range rp.loaded {
		l := &rp.loaded[k]
		if l.mod.protos != nil {
			ok := false
			for _, n := range l.mod.protos {
				ok = ok || rp.protoSet && !r.Proto.Not && r.Proto.Num == n
			}
			if !ok {
				names := make([]string, len(l.mod.protos))
				for j, n := range l.mod.protos {
					names[j] = "-p " + protocolName(n)
				}
				rp.fail(l.col, "-m "+l.mod.name, strings.Join(names, " or ")+" with -m "+l.mod.name, "")
			}
		}
		flag := "-m "
		if l.target {
			flag = "-j "
		}
		rp.restrict(l.mod.family, l.col, flag+l.mod.name)
		if l.mod.finish != nil && !rp.failed {
			l.mod.finish(rp, l)
		}
		if l.target {
			rp.finishTarget(l.m)
			continue
		}
		r.Matches = append(r.Matches, l.m.(Match))
	}
	if rp.protoSet && !r.Proto.Not {
		// A protocol that belongs to one IP version makes the rule one for it, in a file for both.
		switch {
		case r.Proto.Num == protoICMP && r.Family == Both:
			r.Family = IPv4
		case r.Proto.Num == protoICMPv6 && r.Family == Both:
			r.Family = IPv6
		}
	}
	if r.Fragment != FragmentAny {
		rp.restrict(IPv4, r.Pos.Col, "-f")
	}
	rp.finishHook()
	if rp.p.table.Name == "raw" {
		rp.finishRaw()
	}
	for _, m := range r.Matches {
		if x, ok := m.(interface{ forFamily(Family) }); ok {
			x.forFamily(r.Family)
		}
	}
}

// restrict says that the rule is for family f only because of what stands at col.
func (rp *ruleParser) restrict(f Family, col int, what string) {
	if rp.rule.Family&f == 0 {
		rp.fail(col, what, "something for "+rp.rule.Family.String(), "this is for "+f.String()+" only")
		return
	}
	rp.rule.Family &= f
}

// finishTarget puts a target with options into the rule.
func (rp *ruleParser) finishTarget(m Extension) {
	switch t := m.(type) {
	case *rejectTarget:
		rp.rule.Target.Verb, rp.rule.Target.Reject = VerbReject, t.with
	case *LogTarget:
		rp.rule.Target.Verb, rp.rule.Target.Log = VerbLog, t
	case *CTTarget:
		rp.rule.Target.CT = t
	case Effect:
		rp.rule.Target.Verb, rp.rule.Target.Effect = VerbEffect, t
	}
}

// expand returns the rule once for every pair of its source and destination addresses, sources outermost.
func (rp *ruleParser) expand() []*Rule {
	srcs, dsts := rp.srcs, rp.dsts
	if len(srcs) <= 1 && len(dsts) <= 1 || rp.failed {
		r := rp.rule
		if len(srcs) > 0 {
			r.Src = srcs[0]
		}
		if len(dsts) > 0 {
			r.Dst = dsts[0]
		}
		return []*Rule{&r}
	}
	if len(srcs) == 0 {
		srcs = []AddrMatch{{}}
	}
	if len(dsts) == 0 {
		dsts = []AddrMatch{{}}
	}
	if len(srcs)*len(dsts) > maxExpand {
		rp.fail(rp.rule.Pos.Col, "", fmt.Sprintf("at most %d pairs of addresses in a line", maxExpand), "")
		return []*Rule{&rp.rule}
	}
	out := make([]*Rule, 0, len(srcs)*len(dsts))
	for _, s := range srcs {
		for _, d := range dsts {
			r := rp.rule
			r.Src, r.Dst = s, d
			if len(out) > 0 {
				r.Matches = ownState(r.Matches)
			}
			out = append(out, &r)
		}
	}
	return out
}

// ownState returns matches for another rule of the same line: those that have a state, which is each rule's own, are copies.
func ownState(matches []Match) []Match {
	out := slices.Clone(matches)
	for i, m := range out {
		switch m := m.(type) {
		case *LimitMatch:
			c := *m
			out[i] = &c
		case *StatisticMatch:
			c := *m
			out[i] = &c
		case *ConnlimitMatch:
			c := *m
			out[i] = &c
		case *QuotaMatch:
			c := *m
			out[i] = &c
		}
	}
	return out
}

// maxExpand bounds how many rules one line may stand for: two long lists would multiply.
const maxExpand = 65536
