package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// EditOp is one of iptables' commands that change a rule set.
type EditOp uint8

const (
	EditAppend      EditOp = iota // -A CHAIN rule
	EditInsert                    // -I CHAIN [number] rule
	EditDelete                    // -D CHAIN number, -D CHAIN rule
	EditReplace                   // -R CHAIN number rule
	EditFlush                     // -F [CHAIN]
	EditPolicy                    // -P CHAIN target
	EditNewChain                  // -N CHAIN
	EditDeleteChain               // -X CHAIN
)

// editNames are the verbs, as messages call them.
var editNames = [...]string{"append", "insert", "delete", "replace", "flush", "policy", "new-chain", "delete-chain"}

// String returns the verb: append, insert, delete, replace, flush, policy, new-chain or delete-chain.
func (o EditOp) String() string { return editNames[o] }

// ParseEditOp returns the operation of a verb, and whether there is one.
func ParseEditOp(verb string) (EditOp, bool) {
	i := slices.Index(editNames[:], verb)
	return EditOp(max(i, 0)), i >= 0
}

// Edit is one change of a rule set, with the meaning of iptables' command.
//
// Numbers count the rules of a chain that are for Family, from 1. With Both they count what the chain holds in a file for
// both versions; where the versions have chains of their own, a number needs a Family, and a rule goes into each that it
// is for. A change for one version of a rule that is for both leaves the rule to the other.
type Edit struct {
	Op     EditOp
	Table  string   // "" is filter
	Family Family   // Both: as the files have it
	Chain  string   // "" for EditFlush: all chains of the table
	Number int      // 0: none
	Rule   []string // the words behind chain and number, as a shell has parted them
	Policy string   // of EditPolicy: ACCEPT or DROP
	// Source names the change in messages and in Pos, with Line counting changes.
	Source string
	Line   int
}

// editor is an edit under way: files that are copied as far as they change.
type editor struct {
	Edit
	files []*File
	owned map[any]bool    // files, tables and chains that are copies
	gone  map[*Rule]*Rule // rules that are no more, and what is left of them for the other version
	fresh map[*Rule]bool  // rules that were not there before
	steps []step
	plain bool // steps are all that was done
}

// step is a change of one rule: put before the one at a spot, in its place, or nothing in its place.
type step struct {
	spot
	rule *Rule
	old  *Rule
}

// piece is a part of a chain: what one file has of it.
type piece struct{ file, table, chain int }

// spot is a rule in a chain: the index-th of a piece.
type spot struct {
	piece
	index int
}

// Edit returns a rule set with one change, and what became of the rules' identities; opt is as for Compile. The rule set
// itself does not change. The error says what is wrong; mistakes in a rule are *Errors, with the column in its text.
func (rs *Ruleset) Edit(e Edit, opt Options) (*Ruleset, Mapping, error) {
	x := editor{Edit: e, files: slices.Clone(rs.files), owned: map[any]bool{}, gone: map[*Rule]*Rule{}, fresh: map[*Rule]bool{},
		plain: e.Op <= EditReplace}
	if x.Table == "" {
		x.Table = "filter"
	}
	if x.Family == 0 {
		x.Family = Both
	}
	if err := x.apply(); err != nil {
		if _, ok := err.(*Errors); !ok {
			err = fmt.Errorf("%s: %w", x.what(), err)
		}
		return nil, nil, err
	}
	if len(x.steps) == 1 && x.plain {
		// What is wrong with it may be right with other options.
		if to, err := x.steps[0].apply(rs, &x); err == nil {
			return to, x.mapping(rs, to), nil
		}
	}
	to, err := Compile(x.files, opt)
	if err != nil {
		return nil, nil, err
	}
	return to, x.mapping(rs, to), nil
}

// apply carries a change of one rule out without compiling the others.
func (s *step) apply(rs *Ruleset, x *editor) (to *Ruleset, err error) {
	at := Place{Table: x.Table, Chain: x.Chain, Family: rs.files[s.file].Family, Number: s.index + 1}
	for _, p := range x.pieces(Both) {
		if p.file < s.file && rs.files[p.file].Family == at.Family {
			at.Number += len(x.chain(p).Rules)
		}
	}
	switch {
	case s.old == nil:
		to, _, err = rs.Insert(at, s.rule)
	case s.rule == nil:
		to, _, err = rs.Delete(at)
	default:
		to, _, err = rs.Replace(at, s.rule)
	}
	return to, err
}

