package rules

import (
	"strings"

	"corewire/internal/packet"
)

// AddrTypes are types of addresses, as bits.
type AddrTypes uint8

// A transparent wire has no addresses and no routes of its own. What the kernel knows of an address without them is
// left: BROADCAST is 255.255.255.255 and 0.0.0.0, MULTICAST 224.0.0.0/4 and ff00::/8, LOCAL the loopback addresses,
// UNICAST the rest (net/ipv4/fib_frontend.c, __inet_dev_addr_type; include/linux/in.h, ipv4_is_zeronet since Linux 5.3).
const (
	TypeUnspec AddrTypes = 1 << iota
	TypeUnicast
	TypeLocal
	TypeBroadcast
	TypeAnycast
	TypeMulticast
)

var addrTypeNames = []struct {
	name string
	bit  AddrTypes
}{{"UNSPEC", TypeUnspec}, {"UNICAST", TypeUnicast}, {"LOCAL", TypeLocal}, {"BROADCAST", TypeBroadcast}, {"ANYCAST", TypeAnycast}, {"MULTICAST", TypeMulticast}}

// AddrTypeMatch is -m addrtype.
type AddrTypeMatch struct {
	Src, Dst           AddrTypes
	SrcNot, DstNot     bool
	LimitIn, LimitOut  bool // --limit-iface-in, -out
	srcAsked, dstAsked bool
}

var addrtypeModule = module{name: "addrtype", family: Both, make: func() Extension { return &AddrTypeMatch{} }, options: []option{
	{"src-type", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*AddrTypeMatch)
		x.Src, x.SrcNot, x.srcAsked = rp.addrTypes(a[0]), not, true
	}},
	{"dst-type", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*AddrTypeMatch)
		x.Dst, x.DstNot, x.dstAsked = rp.addrTypes(a[0]), not, true
	}},
	{"limit-iface-in", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*AddrTypeMatch).LimitIn = true }},
	{"limit-iface-out", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*AddrTypeMatch).LimitOut = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	if l.seen&(1<<1|1<<2) == 0 {
		rp.fail(l.col, "-m addrtype", "--src-type or --dst-type after -m addrtype", "")
	}
	switch m := l.m.(*AddrTypeMatch); { // addrtype_mt_checkentry_v1
	case m.LimitIn && rp.chain == "POSTROUTING":
		rp.fail(l.col, "--limit-iface-in", "it in PREROUTING or FORWARD", "Linux refuses it behind routing")
	case m.LimitOut && rp.chain == "PREROUTING":
		rp.fail(l.col, "--limit-iface-out", "it in FORWARD or POSTROUTING", "PREROUTING comes before the way out is known")
	}
}}

// Name returns "addrtype".
func (m *AddrTypeMatch) Name() string { return "addrtype" }

// AppendSave implements Extension.
func (m *AddrTypeMatch) AppendSave(b []byte) []byte {
	if m.srcAsked {
		b = m.Src.append(append(appendNot(b, m.SrcNot), " --src-type "...))
	}
	if m.dstAsked {
		b = m.Dst.append(append(appendNot(b, m.DstNot), " --dst-type "...))
	}
	if m.LimitIn {
		b = append(b, " --limit-iface-in"...)
	}
	if m.LimitOut {
		b = append(b, " --limit-iface-out"...)
	}
	return b
}

func (m *AddrTypeMatch) compile(c *compiler) {
	limited := uint32(0)
	if m.LimitIn || m.LimitOut {
		limited = 1
	}
	if m.srcAsked {
		c.ask(pred{op: opType, not: m.SrcNot, lo: 0, hi: uint16(m.Src), a: limited})
	}
	if m.dstAsked {
		c.ask(pred{op: opType, not: m.DstNot, lo: 1, hi: uint16(m.Dst), a: limited})
	}
}

func (t AddrTypes) append(b []byte) []byte {
	sep := false
	for _, n := range addrTypeNames {
		if t&n.bit != 0 {
			if sep {
				b = append(b, ',')
			}
			sep = true
			b = append(b, n.name...)
		}
	}
	return b
}

func (rp *ruleParser) addrTypes(a token) (t AddrTypes) {
	col := a.col
	for _, w := range strings.Split(a.text, ",") {
		found := false
		var names []string
		for _, n := range addrTypeNames {
			names = append(names, n.name)
			if strings.EqualFold(n.name, w) {
				t |= n.bit
				found = true
			}
		}
		if t&TypeBroadcast != 0 {
			rp.restrict(IPv4, a.col, "BROADCAST") // IPv6 has none, and the kernel refuses it
		}
		if !found {
			hint := rp.didYouMean(strings.ToUpper(w), names)
			switch strings.ToUpper(w) {
			case "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE":
				hint = "a transparent wire has no routes"
			}
			rp.fail(col, w, "types of addresses: UNSPEC, UNICAST, LOCAL, BROADCAST, ANYCAST or MULTICAST", hint)
			return t
		}
		col += len(w) + 1
	}
	return t
}

// typeOf returns the type of an address; of an IPv6 address the types, and none for an IPv4-mapped one
// (net/netfilter/xt_addrtype.c; net/ipv6/addrconf_core.c, __ipv6_addr_type). With one interface only, the loopback
// addresses are not LOCAL: they belong to another one. 127.255.255.255 is what 127.0.0.1/8 broadcasts to (fib_add_ifaddr,
// net/ipv4/fib_frontend.c).
func typeOf(a packet.Addr, family uint8, limited bool) AddrTypes {
	if family == 6 {
		switch {
		case a.Hi|a.Lo == 0:
			return TypeUnspec
		case a.Hi>>56 == 0xff:
			return TypeMulticast
		case a.Hi == 0 && a.Lo == 1 && !limited:
			return TypeUnicast | TypeLocal
		case a.Hi == 0 && a.Lo>>32 == 0xffff:
			return 0
		}
		return TypeUnicast
	}
	v := uint32(a.Lo)
	switch {
	case v == 0 || v == 1<<32-1 || v == 0x7fffffff && !limited:
		return TypeBroadcast
	case v>>28 == 0xe:
		return TypeMulticast
	case v>>24 == 127 && !limited:
		return TypeLocal
	}
	return TypeUnicast
}

// oneOf says whether an address is of one of the types asked for. For IPv6 it must be all of those that the address
// itself tells, MULTICAST, UNICAST and UNSPEC, and one of those that a route tells (match_type6).
func (t AddrTypes) oneOf(asked AddrTypes, family uint8) bool {
	const told = TypeMulticast | TypeUnicast | TypeUnspec
	if family == 4 {
		return t&asked != 0
	}
	return asked&told&^t == 0 && (asked&^told == 0 || asked&t&^told != 0)
}
