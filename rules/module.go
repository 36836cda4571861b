package rules

// modules are the match modules that -m knows.
var modules = append(absentModules, []module{
	{name: "tcp", family: Both, protos: []uint8{protoTCP}, make: func() Extension { return &TCPMatch{Src: anyPort, Dst: anyPort} }, options: []option{
		{"source-port", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*TCPMatch).Src, not, a[0]) }},
		{"sport", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*TCPMatch).Src, not, a[0]) }},
		{"destination-port", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*TCPMatch).Dst, not, a[0]) }},
		{"dport", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*TCPMatch).Dst, not, a[0]) }},
		{"syn", 3, 0, true, func(rp *ruleParser, m Extension, not bool, _ []token) {
			m.(*TCPMatch).Flags = FlagMatch{Mask: tcpSYN | tcpRST | tcpACK | tcpFIN, Want: tcpSYN, Set: true, Not: not}
		}},
		{"tcp-flags", 3, 2, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			m.(*TCPMatch).Flags = FlagMatch{Mask: rp.tcpFlags(a[0]), Want: rp.tcpFlags(a[1]), Set: true, Not: not}
		}},
		{"tcp-option", 4, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			n, err := parseNumber(a[0].text, 255)
			if err != nil || n == 0 {
				rp.fail(a[0].col, a[0].text, "a TCP option's number from 1 to 255", "")
			}
			m.(*TCPMatch).Option = OptionMatch{Kind: uint8(n), Not: not}
		}},
	}},
	{name: "udp", family: Both, protos: []uint8{protoUDP}, make: func() Extension { return &UDPMatch{Src: anyPort, Dst: anyPort} }, options: []option{
		{"source-port", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*UDPMatch).Src, not, a[0]) }},
		{"sport", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*UDPMatch).Src, not, a[0]) }},
		{"destination-port", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*UDPMatch).Dst, not, a[0]) }},
		{"dport", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ports(&m.(*UDPMatch).Dst, not, a[0]) }},
	}},
	{name: "icmp", family: IPv4, protos: []uint8{protoICMP}, make: func() Extension { return &ICMPMatch{module: "icmp"} }, options: []option{
		{"icmp-type", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.icmpType(m.(*ICMPMatch), icmpTypes, not, a[0])
		}},
	}, finish: needOption("icmp-type")},
	{name: "icmp6", family: IPv6, protos: []uint8{protoICMPv6}, make: func() Extension { return &ICMPMatch{module: "icmp6"} }, options: []option{
		{"icmpv6-type", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.icmpType(m.(*ICMPMatch), icmpv6Types, not, a[0])
		}},
	}, finish: needOption("icmpv6-type")},
	{name: "state", family: Both, make: func() Extension { return &ConntrackMatch{module: "state"} }, options: []option{
		{"state", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ctState(m.(*ConntrackMatch), not, a[0]) }},
	}, finish: needOption("state")},
	{name: "conntrack", family: Both, make: func() Extension { return &ConntrackMatch{module: "conntrack"} }, options: []option{
		{"ctstate", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ctState(m.(*ConntrackMatch), not, a[0]) }},
		{"ctproto", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ctProto(m.(*ConntrackMatch), not, a[0]) }},
		{"ctorigsrc", 3, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctAddr(&m.(*ConntrackMatch).OrigSrc, not, a[0])
		}},
		{"ctorigdst", 4, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctAddr(&m.(*ConntrackMatch).OrigDst, not, a[0])
		}},
		{"ctreplsrc", 5, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctAddr(&m.(*ConntrackMatch).ReplSrc, not, a[0])
		}},
		{"ctrepldst", 6, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctAddr(&m.(*ConntrackMatch).ReplDst, not, a[0])
		}},
		{"ctorigsrcport", 7, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 0, not, a[0])
		}},
		{"ctorigdstport", 8, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 1, not, a[0])
		}},
		{"ctreplsrcport", 9, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 2, not, a[0])
		}},
		{"ctrepldstport", 10, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.ctPort(m.(*ConntrackMatch), 3, not, a[0])
		}},
		{"ctstatus", 11, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ctStatus(m.(*ConntrackMatch), not, a[0]) }},
		{"ctexpire", 12, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) { rp.ctExpire(m.(*ConntrackMatch), not, a[0]) }},
		{"ctdir", 13, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { rp.ctDir(m.(*ConntrackMatch), a[0]) }},
	}, finish: func(rp *ruleParser, l *loaded) {
		if l.seen == 0 {
			rp.fail(l.col, "", "an option after -m conntrack, such as --ctstate", "")
		}
	}},
	{name: "multiport", family: Both, protos: []uint8{protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP}, make: func() Extension { return &MultiportMatch{} }, options: []option{
		{"source-ports", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortSource, not, a[0])
		}},
		{"sports", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortSource, not, a[0])
		}},
		{"destination-ports", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortDestination, not, a[0])
		}},
		{"dports", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortDestination, not, a[0])
		}},
		{"ports", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			rp.multiport(m.(*MultiportMatch), PortEither, not, a[0])
		}},
	}, finish: needOption("dports")},
	{name: "comment", family: Both, make: func() Extension { return &CommentMatch{} }, options: []option{
		{"comment", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
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
	srhModule, eui64Module, ipcompModule, clusterModule, bpfModule, policyModule, nfacctModule,
	espModule, ahModule, fragModule, headersModule, optionsModule("hbh"), optionsModule("dst"), mobilityModule, u32Module, timeModule, bytesModule, quotaModule, helperModule, labelModule,
}...)

// needOption returns a check that the module's option with id 1 is there.
func needOption(name string) func(*ruleParser, *loaded) {
	return func(rp *ruleParser, l *loaded) {
		if l.seen&(1<<1) == 0 {
			rp.fail(l.col, "-m "+l.mod.name, "--"+name+" after -m "+l.mod.name, "")
		}
	}
}
