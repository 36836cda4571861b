package rules

import (
	"strconv"
	"strings"
)

// shortOptions are iptables' one-letter options.
var shortOptions = map[byte]string{
	'p': "protocol", 's': "source", 'd': "destination", 'i': "in-interface", 'o': "out-interface", 'f': "fragment",
	'm': "match", 'j': "jump", 'g': "goto", 'c': "set-counters", '4': "ipv4", '6': "ipv6",
}

// coreOptions are the options that belong to no module; setCore carries them out by id.
var coreOptions = []option{
	{name: "protocol", id: 1, args: 1, not: true},
	{name: "proto", id: 1, args: 1, not: true},
	{name: "source", id: 2, args: 1, not: true},
	{name: "src", id: 2, args: 1, not: true},
	{name: "destination", id: 3, args: 1, not: true},
	{name: "dst", id: 3, args: 1, not: true},
	{name: "in-interface", id: 4, args: 1, not: true},
	{name: "out-interface", id: 5, args: 1, not: true},
	{name: "fragments", id: 6, not: true},
	{name: "fragment", id: 6, not: true},
	{name: "match", id: 7, args: 1},
	{name: "jump", id: 8, args: 1},
	{name: "goto", id: 9, args: 1},
	{name: "set-counters", id: 10, args: 1},
	{name: "ipv4", id: 11},
	{name: "ipv6", id: 12},
}

func (rp *ruleParser) setCore(head token, id uint8, not bool, args []token) {
	switch id {
	case 1:
		rp.setProtocol(not, args[0])
	case 2:
		if rp.srcs != nil {
			rp.fail(args[0].col, args[0].text, "-s once", "several addresses are written -s A,B")
			return
		}
		rp.srcs = rp.addresses(args[0], not)
	case 3:
		if rp.dsts != nil {
			rp.fail(args[0].col, args[0].text, "-d once", "several addresses are written -d A,B")
			return
		}
		rp.dsts = rp.addresses(args[0], not)
	case 4:
		rp.setInterface(&rp.rule.In, "-i", not, args[0])
	case 5:
		rp.setInterface(&rp.rule.Out, "-o", not, args[0])
	case 6:
		if rp.rule.Fragment != FragmentAny {
			rp.fail(head.col, head.text, "-f once", "")
		}
		rp.rule.Fragment = FragmentYes
		if not {
			rp.rule.Fragment = FragmentNo
		}
	case 7:
		rp.setMatch(args[0])
	case 8:
		rp.setTarget(args[0], VerbJump)
	case 9:
		rp.setTarget(args[0], VerbGoto)
	case 10:
		rp.setCounters(args[0])
	case 11:
		rp.restrict(IPv4, head.col, head.text)
	case 12:
		rp.restrict(IPv6, head.col, head.text)
	}
}

func (rp *ruleParser) setProtocol(not bool, a token) {
	if rp.protoSet {
		rp.fail(a.col, a.text, "-p once", "")
		return
	}
	rp.protoSet = true
	num, ok := parseProtocol(a.text)
	if !ok {
		rp.fail(a.col, a.text, "a protocol's name or number up to 255", rp.didYouMean(strings.ToLower(a.text), protocolNames()))
		return
	}
	if num == 0 && not {
		rp.fail(a.col, "! -p "+a.text, "a protocol after ! -p", "a rule for no protocol at all never matches")
		return
	}
	rp.rule.Proto = ProtoMatch{Pos: rp.p.pos(a.col), Num: num, Not: not}
}

func (rp *ruleParser) setInterface(m *InterfaceMatch, opt string, not bool, a token) {
	switch {
	case m.Pos.Line != 0:
		rp.fail(a.col, a.text, opt+" once", "")
	case a.text == "":
		rp.fail(a.col, "", "an interface name after "+opt, "")
	case len(a.text) > 15: // IFNAMSIZ - 1
		rp.fail(a.col, a.text, "an interface name of at most 15 bytes", "")
	default:
		*m = InterfaceMatch{Pos: rp.p.pos(a.col), Name: a.text, Not: not}
	}
}

// setCounters reads -c in its two forms, "-c packets bytes" and "-c packets,bytes".
func (rp *ruleParser) setCounters(a token) {
	first, second, comma := strings.Cut(a.text, ",")
	if !comma {
		if rp.i >= len(rp.toks) {
			rp.fail(rp.end, "", "two numbers after -c: packets and bytes", "")
			return
		}
		second = rp.toks[rp.i].text
		rp.i++
	}
	pk, err1 := strconv.ParseUint(first, 10, 64)
	by, err2 := strconv.ParseUint(second, 10, 64)
	if err1 != nil || err2 != nil {
		rp.fail(a.col, a.text, "two numbers after -c: packets and bytes", "")
		return
	}
	rp.rule.Counter, rp.rule.Counted = Counter{pk, by}, true
}
