package rules

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Place names a rule of a rule set, as listings do: its chain and its number there.
type Place struct {
	Table  string // "filter", "raw", …
	Chain  string
	Family Family // of the file that the chain stands in, as in ChainInfo: Both, IPv4 or IPv6
	Number int    // from 1, as Info.Number; over all files for the family; Insert takes 0 for behind the last
}

// String returns the place as "filter FORWARD 3".
func (at Place) String() string { return fmt.Sprintf("%s %s %d", at.Table, at.Chain, at.Number) }

// ParseRule reads one rule as a rule file has it, "-A CHAIN …", and returns the chain's name. name stands for the text
// in messages, family is that of the file that the chain stands in. A line with several addresses in -s or -d is
// several rules. The error is *Errors. Whether a jump's target exists is seen by Insert and Replace.
func ParseRule(name, table string, family Family, line string) (chain string, list []*Rule, err error) {
	p := parser{file: &File{Name: name, Family: family}, line: 1}
	if reason, known := tableMeaning[table]; !known || reason != "" || family&^Both != 0 || family == 0 {
		p.errorAt(1, table, "a table whose rules are judged", reason)
		return "", nil, &p.errs
	}
	toks, bad := tokens(nil, line)
	if bad == 0 && (len(toks) < 2 || toks[0].text != "-A" && toks[0].text != "--append" || strings.ContainsAny(line, "\n\x00")) {
		p.errorAt(1, line, "-A CHAIN and a rule, in one line", "")
		return "", nil, &p.errs
	}
	p.inTable, p.tableName, p.tableLine = true, table, 1
	p.table = &Table{Name: table, Pos: p.pos(1)}
	p.chains, p.declared = make(map[string]*Chain), make(map[string]int)
	if len(toks) > 1 {
		chain = toks[1].text
		p.declared[chain] = 1
	}
	p.parseLine(line)
	p.settle()
	if c := p.chains[chain]; c != nil && c.Ignored {
		p.errorAt(toks[1].col, chain, "a chain that packets come to on a transparent wire", baseChains[table][chain])
	}
	if err := p.errs.orNil(); err != nil {
		return "", nil, err
	}
	if c := p.chains[chain]; c != nil {
		list = c.Rules
	}
	if len(list) == 0 {
		p.errorAt(1, line, "a rule for an IP version of the file", "")
		return "", nil, &p.errs
	}
	return chain, list, nil
}

// Insert returns a rule set like rs with the rule at a place: what stood there and behind moves on by one. The number is
// from 1 to one past the chain's last, or 0 for behind the last.
//
// As with Delete and Replace, rs itself does not change, and the new rule set means what compiling the changed files
// would mean. Rules that the change leaves alone keep what they share among matchers (the tokens of a limit); the Mapping says
// which RuleID became which: each stayed what it was, unless everything had to be compiled anew. The error is *Errors when the
// rule cannot be compiled (a jump to a chain that is not there, a loop).
func (rs *Ruleset) Insert(at Place, r *Rule) (*Ruleset, Mapping, error) {
	s, err := rs.find(at, at.Number == 0)
	if err != nil {
		return nil, Mapping{}, err
	}
	s.rule = r
	return rs.change([]step{s}, rs.opt)
}

// Delete returns a rule set like rs without the rule at a place.
func (rs *Ruleset) Delete(at Place) (*Ruleset, Mapping, error) { return rs.Replace(at, nil) }

// Replace returns a rule set like rs with the rule in the place of the one there. The rule is a new one: its counters begin at
// zero, as iptables -R has it.
func (rs *Ruleset) Replace(at Place, r *Rule) (*Ruleset, Mapping, error) {
	s, err := rs.find(at, false)
	if err == nil && s.index == rs.lists[s.chain].Len() {
		err = rs.absent(at)
	}
	if err != nil {
		return nil, Mapping{}, err
	}
	s.rule, s.removes = r, true
	return rs.change([]step{s}, rs.opt)
}

// step is a change of one rule: another one put before it, or in its place, or nothing in its place.
type step struct {
	chain   int   // in Ruleset.chains
	index   int   // among the chain's rules
	rule    *Rule // the rule that comes; nil for none
	removes bool  // the rule at index goes
	keeps   bool  // what that has counted, and remembers, is the new one's
}

