package rules

import (
	"encoding/binary"
	"fmt"

	"corewire/internal/packet"
)

// CPIMatch is -m ipcomp: the compression parameter index of an IPComp header (RFC 3173). iptables calls it SPI, gives it 32 bits,
// of which a header has 16, and takes 0 where none is given.
type CPIMatch struct {
	Lo, Hi   uint32
	Not      bool
	Reserved bool // --compres: Linux prints it and looks at nothing
}

var ipcompModule = module{name: "ipcomp", family: Both, protos: []uint8{protoIPComp}, make: func() Extension { return &CPIMatch{} }, options: []option{
	{"ipcompspi", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, _ := rp.span(a[0], 1<<32-1, "an SPI or a range of SPIs")
		x := m.(*CPIMatch)
		x.Lo, x.Hi, x.Not = uint32(lo), uint32(hi), not
	}},
	{"compres", 2, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*CPIMatch).Reserved = true }},
}}

// Name returns "ipcomp".
func (m *CPIMatch) Name() string { return "ipcomp" }

// AppendSave implements Extension.
func (m *CPIMatch) AppendSave(b []byte) []byte {
	if m.Lo != 0 || m.Hi != 1<<32-1 || m.Not {
		b = appendSpan(append(appendNot(b, m.Not), " --ipcompspi "...), uint64(m.Lo), uint64(m.Hi))
	}
	if m.Reserved {
		b = append(b, " --compres"...)
	}
	return b
}

func (m *CPIMatch) compile(c *compiler) {
	c.ask(pred{op: opCPI, not: m.Not, a: m.Lo, b: m.Hi})
}

// cpi follows comp_mt of net/netfilter/xt_ipcomp.c.
func cpi(q *pred, p *packet.Packet) outcome {
	if p.Flags&packet.LaterFragment != 0 {
		return no
	}
	if p.End-p.L4 < 4 {
		return short
	}
	v := uint32(binary.BigEndian.Uint16(p.Frame[p.L4+2:]))
	return answer((v >= q.a && v <= q.b) != q.not)
}

// AppendList implements lister.
func (m *CPIMatch) AppendList(b []byte) []byte {
	b = append(b, " comp "...)
	switch {
	case m.Lo == m.Hi:
		b = fmt.Appendf(b, "spi:%s%d", sign(m.Not), m.Lo)
	case m.Lo != 0 || m.Hi != 1<<32-1 || m.Not:
		b = fmt.Appendf(b, "spis:%s%d:%d", sign(m.Not), m.Lo, m.Hi)
	}
	if m.Reserved {
		b = append(b, " reserved"...)
	}
	return b
}
