package rules

import (
	"fmt"
	"iter"
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

// editor is an edit under way: steps for changes of rules, and files that are copied as far as chains and policies change.
type editor struct {
	Edit
	rs      *Ruleset
	files   []*File
	steps   []step
	rebuilt bool            // files are changed, or are to be
	owned   map[any]bool    // files, tables and chains that are copies
	became  map[*Rule]*Rule // of rules that are no more, what is left of them for the other version
}

// piece is a part of a chain: what one file has of it.
type piece struct {
	file, table, chain int
	at                 int // in Ruleset.chains, -1 for a chain that is not read
}

// spot is a rule in a chain: the index-th of a piece.
type spot struct {
	piece
	index int
}

// Edit returns a rule set with one change, and what became of the rules' identities; opt is as for Compile. The rule set
// itself does not change. The error says what is wrong; mistakes in the rule are *EditError.
func (rs *Ruleset) Edit(e Edit, opt Options) (*Ruleset, Mapping, error) {
	x := editor{Edit: e, rs: rs, files: rs.files}
	if x.Table == "" {
		x.Table = "filter"
	}
	if x.Family == 0 {
		x.Family = Both
	}
	var to *Ruleset
	var m Mapping
	err := x.apply()
	switch {
	case err != nil:
	case x.rebuilt:
		if to, err = Compile(x.files, opt); err == nil {
			m = rs.follow(to, x.became)
		}
	default:
		to, m, err = rs.change(x.steps, opt)
	}
	if err != nil {
		return nil, Mapping{}, x.told(err)
	}
	return to, m, nil
}

// rebuild makes files what may be changed: with the rules that there are now.
func (x *editor) rebuild() {
	if !x.rebuilt {
		x.files, x.rebuilt = slices.Clone(x.rs.filesNow(nil, nil)), true
		x.owned, x.became = map[any]bool{}, map[*Rule]*Rule{}
	}
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
	if x.Op > EditReplace {
		x.rebuild()
	}
	if x.Op == EditFlush && x.Chain == "" {
		names := map[string]bool{}
		for _, c := range x.rs.chains {
			names[c.Name] = names[c.Name] || c.Table == x.Table
		}
		for name, here := range names {
			if here {
				x.Chain = name
				if err := x.version(x.Family); err != nil {
					return err
				}
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
	if !x.rebuilt {
		for _, p := range x.rs.pieces[chainKey{x.Table, x.Chain}] {
			if x.files[p.file].Family&view != 0 {
				out = append(out, p)
			}
		}
		return out
	}
	n := 0
	for i, f := range x.files {
		for j, t := range f.Tables {
			for k, c := range t.Chains {
				at := n
				if c.Ignored {
					at = -1
				} else {
					n++
				}
				if f.Family&view != 0 && t.Name == x.Table && c.Name == x.Chain {
					out = append(out, piece{i, j, k, at})
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

// rules returns the rules of a piece.
func (x *editor) rules(p piece) *RuleList { return x.rs.lists[p.at] }

// spot returns the number-th rule of the chain that is for a version; if there are fewer, how many.
func (x *editor) spot(view Family, in []piece, number int) (at spot, size int, ok bool) {
	for _, p := range in {
		list := x.rules(p)
		if x.files[p.file].Family&^view == 0 { // all are
			if number > size && number <= size+list.Len() {
				return spot{p, number - size - 1}, size, true
			}
			size += list.Len()
			continue
		}
		i := 0
		for id := range list.All() {
			if x.rs.info(id).Family&view != 0 {
				if size++; size == number {
					return spot{p, i}, size, true
				}
			}
			i++
		}
	}
	return spot{}, size, false
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
		x.rebuild()
		p, err := x.newChain(view, PolicyAccept)
		if err != nil {
			return err
		}
		in = []piece{p}
		if x.Op <= EditReplace {
			return x.firstRules(view, p)
		}
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
		for _, p := range in {
			x.flush(p, view)
		}
		return nil
	case EditDeleteChain:
		return x.deleteChain(view, in, base)
	}
	if x.Op == EditDelete && x.Number == 0 {
		return x.deleteRule(view, in)
	}
	number := x.Number
	if x.Op == EditInsert && number == 0 {
		number = 1
	}
	last := in[len(in)-1]
	at := spot{last, x.rules(last).Len()}
	if x.Op != EditAppend {
		have, size, ok := x.spot(view, in, number)
		most := size
		if x.Op == EditInsert {
			most++
		}
		switch {
		case ok:
			at = have
		case most == 0:
			return fmt.Errorf("the chain has no rules")
		case number < 1 || number > most:
			return fmt.Errorf("the chain has %s (a number from 1 to %d was expected)", count(size, "rule"), most)
		}
	}
	if x.Op == EditDelete {
		x.remove(at, view)
		return nil
	}
	added, err := x.parse(view&x.files[at.file].Family, at.piece)
	if err != nil {
		return err
	}
	if len(added) == 0 {
		return fmt.Errorf("the rule is not for %s", view)
	}
	if x.Op == EditReplace {
		if len(added) > 1 {
			return fmt.Errorf("one rule is replaced by one rule (these are %d, for each pair of addresses one)", len(added))
		}
		if x.rs.info(x.rules(at.piece).At(at.index)).Family&^view == 0 {
			x.steps = append(x.steps, step{chain: at.at, index: at.index, rule: added[0], removes: true})
			return nil
		}
		// The rule comes before the other goes, so that there is always one that leads where both do.
		x.steps = append(x.steps, step{chain: at.at, index: at.index, rule: added[0]})
		x.remove(at, view)
		x.steps[len(x.steps)-1].index++
		return nil
	}
	for i, r := range added {
		x.steps = append(x.steps, step{chain: at.at, index: at.index + i, rule: r})
	}
	return nil
}

// firstRules puts rules into a base chain that no file has: a chain that was just made.
func (x *editor) firstRules(view Family, p piece) error {
	switch {
	case x.Op == EditDelete || x.Op == EditReplace:
		return fmt.Errorf("the chain has no rules")
	case x.Op == EditInsert && x.Number > 1:
		return fmt.Errorf("the chain has no rules (a number from 1 to 1 was expected)")
	}
	added, err := x.parse(view&x.files[p.file].Family, p)
	if err == nil && len(added) == 0 {
		err = fmt.Errorf("the rule is not for %s", view)
	}
	x.chain(p).Rules = added
	return err
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
func (x *editor) remove(at spot, view Family) {
	r := x.rs.info(x.rules(at.piece).At(at.index)).Rule
	s := step{chain: at.at, index: at.index, removes: true}
	if rest := r.Family &^ view; rest != 0 {
		d := *r
		d.Family = rest
		s.rule, s.keeps = &d, true
	}
	x.steps = append(x.steps, s)
}

// flush takes all rules out of a piece for a version.
func (x *editor) flush(p piece, view Family) {
	c := x.own(p)
	kept := c.Rules[:0]
	for _, r := range c.Rules {
		x.became[r] = nil
		if rest := r.Family &^ view; rest != 0 {
			d := *r
			d.Family = rest
			x.became[r] = &d
			kept = append(kept, &d)
		}
	}
	c.Rules = kept
}

// deleteRule deletes the first rule that is the one given, or each of those that the addresses given stand for.
func (x *editor) deleteRule(view Family, in []piece) error {
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
		want, print := text(r), r.print()
		at := spot{index: -1}
	search:
		for _, p := range in {
			for _, i := range x.rs.alike(x.rules(p), print) {
				have := x.rs.info(x.rules(p).At(i)).Rule
				if have.Family&view != 0 && !slices.Contains(found, spot{p, i}) && text(have) == want {
					at = spot{p, i}
					break search
				}
			}
		}
		if at.index < 0 {
			return fmt.Errorf("the chain has no such rule (corewire rules show --save prints those that it has)")
		}
		found = append(found, at)
	}
	slices.SortFunc(found, func(a, b spot) int { return b.index - a.index }) // from behind: indices before stay
	for _, at := range found {
		x.remove(at, view)
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
	p.at = -1 // not compiled yet
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
	for _, info := range x.rs.Rules() {
		if r := info.Rule; info.Table == x.Table && x.rs.chains[info.piece].Family&view != 0 && r.Target.Chain == x.Chain {
			return fmt.Errorf("a rule in %s:%d leads to the chain", r.Pos.File, r.Pos.Line)
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
	for _, w := range x.Rule {
		if strings.ContainsAny(w, "\n\r\x00") {
			return nil, fmt.Errorf("the word %q has a line break", clip(w))
		}
	}
	line := x.head() + spell(x.Rule)
	if len(line) > maxLine {
		return nil, fmt.Errorf("a rule has at most %d bytes", maxLine)
	}
	// Of the chains those are declared that words name; all for a rule that is wrong, so that hints are right.
	read := func(chains iter.Seq[*Chain]) (parser, error) {
		p := parser{file: &File{Name: x.Source, Family: family}, line: x.Line, inTable: true, tableName: x.Table,
			table: &Table{Name: x.Table, Pos: t.Pos}, chains: map[string]*Chain{}, declared: map[string]int{}}
		for c := range chains {
			if p.chains[c.Name] == nil {
				d := &Chain{Name: c.Name, Pos: c.Pos, Policy: c.Policy}
				p.chains[c.Name], p.declared[c.Name] = d, x.Line
				p.table.Chains = append(p.table.Chains, d)
			}
		}
		p.parseLine(line)
		if c := p.chains[x.Chain]; c != nil {
			for _, r := range c.Rules {
				for _, e := range r.bad {
					p.errs.add(e)
				}
				r.bad = nil
			}
		}
		return p, p.errs.orNil()
	}
	p, err := read(x.named(t))
	if err != nil {
		if p, err = read(slices.Values(t.Chains)); err != nil {
			return nil, err
		}
	}
	c := p.chains[x.Chain]
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

// named gives the chains of a table that the change names, or may name: as a word, or behind an option in the same word.
func (x *editor) named(t *Table) iter.Seq[*Chain] {
	if x.rebuilt {
		return slices.Values(t.Chains)
	}
	return func(yield func(*Chain) bool) {
		for _, w := range append([]string{x.Chain}, x.Rule...) {
			_, value, _ := strings.Cut(w, "=")
			names := []string{w, value}
			if strings.HasPrefix(w, "-") && len(w) > 2 {
				names = append(names, w[2:])
			}
			for _, name := range names {
				for _, p := range x.rs.pieces[chainKey{x.Table, name}] {
					if u := x.files[p.file].Tables[p.table]; u == t && !yield(u.Chains[p.chain]) {
						return
					}
				}
			}
		}
	}
}
