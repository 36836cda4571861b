package rules

import (
	"fmt"
	"strconv"
)

// maxPolicy bounds the elements of a policy (XT_POLICY_MAX_ELEM).
const maxPolicy = 4

// PolicyMatch is -m policy: what IPsec a packet came with, or will leave with. A wire does none: --pol none holds for every
// packet, --pol ipsec for none, as on a bridge (net/netfilter/xt_policy.c). Its elements are kept to be printed.
type PolicyMatch struct {
	Out, IPsec, Strict bool
	Elements           []PolicyElement
}

// PolicyElement is what --next parts. Numbers are as given.
type PolicyElement struct {
	Reqid, SPI, Proto, Mode policyValue
	Dst, Src                AddrMatch // of the tunnel
}

// policyValue is a value of an element, as it is printed; "" when not asked.
type policyValue struct {
	text string
	not  bool
}

// last returns the element that options are for.
func (m *PolicyMatch) last() *PolicyElement { return &m.Elements[len(m.Elements)-1] }

var policyModule = module{name: "policy", family: Both, make: func() Extension { return &PolicyMatch{Elements: make([]PolicyElement, 1)} }, options: []option{
	{"dir", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*PolicyMatch).Out = rp.oneOf(a[0], []string{"in", "out"}) == 1
	}},
	{"pol", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*PolicyMatch).IPsec = rp.oneOf(a[0], []string{"none", "ipsec"}) == 1
	}},
	{"strict", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*PolicyMatch).Strict = true }},
	{"next", 0, 0, false, func(rp *ruleParser, m Extension, _ bool, _ []token) {
		x := m.(*PolicyMatch)
		if x.Elements = append(x.Elements, PolicyElement{}); len(x.Elements) > maxPolicy {
			rp.fail(rp.rule.Pos.Col, "--next", fmt.Sprintf("at most %d elements of a policy", maxPolicy), "")
		}
	}},
	policyOption("reqid", func(e *PolicyElement) *policyValue { return &e.Reqid }, func(rp *ruleParser, a token) string {
		return strconv.FormatUint(rp.number(a, 1<<32-1), 10)
	}),
	policyOption("spi", func(e *PolicyElement) *policyValue { return &e.SPI }, func(rp *ruleParser, a token) string {
		return fmt.Sprintf("%#x", rp.number(a, 1<<32-1))
	}),
	policyOption("proto", func(e *PolicyElement) *policyValue { return &e.Proto }, func(rp *ruleParser, a token) string {
		num, ok := parseProtocol(a.text)
		if !ok || num != headerESP && num != headerAH && num != protoIPComp {
			rp.fail(a.col, a.text, "ah, esp or ipcomp", "")
		}
		return protocolName(num)
	}),
	policyOption("mode", func(e *PolicyElement) *policyValue { return &e.Mode }, func(rp *ruleParser, a token) string {
		modes := []string{"transport", "tunnel"}
		return modes[rp.oneOf(a, modes)]
	}),
	policyAddr("tunnel-src", func(e *PolicyElement) *AddrMatch { return &e.Src }),
	policyAddr("tunnel-dst", func(e *PolicyElement) *AddrMatch { return &e.Dst }),
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*PolicyMatch)
	if l.seen>>1&1 == 0 {
		rp.fail(l.col, "-m policy", "--dir after -m policy", "")
		return
	}
	if l.seen>>2&1 == 0 {
		m.IPsec = true
	}
	switch {
	case m.Out && rp.chain == "PREROUTING":
		rp.fail(l.col, "--dir out", "--dir in in PREROUTING", "")
	case !m.Out && rp.chain == "POSTROUTING":
		rp.fail(l.col, "--dir in", "--dir out in POSTROUTING", "")
	case !m.IPsec && m.Strict:
		rp.fail(l.col, "--strict", "--pol ipsec with --strict", "")
	case !m.IPsec && len(m.Elements) > 1, len(m.Elements) > 1 && !m.Strict:
		rp.fail(l.col, "--next", "--pol ipsec and --strict with --next", "")
	}
	if !m.IPsec {
		return
	}
	for i := range m.Elements {
		e := &m.Elements[i]
		tunnel := e.Src.Pos.Line != 0 || e.Dst.Pos.Line != 0
		switch {
		case m.Strict && *e == PolicyElement{}:
			rp.fail(l.col, "--strict", "something in each element of the policy", "")
		case tunnel && (e.Mode.text == "transport") != e.Mode.not && e.Mode.text != "":
			rp.fail(l.col, "--tunnel-src or --tunnel-dst", "--mode tunnel with it", "")
		}
	}
}}