// what names the change: "delete FORWARD 3 in table raw".
func (x *editor) what() string {
	s := x.Op.String()
	if x.Chain != "" {
		s += " " + clip(x.Chain)
	}
	if x.Number != 0 {
		s += " " + strconv.Itoa(x.Number)
	}
	if x.Table != "filter" {
		s += " in table " + clip(x.Table)
	}
	return s
}

func (x *editor) apply() error {
	if reason, known := tableMeaning[x.Table]; !known || reason != "" {
		if !known {
			reason = "there is no such table"
		}
		return fmt.Errorf("%s", reason)
	}
	if reason := baseChains[x.Table][x.Chain]; reason != "" {
		return fmt.Errorf("the chain is not judged: %s", reason)
	}
	if x.Op == EditFlush && x.Chain == "" {
		names := map[string]bool{}
		for _, f := range x.files {
			for _, t := range f.Tables {
				for _, c := range t.Chains {
					if t.Name == x.Table && !c.Ignored && !names[c.Name] {
						names[c.Name] = true
					}
				}
			}
		}
		for name := range names {
			y := x.named(name)
			if err := y.version(x.Family); err != nil {
				return err
			}
		}
		return nil
	}
	if err := checkName(x.Chain); err != nil {
		return err
	}
	views := x.views()
	if len(views) == 1 {
		return x.version(views[0])
	}
	if x.Number != 0 || x.Op == EditDelete || len(x.pieces(Both)) == 0 {
		return fmt.Errorf("the IP versions have a chain of this name each (say -4 or -6)")
	}
	meant := Both // the versions that the rule itself is for
	if len(x.Rule) > 0 {
		list, err := x.parse(Both, x.pieces(Both)[0])
		if err != nil {
			return err
		}
		meant = 0
		for _, r := range list {
			meant |= r.Family
		}
	}
	for _, v := range views {
		if v&meant == 0 {
			continue
		}
		if err := x.version(v); err != nil {
			return err
		}
	}
	return nil
}

// named is the same editor for another chain.
func (x *editor) named(chain string) *editor {
	y := *x
	y.Chain = chain
	return &y
}

// checkName refuses what iptables does not take for a chain's name.
func checkName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("a chain must be named")
	case strings.HasPrefix(s, "-") || strings.HasPrefix(s, "!") || strings.ContainsAny(s, " \t\"\n\r"):
		return fmt.Errorf("%q is no chain's name", clip(s))
	case len(s) > maxChain:
		return fmt.Errorf("a chain's name has at most %d bytes", maxChain)
	}
	return nil
}

// views returns the versions that the change is carried out for, one after the other: one where all files with the chain
// are for the same, or where the caller chose.
func (x *editor) views() []Family {
	if x.Family != Both {
		return []Family{x.Family}
	}
	var have Family
	one := true
	for _, p := range x.pieces(Both) {
		f := x.files[p.file].Family
		one = one && (have == 0 || have == f)
		have |= f
	}
	if have == 0 { // no file has it yet
		for _, f := range x.files {
			if f.Family == Both {
				return []Family{Both}
			}
			one = one && (have == 0 || have == f.Family)
			have |= f.Family
		}
	}
	if one {
		return []Family{have}
	}
	return []Family{IPv4, IPv6}
}

// pieces returns where the chain is, for a version, in order.
func (x *editor) pieces(view Family) (out []piece) {
	for i, f := range x.files {
		if f.Family&view == 0 {
			continue
		}
		for j, t := range f.Tables {
			if t.Name != x.Table {
				continue
			}
			for k, c := range t.Chains {
				if c.Name == x.Chain {
					out = append(out, piece{i, j, k})
				}
			}
		}
	}
	return out
}

func (x *editor) chain(p piece) *Chain { return x.files[p.file].Tables[p.table].Chains[p.chain] }

