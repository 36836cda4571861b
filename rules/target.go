package rules

import (
	"strconv"
	"strings"
)

// RejectWith is how a REJECT answers.
type RejectWith uint8

const (
	RejectNone             RejectWith = iota // the rule does not reject
	RejectPortUnreachable                    // the default
	RejectNetUnreachable                     // IPv4
	RejectHostUnreachable                    // IPv4
	RejectProtoUnreachable                   // IPv4
	RejectNetProhibited                      // IPv4
	RejectHostProhibited                     // IPv4
	RejectAdminProhibited
	RejectNoRoute         // IPv6
	RejectAddrUnreachable // IPv6
	RejectPolicyFail      // IPv6
	RejectRejectRoute     // IPv6
	RejectTCPReset        // a RST segment; needs -p tcp
)

// rejectNames are the names of --reject-with with what they send: RFC 792 and RFC 1812 section 5.2.7.1 for type 3 of
// ICMP, RFC 4443 section 3.1 for type 1 of ICMPv6.
var rejectNames = []struct {
	family      Family
	name, alias string
	with        RejectWith
	code        uint8
}{
	{IPv4, "icmp-net-unreachable", "net-unreach", RejectNetUnreachable, 0},
	{IPv4, "icmp-host-unreachable", "host-unreach", RejectHostUnreachable, 1},
	{IPv4, "icmp-proto-unreachable", "proto-unreach", RejectProtoUnreachable, 2},
	{IPv4, "icmp-port-unreachable", "port-unreach", RejectPortUnreachable, 3},
	{IPv4, "icmp-net-prohibited", "net-prohib", RejectNetProhibited, 9},
	{IPv4, "icmp-host-prohibited", "host-prohib", RejectHostProhibited, 10},
	{IPv4, "icmp-admin-prohibited", "admin-prohib", RejectAdminProhibited, 13},
	{IPv6, "icmp6-no-route", "no-route", RejectNoRoute, 0},
	{IPv6, "icmp6-adm-prohibited", "adm-prohibited", RejectAdminProhibited, 1},
	{IPv6, "icmp6-addr-unreachable", "addr-unreach", RejectAddrUnreachable, 3},
	{IPv6, "icmp6-port-unreachable", "port-unreach", RejectPortUnreachable, 4},
	{IPv6, "icmp6-policy-fail", "policy-fail", RejectPolicyFail, 5},
	{IPv6, "icmp6-reject-route", "reject-route", RejectRejectRoute, 6},
	{Both, "tcp-reset", "tcp-rst", RejectTCPReset, 0},
}

// Code returns the code of the destination unreachable message (type 3 of ICMP, 1 of ICMPv6) that a REJECT sends.
// It is of no use for RejectNone and RejectTCPReset.
func (w RejectWith) Code(f Family) uint8 {
	for i := range rejectNames {
		if r := &rejectNames[i]; r.with == w && r.family&f != 0 {
			return r.code
		}
	}
	return 0
}

// name returns the name that iptables-save prints.
func (w RejectWith) name(f Family) string {
	for i := range rejectNames {
		if r := &rejectNames[i]; r.with == w && r.family&f != 0 {
			return r.name
		}
	}
	return ""
}

// rejectTarget holds the options of -j REJECT while parsing.
type rejectTarget struct {
	with RejectWith
	name string
}

// Name returns "REJECT".
func (t *rejectTarget) Name() string { return "REJECT" }

// AppendSave implements Extension.
func (t *rejectTarget) AppendSave(b []byte) []byte {
	return append(append(b, " --reject-with "...), t.name...)
}

// rejectWith reads a name, its beginning, or its alias.
func (rp *ruleParser) rejectWith(t *rejectTarget, a token) {
	var names []string
	var fams Family
	for i := range rejectNames {
		r := &rejectNames[i]
		names = append(names, r.name)
		if a.text == "" || !strings.HasPrefix(r.name, strings.ToLower(a.text)) && !strings.HasPrefix(r.alias, strings.ToLower(a.text)) {
			continue
		}
		if r.family&rp.rule.Family == 0 {
			fams |= r.family
			continue
		}
		if t.with == RejectNone || r.name == a.text {
			t.with, t.name = r.with, r.name
			fams |= r.family
		}
	}
	if t.with == RejectNone {
		hint := rp.didYouMean(a.text, names)
		if fams != 0 {
			hint = "this is for " + fams.String()
		}
		rp.fail(a.col, a.text, "a way to reject, such as icmp-port-unreachable or tcp-reset", hint)
		return
	}
	rp.restrict(fams, a.col, a.text)
}

// LogTarget is -j LOG and -j NFLOG.
type LogTarget struct {
	Prefix    string
	Level     uint8  // LOG: syslog severity, 4 (warning) when not given
	Sequence  bool   // LOG --log-tcp-sequence
	TCP, IP   bool   // LOG --log-tcp-options, --log-ip-options
	UID, MAC  bool   // LOG --log-uid, --log-macdecode
	Group     uint16 // NFLOG
	Size      uint32 // NFLOG --nflog-size or --nflog-range: bytes to copy
	Threshold uint16 // NFLOG --nflog-threshold
	size      string // which of its options gave Size
	target    string
}

