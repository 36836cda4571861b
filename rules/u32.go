package rules

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// maxU32 bounds tests, numbers of a location and values of a test alike (XT_U32_MAXSIZE).
const maxU32 = 10

// U32Match is -m u32: words taken out of the IP datagram and compared. All tests must hold.
type U32Match struct {
	Tests []U32Test
	Not   bool
}

// U32Test is one "location = values" of -m u32.
type U32Test struct {
	At     []U32Step
	Values [][2]uint32 // ranges, both ends included; any may hold the word
}

// U32Step is one number of a location with the operator before it: 0 for the first, then one of '&', '<', '>', '@'.
type U32Step struct {
	Op     byte
	Number uint32
}

// Name returns "u32".
func (m *U32Match) Name() string { return "u32" }

// AppendSave implements Extension.
func (m *U32Match) AppendSave(b []byte) []byte {
	b = append(appendNot(b, m.Not), " --u32 \""...)
	for k, t := range m.Tests {
		if k > 0 {
			b = append(b, "&&"...)
		}
		for _, s := range t.At {
			switch s.Op {
			case '<', '>':
				b = append(b, s.Op, s.Op)
			case '&', '@':
				b = append(b, s.Op)
			}
			b = fmt.Appendf(b, "%#x", s.Number)
		}
		for j, v := range t.Values {
			b = append(b, "=,"[min(j, 1)])
			b = fmt.Appendf(b, "%#x", v[0])
			if v[0] != v[1] {
				b = fmt.Appendf(b, ":%#x", v[1])
			}
		}
	}
	return append(b, '"')
}

func (m *U32Match) compile(c *compiler) {
	c.ask(pred{op: opU32, a: keep(&c.cur.u32s, *m)})
}

var u32Module = module{name: "u32", family: Both, make: func() Extension { return &U32Match{} }, options: []option{
	{"u32", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*U32Match)
		x.Not = not
		x.parse(rp, a[0])
	}},
}, finish: needOption("u32")}

// parse reads tests with "&&" between them. A test is a location, "=", and values with "," between them; a location is a
// number, then operators each with a number; a value is a number, or two with ":" between them. Blanks may stand between.
func (m *U32Match) parse(rp *ruleParser, a token) {
	s := a.text
	i := 0
	blanks := func() {
		for i < len(s) && strings.IndexByte(" \t\n\r\v\f", s[i]) >= 0 {
			i++
		}
	}
	failed := false
	fail := func(expected string) {
		failed = true
		rp.fail(a.col+i, s[i:], expected, "")
	}
	number := func() uint32 {
		blanks()
		j := i
		for j < len(s) && (s[j] >= '0' && s[j] <= '9' || s[j] >= 'a' && s[j] <= 'f' || s[j] >= 'A' && s[j] <= 'F' || s[j] == 'x' || s[j] == 'X') {
			j++
		}
		v, err := parseNumber(s[i:j], 1<<32-1)
		if err != nil {
			fail("a number up to 0xffffffff")
			return 0
		}
		i = j
		blanks()
		return uint32(v)
	}
	eat := func(op string) bool {
		if strings.HasPrefix(s[i:], op) {
			i += len(op)
			return true
		}
		return false
	}
	for {
		if len(m.Tests) == maxU32 {
			fail(fmt.Sprintf("at most %d tests", maxU32))
			return
		}
		t := U32Test{At: []U32Step{{0, number()}}}
	location:
		for !failed {
			step := U32Step{}
			switch {
			case eat("="):
				break location
			case eat("&"):
				step.Op = '&'
			case eat("<<"):
				step.Op = '<'
			case eat(">>"):
				step.Op = '>'
			case eat("@"):
				step.Op = '@'
			default:
				fail("an operator (& << >> @) or = and the values")
				return
			}
			if len(t.At) == maxU32 {
				fail(fmt.Sprintf("at most %d numbers before =", maxU32))
				return
			}
			step.Number = number()
			if !failed && (step.Op == '<' || step.Op == '>') && step.Number > 31 {
				fail("a shift by at most 31 before this")
			}
			t.At = append(t.At, step)
		}
		for !failed {
			if len(t.Values) == maxU32 {
				fail(fmt.Sprintf("at most %d values", maxU32))
				return
			}
			lo := number()
			hi := lo
			if !failed && eat(":") {
				hi = number()
			}
			t.Values = append(t.Values, [2]uint32{lo, hi})
			if failed || !eat(",") {
				break
			}
		}
		if failed {
			return
		}
		m.Tests = append(m.Tests, t)
		if i == len(s) {
			return
		}
		if !eat("&&") {
			fail(", and a further value, && and a further test, or the end")
			return
		}
	}
}

// test follows net/netfilter/xt_u32.c. d is the datagram.
func (m *U32Match) test(d []byte) bool {
	for k := range m.Tests {
		t := &m.Tests[k]
		size := uint32(len(d))
		pos := t.At[0].Number
		if size < 4 || pos > size-4 {
			return m.Not
		}
		v, at := binary.BigEndian.Uint32(d[pos:]), uint32(0)
		for _, s := range t.At[1:] {
			switch s.Op {
			case '&':
				v &= s.Number
			case '<':
				v <<= s.Number
			case '>':
				v >>= s.Number
			default:
				if at+v < at {
					return m.Not
				}
				at += v
				pos = s.Number
				if at+4 < at || size < at+4 || pos > size-at-4 {
					return m.Not
				}
				v = binary.BigEndian.Uint32(d[at+pos:])
			}
		}
		hit := false
		for _, r := range t.Values {
			hit = hit || r[0] <= v && v <= r[1]
		}
		if !hit {
			return m.Not
		}
	}
	return !m.Not
}
