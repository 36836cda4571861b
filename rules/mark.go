package rules

import (
	"fmt"
	"strconv"
)

// MarkMatch is -m mark and -m connmark.
type MarkMatch struct {
	Value, Mask uint32
	Not         bool
	module      string
}

func markModule(name string) module {
	return module{name: name, family: Both, make: func() Extension { return &MarkMatch{module: name} }, options: []option{
		{"mark", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			v, k, _ := rp.masked(a[0], 1<<32-1)
			x := m.(*MarkMatch)
			x.Value, x.Mask, x.Not = uint32(v), uint32(k), not
		}},
	}, finish: needOption("mark")}
}

// Name returns "mark" or "connmark".
func (m *MarkMatch) Name() string { return m.module }

// AppendSave implements Extension.
func (m *MarkMatch) AppendSave(b []byte) []byte {
	b = fmt.Appendf(appendNot(b, m.Not), " --mark %#x", m.Value)
	if m.Mask != 1<<32-1 {
		b = fmt.Appendf(b, "/%#x", m.Mask)
	}
	return b
}

func (m *MarkMatch) compile(c *compiler) {
	o := opMark
	c.rs.needs |= NeedMark
	if m.module == "connmark" {
		o = opConnMark
		c.rs.needs |= NeedConnMark
	}
	c.ask(pred{op: o, not: m.Not, a: m.Value, b: m.Mask})
}

// MarkTarget is -j MARK: the packet's mark becomes mark &^ Mask ^ Value (net/netfilter/xt_mark.c, mark_tg).
type MarkTarget struct{ Value, Mask uint32 }

// Name returns "MARK".
func (t *MarkTarget) Name() string { return "MARK" }

// AppendSave implements Extension. Whatever the option was, --set-xmark says it.
func (t *MarkTarget) AppendSave(b []byte) []byte {
	return fmt.Appendf(b, " --set-xmark %#x/%#x", t.Value, t.Mask)
}

func (t *MarkTarget) compile(*compiler) effect {
	return effect{kind: effectMark, value: t.Value, mask: t.Mask}
}

// setMarks are the options that MARK and CONNMARK have alike, with what they set: mark &^ mask ^ value.
func setMarks(set func(m Extension, value, mask uint32)) []option {
	return []option{
		{"set-xmark", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			v, k, _ := rp.masked(a[0], 1<<32-1)
			set(m, uint32(v), uint32(k))
		}},
		{"set-mark", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			v, k, _ := rp.masked(a[0], 1<<32-1)
			set(m, uint32(v), uint32(v|k))
		}},
		{"and-mark", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			set(m, 0, ^uint32(rp.number(a[0], 1<<32-1)))
		}},
		{"or-mark", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			v := uint32(rp.number(a[0], 1<<32-1))
			set(m, v, v)
		}},
		{"xor-mark", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			set(m, uint32(rp.number(a[0], 1<<32-1)), 0)
		}},
	}
}

var markTarget = module{name: "MARK", family: Both, make: func() Extension { return &MarkTarget{} }, options: setMarks(func(m Extension, value, mask uint32) {
	*m.(*MarkTarget) = MarkTarget{value, mask}
}), finish: needOption("set-xmark")}

// ConnMarkMode is what a CONNMARK target does.
type ConnMarkMode uint8

const (
	ConnMarkSet     ConnMarkMode = iota // the connection's mark becomes mark &^ CtMask ^ Value, shifted
	ConnMarkSave                        // … mark &^ CtMask ^ (the packet's mark & NfMask, shifted)
	ConnMarkRestore                     // the packet's mark becomes mark &^ NfMask ^ (the connection's & CtMask, shifted)
)

// ConnMarkTarget is -j CONNMARK (net/netfilter/xt_connmark.c, connmark_tg_shift).
type ConnMarkTarget struct {
	Mode   ConnMarkMode
	Value  uint32
	CtMask uint32
	NfMask uint32
	Shift  uint8 // 0 to 31 bits
	Right  bool  // the shift is to the right

}

// Name returns "CONNMARK".
func (t *ConnMarkTarget) Name() string { return "CONNMARK" }

// AppendSave implements Extension.
func (t *ConnMarkTarget) AppendSave(b []byte) []byte {
	switch t.Mode {
	case ConnMarkSet:
		b = fmt.Appendf(b, " --set-xmark %#x/%#x", t.Value, t.CtMask)
	case ConnMarkSave:
		b = fmt.Appendf(b, " --save-mark --nfmask %#x --ctmask %#x", t.NfMask, t.CtMask)
	default:
		b = fmt.Appendf(b, " --restore-mark --nfmask %#x --ctmask %#x", t.NfMask, t.CtMask)
	}
	if t.Shift != 0 {
		opt := " --left-shift-mark "
		if t.Right {
			opt = " --right-shift-mark "
		}
		b = strconv.AppendUint(append(b, opt...), uint64(t.Shift), 10)
	}
	return b
}

func (t *ConnMarkTarget) compile(c *compiler) effect {
	e := effect{kind: effectSet, value: t.Value, mask: t.CtMask, from: t.NfMask, shift: t.Shift, right: t.Right}
	c.rs.needs |= NeedConnMark
	switch t.Mode {
	case ConnMarkSave:
		e.kind = effectSave
	case ConnMarkRestore:
		e.kind = effectRestore
		return e
	}
	c.rs.needs |= WritesConnMark
	return e
}

var connMarkTarget = module{name: "CONNMARK", family: Both, make: func() Extension { return &ConnMarkTarget{CtMask: 1<<32 - 1, NfMask: 1<<32 - 1} },
	options: append(setMarks(func(m Extension, value, mask uint32) {
		t := m.(*ConnMarkTarget)
		t.Mode, t.Value, t.CtMask = ConnMarkSet, value, mask
	}), []option{
		{"save-mark", 1, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*ConnMarkTarget).Mode = ConnMarkSave }},
		{"restore-mark", 1, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*ConnMarkTarget).Mode = ConnMarkRestore }},
		{"nfmask", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*ConnMarkTarget).NfMask = uint32(rp.number(a[0], 1<<32-1))
		}},
		{"ctmask", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*ConnMarkTarget).CtMask = uint32(rp.number(a[0], 1<<32-1))
		}},
		{"mask", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			t := m.(*ConnMarkTarget)
			t.NfMask = uint32(rp.number(a[0], 1<<32-1))
			t.CtMask = t.NfMask
		}},
		{"left-shift-mark", 5, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*ConnMarkTarget).Shift = uint8(rp.number(a[0], 31))
		}},
		{"right-shift-mark", 5, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*ConnMarkTarget).Shift, m.(*ConnMarkTarget).Right = uint8(rp.number(a[0], 31)), true
		}},
	}...), finish: func(rp *ruleParser, l *loaded) {
		switch {
		case l.seen&(1<<1) == 0:
			rp.fail(l.col, "-j CONNMARK", "--set-xmark, --save-mark or --restore-mark after -j CONNMARK", "")
		case l.seen&(1<<4) != 0 && l.seen&(1<<2|1<<3) != 0:
			rp.fail(l.col, "--mask", "--mask or --nfmask and --ctmask", "")
		}
		if rp.p.table.Name == "raw" {
			rp.fail(l.col, "-j CONNMARK", "it behind tracking", "in table raw no packet has a connection yet")
		}
	}}
