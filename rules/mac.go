package rules

import (
	"fmt"
	"strings"
)

// MACMatch is -m mac: the sender's address in the Ethernet header.
type MACMatch struct {
	Addr [6]byte
	Not  bool
}

var macModule = module{name: "mac", family: Both, make: func() Extension { return &MACMatch{} }, options: []option{
	{"mac-source", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*MACMatch)
		x.Not = not
		parts := strings.Split(a[0].text, ":")
		ok := len(parts) == 6
		for k := 0; ok && k < 6; k++ {
			v, err := parseNumber("0x"+parts[k], 255)
			ok = err == nil && len(parts[k]) <= 2
			x.Addr[k] = byte(v)
		}
		if !ok {
			rp.fail(a[0].col, a[0].text, "a MAC address: six hexadecimal bytes with colons", "")
		}
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	needOption("mac-source")(rp, l)
	if rp.chain == "POSTROUTING" { // hooks of net/netfilter/xt_mac.c
		rp.fail(l.col, "-m mac", "it in PREROUTING or FORWARD", "Linux refuses it behind routing")
	}
}}

// Name returns "mac".
func (m *MACMatch) Name() string { return "mac" }

// AppendSave implements Extension.
func (m *MACMatch) AppendSave(b []byte) []byte {
	a := m.Addr
	return fmt.Appendf(appendNot(b, m.Not), " --mac-source %02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}

func (m *MACMatch) compile(c *compiler) {
	a := m.Addr
	c.ask(pred{op: opMAC, not: m.Not, b: uint32(a[0])<<8 | uint32(a[1]), a: uint32(a[2])<<24 | uint32(a[3])<<16 | uint32(a[4])<<8 | uint32(a[5])})
}

// PacketType is how the link layer addresses a frame.
type PacketType uint8

const (
	LinkUnicast PacketType = iota
	LinkBroadcast
	LinkMulticast
)

var packetTypeNames = []string{"unicast", "broadcast", "multicast"}

// PacketTypeMatch is -m pkttype: by the receiver's address in the Ethernet header.
type PacketTypeMatch struct {
	Type PacketType
	Not  bool
}

var pkttypeModule = module{name: "pkttype", family: Both, make: func() Extension { return &PacketTypeMatch{} }, options: []option{
	{"pkt-type", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		x := m.(*PacketTypeMatch)
		x.Not = not
		for k, n := range append(packetTypeNames, "host", "bcast", "mcast") { // iptables' other names
			if strings.EqualFold(n, a[0].text) {
				x.Type = PacketType(k % 3)
				return
			}
		}
		rp.fail(a[0].col, a[0].text, "unicast, broadcast or multicast", rp.didYouMean(strings.ToLower(a[0].text), packetTypeNames))
	}},
}, finish: needOption("pkt-type")}

// Name returns "pkttype".
func (m *PacketTypeMatch) Name() string { return "pkttype" }

// AppendSave implements Extension.
func (m *PacketTypeMatch) AppendSave(b []byte) []byte {
	return append(append(appendNot(b, m.Not), " --pkt-type "...), packetTypeNames[m.Type]...)
}

func (m *PacketTypeMatch) compile(c *compiler) {
	c.ask(pred{op: opLink, not: m.Not, lo: uint16(m.Type)})
}