// find looks a place up; last asks for the one behind the last rule.
func (rs *Ruleset) find(at Place, last bool) (step, error) {
	left, found := at.Number, false
	s := step{}
	for i := range rs.chains {
		c := &rs.chains[i]
		if c.Table != at.Table || c.Name != at.Chain || c.Family != at.Family {
			continue
		}
		found = true
		n := rs.lists[i].Len()
		if !last && left >= 1 && left <= n {
			return step{chain: i, index: left - 1}, nil
		}
		left -= n
		s = step{chain: i, index: n}
	}
	switch {
	case !found:
		return s, fmt.Errorf("find rule %s: no chain of this name for the family in this table", at)
	case last || left == 1:
		return s, nil
	}
	return s, rs.absent(at)
}

func (rs *Ruleset) absent(at Place) error {
	n := 0
	for i := range rs.chains {
		if c := &rs.chains[i]; c.Table == at.Table && c.Name == at.Chain && c.Family == at.Family {
			n += rs.lists[i].Len()
		}
	}
	return fmt.Errorf("find rule %s: the chain has %s", at, count(n, "rule"))
}

// maxSteps is how many steps are carried out one by one, before compiling everything anew takes less.
const maxSteps = 16

// change carries steps out, each with what the ones before have made; opt is for compiling anew.
func (rs *Ruleset) change(steps []step, opt Options) (*Ruleset, Mapping, error) {
	for i := range steps {
		if s := &steps[i]; s.rule != nil && s.rule.Family&^rs.chains[s.chain].Family != 0 {
			return nil, Mapping{}, fmt.Errorf("change rule %d: it is for another IP version than its chain", s.index+1)
		}
	}
	if len(steps) > maxSteps {
		return rs.compileAnew(steps, opt)
	}
	to, m := rs, Mapping{}
	for _, s := range steps {
		next := to.patch(s)
		if next == nil {
			return rs.compileAnew(steps, opt)
		}
		if s.removes {
			now := NoRule
			if s.keeps {
				now = next.extra(idExtra + len(next.late) - 1)
			}
			m = m.without(to.lists[s.chain].At(s.index), now)
		}
		to = next
	}
	return to, m, nil
}

// compileAnew compiles the rules with some steps carried out.
func (rs *Ruleset) compileAnew(steps []step, opt Options) (*Ruleset, Mapping, error) {
	became := make(map[*Rule]*Rule)
	next, err := Compile(rs.filesNow(steps, became), opt)
	if err != nil {
		return nil, Mapping{}, err
	}
	m := rs.follow(next, became)
	next.Adopt(rs, m)
	return next, m, nil
}

// filesNow returns the files as compiling the rules anew has to see them, with some steps carried out; became says what became
// of rules that these took away.
func (rs *Ruleset) filesNow(steps []step, became map[*Rule]*Rule) []*File {
	if rs.patches == 0 && len(steps) == 0 {
		return rs.files
	}
	lists := make([][]*Rule, len(rs.chains))
	for i := range lists {
		lists[i] = make([]*Rule, 0, rs.lists[i].Len()+1)
		for id := range rs.lists[i].All() {
			lists[i] = append(lists[i], rs.info(id).Rule)
		}
	}
	for _, s := range steps {
		end := s.index
		if s.removes {
			old := lists[s.chain][s.index]
			became[old] = nil
			if s.keeps {
				became[old] = s.rule
			}
			end++
		}
		var put []*Rule
		if s.rule != nil {
			put = []*Rule{s.rule}
		}
		lists[s.chain] = slices.Replace(lists[s.chain], s.index, end, put...)
	}
	files := make([]*File, len(rs.files))
	n := 0
	for i, f := range rs.files {
		g := *f
		g.Tables = slices.Clone(f.Tables)
		for j, t := range f.Tables {
			u := *t
			u.Chains = slices.Clone(t.Chains)
			for k, c := range t.Chains {
				if !c.Ignored {
					d := *c
					d.Rules = lists[n]
					u.Chains[k] = &d
					n++
				}
			}
			g.Tables[j] = &u
		}
		files[i] = &g
	}
	return files
}

// follow says which RuleIDs the rules have in another rule set: those that stay stand there in the same order. became has
// what stands in the place of rules that do not.
func (rs *Ruleset) follow(to *Ruleset, became map[*Rule]*Rule) Mapping {
	m := newMapping(rs)
	next, stop := iter.Pull2(to.Rules())
	defer stop()
	for id, info := range rs.Rules() {
		r := info.Rule
		if now, gone := became[r]; gone {
			if now == nil {
				continue
			}
			r = now
		}
		for {
			other, x, ok := next()
			if !ok {
				break
			}
			if x.Rule == r {
				m.list[id] = other
				break
			}
		}
	}
	rs.mapExtra(to, m)
	return m
}
