package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of one file. They bound memory: a rule with three matches takes about 1.3 KB parsed, and compiled as much again.
const (
	MaxFile    = 256 << 20 // bytes of a rule file
	maxInserts = 1000      // -I lines: each moves the rules behind it
	MaxRules   = 500_000   // rules of a file, after lists of addresses are taken apart, and of a rule set
	maxHints   = 1000      // errors that get a hint: looking for the nearest word costs time
	maxChain   = 28        // bytes of a chain's name: XT_EXTENSION_MAXNAMELEN minus the final zero (x_tables.h)
)

// Parse reads a rule set in the form that iptables-save and ip6tables-save write and iptables-restore reads.
//
// name stands for the file in messages. family says whose file it is; in a file for Both a line is for one IP version
// when it has -4 or -6, an address, or a match of one version, else for both. What cannot apply on a transparent wire
// is left out with a warning (see the table in doc.go); what is unknown or malformed is an error. All errors are
// reported, as *Errors; the File is nil then. src is not kept.
func Parse(name string, src []byte, family Family) (*File, error) {
	p := parser{file: &File{Name: name, Family: family}}
	if family&^Both != 0 || family == 0 {
		p.errs.add(&Error{Pos: Pos{File: name}, Expected: "a family: IPv4, IPv6 or both", Found: strconv.Itoa(int(family))})
		return nil, &p.errs
	}
	if len(src) > MaxFile {
		p.errs.add(&Error{Pos: Pos{File: name, Line: 1, Col: 1}, Found: fmt.Sprintf("%d bytes", len(src)), Expected: fmt.Sprintf("at most %d bytes", MaxFile)})
		return nil, &p.errs
	}
	// A byte order mark at the beginning, as some editors write it, says nothing.
	text := strings.TrimPrefix(string(src), "\ufeff")
	if line := beyond(text); line > 0 {
		p.line = line
		p.tooMany()
		return nil, &p.errs
	}
	for len(text) > 0 && !p.full && p.errs.More == 0 {
		line := text
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = ""
		}
		p.line++
		p.parseLine(line)
	}
	if p.inTable && !p.full && p.errs.More == 0 {
		if p.table != nil {
			p.settle()
		}
		p.errorAt(1, "", "COMMIT before the end of the file", "table "+p.tableName+" begins in line "+strconv.Itoa(p.tableLine))
	}
	if err := p.errs.orNil(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(p.file.Warnings, func(a, b Warning) int { return a.Pos.Line - b.Pos.Line })
	return p.file, nil
}

type parser struct {
	file *File
	errs Errors
	line int
	full bool // a limit was reached: the rest of the file is not read

	inTable   bool
	tableName string
	tableLine int
	table     *Table            // nil in a table that is ignored
	chains    map[string]*Chain // of table
	declared  map[string]int    // chains declared with ":" in this table → line
	skipped   int               // rules ignored in a table without meaning
	skipLine  int               // line of the first of them
	rules     int
	inserts   int // -I lines
	hints     int // hints looked for

	toks []token // reused
}

func (p *parser) pos(col int) Pos { return Pos{File: p.file.Name, Line: p.line, Col: col} }

func (p *parser) errorAt(col int, found, expected, hint string) {
	p.errs.add(&Error{Pos: p.pos(col), Found: found, Expected: expected, Hint: hint})
}

func (p *parser) warn(pos Pos, text string) {
	p.file.Warnings = append(p.file.Warnings, Warning{Pos: pos, Text: text})
}

// tableMeaning says what becomes of each table of iptables.
var tableMeaning = map[string]string{
	"filter":   "",
	"nat":      "a transparent wire does not translate addresses",
	"mangle":   "",
	"raw":      "",
	"security": "",
}

// baseChains are the chains of each table that the kernel calls. Of those only the ones with an empty reason are
// passed on a transparent wire.
var baseChains = map[string]map[string]string{
	"filter": {
		"FORWARD": "",
		"INPUT":   "no packet is for the wire itself",
		"OUTPUT":  "the wire itself sends no packets that rules judge",
	},
	"raw": {
		"PREROUTING": "",
		"OUTPUT":     "the wire itself sends no packets that rules judge",
	},
	"mangle": {
		"PREROUTING":  "",
		"INPUT":       "no packet is for the wire itself",
		"FORWARD":     "",
		"OUTPUT":      "the wire itself sends no packets that rules judge",
		"POSTROUTING": "",
	},
	"security": {
		"INPUT":   "no packet is for the wire itself",
		"FORWARD": "",
		"OUTPUT":  "the wire itself sends no packets that rules judge",
	},
}

