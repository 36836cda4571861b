package rules

import "slices"

// print returns a number in which rules that print the same agree, and most others do not: of a hundred thousand few have to be
// looked at.
func (r *Rule) print() uint32 {
	h := uint64(r.Proto.Num)<<16 | uint64(r.Target.Verb)<<8 | uint64(len(r.Matches))
	for _, a := range [...]*AddrMatch{&r.Src, &r.Dst} {
		if a.Set || a.Not { // else it does not print, whatever is in it: -s 0.0.0.0/0
			h ^= a.Addr.Lo
		}
		h *= 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	return uint32(h)
}

// alike returns the indices of a list's rules with a print, rising.
func (rs *Ruleset) alike(l *RuleList, print uint32) (out []int) {
	for k, have := range rs.prints[l.first:l.end] {
		if have == print {
			if i := l.index(l.first + RuleID(k)); i >= 0 {
				out = append(out, i)
			}
		}
	}
	for k := range l.came {
		if rs.info(l.came[k].id).Rule.print() == print {
			out = append(out, l.stands(k))
		}
	}
	slices.Sort(out)
	return out
}
