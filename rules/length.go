package rules

// LengthMatch is -m length: bytes of the IP datagram with its header.
type LengthMatch struct {
	Lo, Hi uint16
	Not    bool
}

var lengthModule = module{name: "length", family: Both, make: func() Extension { return &LengthMatch{} }, options: []option{
	{"length", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, ok := rp.span(a[0], 65535, "a length or a range of lengths up to 65535")
		if ok {
			*m.(*LengthMatch) = LengthMatch{uint16(lo), uint16(hi), not}
		}
	}},
}, finish: needOption("length")}

// Name returns "length".
func (m *LengthMatch) Name() string { return "length" }

// AppendSave implements Extension.
func (m *LengthMatch) AppendSave(b []byte) []byte {
	return appendSpan(append(appendNot(b, m.Not), " --length "...), uint64(m.Lo), uint64(m.Hi))
}

func (m *LengthMatch) compile(c *compiler) {
	c.ask(pred{op: opLength, not: m.Not, lo: m.Lo, hi: m.Hi})
}