// own returns a chain that may be changed.
func (x *editor) own(p piece) *Chain {
	t := x.ownTable(p)
	c := t.Chains[p.chain]
	if !x.owned[c] {
		d := *c
		d.Rules = slices.Clone(c.Rules)
		c = &d
		t.Chains[p.chain] = c
		x.owned[c] = true
	}
	return c
}

// ownTable returns a table that may be changed.
func (x *editor) ownTable(p piece) *Table {
	f := x.ownFile(p.file)
	t := f.Tables[p.table]
	if !x.owned[t] {
		d := *t
		d.Chains = slices.Clone(t.Chains)
		t = &d
		f.Tables[p.table] = t
		x.owned[t] = true
	}
	return t
}

func (x *editor) ownFile(i int) *File {
	f := x.files[i]
	if !x.owned[f] {
		d := *f
		d.Tables = slices.Clone(f.Tables)
		f = &d
		x.files[i] = f
		x.owned[f] = true
	}
	return f
}

// spots returns the rules of the chain that are for a version.
func (x *editor) spots(view Family, in []piece) (out []spot) {
	for _, p := range in {
		for i, r := range x.chain(p).Rules {
			if r.Family&view != 0 {
				out = append(out, spot{p, i})
			}
		}
	}
	return out
}

// version carries the change out for one version, or for both where a file is for both.
func (x *editor) version(view Family) error {
	in := x.pieces(view)
	_, base := baseChains[x.Table][x.Chain]
	switch {
	case x.Op == EditNewChain:
		if len(in) > 0 || base {
			return fmt.Errorf("there is a chain of this name already")
		}
		_, err := x.newChain(view, PolicyNone)
		return err
	case len(in) == 0 && !base:
		return fmt.Errorf("there is no chain of this name%s", x.nearChain(view))
	case len(in) == 0:
		p, err := x.newChain(view, PolicyAccept)
		if err != nil {
			return err
		}
		in = []piece{p}
	}
	for _, p := range in {
		if x.chain(p).Ignored {
			return fmt.Errorf("the chain is not judged: only INPUT or OUTPUT lead to it (write the change into the rule file)")
		}
	}
	switch x.Op {
	case EditPolicy:
		return x.setPolicy(view, in, base)
	case EditFlush:
		for _, s := range slices.Backward(x.spots(view, in)) {
			x.remove(s, view)
		}
		return nil
	case EditDeleteChain:
		return x.deleteChain(view, in, base)
	}
	spots := x.spots(view, in)
	if x.Op == EditDelete && x.Number == 0 {
		return x.deleteRule(view, in, spots)
	}
	number := x.Number
	if x.Op == EditInsert && number == 0 {
		number = 1
	}
	most := len(spots)
	if x.Op == EditInsert {
		most++
	}
	if x.Op != EditAppend && (number < 1 || number > most) {
		if most == 0 {
			return fmt.Errorf("the chain has no rules")
		}
		return fmt.Errorf("the chain has %s (a number from 1 to %d was expected)", count(len(spots), "rule"), most)
	}
	if x.Op == EditDelete {
		x.remove(spots[number-1], view)
		return nil
	}
	at := spot{in[len(in)-1], len(x.chain(in[len(in)-1]).Rules)}
	if x.Op != EditAppend && number <= len(spots) {
		at = spots[number-1]
	}
	added, err := x.parse(view&x.files[at.file].Family, at.piece)
	if err != nil {
		return err
	}
	if len(added) == 0 {
		return fmt.Errorf("the rule is not for %s", view)
	}
	if x.Op == EditReplace && len(added) > 1 {
		return fmt.Errorf("one rule is replaced by one rule (these are %d, for each pair of addresses one)", len(added))
	}
	c := x.own(at.piece)
	if x.Op == EditReplace {
		old := c.Rules[at.index]
		if old.Family&^view == 0 {
			c.Rules[at.index] = added[0]
			x.gone[old], x.fresh[added[0]] = nil, true
			x.steps = append(x.steps, step{at, added[0], old})
			return nil
		}
		x.remove(at, view)
	}
	c.Rules = slices.Insert(c.Rules, at.index, added...)
	for _, r := range added {
		x.fresh[r] = true
		x.steps = append(x.steps, step{at, r, nil})
	}
	return nil
}

