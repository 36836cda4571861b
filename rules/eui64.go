package rules

import "corewire/internal/packet"

// EUI64Match is -m eui64: the lower half of the sender's IPv6 address is made of its MAC address (RFC 4291 appendix A).
type EUI64Match struct{}

var eui64Module = module{name: "eui64", family: IPv6, make: func() Extension { return &EUI64Match{} }, finish: func(rp *ruleParser, l *loaded) {
	if rp.chain == "POSTROUTING" { // hooks of net/ipv6/netfilter/ip6t_eui64.c
		rp.fail(l.col, "-m eui64", "it in PREROUTING or FORWARD", "Linux refuses it behind routing")
	}
}}

// Name returns "eui64".
func (m *EUI64Match) Name() string { return "eui64" }

// AppendSave implements Extension.
func (m *EUI64Match) AppendSave(b []byte) []byte { return b }

func (m *EUI64Match) compile(c *compiler) { c.ask(pred{op: opEUI64}) }

// eui64 follows eui64_mt6 of net/ipv6/netfilter/ip6t_eui64.c.
func eui64(p *packet.Packet) bool {
	if p.L3 < 12 {
		return false
	}
	m := p.Frame[6:12]
	return p.Src.Lo == uint64(m[0]^2)<<56|uint64(m[1])<<48|uint64(m[2])<<40|0xfffe<<24|uint64(m[3])<<16|uint64(m[4])<<8|uint64(m[5])
}

// AppendList implements lister, as iptables-legacy prints it; iptables-nft prints nothing.
func (m *EUI64Match) AppendList(b []byte) []byte { return append(b, "eui64 "...) }
