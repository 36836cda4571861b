package rules

import (
	"fmt"
	"strings"
)

// TOSMatch is -m tos and -m dscp: bits of the TOS or traffic class byte.
type TOSMatch struct {
	Value, Mask uint8
	Not         bool
	module      string
}

// tosNames are the symbols of --tos (RFC 1349); they stand for the six upper bits of the byte without the last two.
var tosNames = []struct {
	name  string
	value uint8
}{{"Minimize-Delay", 0x10}, {"Maximize-Throughput", 0x08}, {"Maximize-Reliability", 0x04}, {"Minimize-Cost", 0x02}, {"Normal-Service", 0x00}}

var tosModule = module{name: "tos", family: Both, make: func() Extension { return &TOSMatch{module: "tos"} }, options: []option{
	{"tos", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		t := m.(*TOSMatch)
		t.Not = not
		var names []string
		for _, n := range tosNames {
			names = append(names, n.name)
			if strings.EqualFold(n.name, a[0].text) {
				t.Value, t.Mask = n.value, 0x3f
				return
			}
		}
		value, mask, ok := rp.masked(a[0], 255)
		if !ok {
			rp.rule.bad[len(rp.rule.bad)-1].Hint = rp.didYouMean(a[0].text, names)
		}
		t.Value, t.Mask = uint8(value), uint8(mask)
	}},
}, finish: needOption("tos")}

// dscpClasses are the names of --dscp-class (RFC 2474, 2597, 3246).
var dscpClasses = func() map[string]uint8 {
	m := map[string]uint8{"BE": 0, "EF": 0x2e}
	for c := range uint8(8) {
		m[fmt.Sprintf("CS%d", c)] = c << 3
		for d := uint8(1); d <= 3 && c >= 1 && c <= 4; d++ {
			m[fmt.Sprintf("AF%d%d", c, d)] = c<<3 | d<<1
		}
	}
	return m
}()

var dscpModule = module{name: "dscp", family: Both, make: func() Extension { return &TOSMatch{module: "dscp", Mask: 0xfc} }, options: []option{
	{"dscp", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		v, err := parseNumber(a[0].text, 63)
		if err != nil {
			rp.fail(a[0].col, a[0].text, "a DSCP up to 63 (0x3f)", "")
		}
		m.(*TOSMatch).Value, m.(*TOSMatch).Not = uint8(v)<<2, not
	}},
	{"dscp-class", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		v, ok := dscpClasses[strings.ToUpper(a[0].text)]
		if !ok {
			rp.fail(a[0].col, a[0].text, "a DSCP class: BE, EF, CS0 to CS7, AF11 to AF43", "")
		}
		m.(*TOSMatch).Value, m.(*TOSMatch).Not = v<<2, not
	}},
}, finish: needOption("dscp")}

// Name returns "tos" or "dscp".
func (m *TOSMatch) Name() string { return m.module }

// AppendSave implements Extension.
func (m *TOSMatch) AppendSave(b []byte) []byte {
	b = appendNot(b, m.Not)
	if m.module == "dscp" {
		return fmt.Appendf(b, " --dscp 0x%02x", m.Value>>2)
	}
	return fmt.Appendf(b, " --tos 0x%02x/0x%02x", m.Value, m.Mask)
}

func (m *TOSMatch) compile(c *compiler) {
	c.ask(pred{op: opTOS, not: m.Not, lo: uint16(m.Value), hi: uint16(m.Mask)})
}

// ECNMatch is -m ecn (RFC 3168): the TCP header's flags, which need -p tcp, and the two bits of the IP header.
type ECNMatch struct {
	CWR, ECE, ECT          bool // asked
	NotCWR, NotECE, NotECT bool
	Codepoint              uint8 // 0 to 3
}

var ecnModule = module{name: "ecn", family: Both, make: func() Extension { return &ECNMatch{} }, options: []option{
	{"ecn-tcp-cwr", 1, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) {
		m.(*ECNMatch).CWR, m.(*ECNMatch).NotCWR = true, not
	}},
	{"ecn-tcp-ece", 2, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) {
		m.(*ECNMatch).ECE, m.(*ECNMatch).NotECE = true, not
	}},
	{"ecn-ip-ect", 3, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		v, err := parseNumber(a[0].text, 3)
		if err != nil {
			rp.fail(a[0].col, a[0].text, "an ECN codepoint from 0 to 3", "")
		}
		x := m.(*ECNMatch)
		x.ECT, x.NotECT, x.Codepoint = true, not, uint8(v)
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*ECNMatch)
	if l.seen == 0 {
		rp.fail(l.col, "-m ecn", "--ecn-ip-ect, --ecn-tcp-cwr or --ecn-tcp-ece after -m ecn", "")
	}
	if (m.CWR || m.ECE) && (rp.rule.Proto.Num != protoTCP || rp.rule.Proto.Not) {
		rp.fail(l.col, "-m ecn", "-p tcp with --ecn-tcp-cwr and --ecn-tcp-ece", "")
	}
}}

// Name returns "ecn".
func (m *ECNMatch) Name() string { return "ecn" }

// AppendSave implements Extension.
func (m *ECNMatch) AppendSave(b []byte) []byte {
	if m.ECE {
		b = append(appendNot(b, m.NotECE), " --ecn-tcp-ece"...)
	}
	if m.CWR {
		b = append(appendNot(b, m.NotCWR), " --ecn-tcp-cwr"...)
	}
	if m.ECT {
		b = fmt.Appendf(appendNot(b, m.NotECT), " --ecn-ip-ect %d", m.Codepoint)
	}
	return b
}

func (m *ECNMatch) compile(c *compiler) {
	if m.ECT {
		c.ask(pred{op: opTOS, not: m.NotECT, lo: uint16(m.Codepoint), hi: 3})
	}
	if m.ECE {
		c.ask(pred{op: opCWR, not: m.NotECE, lo: tcpECE})
	}
	if m.CWR {
		c.ask(pred{op: opCWR, not: m.NotCWR, lo: tcpCWR})
	}
}
