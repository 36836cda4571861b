package rules

import (
	"fmt"
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

// Renumbering says which RuleID of a rule set is which of the one that a change of one rule made of it. RuleIDs stay
// dense and in the order of the files, as Compile gives them: behind a rule that came or went all move by one, the
// policies and the drop of short headers too.
type Renumbering struct {
	at             RuleID // the rule that came, went, or was replaced
	added, removed RuleID // 0 or 1 each
}

// Added returns the RuleID, in the new rule set, of the rule that was inserted or put in another's place; false when
// the change was a deletion.
func (n Renumbering) Added() (RuleID, bool) { return n.at, n.added != 0 }

// Old returns the RuleID that a rule of the new rule set had in the old one; false for the rule that is new.
func (n Renumbering) Old(id RuleID) (RuleID, bool) {
	switch {
	case id < n.at:
		return id, true
	case id < n.at+n.added:
		return 0, false
	}
	return id - n.added + n.removed, true
}

// New returns the RuleID that a rule of the old rule set has in the new one; false for the rule that went.
func (n Renumbering) New(id RuleID) (RuleID, bool) {
	switch {
	case id < n.at:
		return id, true
	case id < n.at+n.removed:
		return 0, false
	}
	return id - n.removed + n.added, true
}

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
// would mean, RuleIDs included; rules that the change leaves alone keep what they share among matchers (the tokens of
// a limit). The error is *Errors when the rule cannot be compiled (a jump to a chain that is not there, a loop).
func (rs *Ruleset) Insert(at Place, r *Rule) (*Ruleset, Renumbering, error) {
	s, err := rs.find(at, at.Number == 0)
	if err != nil {
		return nil, Renumbering{}, err
	}
	return rs.change(s, r, Renumbering{at: s.id, added: 1})
}

// Delete returns a rule set like rs without the rule at a place.
func (rs *Ruleset) Delete(at Place) (*Ruleset, Renumbering, error) {
	s, err := rs.find(at, false)
	if err == nil && s.end {
		err = rs.absent(at, s.number-1)
	}
	if err != nil {
		return nil, Renumbering{}, err
	}
	return rs.change(s, nil, Renumbering{at: s.id, removed: 1})
}

// Replace returns a rule set like rs with the rule in the place of the one there. The rule is new to Renumbering: its
// counters begin at zero, as iptables -R has it.
func (rs *Ruleset) Replace(at Place, r *Rule) (*Ruleset, Renumbering, error) {
	s, err := rs.find(at, false)
	if err == nil && s.end {
		err = rs.absent(at, s.number-1)
	}
	if err != nil {
		return nil, Renumbering{}, err
	}
	return rs.change(s, r, Renumbering{at: s.id, added: 1, removed: 1})
}

// site is where a rule stands, or would be inserted.
type site struct {
	chain  int    // in Ruleset.chains
	index  int    // among the chain's rules
	id     RuleID // of the rule there, or what one inserted there gets
	number int    // of the rule there
	end    bool   // there is no rule: the place is behind the last
}

// find looks a place up; last asks for the one behind the last rule.
func (rs *Ruleset) find(at Place, last bool) (site, error) {
	left, found := at.Number, false
	s := site{number: 1}
	id := RuleID(0)
	for i := range rs.chains {
		c := &rs.chains[i]
		n := len(c.Rules)
		if c.Table == at.Table && c.Name == at.Chain && c.Family == at.Family {
			found = true
			if !last && left >= 1 && left <= n {
				return site{i, left - 1, id + RuleID(left-1), at.Number, false}, nil
			}
			left -= n
			s = site{i, n, id + RuleID(n), s.number + n, true}
		}
		id += RuleID(n)
	}
	switch {
	case !found:
		return s, fmt.Errorf("find rule %s: no chain of this name for the family in this table", at)
	case last || left == 1:
		return s, nil
	}
	return s, rs.absent(at, s.number-1)
}

func (rs *Ruleset) absent(at Place, n int) error {
	return fmt.Errorf("find rule %s: the chain has %s", at, count(n, "rule"))
}

// change makes the new rule set: r in place of the rule at s, before it, or nothing in its place.
func (rs *Ruleset) change(s site, r *Rule, n Renumbering) (*Ruleset, Renumbering, error) {
	if r != nil && r.Family&^rs.chains[s.chain].Family != 0 {
		return nil, Renumbering{}, fmt.Errorf("change rule %d: it is for another IP version than its chain", s.number)
	}
	old := rs.chains[s.chain].Chain
	c := *old
	c.Rules = slices.Clone(old.Rules)
	switch {
	case n.removed == 0:
		c.Rules = slices.Insert(c.Rules, s.index, r)
	case r == nil:
		c.Rules = slices.Delete(c.Rules, s.index, s.index+1)
	default:
		c.Rules[s.index] = r
	}
	files := make([]*File, len(rs.files))
	for i, f := range rs.files {
		files[i] = f.with(old, &c)
	}
	if next := rs.patch(s, r, n, files, &c); next != nil {
		return next, n, nil
	}
	next, err := Compile(files, rs.opt)
	if err != nil {
		return nil, Renumbering{}, err
	}
	next.Adopt(rs, n.mapping(rs))
	return next, n, nil
}

// with returns the file with one chain in place of another, or the file itself when it does not hold that chain.
func (f *File) with(old, c *Chain) *File {
	for i, t := range f.Tables {
		for k, x := range t.Chains {
			if x != old {
				continue
			}
			g, u := *f, *t
			u.Chains = slices.Clone(t.Chains)
			u.Chains[k] = c
			g.Tables = slices.Clone(f.Tables)
			g.Tables[i] = &u
			return &g
		}
	}
	return f
}
