package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"corewire/internal/packet"
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

// loaded is a module in use by the rule.
type loaded struct {
	mod    *module
	m      Match
	col    int
	target bool
	seen   uint64 // options given, by option.id
}

// module describes an extension: what stands after -m.
type module struct {
	name    string
	family  Family
	protos  []uint8 // it needs -p with one of these; nil: any
	make    func() Match
	options []option
	// finish checks what the options add up to; nil: nothing to check.
	finish func(rp *ruleParser, l *loaded)
}

// option describes one option of a module.
type option struct {
	name string // without the dashes
	id   uint8  // options with the same id are spellings of one, or exclude one another
	args uint8  // words that follow
	not  bool   // "!" may stand before it
	set  func(rp *ruleParser, m Match, not bool, args []token)
}

func (rp *ruleParser) fail(col int, found, expected, hint string) {
	rp.failed = true
	rp.rule.bad = append(rp.rule.bad, &Error{Pos: rp.p.pos(col), Found: found, Expected: expected, Hint: hint})
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

// load adds a module to the rule.
func (rp *ruleParser) load(mod *module, col int) {
	rp.loaded = append(rp.loaded, loaded{mod: mod, m: mod.make(), col: col})
}

// loadProtocol loads the module named after the rule's protocol, once, if there is one.
func (rp *ruleParser) loadProtocol(col int) bool {
	if rp.protoAuto || !rp.protoSet || rp.rule.Proto.Num == 0 {
		return false
	}
	rp.protoAuto = true
	for k := range modules {
		m := &modules[k]
		if len(m.protos) == 1 && m.protos[0] == rp.rule.Proto.Num && m.family&rp.rule.Family != 0 {
			for _, l := range rp.loaded {
				if l.mod == m {
					return false
				}
			}
			rp.load(m, col)
			return true
		}
	}
	return false
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
		r.Matches = append(r.Matches, l.m)
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
func (rp *ruleParser) finishTarget(m Match) {
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
		}
	}
	return out
}

// maxExpand bounds how many rules one line may stand for: two long lists would multiply.
const maxExpand = 65536

// shortOptions are iptables' one-letter options.
var shortOptions = map[byte]string{
	'p': "protocol", 's': "source", 'd': "destination", 'i': "in-interface", 'o': "out-interface", 'f': "fragment",
	'm': "match", 'j': "jump", 'g': "goto", 'c': "set-counters", '4': "ipv4", '6': "ipv6",
}

// coreOptions are the options that belong to no module; setCore carries them out by id.
var coreOptions = []option{
	{name: "protocol", id: 1, args: 1, not: true},
	{name: "proto", id: 1, args: 1, not: true},
	{name: "source", id: 2, args: 1, not: true},
	{name: "src", id: 2, args: 1, not: true},
	{name: "destination", id: 3, args: 1, not: true},
	{name: "dst", id: 3, args: 1, not: true},
	{name: "in-interface", id: 4, args: 1, not: true},
	{name: "out-interface", id: 5, args: 1, not: true},
	{name: "fragments", id: 6, not: true},
	{name: "fragment", id: 6, not: true},
	{name: "match", id: 7, args: 1},
	{name: "jump", id: 8, args: 1},
	{name: "goto", id: 9, args: 1},
	{name: "set-counters", id: 10, args: 1},
	{name: "ipv4", id: 11},
	{name: "ipv6", id: 12},
}

