package rules

import (
	"strconv"
	"strings"
)

// modules are the match modules that -m knows.
var modules = []module{
	{name: "tcp", family: Both, protos: []uint8{protoTCP}, make: func() Match { return &TCPMatch{Src: anyPort, Dst: anyPort} }, options: []option{
		{"source-port", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*TCPMatch).Src, not, a[0]) }},
		{"sport", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*TCPMatch).Src, not, a[0]) }},
		{"destination-port", 2, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*TCPMatch).Dst, not, a[0]) }},
		{"dport", 2, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*TCPMatch).Dst, not, a[0]) }},
		{"syn", 3, 0, true, func(rp *ruleParser, m Match, not bool, _ []token) {
			m.(*TCPMatch).Flags = FlagMatch{Mask: tcpSYN | tcpRST | tcpACK | tcpFIN, Want: tcpSYN, Set: true, Not: not}
		}},
		{"tcp-flags", 3, 2, true, func(rp *ruleParser, m Match, not bool, a []token) {
			m.(*TCPMatch).Flags = FlagMatch{Mask: rp.tcpFlags(a[0]), Want: rp.tcpFlags(a[1]), Set: true, Not: not}
		}},
		{"tcp-option", 4, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			n, err := parseNumber(a[0].text, 255)
			if err != nil || n == 0 {
				rp.fail(a[0].col, a[0].text, "a TCP option's number from 1 to 255", "")
			}
			m.(*TCPMatch).Option = OptionMatch{Kind: uint8(n), Not: not}
		}},
	}},
	{name: "udp", family: Both, protos: []uint8{protoUDP}, make: func() Match { return &UDPMatch{Src: anyPort, Dst: anyPort} }, options: []option{
		{"source-port", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*UDPMatch).Src, not, a[0]) }},
		{"sport", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*UDPMatch).Src, not, a[0]) }},
		{"destination-port", 2, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*UDPMatch).Dst, not, a[0]) }},
		{"dport", 2, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ports(&m.(*UDPMatch).Dst, not, a[0]) }},
	}},
	{name: "icmp", family: IPv4, protos: []uint8{protoICMP}, make: func() Match { return &ICMPMatch{module: "icmp"} }, options: []option{
		{"icmp-type", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.icmpType(m.(*ICMPMatch), icmpTypes, not, a[0]) }},
	}, finish: needOption("icmp-type")},
	{name: "icmp6", family: IPv6, protos: []uint8{protoICMPv6}, make: func() Match { return &ICMPMatch{module: "icmp6"} }, options: []option{
		{"icmpv6-type", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.icmpType(m.(*ICMPMatch), icmpv6Types, not, a[0])
		}},
	}, finish: needOption("icmpv6-type")},
	{name: "state", family: Both, make: func() Match { return &ConntrackMatch{module: "state"} }, options: []option{
		{"state", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctState(m.(*ConntrackMatch), not, a[0]) }},
	}, finish: needOption("state")},
	{name: "conntrack", family: Both, make: func() Match { return &ConntrackMatch{module: "conntrack"} }, options: []option{
		{"ctstate", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctState(m.(*ConntrackMatch), not, a[0]) }},
		{"ctproto", 2, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctProto(m.(*ConntrackMatch), not, a[0]) }},
		{"ctorigsrc", 3, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctAddr(&m.(*ConntrackMatch).OrigSrc, not, a[0]) }},
		{"ctorigdst", 4, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctAddr(&m.(*ConntrackMatch).OrigDst, not, a[0]) }},
		{"ctreplsrc", 5, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctAddr(&m.(*ConntrackMatch).ReplSrc, not, a[0]) }},
		{"ctrepldst", 6, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctAddr(&m.(*ConntrackMatch).ReplDst, not, a[0]) }},
		{"ctorigsrcport", 7, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 0, not, a[0])
		}},
		{"ctorigdstport", 8, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 1, not, a[0])
		}},
		{"ctreplsrcport", 9, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 2, not, a[0])
		}},
		{"ctrepldstport", 10, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 3, not, a[0])
		}},
		{"ctstatus", 11, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctStatus(m.(*ConntrackMatch), not, a[0]) }},
		{"ctexpire", 12, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.ctExpire(m.(*ConntrackMatch), not, a[0]) }},
		{"ctdir", 13, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) { rp.ctDir(m.(*ConntrackMatch), a[0]) }},
	}, finish: func(rp *ruleParser, l *loaded) {
		if l.seen == 0 {
			rp.fail(l.col, "", "an option after -m conntrack, such as --ctstate", "")
		}
	}},
	{name: "multiport", family: Both, protos: []uint8{protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP}, make: func() Match { return &MultiportMatch{} }, options: []option{
		{"source-ports", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortSource, not, a[0])
		}},
		{"sports", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortSource, not, a[0])
		}},
		{"destination-ports", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortDestination, not, a[0])
		}},
		{"dports", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortDestination, not, a[0])
		}},
		{"ports", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortEither, not, a[0])
		}},
	}, finish: needOption("dports")},
	{name: "comment", family: Both, make: func() Match { return &CommentMatch{} }, options: []option{
		{"comment", 1, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
			if len(a[0].text) > 255 { // XT_MAX_COMMENT_LEN - 1
				rp.fail(a[0].col, a[0].text, "a comment of at most 255 bytes", "")
			}
			m.(*CommentMatch).Text = a[0].text
		}},
	}, finish: needOption("comment")},
	portsModule("sctp", protoSCTP), portsModule("dccp", protoDCCP),
	iprangeModule, markModule("mark"), markModule("connmark"), lengthModule, ttlModule("ttl", IPv4), ttlModule("hl", IPv6),
	tosModule, dscpModule, ecnModule, addrtypeModule, macModule, pkttypeModule, physdevModule, limitModule, statisticModule, rtModule,
	tcpmssModule, vlanModule, stringModule, setModule, hashlimitModule, recentModule, connlimitModule,
	espModule, ahModule, fragModule, headersModule, optionsModule("hbh"), optionsModule("dst"), mobilityModule, u32Module, timeModule, bytesModule, quotaModule, helperModule, labelModule,
}

