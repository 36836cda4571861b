package rules

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// CTTarget is -j CT and -j NOTRACK of the raw table: what connection tracking does with the packet (xt_CT.h). Of the
// targets that a packet passes the first one holds (net/netfilter/xt_CT.c leaves a packet alone that has a template).
type CTTarget struct {
	NoTrack bool   // the packet is UNTRACKED and has no connection; the rest does not matter then
	Zone    uint16 // zone of the packet's connection, in both directions; valid with HasZone
	HasZone bool
	Helper  string // helper of a connection that the packet begins; "" for none
	lacking string // one of otherHelpers, which is printed back and not given
	Timeout string // name of its timeout policy; "" for none

	target       string // CT or NOTRACK
	events       uint16 // --ctevents: bits by ctEvents
	expectEvents bool   // --expevents
}

// ctEvents are the names of --ctevents, in the order of printing.
var ctEvents = []string{"new", "related", "destroy", "reply", "assured", "protoinfo", "helper", "mark", "natseqinfo", "secmark"}

// ctHelpers are the helpers that -j CT --helper may name, with the transports and IP versions that Linux has them for
// (nf_conntrack_{ftp,tftp,irc,sip,pptp}.c).
var ctHelpers = []struct {
	name   string
	protos []uint8
	family Family
}{
	{"ftp", []uint8{protoTCP}, Both}, {"tftp", []uint8{protoUDP}, Both}, {"irc", []uint8{protoTCP}, IPv4},
	{"sip", []uint8{protoTCP, protoUDP}, Both}, {"pptp", []uint8{protoTCP}, IPv4},
}

// otherHelpers are Linux' helpers that there are none of here. Rule files that firewall tools write name all that there are: they
// are taken with a warning, for without a helper a connection expects none and what comes after is NEW, which only lets less pass.
var otherHelpers = []string{"RAS", "Q.931", "H.245", "h323", "amanda", "netbios-ns", "snmp", "sane"}

// Name returns "CT" or "NOTRACK".
func (t *CTTarget) Name() string { return t.target }

// AppendSave implements Extension.
func (t *CTTarget) AppendSave(b []byte) []byte {
	if t.target == "NOTRACK" {
		return b
	}
	if t.NoTrack {
		b = append(b, " --notrack"...)
	}
	if name := cmp.Or(t.Helper, t.lacking); name != "" {
		b = appendQuotedName(append(b, " --helper "...), name)
	}
	if t.Timeout != "" {
		b = appendQuotedName(append(b, " --timeout "...), t.Timeout)
	}
	if t.events != 0 {
		b = append(b, " --ctevents "...)
		for k, name := range ctEvents {
			if t.events>>k&1 != 0 {
				b = append(append(b, name...), ',')
			}
		}
		b = b[:len(b)-1]
	}
	if t.expectEvents {
		b = append(b, " --expevents new"...)
	}
	if t.HasZone && t.Zone != 0 {
		b = strconv.AppendUint(append(b, " --zone "...), uint64(t.Zone), 10)
	}
	return b
}

var ctTarget = module{name: "CT", family: Both, make: func() Extension { return &CTTarget{target: "CT"} }, options: []option{
	{"notrack", 1, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*CTTarget).NoTrack = true }},
	{"helper", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { rp.ctHelper(m.(*CTTarget), a[0]) }},
	{"timeout", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		if a[0].text == "" || len(a[0].text) > 31 { // XT_CT timeout[32] in xt_CT.h
			rp.fail(a[0].col, a[0].text, "the name of a timeout policy, of 1 to 31 bytes", "")
		}
		m.(*CTTarget).Timeout = a[0].text
		rp.needsProtocol(a[0].col, "--timeout "+a[0].text)
	}},
	{"ctevents", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t, col := m.(*CTTarget), a[0].col
		for name := range strings.SplitSeq(a[0].text, ",") {
			known := false
			for k, n := range ctEvents {
				if n == name {
					t.events |= 1 << k
					known = true
				}
			}
			if !known {
				rp.fail(col, name, "an event: "+strings.Join(ctEvents, ", "), rp.didYouMean(name, ctEvents))
				return
			}
			col += len(name) + 1
		}
		rp.p.warn(rp.p.pos(a[0].col), "--ctevents ignored: who listens chooses the events")
	}},
	{"expevents", 5, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		if a[0].text != "new" {
			rp.fail(a[0].col, a[0].text, "the event new", "")
		}
		m.(*CTTarget).expectEvents = true
		rp.p.warn(rp.p.pos(a[0].col), "--expevents ignored: who listens chooses the events")
	}},
	{"zone", 6, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t := m.(*CTTarget)
		if a[0].text == "mark" {
			rp.fail(a[0].col, "mark", "a zone from 0 to 65535", "a packet has no mark before the raw table")
			return
		}
		v, err := parseNumber(a[0].text, 65535)
		if err != nil {
			rp.fail(a[0].col, a[0].text, "a zone from 0 to 65535", "")
		}
		t.Zone, t.HasZone = uint16(v), true
	}},
	{"zone-orig", 7, 1, false, refuseZone}, {"zone-reply", 8, 1, false, refuseZone},
}, finish: onlyRaw}