// logLevels are the names of --log-level (RFC 5424 section 6.2.1); the numbers stand for themselves.
var logLevels = []struct {
	name  string
	level uint8
}{{"emerg", 0}, {"panic", 0}, {"alert", 1}, {"crit", 2}, {"error", 3}, {"warning", 4}, {"notice", 5}, {"info", 6}, {"debug", 7}}

// Name returns "LOG" or "NFLOG".
func (t *LogTarget) Name() string { return t.target }

// AppendSave implements Extension.
func (t *LogTarget) AppendSave(b []byte) []byte {
	flag := func(on bool, s string) {
		if on {
			b = append(b, s...)
		}
	}
	number := func(opt string, v uint64) {
		b = strconv.AppendUint(append(b, opt...), v, 10)
	}
	if t.target == "NFLOG" {
		if t.Prefix != "" {
			b = appendQuoted(append(b, " --nflog-prefix "...), t.Prefix)
		}
		if t.Group != 0 {
			number(" --nflog-group ", uint64(t.Group))
		}
		if t.size != "" {
			number(" --"+t.size+" ", uint64(t.Size))
		}
		if t.Threshold != 0 {
			number(" --nflog-threshold ", uint64(t.Threshold))
		}
		return b
	}
	if t.Prefix != "" {
		b = appendQuoted(append(b, " --log-prefix "...), t.Prefix)
	}
	if t.Level != 4 {
		number(" --log-level ", uint64(t.Level))
	}
	flag(t.Sequence, " --log-tcp-sequence")
	flag(t.TCP, " --log-tcp-options")
	flag(t.IP, " --log-ip-options")
	flag(t.UID, " --log-uid")
	flag(t.MAC, " --log-macdecode")
	return b
}

// targets are the targets with options.
var targets = append(ignoredTargets, []module{
	{name: "REJECT", family: Both, make: func() Extension { return &rejectTarget{} }, options: []option{
		{"reject-with", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { rp.rejectWith(m.(*rejectTarget), a[0]) }},
	}, finish: func(rp *ruleParser, l *loaded) {
		t := l.m.(*rejectTarget)
		if t.with == RejectNone {
			t.with = RejectPortUnreachable
		}
		if t.with == RejectTCPReset && (rp.rule.Proto.Num != protoTCP || rp.rule.Proto.Not) {
			rp.fail(l.col, "tcp-reset", "-p tcp with --reject-with tcp-reset", "")
		}
	}},
	{name: "LOG", family: Both, make: func() Extension { return &LogTarget{target: "LOG", Level: 4} }, options: []option{
		{"log-prefix", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			if len(a[0].text) > 29 { // the kernel keeps 30 bytes with the final zero (xt_LOG.h)
				rp.fail(a[0].col, a[0].text, "a prefix of at most 29 bytes", "")
			}
			m.(*LogTarget).Prefix = a[0].text
		}},
		{"log-level", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			if v, err := parseNumber(a[0].text, 7); err == nil {
				m.(*LogTarget).Level = uint8(v)
				return
			}
			var names []string
			for _, l := range logLevels {
				names = append(names, l.name)
				if a[0].text != "" && strings.HasPrefix(l.name, strings.ToLower(a[0].text)) {
					m.(*LogTarget).Level = l.level
					return
				}
			}
			rp.fail(a[0].col, a[0].text, "a severity from 0 to 7 or its name", rp.didYouMean(a[0].text, names))
		}},
		{"log-tcp-sequence", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*LogTarget).Sequence = true }},
		{"log-tcp-options", 4, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*LogTarget).TCP = true }},
		{"log-ip-options", 5, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*LogTarget).IP = true }},
		{"log-uid", 6, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*LogTarget).UID = true }},
		{"log-macdecode", 7, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*LogTarget).MAC = true }},
	}},
	{name: "NFLOG", family: Both, make: func() Extension { return &LogTarget{target: "NFLOG", Level: 4} }, options: []option{
		{"nflog-prefix", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			if a[0].text == "" {
				rp.fail(a[0].col, "", "a prefix after --nflog-prefix", "")
			}
			m.(*LogTarget).Prefix = a[0].text[:min(63, len(a[0].text))] // cut off by iptables as well (xt_NFLOG.h)
		}},
		{"nflog-group", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*LogTarget).Group = uint16(rp.number(a[0], 65535))
		}},
		{"nflog-range", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*LogTarget).Size, m.(*LogTarget).size = uint32(rp.number(a[0], 1<<32-1)), "nflog-range"
		}},
		{"nflog-size", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*LogTarget).Size, m.(*LogTarget).size = uint32(rp.number(a[0], 1<<32-1)), "nflog-size"
		}},
		{"nflog-threshold", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			m.(*LogTarget).Threshold = uint16(rp.number(a[0], 65535))
		}},
	}},
	ctTarget, setTarget, notrackTarget, markTarget, connMarkTarget, tosTarget, dscpTarget, ttlTarget("TTL", IPv4), ttlTarget("HL", IPv6), ecnTarget, mssTarget, stripTarget, hmarkTarget,
}...)
