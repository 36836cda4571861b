package rules

import (
	"iter"
	"slices"
	"sort"
)

// RuleList is the rules of a chain, in order: what changes of one rule made of the rules as they were compiled, whose RuleIDs
// follow one another. So a change makes a new list in a time that does not depend on how many rules there are.
type RuleList struct {
	first, end RuleID    // of the rules as compiled, the end behind the last
	went       []RuleID  // those of them that went, rising
	came       []arrival // those that came, in order
}

// arrival is a rule that came.
type arrival struct {
	id     RuleID
	before RuleID // the compiled rule that it stands before, or the list's end; that rule may have gone
}

// Len returns the number of rules.
func (l *RuleList) Len() int { return int(l.end-l.first) - len(l.went) + len(l.came) }

// stay returns how many compiled rules before one have stayed.
func (l *RuleList) stay(before RuleID) int {
	gone, _ := slices.BinarySearch(l.went, before)
	return int(before-l.first) - gone
}

// stands returns the index of the k-th rule that came.
func (l *RuleList) stands(k int) int { return l.stay(l.came[k].before) + k }

// come returns how many rules that came stand before an index.
func (l *RuleList) come(index int) int {
	return sort.Search(len(l.came), func(k int) bool { return l.stands(k) >= index })
}

// At returns the rule of an index, from 0 to Len-1.
func (l *RuleList) At(index int) RuleID {
	k := l.come(index)
	if k < len(l.came) && l.stands(k) == index {
		return l.came[k].id
	}
	return l.stayed(index - k)
}

// stayed returns the n-th of the compiled rules that have stayed, from 0; behind the last the list's end.
func (l *RuleList) stayed(n int) RuleID {
	gone := sort.Search(len(l.went), func(k int) bool { return int(l.went[k]-l.first)-k > n })
	return l.first + RuleID(n+gone)
}

// All gives the rules in order.
func (l *RuleList) All() iter.Seq[RuleID] {
	return func(yield func(RuleID) bool) {
		went, came := l.went, l.came
		for id := l.first; ; id++ {
			for ; len(came) > 0 && came[0].before == id; came = came[1:] {
				if !yield(came[0].id) {
					return
				}
			}
			if id == l.end {
				return
			}
			if len(went) > 0 && went[0] == id {
				went = went[1:]
			} else if !yield(id) {
				return
			}
		}
	}
}

// index returns the index of a rule of the list, -1 when it has gone.
func (l *RuleList) index(id RuleID) int {
	if id < l.first || id >= l.end {
		k := slices.IndexFunc(l.came, func(x arrival) bool { return x.id == id })
		if k < 0 {
			return -1
		}
		return l.stands(k)
	}
	if _, gone := slices.BinarySearch(l.went, id); gone {
		return -1
	}
	k := sort.Search(len(l.came), func(k int) bool { return l.came[k].before > id })
	return l.stay(id) + k
}

// spot returns where a rule that is put in at an index comes to stand: behind how many of those that came, and before which
// compiled rule, or the list's end.
func (l *RuleList) spot(index int) (k int, before RuleID) {
	k = l.come(index)
	if k < len(l.came) && l.stands(k) == index {
		return k, l.came[k].before
	}
	return k, l.stayed(index - k)
}

// insert returns the list with a rule that comes at an index.
func (l RuleList) insert(index int, id RuleID) RuleList {
	k, before := l.spot(index)
	l.came = slices.Insert(slices.Clip(l.came), k, arrival{id, before})
	return l
}

// remove returns the list without the rule at an index.
func (l RuleList) remove(index int) RuleList {
	if k := l.come(index); k < len(l.came) && l.stands(k) == index {
		l.came = slices.Concat(l.came[:k], l.came[k+1:])
		return l
	}
	id := l.At(index)
	k, _ := slices.BinarySearch(l.went, id)
	l.went = slices.Insert(slices.Clip(l.went), k, id)
	return l
}