// nearChain is a hint at the chain that may have been meant.
func (x *editor) nearChain(view Family) string {
	var names []string
	for _, f := range x.files {
		for _, t := range f.Tables {
			if t.Name == x.Table && f.Family&view != 0 {
				for _, c := range t.Chains {
					if len(names) < 200 {
						names = append(names, c.Name)
					}
				}
			}
		}
	}
	if h := didYouMean(x.Chain, names); h != "" {
		return " (" + h + ")"
	}
	return ""
}

// remove takes a rule out of the chain for a version; what it is for beside that stays.
func (x *editor) remove(s spot, view Family) {
	c := x.own(s.piece)
	r := c.Rules[s.index]
	if rest := r.Family &^ view; rest != 0 {
		d := *r
		d.Family = rest
		c.Rules[s.index] = &d
		x.gone[r] = &d
		x.steps = append(x.steps, step{s, &d, r})
		return
	}
	x.gone[r] = nil
	x.steps = append(x.steps, step{s, nil, r})
	c.Rules = slices.Delete(c.Rules, s.index, s.index+1)
}

// deleteRule deletes the first rule that is the one given, or each of those that the addresses given stand for.
func (x *editor) deleteRule(view Family, in []piece, spots []spot) error {
	text := func(r *Rule) string {
		d := *r
		d.Family = view
		if view == Both {
			d.Family = r.Family
		}
		return d.Family.String() + string(d.AppendSave(nil, x.Chain))
	}
	last := in[len(in)-1]
	meant, err := x.parse(view&x.files[last.file].Family, last)
	if err != nil {
		return err
	}
	if len(meant) == 0 {
		return fmt.Errorf("the rule is not for %s", view)
	}
	var found []spot
	for _, r := range meant {
		want := text(r)
		i := slices.IndexFunc(spots, func(s spot) bool {
			return !slices.Contains(found, s) && text(x.chain(s.piece).Rules[s.index]) == want
		})
		if i < 0 {
			return fmt.Errorf("the chain has no such rule (corewire rules show --save prints those that it has)")
		}
		found = append(found, spots[i])
	}
	slices.SortFunc(found, func(a, b spot) int { return b.index - a.index }) // from behind: indices before stay
	for _, s := range found {
		x.remove(s, view)
	}
	return nil
}

func (x *editor) setPolicy(view Family, in []piece, base bool) error {
	if !base {
		return fmt.Errorf("only chains that the kernel calls have a policy")
	}
	p := PolicyAccept
	switch x.Policy {
	case "ACCEPT":
	case "DROP":
		p = PolicyDrop
	default:
		return fmt.Errorf("a policy is ACCEPT or DROP, not %q", clip(x.Policy))
	}
	for _, at := range in {
		if f := x.files[at.file].Family; f&^view != 0 {
			return fmt.Errorf("the file %s has one policy for both IP versions (leave out -4 and -6)", x.files[at.file].Name)
		}
	}
	for _, at := range in {
		x.own(at).Policy = p
	}
	return nil
}

// newChain makes a chain in the last file for the version.
func (x *editor) newChain(view Family, policy Policy) (piece, error) {
	at := -1
	for i, f := range x.files {
		if f.Family == view || at < 0 && f.Family&^view == 0 {
			at = i
		}
	}
	if at < 0 {
		return piece{}, fmt.Errorf("no rule file is for %s alone (leave out -4 and -6)", view)
	}
	f := x.ownFile(at)
	j := slices.IndexFunc(f.Tables, func(t *Table) bool { return t.Name == x.Table })
	pos := Pos{File: x.Source, Line: x.Line, Col: 1}
	if j < 0 {
		j = len(f.Tables)
		f.Tables = append(f.Tables, &Table{Name: x.Table, Pos: pos})
	}
	p := piece{file: at, table: j}
	t := x.ownTable(p)
	p.chain = len(t.Chains)
	c := &Chain{Name: x.Chain, Pos: pos, Policy: policy}
	t.Chains = append(t.Chains, c)
	x.owned[c] = true
	return p, nil
}