var notrackTarget = module{name: "NOTRACK", family: Both, make: func() Extension { return &CTTarget{target: "NOTRACK", NoTrack: true} }, finish: onlyRaw}

func refuseZone(rp *ruleParser, _ Extension, _ bool, a []token) {
	rp.fail(a[0].col, a[0].text, "--zone, for both directions", "nothing is translated here: a connection is in one zone")
}

// onlyRaw refuses a target outside of the raw table.
func onlyRaw(rp *ruleParser, l *loaded) {
	if rp.p.table.Name != "raw" {
		rp.fail(l.col, "-j "+l.mod.name, "it in table raw", "elsewhere the packet has been tracked already")
	}
}

// needsProtocol notes that the rule needs -p, of which xt_CT.c makes sure.
func (rp *ruleParser) needsProtocol(col int, what string) {
	if rp.protoCol == 0 {
		rp.protoCol, rp.protoFor = col, what
	}
}

// ctHelper reads a helper's name.
func (rp *ruleParser) ctHelper(t *CTTarget, a token) {
	rp.needsProtocol(a.col, "--helper "+a.text)
	if slices.Contains(otherHelpers, a.text) {
		t.lacking = a.text
		rp.p.warn(rp.p.pos(a.col), "--helper "+a.text+" ignored: there is no such helper here, so that what its connections announce is NEW, not RELATED")
		return
	}
	t.Helper = a.text
	var names []string
	for _, h := range ctHelpers {
		if h.name == a.text {
			return
		}
		names = append(names, h.name)
	}
	rp.fail(a.col, a.text, "a helper: "+strings.Join(names, ", "), rp.didYouMean(a.text, names))
}

// finishHook checks what a rule's parts must not be in its table or base chain, as iptables does (generic_opt_check) and
// the kernel (struct xt_target.table).
func (rp *ruleParser) finishHook() {
	r := &rp.rule
	table := rp.p.table.Name
	if r.Target.Verb == VerbReject && table != "filter" {
		rp.fail(r.Target.Pos.Col, "-j REJECT", "it in table filter", "in table "+table+" there is DROP")
	}
	if table == "raw" {
		return
	}
	switch {
	case r.Out.Pos.Line != 0 && rp.chain == "PREROUTING":
		rp.fail(r.Out.Pos.Col, "-o "+r.Out.Name, "no -o in PREROUTING", "PREROUTING comes before the way out is known; use -i")
	case r.In.Pos.Line != 0 && rp.chain == "POSTROUTING":
		rp.fail(r.In.Pos.Col, "-i "+r.In.Name, "no -i in POSTROUTING", "Linux does not tell POSTROUTING where the packet came from; use -o, or mangle's FORWARD")
	}
}

// finishRaw checks what the rule's parts must not be in table raw, before tracking and before the way out is known, and
// what the CT target needs of the rest of the rule.
func (rp *ruleParser) finishRaw() {
	r := &rp.rule
	early := func(what string) {
		rp.fail(r.Pos.Col, what, "something that is known before tracking", "table raw comes before it, where no packet has a connection yet")
	}
	if r.Out.Pos.Line != 0 {
		rp.fail(r.Out.Pos.Col, "-o "+r.Out.Name, "no -o in table raw", "PREROUTING comes before the way out is known; use -i")
	}
	for _, m := range r.Matches {
		switch m := m.(type) {
		case *ConntrackMatch:
			early("-m " + m.Name())
		case *ConnlimitMatch:
			early("-m connlimit")
		case *MarkMatch:
			if m.module == "connmark" {
				early("-m connmark")
			}
		case *PhysdevMatch:
			if m.Out.Pos.Line != 0 {
				rp.fail(m.Out.Pos.Col, "--physdev-out "+m.Out.Name, "no --physdev-out in table raw", "PREROUTING comes before the way out is known; use --physdev-in")
			}
		}
	}
	t := r.Target.CT
	if t == nil || rp.failed {
		return
	}
	if rp.protoCol != 0 && (!rp.protoSet || r.Proto.Not || r.Proto.Num == 0) {
		rp.fail(rp.protoCol, rp.protoFor, "-p without ! before it", "it is for one protocol")
		return
	}
	for _, h := range ctHelpers {
		if h.name != t.Helper {
			continue
		}
		fits := false
		var names []string
		for _, n := range h.protos {
			fits = fits || n == r.Proto.Num
			names = append(names, "-p "+protocolName(n))
		}
		if !fits {
			rp.fail(rp.protoCol, rp.protoFor, strings.Join(names, " or ")+" with helper "+h.name, "")
			return
		}
		rp.restrict(h.family, rp.protoCol, "--helper "+h.name)
	}
}
