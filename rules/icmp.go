package rules

import (
	"strconv"
	"strings"
)

// ICMPMatch is -m icmp and -m icmp6. It needs a whole 8-byte header, as TCPMatch needs its.
type ICMPMatch struct {
	Type             uint8
	MinCode, MaxCode uint8
	Any              bool // -m icmp --icmp-type any: every type
	Not              bool
	module           string
}

// Name returns "icmp" or "icmp6".
func (m *ICMPMatch) Name() string { return m.module }

// AppendSave implements Extension.
func (m *ICMPMatch) AppendSave(b []byte) []byte {
	b = appendNot(b, m.Not)
	if m.module == "icmp6" {
		b = append(b, " --icmpv6-type "...)
	} else {
		b = append(b, " --icmp-type "...)
	}
	if m.Any {
		return append(b, "any"...)
	}
	b = strconv.AppendUint(b, uint64(m.Type), 10)
	if m.MinCode == 0 && m.MaxCode == 255 {
		return b
	}
	b = append(b, '/')
	b = strconv.AppendUint(b, uint64(m.MinCode), 10)
	if m.MinCode != m.MaxCode {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(m.MaxCode), 10)
	}
	return b
}

func (m *ICMPMatch) compile(c *compiler) {
	c.ask(pred{op: opHeader, lo: 8})
	switch {
	case m.module == "icmp" && m.Type == 255 && m.Not:
		c.ask(pred{op: opNever})
	case m.module == "icmp" && m.Type == 255:
	default:
		c.ask(pred{op: opICMP, not: m.Not, lo: uint16(m.Type), hi: uint16(m.MinCode)<<8 | uint16(m.MaxCode)})
	}
}

// icmpType reads a name or its unique beginning, a number, type/code, or type/low:high.
func (rp *ruleParser) icmpType(m *ICMPMatch, names []icmpName, not bool, a token) {
	m.Not = not
	low := strings.ToLower(a.text)
	var hit *icmpName
	ambiguous := false
	for k := range names {
		n := &names[k]
		switch {
		case strings.ToLower(n.name) == low:
			hit, ambiguous = n, false
		case a.text != "" && strings.HasPrefix(strings.ToLower(n.name), low):
			if hit == nil {
				hit = n
			} else if strings.ToLower(hit.name) != low {
				ambiguous = true
			}
			continue
		default:
			continue
		}
		break
	}
	if ambiguous {
		rp.fail(a.col, a.text, "an ICMP type's whole name", "several begin like this")
		return
	}
	if hit != nil {
		m.Type, m.MinCode, m.MaxCode = hit.typ, hit.minCode, hit.maxCode
		m.Any = m.module == "icmp" && m.Type == 255
		return
	}
	t, c, hasCode := strings.Cut(a.text, "/")
	typ, err := parseNumber(t, 255)
	if err != nil {
		list := make([]string, len(names))
		for k := range names {
			list[k] = names[k].name
		}
		rp.fail(a.col, a.text, "an ICMP type: a name, a number up to 255, or type/code", rp.didYouMean(a.text, list))
		return
	}
	m.Type, m.MinCode, m.MaxCode = uint8(typ), 0, 255
	if hasCode {
		lo, hi, isRange := strings.Cut(c, ":")
		v, err := parseNumber(lo, 255)
		m.MinCode, m.MaxCode = uint8(v), uint8(v)
		if err == nil && isRange {
			v, err = parseNumber(hi, 255)
			m.MaxCode = uint8(v)
		}
		if err != nil {
			rp.fail(a.col+len(t)+1, c, "an ICMP code up to 255", "")
			return
		}
	}
	// The kernel's match for ICMP takes type 255 for any type whatever the codes (xt_tcpudp.c, icmp_type_code_match);
	// iptables prints it so only with all codes.
	m.Any = m.module == "icmp" && m.Type == 255 && m.MinCode == 0 && m.MaxCode == 255
}