func (p *parser) parseLine(line string) {
	if len(line) > maxLine {
		p.errorAt(1, "", fmt.Sprintf("a line of at most %d bytes", maxLine), fmt.Sprintf("this one has %d", len(line)))
		return
	}
	toks, bad := tokens(p.toks[:0], line)
	p.toks = toks
	if bad != 0 {
		p.errorAt(bad, line[bad-1:], "a closing double quote", "a quote inside quotes is written \\\"")
		return
	}
	if len(toks) == 0 {
		return
	}
	first := toks[0]
	switch {
	case !first.quoted && strings.HasPrefix(first.text, "#"):
	case !first.quoted && strings.HasPrefix(first.text, "*"):
		p.beginTable(toks)
	case first.text == "COMMIT":
		if len(toks) > 1 {
			p.errorAt(toks[1].col, toks[1].text, "the end of the line", "")
		}
		if !p.inTable {
			p.errorAt(first.col, "COMMIT", "a table before it", "a table begins with a line such as *filter")
			return
		}
		p.endTable()
	case !p.inTable:
		p.errorAt(first.col, first.text, "a table, such as *filter", "rules and chains stand between *filter and COMMIT")
	case !first.quoted && strings.HasPrefix(first.text, ":"):
		p.declareChain(toks)
	default:
		p.command(strings.TrimSpace(line), toks)
	}
}

func (p *parser) beginTable(toks []token) {
	name, col := toks[0].text[1:], toks[0].col+1
	rest := toks[1:]
	if name == "" && len(rest) > 0 { // "* filter"
		name, col, rest = rest[0].text, rest[0].col, rest[1:]
	}
	if len(rest) > 0 {
		p.errorAt(rest[0].col, rest[0].text, "the end of the line", "")
	}
	if p.inTable {
		p.errorAt(toks[0].col, toks[0].text, "COMMIT before the next table", "table "+p.tableName+" begins in line "+strconv.Itoa(p.tableLine))
		p.endTable()
	}
	p.inTable, p.tableName, p.tableLine = true, name, p.line
	p.table, p.chains, p.declared, p.skipped = nil, nil, nil, 0
	reason, known := tableMeaning[name]
	if !known {
		names := []string{"filter", "nat", "mangle", "raw", "security"}
		p.errorAt(col, name, "a table: filter, nat, mangle, raw or security", didYouMean(name, names))
		return
	}
	if reason != "" {
		return
	}
	for _, t := range p.file.Tables {
		if t.Name == name {
			p.errorAt(col, name, "each table once", "it begins in line "+strconv.Itoa(t.Pos.Line)+" already")
			return
		}
	}
	p.table = &Table{Name: name, Pos: p.pos(toks[0].col)}
	p.chains = make(map[string]*Chain)
	p.declared = make(map[string]int)
	p.file.Tables = append(p.file.Tables, p.table)
}

func (p *parser) endTable() {
	p.inTable = false
	if p.table == nil {
		if reason := tableMeaning[p.tableName]; p.skipped > 0 && reason != "" {
			p.warn(Pos{p.file.Name, p.skipLine, 1}, fmt.Sprintf("table %s ignored with its %s: %s", p.tableName, count(p.skipped, "rule"), reason))
		}
		return
	}
	p.settle()
	p.table = nil
}

