package rules

import (
	"strconv"
	"strings"
)

// TCP header flags, RFC 9293 section 3.1, as the byte in the header has them.
const (
	tcpFIN = 1 << 0
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpPSH = 1 << 3
	tcpACK = 1 << 4
	tcpURG = 1 << 5
	tcpECE = 1 << 6
	tcpCWR = 1 << 7
)

// tcpFlagNames are the names of --tcp-flags in the order in which iptables-save prints them.
var tcpFlagNames = []struct {
	name string
	bits uint8
}{
	{"FIN", tcpFIN}, {"SYN", tcpSYN}, {"RST", tcpRST}, {"PSH", tcpPSH}, {"ACK", tcpACK}, {"URG", tcpURG},
	{"ALL", tcpFIN | tcpSYN | tcpRST | tcpPSH | tcpACK | tcpURG}, {"NONE", 0},
}

// TCPMatch is -m tcp. It needs a whole 20-byte header: a packet without one that reaches the rule is dropped, as
// xt_tcpudp does.
type TCPMatch struct {
	Src, Dst PortRange
	Flags    FlagMatch
	Option   OptionMatch
}

// FlagMatch is --tcp-flags: header flags & Mask == Want.
type FlagMatch struct {
	Mask, Want uint8
	Set, Not   bool
}

// OptionMatch is --tcp-option: whether the header has an option of that kind.
type OptionMatch struct {
	Kind uint8 // 0: not asked
	Not  bool
}

// Name returns "tcp".
func (m *TCPMatch) Name() string { return "tcp" }

// AppendSave implements Extension.
func (m *TCPMatch) AppendSave(b []byte) []byte {
	b = m.Src.appendSave(b, "sport")
	b = m.Dst.appendSave(b, "dport")
	if m.Option.Kind != 0 {
		b = append(appendNot(b, m.Option.Not), " --tcp-option "...)
		b = strconv.AppendUint(b, uint64(m.Option.Kind), 10)
	}
	if m.Flags.Mask != 0 || m.Flags.Want != 0 || m.Flags.Not {
		b = append(appendNot(b, m.Flags.Not), " --tcp-flags "...)
		b = appendFlags(b, m.Flags.Mask)
		b = appendFlags(append(b, ' '), m.Flags.Want)
	}
	return b
}

func (m *TCPMatch) compile(c *compiler) {
	c.ask(pred{op: opHeader, lo: 20})
	c.askPort(opSport, m.Src)
	c.askPort(opDport, m.Dst)
	if m.Flags.Mask != 0 || m.Flags.Want != 0 || m.Flags.Not {
		c.ask(pred{op: opFlags, not: m.Flags.Not, lo: uint16(m.Flags.Mask), hi: uint16(m.Flags.Want)})
	}
	if m.Option.Kind != 0 {
		c.ask(pred{op: opOption, not: m.Option.Not, lo: uint16(m.Option.Kind)})
	}
}

func appendFlags(b []byte, bits uint8) []byte {
	if bits == 0 {
		return append(b, "NONE"...)
	}
	first := true
	for _, f := range tcpFlagNames[:6] {
		if bits&f.bits != 0 {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(b, f.name...)
		}
	}
	return b
}

// tcpFlags reads a list of flag names.
func (rp *ruleParser) tcpFlags(a token) (bits uint8) {
	col := a.col
	for _, w := range strings.Split(a.text, ",") {
		found := false
		for _, f := range tcpFlagNames {
			if strings.EqualFold(f.name, w) {
				bits |= f.bits
				found = true
			}
		}
		if !found {
			rp.fail(col, w, "TCP flags: SYN, ACK, FIN, RST, URG, PSH, ALL or NONE", "a list has commas and no blanks")
			return bits
		}
		col += len(w) + 1
	}
	return bits
}

// UDPMatch is -m udp. It needs a whole header, as TCPMatch does.
type UDPMatch struct{ Src, Dst PortRange }

// Name returns "udp".
func (m *UDPMatch) Name() string { return "udp" }

// AppendSave implements Extension.
func (m *UDPMatch) AppendSave(b []byte) []byte {
	return m.Dst.appendSave(m.Src.appendSave(b, "sport"), "dport")
}

func (m *UDPMatch) compile(c *compiler) {
	c.ask(pred{op: opHeader, lo: 8})
	c.askPort(opSport, m.Src)
	c.askPort(opDport, m.Dst)
}