func (rp *ruleParser) setCore(head token, id uint8, not bool, args []token) {
	switch id {
	case 1:
		rp.setProtocol(not, args[0])
	case 2:
		if rp.srcs != nil {
			rp.fail(args[0].col, args[0].text, "-s once", "several addresses are written -s A,B")
			return
		}
		rp.srcs = rp.addresses(args[0], not)
	case 3:
		if rp.dsts != nil {
			rp.fail(args[0].col, args[0].text, "-d once", "several addresses are written -d A,B")
			return
		}
		rp.dsts = rp.addresses(args[0], not)
	case 4:
		rp.setInterface(&rp.rule.In, "-i", not, args[0])
	case 5:
		rp.setInterface(&rp.rule.Out, "-o", not, args[0])
	case 6:
		if rp.rule.Fragment != FragmentAny {
			rp.fail(head.col, head.text, "-f once", "")
		}
		rp.rule.Fragment = FragmentYes
		if not {
			rp.rule.Fragment = FragmentNo
		}
	case 7:
		rp.setMatch(args[0])
	case 8:
		rp.setTarget(args[0], VerbJump)
	case 9:
		rp.setTarget(args[0], VerbGoto)
	case 10:
		rp.setCounters(args[0])
	case 11:
		rp.restrict(IPv4, head.col, head.text)
	case 12:
		rp.restrict(IPv6, head.col, head.text)
	}
}

func (rp *ruleParser) setProtocol(not bool, a token) {
	if rp.protoSet {
		rp.fail(a.col, a.text, "-p once", "")
		return
	}
	rp.protoSet = true
	num, ok := uint8(0), false
	if v, err := parseNumber(a.text, 255); err == nil {
		num, ok = uint8(v), true
	} else {
		num, ok = lookupProtocol(strings.ToLower(a.text))
	}
	if !ok {
		rp.fail(a.col, a.text, "a protocol's name or number up to 255", rp.didYouMean(strings.ToLower(a.text), protocolNames()))
		return
	}
	if num == 0 && not {
		rp.fail(a.col, "! -p "+a.text, "a protocol after ! -p", "a rule for no protocol at all never matches")
		return
	}
	rp.rule.Proto = ProtoMatch{Pos: rp.p.pos(a.col), Num: num, Not: not}
}

// addresses reads an address, an address and mask, or a list of them.
func (rp *ruleParser) addresses(a token, not bool) []AddrMatch {
	out := []AddrMatch{}
	col := a.col
	rest, more := a.text, true
	for more && len(rp.rule.bad) < 10 {
		var one string
		one, rest, more = strings.Cut(rest, ",")
		if m, f, ok := rp.address(token{text: one, col: col}); ok {
			rp.restrict(f, col, one)
			m.Not = not
			out = append(out, m)
		}
		col += len(one) + 1
	}
	if not && len(out) > 1 {
		rp.fail(a.col, a.text, "one address after !", "iptables takes a list only without !")
	}
	return out
}

// address reads one address with an optional mask.
func (rp *ruleParser) address(a token) (m AddrMatch, f Family, ok bool) {
	host, mask, hasMask := strings.Cut(a.text, "/")
	v6 := strings.Contains(host, ":")
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		if v6 {
			rp.fail(a.col, a.text, "an IPv6 address, with or without /length", "")
			return m, 0, false
		}
		if addr, ok = shortIPv4(host); !ok {
			hint := ""
			if host != "" && (host[0] >= 'a' && host[0] <= 'z' || host[0] >= 'A' && host[0] <= 'Z') {
				hint = "host names are not looked up: a rule set must not depend on a name server"
			}
			rp.fail(a.col, a.text, "an IP address, with or without a mask", hint)
			return m, 0, false
		}
	}
	bits, f := 32, IPv4
	if v6 {
		bits, f = 128, IPv6
	}
	mk := prefixMask(bits, bits)
	if hasMask {
		col := a.col + len(host) + 1
		if n, err := parseNumber(mask, uint64(bits)); err == nil {
			mk = prefixMask(int(n), bits)
		} else if ma, err := netip.ParseAddr(mask); err == nil && ma.Zone() == "" && strings.Contains(mask, ":") == v6 {
			mk = packet.AddrFrom(ma)
			if !v6 {
				mk.Hi, mk.Lo = ^uint64(0), mk.Lo|0xffffffff<<32
			}
		} else {
			rp.fail(col, mask, fmt.Sprintf("a prefix length up to %d or a mask", bits), "")
			return m, 0, false
		}
	}
	v := packet.AddrFrom(addr)
	m = AddrMatch{Pos: rp.p.pos(a.col), Addr: packet.Addr{Hi: v.Hi & mk.Hi, Lo: v.Lo & mk.Lo}, Mask: mk}
	m.Set = mk != prefixMask(0, bits)
	return m, f, true
}

