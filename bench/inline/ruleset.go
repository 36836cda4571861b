package main

import (
	"bytes"
	_ "embed"
	"fmt"
)

//go:embed bench.rules
var ruleFile []byte

// blocked is the line of bench.rules that the rules of --rules stand before.
const blocked = "-A FORWARD -s 192.0.2.0/24 -j DROP\n"

// blockedHost is what the i-th of them asks for: a host and a port that no frame here has.
func blockedHost(i int) (addr string, port int) {
	return fmt.Sprintf("172.%d.%d.%d", 16+i>>16, i>>8&255, i&255), 1024 + i%60_000
}

// iptablesRules returns bench.rules with n rules more that do not match, in front of those that do.
func iptablesRules(n int) []byte {
	var more bytes.Buffer
	for i := range n {
		addr, port := blockedHost(i)
		fmt.Fprintf(&more, "-A FORWARD -s %s/32 -p udp -m udp --dport %d -j DROP\n", addr, port)
	}
	return bytes.Replace(ruleFile, []byte(blocked), append(more.Bytes(), blocked...), 1)
}

// nftRules returns the same rules in nft's language, the n of them as rules, or as one rule with a set.
func nftRules(n int, set bool) []byte {
	var b bytes.Buffer
	b.WriteString("table ip bench {\n")
	if set && n > 0 {
		b.WriteString("\tset blocked {\n\t\ttype ipv4_addr . inet_service\n\t\telements = {")
		for i := range n {
			addr, port := blockedHost(i)
			fmt.Fprintf(&b, " %s . %d,", addr, port)
		}
		b.WriteString(" }\n\t}\n")
	}
	b.WriteString("\tchain services {\n\t\ttcp dport { 22, 80, 443 } accept\n\t\tudp dport 53 accept\n\t\ttcp dport 9000 accept\n\t\tudp dport 9000 accept\n\t}\n")
	b.WriteString("\tchain forward {\n\t\ttype filter hook forward priority 0; policy drop;\n\t\tct state established,related accept\n\t\tct state invalid drop\n")
	switch {
	case set && n > 0:
		b.WriteString("\t\tip saddr . udp dport @blocked drop\n")
	default:
		for i := range n {
			addr, port := blockedHost(i)
			fmt.Fprintf(&b, "\t\tip saddr %s udp dport %d drop\n", addr, port)
		}
	}
	b.WriteString("\t\tip saddr 192.0.2.0/24 drop\n\t\ticmp type echo-request accept\n\t\tip daddr 10.73.0.0/24 ct state new jump services\n\t}\n}\n")
	return b.Bytes()
}
