package rules

import "strings"

// PortSide says which of a packet's ports a list is about.
type PortSide uint8

const (
	PortSource PortSide = iota
	PortDestination
	PortEither
)

// MultiportMatch is -m multiport: up to 15 ports, a range counting as two (XT_MULTI_PORTS). It needs the four bytes
// of the ports: a packet without them that reaches the rule is dropped, as xt_multiport does.
type MultiportMatch struct {
	Side  PortSide
	Ports []PortRange // Not is unused
	Not   bool
}

// Name returns "multiport".
func (m *MultiportMatch) Name() string { return "multiport" }

// AppendSave implements Extension.
func (m *MultiportMatch) AppendSave(b []byte) []byte {
	b = append(appendNot(b, m.Not), [...]string{" --sports ", " --dports ", " --ports "}[m.Side]...)
	for k, r := range m.Ports {
		if k > 0 {
			b = append(b, ',')
		}
		b = r.append(b)
	}
	return b
}

func (m *MultiportMatch) compile(c *compiler) {
	c.ask(pred{op: opHeader, lo: 4})
	c.ask(pred{op: opMulti, not: m.Not, lo: uint16(m.Side), a: uint32(len(c.cur.ports)), n: uint16(len(m.Ports))})
	c.cur.ports = append(c.cur.ports, m.Ports...)
}

func (rp *ruleParser) multiport(m *MultiportMatch, side PortSide, not bool, a token) {
	m.Side, m.Not = side, not
	col, used := a.col, 0
	for _, w := range strings.Split(a.text, ",") {
		lo, hi, isRange := strings.Cut(w, ":")
		v, ok := rp.port(token{text: lo, col: col})
		if !ok {
			return
		}
		r := PortRange{Lo: v, Hi: v}
		used++
		if isRange {
			if r.Hi, ok = rp.port(token{text: hi, col: col + len(lo) + 1}); !ok {
				return
			}
			used++
			if r.Lo >= r.Hi {
				rp.fail(col, w, "a range of ports that rises", "")
				return
			}
		}
		if used > 15 {
			rp.fail(col, w, "at most 15 ports, a range counting as two", "write a second rule, or a second -m multiport")
			return
		}
		m.Ports = append(m.Ports, r)
		col += len(w) + 1
	}
}
