package rules

import "strconv"

// TTLMatch is -m ttl (IPv4) and -m hl (IPv6).
type TTLMatch struct {
	Compare Compare
	Value   uint8
	module  string
}

// Compare is how a value is compared.
type Compare uint8

const (
	Equal Compare = iota
	NotEqual
	Less
	Greater
)

func ttlModule(name string, f Family) module {
	set := func(c Compare) func(*ruleParser, Extension, bool, []token) {
		return func(rp *ruleParser, m Extension, not bool, a []token) {
			v, err := parseNumber(a[0].text, 255)
			if err != nil {
				rp.fail(a[0].col, a[0].text, "a number up to 255", "")
				return
			}
			t := m.(*TTLMatch)
			t.Compare, t.Value = c, uint8(v)
			if not {
				t.Compare = NotEqual
			}
		}
	}
	return module{name: name, family: f, make: func() Extension { return &TTLMatch{module: name} }, options: []option{
		{name + "-eq", 1, 1, true, set(Equal)},
		{name + "-lt", 1, 1, false, set(Less)},
		{name + "-gt", 1, 1, false, set(Greater)},
	}, finish: needOption(name + "-eq")}
}

// Name returns "ttl" or "hl".
func (m *TTLMatch) Name() string { return m.module }

// AppendSave implements Extension.
func (m *TTLMatch) AppendSave(b []byte) []byte {
	b = append(appendNot(b, m.Compare == NotEqual), " --"...)
	b = append(b, m.module...)
	b = append(b, [...]string{"-eq ", "-eq ", "-lt ", "-gt "}[m.Compare]...)
	return strconv.AppendUint(b, uint64(m.Value), 10)
}

func (m *TTLMatch) compile(c *compiler) {
	v := uint16(m.Value)
	switch m.Compare {
	case Less:
		if v == 0 {
			c.ask(pred{op: opNever})
			return
		}
		c.ask(pred{op: opTTL, lo: 0, hi: v - 1})
	case Greater:
		c.ask(pred{op: opTTL, lo: v + 1, hi: 256})
	default:
		c.ask(pred{op: opTTL, not: m.Compare == NotEqual, lo: v, hi: v})
	}
}
