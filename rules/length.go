package rules

import (
	"strconv"
	"strings"
)

// LengthMatch is -m length: bytes of the IP datagram with its header.
type LengthMatch struct {
	Lo, Hi uint16
	Not    bool
}

var lengthModule = module{name: "length", family: Both, make: func() Match { return &LengthMatch{} }, options: []option{
	{"length", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
		lo, hi, ok := rp.span(a[0], 65535, "a length or a range of lengths up to 65535")
		if ok {
			*m.(*LengthMatch) = LengthMatch{uint16(lo), uint16(hi), not}
		}
	}},
}, finish: needOption("length")}

// Name returns "length".
func (m *LengthMatch) Name() string { return "length" }

// AppendSave implements Match.
func (m *LengthMatch) AppendSave(b []byte) []byte {
	return appendSpan(append(appendNot(b, m.Not), " --length "...), uint64(m.Lo), uint64(m.Hi))
}

// span reads "number", "low:high", "low:", ":high" or ":".
func (rp *ruleParser) span(a token, limit uint64, expected string) (lo, hi uint64, ok bool) {
	l, h, isRange := strings.Cut(a.text, ":")
	hi = limit
	var err error
	if l != "" || !isRange {
		lo, err = parseNumber(l, limit)
		if !isRange {
			hi = lo
		}
	}
	if h != "" && err == nil {
		hi, err = parseNumber(h, limit)
	}
	if err != nil || lo > hi {
		rp.fail(a.col, a.text, expected, "")
		return 0, 0, false
	}
	return lo, hi, true
}

// appendSpan prints one number, or two with a colon.
func appendSpan(b []byte, lo, hi uint64) []byte {
	b = strconv.AppendUint(b, lo, 10)
	if lo != hi {
		b = strconv.AppendUint(append(b, ':'), hi, 10)
	}
	return b
}