// shortIPv4 reads IPv4 addresses of fewer than four numbers as iptables does (libxtables/xtables.c): the missing ones
// are zeros at the end, so that 10.1/16 is 10.1.0.0/16.
func shortIPv4(s string) (netip.Addr, bool) {
	var b [4]byte
	for k := 0; ; k++ {
		part, rest, more := strings.Cut(s, ".")
		v, err := strconv.ParseUint(part, 10, 8)
		if err != nil || k > 3 {
			return netip.Addr{}, false
		}
		b[k] = byte(v)
		if !more {
			return netip.AddrFrom4(b), true
		}
		s = rest
	}
}

// prefixMask returns the mask of a prefix of n bits; bits is 32 or 128.
func prefixMask(n, bits int) packet.Addr {
	if bits == 32 {
		n += 96
	}
	if n <= 64 {
		return packet.Addr{Hi: ^uint64(0) << (64 - n)}
	}
	return packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0) << (128 - n)}
}

// parseNumber reads a number as iptables does (strtoull with base 0): decimal, octal with a leading 0, or hexadecimal
// with 0x; at most limit.
func parseNumber(s string, limit uint64) (uint64, error) {
	if strings.Contains(s, "_") || s == "" || s[0] < '0' || s[0] > '9' {
		return 0, strconv.ErrSyntax
	}
	v, err := strconv.ParseUint(s, 0, 64)
	if err == nil && (strings.HasPrefix(s, "0b") || strings.HasPrefix(s, "0o") || strings.HasPrefix(s, "0B") || strings.HasPrefix(s, "0O")) {
		return 0, strconv.ErrSyntax
	}
	if err == nil && v > limit {
		err = strconv.ErrRange
	}
	return v, err
}

func (rp *ruleParser) setInterface(m *InterfaceMatch, opt string, not bool, a token) {
	switch {
	case m.Pos.Line != 0:
		rp.fail(a.col, a.text, opt+" once", "")
	case a.text == "":
		rp.fail(a.col, "", "an interface name after "+opt, "")
	case len(a.text) > 15: // IFNAMSIZ - 1
		rp.fail(a.col, a.text, "an interface name of at most 15 bytes", "")
	default:
		*m = InterfaceMatch{Pos: rp.p.pos(a.col), Name: a.text, Not: not}
	}
}

func (rp *ruleParser) setMatch(a token) {
	name := a.text
	if name == "icmpv6" {
		name = "icmp6"
	}
	for k := range modules {
		m := &modules[k]
		if m.name == name {
			rp.load(m, a.col)
			if len(rp.loaded) > maxMatches {
				rp.fail(a.col, a.text, fmt.Sprintf("at most %d matches in a rule", maxMatches), "")
				rp.i = len(rp.toks)
			}
			return
		}
	}
	names := make([]string, len(modules))
	for k := range modules {
		names[k] = modules[k].name
	}
	hint, ok := otherMatches[name]
	if !ok {
		hint = rp.didYouMean(name, names)
	}
	rp.fail(a.col, a.text, "a match module that can work on a transparent wire", hint)
	rp.skipOptions()
}

// otherMatches are modules of iptables that are refused, with the reason.
var otherMatches = map[string]string{
	"bpf": "programs are not run on packets here", "ipcomp": "there is no match for it here",
	"eui64": "there is no match for it here", "l2tp": "there is no match for it here", "osf": "there are no fingerprints here",
	"ipvs": "there are no virtual servers here", "nfacct": "rules have counters of their own", "rateest": "there are no rate estimators here",
	"cluster": "a wire is no member of a cluster of hosts with one address",
	"owner":   "no packet of the wire has a local process", "socket": "there are no local sockets here", "cgroup": "no packet of the wire has a local process",
	"rpfilter": "a transparent wire has no routes", "realm": "a transparent wire has no routes", "policy": "a transparent wire does no IPsec",
	"cpu": "which worker judges a packet must not matter", "devgroup": "the ports have no group",
}

