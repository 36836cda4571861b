package rules

import "fmt"

// MarkMatch is -m mark and -m connmark.
type MarkMatch struct {
	Value, Mask uint32
	Not         bool
	module      string
}

func markModule(name string) module {
	return module{name: name, family: Both, make: func() Match { return &MarkMatch{module: name} }, options: []option{
		{"mark", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			v, k, _ := rp.masked(a[0], 1<<32-1)
			x := m.(*MarkMatch)
			x.Value, x.Mask, x.Not = uint32(v), uint32(k), not
		}},
	}, finish: needOption("mark")}
}

// Name returns "mark" or "connmark".
func (m *MarkMatch) Name() string { return m.module }

// AppendSave implements Match.
func (m *MarkMatch) AppendSave(b []byte) []byte {
	b = fmt.Appendf(appendNot(b, m.Not), " --mark %#x", m.Value)
	if m.Mask != 1<<32-1 {
		b = fmt.Appendf(b, "/%#x", m.Mask)
	}
	return b
}