// count returns "1 rule", "2 rules".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// settle decides, once a table is complete, which of its chains matter: those that only INPUT and OUTPUT lead to
// cannot be reached on a transparent wire, so that what is wrong in them is no error.
func (p *parser) settle() {
	elsewhere := p.reachable(func(c *Chain) bool { return baseChains[p.table.Name][c.Name] != "" })
	forward := p.reachable(func(c *Chain) bool {
		_, base := baseChains[p.table.Name][c.Name]
		return base && baseChains[p.table.Name][c.Name] == ""
	})
	for _, c := range p.table.Chains {
		reason := baseChains[p.table.Name][c.Name]
		switch {
		case reason != "":
			c.Ignored = true
			if len(c.Rules) > 0 {
				p.warn(c.Rules[0].Pos, fmt.Sprintf("chain %s ignored with its %s: %s", c.Name, count(len(c.Rules), "rule"), reason))
			} else if c.Policy == PolicyDrop {
				p.warn(c.Pos, fmt.Sprintf("policy of chain %s ignored: %s", c.Name, reason))
			}
		case elsewhere[c] && !forward[c]:
			c.Ignored = true
			if len(c.Rules) > 0 {
				p.warn(c.Rules[0].Pos, fmt.Sprintf("chain %s ignored with its %s: only INPUT or OUTPUT lead to it", c.Name, count(len(c.Rules), "rule")))
			}
		default:
			for _, r := range c.Rules {
				for _, e := range r.bad {
					p.errs.add(e)
				}
				p.file.Warnings = append(p.file.Warnings, r.notes...)
			}
		}
		for _, r := range c.Rules {
			r.bad, r.notes = nil, nil
		}
	}
}

