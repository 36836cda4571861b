package rules

import (
	"bytes"
	"fmt"
	"strings"
)

// maxText is the longest text that -m string looks for (XT_STRING_MAX_PATTERN_SIZE, xt_string.h).
const maxText = 128

// StringMatch is -m string: bytes of the IP datagram, its header included, between two offsets. A text must begin at
// From or later and end at To or before (skb_find_text, net/core/skbuff.c).
type StringMatch struct {
	Text     string
	Algo     string // bm or kmp: it finds the same, see package rules
	From, To uint16
	IgnCase  bool
	Not      bool
}

var stringModule = module{name: "string", family: Both, make: func() Extension { return &StringMatch{To: 65535} }, options: []option{
	{"from", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*StringMatch).From = uint16(rp.number(a[0], 65535))
	}},
	{"to", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*StringMatch).To = uint16(rp.number(a[0], 65535))
	}},
	{"algo", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		if a[0].text != "bm" && a[0].text != "kmp" {
			rp.fail(a[0].col, a[0].text, "bm or kmp", "")
		}
		m.(*StringMatch).Algo = a[0].text
	}},
	{"string", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.text(m.(*StringMatch), a[0].text, not, a[0])
	}},
	{"hex-string", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		if text, ok := rp.hexText(a[0]); ok {
			rp.text(m.(*StringMatch), text, not, a[0])
		}
	}},
	{"icase", 5, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*StringMatch).IgnCase = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	if l.seen&(1<<1) == 0 || l.seen&(1<<2) == 0 {
		rp.fail(l.col, "-m string", "--string or --hex-string, and --algo, after -m string", "")
	}
	if m := l.m.(*StringMatch); m.From > m.To {
		rp.fail(l.col, fmt.Sprintf("--from %d", m.From), "--from up to --to", "")
	}
}}

// text takes the text to look for.
func (rp *ruleParser) text(m *StringMatch, text string, not bool, a token) {
	if text == "" || len(text) > maxText {
		rp.fail(a.col, a.text, fmt.Sprintf("a text of 1 to %d bytes", maxText), "")
	}
	m.Text, m.Not = text, not
}

// hexText reads text in which bytes may stand as hexadecimal digits between bars, and a backslash before what is meant
// as it stands (parse_hex_string, extensions/libxt_string.c).
func (rp *ruleParser) hexText(a token) (string, bool) {
	var b []byte
	hex := false
	for s := a.text; s != ""; {
		col := a.col + len(a.text) - len(s)
		switch {
		case s[0] == '|':
			hex = !hex
			s = s[1:]
		case hex && s[0] == ' ':
			s = s[1:]
		case hex:
			v, err := uint64(0), error(nil)
			if len(s) > 1 {
				v, err = parseNumber("0x"+s[:2], 255)
			}
			if len(s) < 2 || err != nil {
				rp.fail(col, s[:min(2, len(s))], "two hexadecimal digits", "")
				return "", false
			}
			b = append(b, byte(v))
			s = s[2:]
		case s[0] == '\\':
			if len(s) == 1 {
				rp.fail(col, s, "a character after the backslash", "")
				return "", false
			}
			b = append(b, s[1])
			s = s[2:]
		default:
			b = append(b, s[0])
			s = s[1:]
		}
	}
	if hex {
		rp.fail(a.col+len(a.text), "", "| behind the hexadecimal digits", "")
	}
	return string(b), !hex
}

// Name returns "string".
func (m *StringMatch) Name() string { return "string" }

// AppendSave implements Extension.
func (m *StringMatch) AppendSave(b []byte) []byte {
	b = appendNot(b, m.Not)
	if strings.ContainsFunc(m.Text, func(r rune) bool { return r < ' ' || r > '~' }) || strings.HasSuffix(m.Text, `\`) {
		b = fmt.Appendf(b, ` --hex-string "|%x|"`, m.Text)
	} else {
		b = append(b, ` --string "`...)
		for i := range len(m.Text) {
			if c := m.Text[i]; c == '"' || c == '\\' {
				b = append(b, '\\')
			}
			b = append(b, m.Text[i])
		}
		b = append(b, '"')
	}
	b = append(append(b, " --algo "...), m.Algo...)
	if m.From != 0 {
		b = fmt.Appendf(b, " --from %d", m.From)
	}
	if m.To != 65535 {
		b = fmt.Appendf(b, " --to %d", m.To)
	}
	if m.IgnCase {
		b = append(b, " --icase"...)
	}
	return b
}

func (m *StringMatch) compile(c *compiler) {
	c.ask(pred{op: opText, not: m.Not, lo: m.From, hi: m.To, a: uint32(len(c.cur.texts))})
	c.cur.texts = append(c.cur.texts, newText(m))
}

// text is a compiled text. With fold it is in upper case and back is its table for Knuth, Morris and Pratt's search, so
// that no packet makes the search slow: back[i] is how many of the first bytes stand as well before byte i+1.
type text struct {
	want []byte
	fold bool
	back [maxText]uint8
}

func newText(m *StringMatch) *text {
	t := &text{want: []byte(m.Text), fold: m.IgnCase}
	if !t.fold {
		return t
	}
	for i := range t.want {
		t.want[i] = upper(t.want[i])
	}
	for i, k := 1, 0; i < len(t.want); i++ {
		for k > 0 && t.want[i] != t.want[k] {
			k = int(t.back[k-1])
		}
		if t.want[i] == t.want[k] {
			k++
		}
		t.back[i] = uint8(k)
	}
	return t
}

// in says whether the text is in b.
func (t *text) in(b []byte) bool {
	if !t.fold {
		return bytes.Contains(b, t.want)
	}
	k := 0
	for _, c := range b {
		c = upper(c)
		for k > 0 && c != t.want[k] {
			k = int(t.back[k-1])
		}
		if c == t.want[k] {
			if k++; k == len(t.want) {
				return true
			}
		}
	}
	return false
}

// upper returns the upper case of an ISO 8859-1 letter as the kernel has it (lib/ctype.c).
func upper(c byte) byte {
	if c >= 'a' && c <= 'z' || c >= 0xdf && c != 0xf7 {
		return c - 32
	}
	return c
}

// window returns the bytes of a datagram between two offsets.
func window(b []byte, from, to uint16) []byte {
	to = uint16(min(int(to), len(b)))
	return b[min(from, to):to]
}