func (x *editor) deleteChain(view Family, in []piece, base bool) error {
	if base {
		return fmt.Errorf("a chain that the kernel calls cannot be deleted")
	}
	for _, p := range in {
		if f := x.files[p.file].Family; f&^view != 0 {
			return fmt.Errorf("the file %s has one chain for both IP versions (leave out -4 and -6)", x.files[p.file].Name)
		}
		if n := len(x.chain(p).Rules); n > 0 {
			return fmt.Errorf("the chain has %s (flush it before)", count(n, "rule"))
		}
	}
	for _, f := range x.files {
		for _, t := range f.Tables {
			for _, c := range t.Chains {
				for _, r := range c.Rules {
					if t.Name == x.Table && f.Family&view != 0 && r.Target.Chain == x.Chain {
						return fmt.Errorf("a rule in %s:%d leads to the chain", r.Pos.File, r.Pos.Line)
					}
				}
			}
		}
	}
	for _, p := range slices.Backward(in) {
		t := x.ownTable(p)
		t.Chains = slices.Delete(t.Chains, p.chain, p.chain+1)
	}
	return nil
}

// parse reads the rule, as one in a file for a version, for a place of the chain. There may be several, or none: if the rule
// says that it is for the other version.
func (x *editor) parse(family Family, at piece) ([]*Rule, error) {
	t := x.files[at.file].Tables[at.table]
	line := append([]byte("-A "), x.Chain...)
	for _, w := range x.Rule {
		if strings.ContainsAny(w, "\n\r\x00") {
			return nil, fmt.Errorf("the word %q has a line break", clip(w))
		}
		line = append(line, ' ')
		if w != "" && !strings.ContainsAny(w, " \t\"\\") {
			line = append(line, w...)
			continue
		}
		line = append(line, '"')
		for _, c := range []byte(w) {
			if c == '"' || c == '\\' {
				line = append(line, '\\')
			}
			line = append(line, c)
		}
		line = append(line, '"')
	}
	if len(line) > maxLine {
		return nil, fmt.Errorf("a rule has at most %d bytes", maxLine)
	}
	p := parser{file: &File{Name: x.Source, Family: family}, line: x.Line, inTable: true, tableName: x.Table,
		table: &Table{Name: x.Table, Pos: t.Pos}, chains: map[string]*Chain{}, declared: map[string]int{}}
	for _, c := range t.Chains {
		d := &Chain{Name: c.Name, Pos: c.Pos, Policy: c.Policy}
		p.chains[c.Name], p.declared[c.Name] = d, x.Line
		p.table.Chains = append(p.table.Chains, d)
	}
	p.parseLine(string(line))
	c := p.chains[x.Chain]
	for _, r := range c.Rules {
		for _, e := range r.bad {
			p.errs.add(e)
		}
		r.bad = nil
	}
	if err := p.errs.orNil(); err != nil {
		return nil, err
	}
	for _, r := range c.Rules {
		if (r.Target.Verb == VerbJump || r.Target.Verb == VerbGoto) && p.chains[r.Target.Chain] != nil {
			for _, have := range t.Chains {
				if have.Name == r.Target.Chain && have.Ignored {
					return nil, fmt.Errorf("chain %s was not read, since only INPUT or OUTPUT led to it (write the change into the rule file, and reload)", have.Name)
				}
			}
		}
	}
	return c.Rules, nil
}

// mapping follows both rule sets in step: the order of what stays is the same.
func (x *editor) mapping(from, to *Ruleset) Mapping {
	m := make(Mapping, from.Counters())
	j := 0
	for i := range from.rules {
		r := from.rules[i].Rule
		if rest, gone := x.gone[r]; gone {
			if rest == nil {
				m[i] = NoRule
				continue
			}
			r = rest
		}
		for j < len(to.rules) && to.rules[j].Rule != r {
			j++
		}
		if m[i] = NoRule; j < len(to.rules) {
			m[i] = RuleID(j)
			j++
		}
	}
	from.mapExtra(to, m)
	return m
}
