package rules

import (
	"errors"
	"fmt"
	"slices"
)

// SaveForm says how AppendText writes a rule set.
type SaveForm struct {
	Family   Family   // one IP version; or Both, for rules whose files are all for both
	Table    string   // that table only; "": all
	Counters Counting // of rules; chains always have theirs, as with iptables-save
}

// Counting says whether counters stand before rules.
type Counting bool

const (
	WithoutCounters Counting = false
	WithCounters    Counting = true // iptables-save -c
)

// ErrSplit says that the IP versions have files of their own, so that no one file can hold the rules of both.
var ErrSplit = errors.New("the IP versions have rule files of their own (say -4 or -6)")

// AppendText appends the rule set as iptables-save prints it, with the counters of all matchers together, by RuleID. Of
// Both, a rule for one version has -4 or -6 before it, which iptables-restore and Parse read; every text that comes out
// gives the same rules again when it is parsed for the family.
func (rs *Ruleset) AppendText(b []byte, form SaveForm, counters []Counter) ([]byte, error) {
	if form.Family == Both {
		for i := range rs.chains {
			if rs.chains[i].Family != Both {
				return b, ErrSplit
			}
		}
	}
	for _, table := range []string{"raw", "mangle", "nat", "filter", "security"} { // in the order of the hooks
		if form.Table == "" || form.Table == table {
			b = rs.appendTableText(b, table, form, counters)
		}
	}
	return b, nil
}

func (rs *Ruleset) appendTableText(b []byte, table string, form SaveForm, counters []Counter) []byte {
	// A chain of several files is one here, where it stands first.
	var order []string
	chains := map[string][]int{} // in rs.chains
	for i := range rs.chains {
		c := &rs.chains[i]
		if c.Table != table || c.Family&form.Family == 0 {
			continue
		}
		if chains[c.Name] == nil {
			order = append(order, c.Name)
		}
		chains[c.Name] = append(chains[c.Name], i)
	}
	if len(order) == 0 {
		return b
	}
	slices.SortStableFunc(order, func(a, b string) int { // base chains first, as iptables-save has them
		rank := func(s string) int {
			if _, base := baseChains[table][s]; base {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	b = fmt.Appendf(b, "*%s\n", table)
	for _, name := range order {
		policy := rs.chains[chains[name][len(chains[name])-1]].Policy // of several files the last
		var n Counter
		if policy != PolicyNone {
			for _, f := range families(form.Family) {
				k := counters[rs.ChainPolicyID(table, name, 1<<f)]
				n.Packets += k.Packets
				n.Bytes += k.Bytes
			}
		}
		b = append(b, ':')
		b = appendQuotedName(b, name)
		b = fmt.Appendf(b, " %s [%d:%d]\n", policy, n.Packets, n.Bytes)
	}
	for _, name := range order {
		for _, i := range chains[name] {
			for id := range rs.lists[i].All() {
				r := rs.info(id).Rule
				if r.Family&form.Family == 0 {
					continue
				}
				if form.Counters {
					b = fmt.Appendf(b, "[%d:%d] ", counters[id].Packets, counters[id].Bytes)
				}
				one := *r
				if form.Family == Both {
					switch r.Family {
					case IPv4:
						b = append(b, "-4 "...)
					case IPv6:
						b = append(b, "-6 "...)
					}
				} else {
					one.Family = form.Family // how a rule for both is printed for one
				}
				b = append(one.AppendSave(b, name), '\n')
			}
		}
	}
	return append(b, "COMMIT\n"...)
}

// CounterIDs returns the counters of a chain (of all of a table's, with ""), or of one of its rules by its number from 1, as
// Edit counts them: what iptables -Z names. The policy belongs to the chain.
func (rs *Ruleset) CounterIDs(table, chain string, family Family, number int) ([]RuleID, error) {
	x := editor{Edit: Edit{Table: table, Chain: chain, Family: family}, rs: rs, files: rs.files}
	if number != 0 {
		if x.Family == Both || x.Family == 0 {
			x.Family = Both
			views := x.views()
			if len(views) > 1 {
				return nil, errors.New("zero: the IP versions have a chain of this name each (say -4 or -6)")
			}
			x.Family = views[0]
		}
	}
	var ids []RuleID
	found := false
	for i := range rs.chains {
		c := &rs.chains[i]
		if c.Table != table || chain != "" && c.Name != chain || c.Family&x.Family == 0 {
			continue
		}
		found = true
		for id := range rs.lists[i].All() {
			if rs.info(id).Family&x.Family != 0 {
				ids = append(ids, id)
			}
		}
		if c.Policy != PolicyNone && number == 0 {
			for _, f := range families(c.Family & x.Family) {
				ids = append(ids, rs.ChainPolicyID(table, c.Name, 1<<f))
			}
		}
	}
	switch {
	case !found:
		return nil, fmt.Errorf("zero %s in table %s: there is no such chain%s", clip(chain), clip(table), x.nearChain(x.Family))
	case number == 0:
		return ids, nil
	case number < 1 || number > len(ids):
		return nil, fmt.Errorf("zero %s %d: the chain has %s", clip(chain), number, count(len(ids), "rule"))
	}
	return ids[number-1 : number], nil
}