// reachable returns the chains that jumps and gotos lead to from those that start accepts, with these.
func (p *parser) reachable(start func(*Chain) bool) map[*Chain]bool {
	seen := make(map[*Chain]bool)
	var todo []*Chain
	for _, c := range p.table.Chains {
		if start(c) {
			seen[c] = true
			todo = append(todo, c)
		}
	}
	for len(todo) > 0 {
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, r := range c.Rules {
			if next := p.chains[r.Target.Chain]; next != nil && !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return seen
}

// getChain returns the chain of that name, making it when it is new.
func (p *parser) getChain(name string, pos Pos) *Chain {
	c := p.chains[name]
	if c == nil {
		c = &Chain{Name: name, Pos: pos}
		if _, base := baseChains[p.table.Name][name]; base {
			c.Policy = PolicyAccept
		}
		p.chains[name] = c
		p.table.Chains = append(p.table.Chains, c)
	}
	return c
}

// checkChainName reports a name that iptables would not take.
func (p *parser) checkChainName(t token) bool {
	switch {
	case t.text == "" || strings.HasPrefix(t.text, "-") || strings.HasPrefix(t.text, "!"):
		p.errorAt(t.col, t.text, "a chain's name", "")
	case len(t.text) > maxChain:
		p.errorAt(t.col, t.text, fmt.Sprintf("a chain's name of at most %d bytes", maxChain), "")
	case strings.ContainsAny(t.text, " \t\""):
		p.errorAt(t.col, t.text, "a chain's name without blanks", "")
	default:
		return true
	}
	return false
}

// declareChain reads ":NAME POLICY [packets:bytes]".
func (p *parser) declareChain(toks []token) {
	if p.table == nil {
		return
	}
	name := token{text: toks[0].text[1:], col: toks[0].col + 1}
	if !p.checkChainName(name) {
		return
	}
	if line, twice := p.declared[name.text]; twice {
		p.errorAt(name.col, name.text, "each chain once", "it is declared in line "+strconv.Itoa(line)+" already")
		return
	}
	p.declared[name.text] = p.line
	c := p.getChain(name.text, p.pos(name.col))
	if len(toks) < 2 {
		p.errorAt(name.col+len(name.text), "", "a policy after the chain's name: ACCEPT, DROP, or - for a user chain", "")
		return
	}
	_, base := baseChains[p.table.Name][name.text]
	p.setPolicy(c, toks[1], base)
	if len(toks) > 2 {
		if n, ok := p.counters(toks[2]); ok {
			c.Counter = n
		}
	}
	if len(toks) > 3 {
		p.errorAt(toks[3].col, toks[3].text, "the end of the line", "")
	}
}

func (p *parser) setPolicy(c *Chain, t token, base bool) {
	switch {
	case base && t.text == "ACCEPT":
		c.Policy = PolicyAccept
	case base && t.text == "DROP":
		c.Policy = PolicyDrop
	case base:
		p.errorAt(t.col, t.text, "a policy: ACCEPT or DROP", didYouMean(t.text, []string{"ACCEPT", "DROP"}))
	case t.text != "-":
		names := make([]string, 0, 3)
		for n := range baseChains[p.table.Name] {
			names = append(names, n)
		}
		p.errorAt(t.col, t.text, "- as the policy of a user chain", "only chains that the kernel calls have a policy"+join("; ", didYouMean(c.Name, names)))
	}
}

// join returns sep+s, or "" when s is empty.
func join(sep, s string) string {
	if s == "" {
		return ""
	}
	return sep + s
}

// counters reads "[packets:bytes]".
func (p *parser) counters(t token) (Counter, bool) {
	s := t.text
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		if a, b, ok := strings.Cut(s[1:len(s)-1], ":"); ok {
			pk, err1 := strconv.ParseUint(a, 10, 64)
			by, err2 := strconv.ParseUint(b, 10, 64)
			if err1 == nil && err2 == nil {
				return Counter{pk, by}, true
			}
		}
	}
	p.errorAt(t.col, t.text, "counters as [packets:bytes]", "")
	return Counter{}, false
}

// command reads a rule line: "[packets:bytes] -A CHAIN …", and of iptables' other commands those that build a rule set.
func (p *parser) command(text string, toks []token) {
	if p.table == nil {
		if p.skipped == 0 {
			p.skipLine = p.line
		}
		p.skipped++
		return
	}
	var n Counter
	counted := false
	if !toks[0].quoted && strings.HasPrefix(toks[0].text, "[") {
		var ok bool
		if n, ok = p.counters(toks[0]); !ok {
			return
		}
		counted = true
		toks = toks[1:]
	}
	// -4 and -6 may stand before the command; the rule parser sees them too when they stand behind.
	fam := p.file.Family
	for len(toks) > 0 {
		if f := familyOption(toks[0]); f != 0 {
			fam &= f
			toks = toks[1:]
			continue
		}
		break
	}
	if len(toks) == 0 {
		p.errorAt(1, "", "a command: -A CHAIN rule", "")
		return
	}
	cmd := toks[0]
	attached := token{}
	name := cmd.text
	if len(name) > 2 && name[0] == '-' && name[1] != '-' { // -AFORWARD
		attached = token{text: name[2:], col: cmd.col + 2}
		name = name[:2]
	}
	args := toks[1:]
	if attached.text != "" {
		args = append([]token{attached}, args...)
	}
	switch name {
	case "-A", "--append", "-I", "--insert", "-P", "--policy", "-N", "--new-chain":
		if len(args) == 0 {
			p.errorAt(cmd.col+len(cmd.text), "", "a chain after "+name, "")
			return
		}
		if !p.checkChainName(args[0]) {
			return
		}
	}
	switch name {
	case "-A", "--append":
		p.addRules(text, fam, args[0], args[1:], n, counted, -1)
	case "-I", "--insert":
		at, rest := 1, args[1:]
		if len(rest) > 0 && rest[0].text != "" && rest[0].text[0] >= '0' && rest[0].text[0] <= '9' {
			v, err := strconv.Atoi(rest[0].text)
			if err != nil || v < 1 {
				p.errorAt(rest[0].col, rest[0].text, "a rule number from 1", "")
				return
			}
			if c := p.chains[args[0].text]; c == nil && v > 1 || c != nil && v > len(c.Rules)+1 {
				p.errorAt(rest[0].col, rest[0].text, "a rule number up to the chain's length plus 1", "")
				return
			}
			at, rest = v, rest[1:]
		}
		if p.inserts++; p.inserts > maxInserts {
			p.errorAt(cmd.col, cmd.text, fmt.Sprintf("at most %d -I lines", maxInserts), "-A in the right order costs less")
			return
		}
		p.addRules(text, fam, args[0], rest, n, counted, at-1)
	case "-P", "--policy":
		if len(args) < 2 {
			p.errorAt(cmd.col+len(cmd.text), "", "a chain and its policy after "+name, "")
			return
		}
		_, base := baseChains[p.table.Name][args[0].text]
		p.setPolicy(p.getChain(args[0].text, p.pos(args[0].col)), args[1], base)
	case "-N", "--new-chain":
		if line, twice := p.declared[args[0].text]; twice {
			p.errorAt(args[0].col, args[0].text, "each chain once", "it is declared in line "+strconv.Itoa(line)+" already")
			return
		}
		p.declared[args[0].text] = p.line
		p.getChain(args[0].text, p.pos(args[0].col))
	case "-t", "--table":
		p.errorAt(cmd.col, cmd.text, "a rule without -t", "the table is the one that *"+p.tableName+" in line "+strconv.Itoa(p.tableLine)+" names")
	case "-D", "--delete", "-R", "--replace", "-F", "--flush", "-X", "--delete-chain", "-Z", "--zero", "-E", "--rename-chain", "-L", "--list", "-S", "--list-rules", "-C", "--check":
		p.errorAt(cmd.col, cmd.text, "a rule: -A CHAIN …", "a rule file builds a rule set from nothing; it does not change one")
	default:
		p.errorAt(cmd.col, cmd.text, "a rule: -A CHAIN …, a chain: :NAME, a table: *NAME, or COMMIT", didYouMean(cmd.text, []string{"-A", "COMMIT", "--append"}))
	}
}

// familyOption returns the family that -4 or -6 restrict a line to, 0 for any other word.
func familyOption(t token) Family {
	if t.quoted {
		return 0
	}
	switch t.text {
	case "-4", "--ipv4":
		return IPv4
	case "-6", "--ipv6":
		return IPv6
	}
	return 0
}

// addRules parses the words of one rule and adds what they stand for to the chain: at its end, or before its at-th rule.
func (p *parser) addRules(text string, fam Family, chain token, toks []token, n Counter, counted bool, at int) {
	// A line for the other IP version does not exist for this file, as with iptables-restore.
	if fam == 0 {
		return
	}
	c := p.getChain(chain.text, p.pos(chain.col))
	if _, base := baseChains[p.table.Name][c.Name]; !base && p.declared[c.Name] == 0 {
		p.errorAt(chain.col, chain.text, "a chain that is declared", p.chainHint(chain.text)+"; declare it with :"+clip(chain.text)+" -")
		p.declared[c.Name] = p.line // one report is enough
	}
	rp := ruleParser{p: p, toks: toks, end: len(text) + 1, chain: c.Name, rule: Rule{Pos: p.pos(chain.col), Text: text, Family: fam, Counter: n, Counted: counted}}
	rules := rp.parse()
	if rules == nil {
		return
	}
	p.rules += len(rules)
	if p.rules > MaxRules {
		p.tooMany()
		p.full = true
		p.inTable = false
		return
	}
	if at < 0 {
		c.Rules = append(c.Rules, rules...)
		return
	}
	tail := append([]*Rule(nil), c.Rules[at:]...)
	c.Rules = append(append(c.Rules[:at], rules...), tail...)
}

// tooMany says that the limit of rules is passed in this line.
func (p *parser) tooMany() {
	p.errorAt(1, "", fmt.Sprintf("at most %d rules in a file", MaxRules), "addresses that are treated alike can be one rule with an IP set")
}

// beyond returns the line that passes the limit of rules, 0 if there is none, by lines that begin with -A, as iptables-save writes
// them: so a file that is far too long is refused before it is read. Lines of tables that are ignored do not count.
func beyond(text string) (line int) {
	judged, rules := false, 0
	for n := 1; len(text) > 0; n++ {
		end := strings.IndexByte(text, '\n') + 1
		if end == 0 {
			end = len(text)
		}
		switch {
		case text[0] == '*':
			name, _, _ := strings.Cut(strings.TrimRight(text[1:end], " \t\r\n"), " ")
			reason, known := tableMeaning[name]
			judged = known && reason == ""
		case judged && strings.HasPrefix(text, "-A "):
			if rules++; rules > MaxRules {
				return n
			}
		}
		text = text[end:]
	}
	return 0
}

// didYouMean returns a hint that names the nearest word of list, or "".
func (p *parser) didYouMean(s string, list []string) string {
	if p.hints++; p.hints > maxHints {
		return ""
	}
	return didYouMean(s, list)
}

// chainHint names the chain that may have been meant.
func (p *parser) chainHint(name string) string {
	names := make([]string, 0, 200)
	for _, c := range p.table.Chains {
		if c.Name != name && len(names) < cap(names) {
			names = append(names, c.Name)
		}
	}
	if h := p.didYouMean(name, names); h != "" {
		return h
	}
	return "no chain has this name"
}