// policyOption makes an option with a value of an element.
func policyOption(name string, at func(*PolicyElement) *policyValue, read func(*ruleParser, token) string) option {
	return option{name, 0, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		v := at(m.(*PolicyMatch).last())
		if v.text != "" {
			rp.fail(a[0].col, a[0].text, "--"+name+" once in an element", "")
		}
		*v = policyValue{read(rp, a[0]), not}
	}}
}

// policyAddr makes an option with an address of an element.
func policyAddr(name string, at func(*PolicyElement) *AddrMatch) option {
	return option{name, 0, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := at(m.(*PolicyMatch).last())
		if x.Pos.Line != 0 {
			rp.fail(a[0].col, a[0].text, "--"+name+" once in an element", "")
		}
		v, f, ok := rp.hostMask(a[0])
		if !ok {
			return
		}
		rp.restrict(f, a[0].col, a[0].text)
		v.Not = not
		*x = v
	}}
}

// Name returns "policy".
func (m *PolicyMatch) Name() string { return "policy" }

// AppendSave implements Extension.
func (m *PolicyMatch) AppendSave(b []byte) []byte { return m.append(b, "--", false) }

// append appends the match with something before each option; of several elements numbered says their numbers.
func (m *PolicyMatch) append(b []byte, dashes string, numbered bool) []byte {
	word := func(not bool, name, value string) {
		b = append(append(append(appendNot(b, not), ' '), dashes...), name...)
		if value != "" {
			b = append(append(b, ' '), value...)
		}
	}
	word(false, "dir", []string{"in", "out"}[bit(m.Out)])
	word(false, "pol", []string{"none", "ipsec"}[bit(m.IPsec)])
	if m.Strict {
		word(false, "strict", "")
	}
	if !m.IPsec {
		return b
	}
	for i := range m.Elements {
		e := &m.Elements[i]
		switch {
		case numbered && len(m.Elements) > 1:
			b = fmt.Appendf(b, " [%d]", i)
		case !numbered && i > 0:
			word(false, "next", "")
		}
		proto := e.Proto.text
		if numbered && proto != "" {
			num, _ := lookupProtocol(proto)
			proto = strconv.Itoa(int(num))
		}
		for _, v := range []struct {
			name, text string
			not        bool
		}{{"reqid", e.Reqid.text, e.Reqid.not}, {"spi", e.SPI.text, e.SPI.not}, {"proto", proto, e.Proto.not}, {"mode", e.Mode.text, e.Mode.not}} {
			if v.text != "" {
				word(v.not, v.name, v.text)
			}
		}
		for _, v := range []struct {
			name string
			addr *AddrMatch
		}{{"tunnel-dst", &e.Dst}, {"tunnel-src", &e.Src}} {
			if v.addr.Pos.Line != 0 {
				word(v.addr.Not, v.name, string(appendAddr(nil, *v.addr, false)))
			}
		}
	}
	return b
}

// bit returns 1 for true.
func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *PolicyMatch) compile(c *compiler) {
	if m.IPsec {
		c.ask(pred{op: opNever})
	}
}

// AppendList implements lister.
func (m *PolicyMatch) AppendList(b []byte) []byte {
	return m.append(append(b, " policy match"...), "", true)
}