// maxMatches bounds the modules of one rule; iptables has no bound of its own but the size of an entry.
const maxMatches = 64

// skipOptions passes over the words that belong to a module or target that is not known.
func (rp *ruleParser) skipOptions() {
	for rp.i < len(rp.toks) {
		t := rp.toks[rp.i]
		if !t.quoted && len(t.text) == 2 && t.text[0] == '-' && shortOptions[t.text[1]] != "" || len(t.text) > 2 && rp.core(strings.TrimPrefix(t.text, "--")) != nil {
			if rp.i > 0 && rp.toks[rp.i-1].text == "!" {
				rp.i--
			}
			return
		}
		rp.i++
	}
}

func (rp *ruleParser) setTarget(a token, v Verb) {
	if rp.jumpSet {
		rp.fail(a.col, a.text, "one target", "")
		return
	}
	rp.jumpSet = true
	t := Target{Pos: rp.p.pos(a.col), Verb: v}
	if v == VerbJump {
		switch a.text {
		case "ACCEPT":
			t.Verb = VerbAccept
		case "DROP":
			t.Verb = VerbDrop
		case "RETURN":
			t.Verb = VerbReturn
		}
	}
	if t.Verb == VerbJump || t.Verb == VerbGoto {
		t.Chain = a.text
		if _, ok := baseChains[rp.p.table.Name][a.text]; ok {
			rp.fail(a.col, a.text, "a user chain or a target", "base chains cannot be jumped to")
			return
		}
		if rp.p.chains[a.text] == nil && v == VerbJump {
			for k := range targets {
				if targets[k].name == a.text {
					rp.rule.Target = Target{Pos: t.Pos}
					rp.loaded = append(rp.loaded, loaded{mod: &targets[k], m: targets[k].make(), col: a.col, target: true})
					return
				}
			}
		}
		if reason, ok := otherTargets[a.text]; ok && rp.p.chains[a.text] == nil {
			rp.fail(a.col, a.text, "a target that can work on a transparent wire", reason)
			rp.rule.Target = Target{}
			rp.skipOptions()
			return
		}
	}
	rp.rule.Target = t
}

// otherTargets are targets of iptables that are refused, with the reason.
var otherTargets = map[string]string{
	"QUEUE": "there is no user-space queue", "NFQUEUE": "there is no user-space queue",
	"DNAT": "a transparent wire does not translate addresses", "SNAT": "a transparent wire does not translate addresses",
	"MASQUERADE": "a transparent wire does not translate addresses", "REDIRECT": "a transparent wire does not translate addresses",
	"NETMAP": "a transparent wire does not translate addresses", "CLASSIFY": "there are no traffic classes here",
	"TPROXY": "there are no local sockets here",
	"ULOG":   "removed from Linux; use NFLOG", "TEE": "a wire has no route to a third host; use NFLOG",
	"TRACE": "there is no trace in a log; corewire explain tells it",
}

// setCounters reads -c in its two forms, "-c packets bytes" and "-c packets,bytes".
func (rp *ruleParser) setCounters(a token) {
	first, second, comma := strings.Cut(a.text, ",")
	if !comma {
		if rp.i >= len(rp.toks) {
			rp.fail(rp.end, "", "two numbers after -c: packets and bytes", "")
			return
		}
		second = rp.toks[rp.i].text
		rp.i++
	}
	pk, err1 := strconv.ParseUint(first, 10, 64)
	by, err2 := strconv.ParseUint(second, 10, 64)
	if err1 != nil || err2 != nil {
		rp.fail(a.col, a.text, "two numbers after -c: packets and bytes", "")
		return
	}
	rp.rule.Counter, rp.rule.Counted = Counter{pk, by}, true
}
