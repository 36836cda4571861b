package rules

import (
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// dccpTypes are the names of DCCP packet types (RFC 4340 section 5.1) by number, with the one that stands for all that are
// reserved.
var dccpTypes = []string{"REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK", "INVALID"}

// dccpInvalid is the lowest type that is reserved.
const dccpInvalid = 10

// DCCPMatch is what -m dccp asks beside ports.
type DCCPMatch struct {
	Types             uint16 // bits by type
	HasTypes, TypeNot bool
	Option            OptionMatch
}

// dccpOptions are the options of -m dccp that -m sctp does not have.
var dccpOptions = []option{
	{"dccp-types", 3, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := &m.(*PortsMatch).DCCP
		x.Types, x.HasTypes, x.TypeNot = rp.dccpTypes(a[0]), true, not
	}},
	{"dccp-option", 4, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		n, err := parseNumber(a[0].text, 255)
		if err != nil || n == 0 {
			rp.fail(a[0].col, a[0].text, "a DCCP option's number from 1 to 255", "")
		}
		m.(*PortsMatch).DCCP.Option = OptionMatch{Kind: uint8(n), Not: not}
	}},
}

// dccpTypes reads a list of types. Empty elements are passed over, as strtok does.
func (rp *ruleParser) dccpTypes(a token) (bits uint16) {
	col := a.col
	for s := range strings.SplitSeq(a.text, ",") {
		known := s == ""
		for k, name := range dccpTypes {
			if strings.EqualFold(name, s) {
				known = true
				bits |= 1 << k
			}
		}
		if !known {
			rp.fail(col, s, "a type of DCCP packet", rp.didYouMean(strings.ToUpper(s), dccpTypes))
			return bits
		}
		col += len(s) + 1
	}
	if bits>>dccpInvalid != 0 {
		bits |= 1<<16 - 1<<dccpInvalid
	}
	return bits
}

func (x *DCCPMatch) appendSave(b []byte) []byte {
	if x.HasTypes {
		b = append(appendNot(b, x.TypeNot), " --dccp-types "...)
		sep := ""
		for k, name := range dccpTypes {
			if x.Types>>k&1 != 0 {
				b = append(append(b, sep...), name...)
				sep = ","
			}
		}
	}
	if x.Option.Kind != 0 {
		b = strconv.AppendUint(append(appendNot(b, x.Option.Not), " --dccp-option "...), uint64(x.Option.Kind), 10)
	}
	return b
}

// appendList appends what iptables -L -n prints: types as numbers.
func (x *DCCPMatch) appendList(b []byte) []byte {
	if x.HasTypes {
		b = append(appendNot(b, x.TypeNot), ' ')
		sep := ""
		for k := range 16 {
			if x.Types>>k&1 != 0 {
				b = strconv.AppendInt(append(b, sep...), int64(k), 10)
				sep = ","
			}
		}
	}
	if x.Option.Kind != 0 {
		b = strconv.AppendUint(append(append(b, " option="...), sign(x.Option.Not)...), uint64(x.Option.Kind), 10)
	}
	return b
}

func (x *DCCPMatch) compile(c *compiler) {
	if x.HasTypes {
		c.ask(pred{op: opDCCPType, not: x.TypeNot, lo: x.Types})
	}
	if x.Option.Kind != 0 {
		c.ask(pred{op: opDCCPOption, not: x.Option.Not, lo: uint16(x.Option.Kind)})
	}
}

// dccpType returns the type of a packet whose first 12 bytes are there.
func dccpType(h []byte) uint8 { return h[8] >> 1 & 15 }

// dccpHeader returns how long the header is before its options, by type and by whether sequence numbers are long.
func dccpHeader(h []byte) int {
	n := 12 + 4*int(h[8]&1)
	switch dccpType(h) {
	case 0: // REQUEST: the service
		return n + 4
	case 2: // DATA
		return n
	case 3, 4, 5, 6, 8, 9: // an acknowledgement
		return n + 8
	}
	return n + 12
}

// dccpOption looks for an option as dccp_find_option of net/netfilter/xt_dccp.c does. Options that begin before the header
// ends, or are cut off, drop the packet; to a negated question that says yes before.
func dccpOption(p *packet.Packet, kind uint8, not bool) outcome {
	h := p.Frame[p.L4:p.End]
	first, end := dccpHeader(h), int(h[4])*4
	broken := short
	if not {
		broken = doomed
	}
	switch {
	case end < first:
		return broken
	case end == first:
		return answer(not)
	case len(h) < end:
		return broken
	}
	return findOption(h[first:end], kind, not)
}