// needOption returns a check that the module's option with id 1 is there.
func needOption(name string) func(*ruleParser, *loaded) {
	return func(rp *ruleParser, l *loaded) {
		if l.seen&(1<<1) == 0 {
			rp.fail(l.col, "-m "+l.mod.name, "--"+name+" after -m "+l.mod.name, "")
		}
	}
}

// PortRange is a range of ports, both ends included.
type PortRange struct {
	Lo, Hi uint16
	Not    bool
}

var anyPort = PortRange{0, 65535, false}

// full says that every port matches.
func (r PortRange) full() bool { return r.Lo == 0 && r.Hi == 65535 && !r.Not }

func (r PortRange) appendSave(b []byte, opt string) []byte {
	if r.full() {
		return b
	}
	b = appendNot(b, r.Not)
	b = append(b, ' ', '-', '-')
	b = append(b, opt...)
	b = append(b, ' ')
	return r.append(b)
}

func (r PortRange) append(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(r.Lo), 10)
	if r.Lo != r.Hi {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(r.Hi), 10)
	}
	return b
}

func appendNot(b []byte, not bool) []byte {
	if not {
		b = append(b, " !"...)
	}
	return b
}

// port reads one port by number or name.
func (rp *ruleParser) port(a token) (uint16, bool) {
	if v, err := parseNumber(a.text, 65535); err == nil {
		return uint16(v), true
	}
	if v, ok := services[a.text]; ok {
		return v, true
	}
	hint := "write the port's number"
	if len(a.text) > 0 && a.text[0] > '9' {
		names := make([]string, 0, len(services))
		for n := range services {
			names = append(names, n)
		}
		if n := nearestSorted(a.text, names); n != "" && rp.p.hints < maxHints {
			rp.p.hints++
			hint = "did you mean " + n + "?"
		}
	}
	rp.fail(a.col, a.text, "a port from 0 to 65535 or a service's name", hint)
	return 0, false
}

// ports reads "port", "low:high", "low:" or ":high".
func (rp *ruleParser) ports(r *PortRange, not bool, a token) {
	lo, hi, isRange := strings.Cut(a.text, ":")
	r.Lo, r.Hi, r.Not = 0, 65535, not
	if lo != "" || !isRange {
		v, ok := rp.port(token{text: lo, col: a.col})
		if !ok {
			return
		}
		r.Lo = v
		if !isRange {
			r.Hi = v
		}
	}
	if hi != "" {
		v, ok := rp.port(token{text: hi, col: a.col + len(lo) + 1})
		if !ok {
			return
		}
		r.Hi = v
	}
	if r.Lo > r.Hi {
		rp.fail(a.col, a.text, "a range of ports that rises", "")
	}
}

// CommentMatch is -m comment: it matches always.
type CommentMatch struct{ Text string }

// Name returns "comment".
func (m *CommentMatch) Name() string { return "comment" }

// AppendSave implements Match.
func (m *CommentMatch) AppendSave(b []byte) []byte {
	return appendQuoted(append(b, " --comment "...), m.Text)
}
