package rules

import "corewire/internal/packet"

// MSSMatch is -m tcpmss: the maximum segment size that a SYN announces (RFC 9293 section 3.7.1). A packet whose TCP header
// is short or malformed is dropped, as xt_tcpmss does; one without the option matches with "!" only.
type MSSMatch struct {
	Lo, Hi uint16
	Not    bool
}

var tcpmssModule = module{name: "tcpmss", family: Both, protos: []uint8{protoTCP}, make: func() Extension { return &MSSMatch{} }, options: []option{
	{"mss", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		if lo, hi, ok := rp.span(a[0], 65535, "a segment size or a range of sizes up to 65535"); ok {
			*m.(*MSSMatch) = MSSMatch{uint16(lo), uint16(hi), not}
		}
	}},
}, finish: needOption("mss")}

// Name returns "tcpmss".
func (m *MSSMatch) Name() string { return "tcpmss" }

// AppendSave implements Extension.
func (m *MSSMatch) AppendSave(b []byte) []byte {
	return appendSpan(append(appendNot(b, m.Not), " --mss "...), uint64(m.Lo), uint64(m.Hi))
}

func (m *MSSMatch) compile(c *compiler) {
	c.ask(pred{op: opMSS, not: m.Not, lo: m.Lo, hi: m.Hi})
}

// supposedTCP returns what xt_ecn and xt_tcpmss take for a TCP header. They do not ask whether they have a first fragment:
// where no transport header was found in IPv6 they read from the IP header on (ip6_packet_match leaves thoff at 0).
func supposedTCP(p *packet.Packet) []byte {
	if p.Flags&packet.LaterFragment != 0 {
		return p.Frame[p.L3:p.End]
	}
	return p.Frame[p.L4:p.End]
}

// tcpMSS tests the option as xt_tcpmss does: the first one of kind 2 whose length is 4 counts.
func tcpMSS(p *packet.Packet, q *pred) outcome {
	h := supposedTCP(p)
	if len(h) < 20 {
		return short
	}
	size := int(h[12]>>4) * 4
	if size < 20 || size > len(h) {
		return short
	}
	o := h[20:size]
	for i := 0; i < len(o); {
		switch {
		case o[i] == 2 && len(o)-i >= 4 && o[i+1] == 4:
			v := uint16(o[i+2])<<8 | uint16(o[i+3])
			return answer((v >= q.lo && v <= q.hi) != q.not)
		case o[i] < 2 || i == len(o)-1:
			i++
		default:
			i += max(1, int(o[i+1]))
		}
	}
	return answer(q.not)
}
