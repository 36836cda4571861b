package rules

import "strings"

// protocols are the names that -p knows, as iptables resolves and prints them: its own list (iptables/xshared.c,
// xtables_chain_protos) and those names of the IANA registry (protocol-numbers) that /etc/protocols carries on common
// systems. The first name of a number is the one that is printed.
var protocols = []struct {
	name string
	num  uint8
}{
	{"tcp", 6}, {"udp", 17}, {"udplite", 136}, {"icmp", 1}, {"ipv6-icmp", 58}, {"icmpv6", 58}, {"icmp6", 58},
	{"esp", 50}, {"ah", 51}, {"sctp", 132}, {"dccp", 33}, {"mobility-header", 135}, {"ipv6-mh", 135}, {"mh", 135}, {"all", 0},
	{"ip", 0}, {"hopopt", 0}, {"igmp", 2}, {"ggp", 3}, {"ipencap", 4}, {"st", 5}, {"egp", 8}, {"igp", 9}, {"pup", 12},
	{"hmp", 20}, {"xns-idp", 22}, {"rdp", 27}, {"iso-tp4", 29}, {"xtp", 36}, {"ddp", 37}, {"idpr-cmtp", 38},
	{"ipv6", 41}, {"ipv6-route", 43}, {"ipv6-frag", 44}, {"idrp", 45}, {"rsvp", 46}, {"gre", 47}, {"ipsec-esp", 50}, {"ipsec-ah", 51},
	{"skip", 57}, {"ipv6-nonxt", 59}, {"ipv6-opts", 60}, {"rspf", 73}, {"vmtp", 81}, {"eigrp", 88}, {"ospf", 89}, {"ax.25", 93},
	{"ipip", 94}, {"etherip", 97}, {"encap", 98}, {"pim", 103}, {"ipcomp", 108}, {"vrrp", 112}, {"l2tp", 115}, {"isis", 124},
	{"fc", 133}, {"mpls-in-ip", 137}, {"manet", 138}, {"hip", 139}, {"shim6", 140}, {"wesp", 141}, {"rohc", 142}, {"ethernet", 143},
}

// Numbers of the protocols that have a match module.
const (
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	protoDCCP    = 33
	protoICMPv6  = 58
	protoSCTP    = 132
	protoUDPLite = 136
	protoIPComp  = 108
)

// protocolNames lists the names for hints.
func protocolNames() []string {
	out := make([]string, 0, len(protocols))
	for _, p := range protocols {
		out = append(out, p.name)
	}
	return out
}

// parseProtocol reads a protocol's number or name.
func parseProtocol(s string) (uint8, bool) {
	if v, err := parseNumber(s, 255); err == nil {
		return uint8(v), true
	}
	return lookupProtocol(strings.ToLower(s))
}

// lookupProtocol finds a protocol by its lower-case name.
func lookupProtocol(name string) (uint8, bool) {
	for _, p := range protocols {
		if p.name == name {
			return p.num, true
		}
	}
	return 0, false
}

// protocolName returns the name that iptables-save prints for a number, "" when it prints the number.
func protocolName(num uint8) string {
	if num == 0 {
		return ""
	}
	for _, p := range protocols {
		if p.num == num {
			return p.name
		}
	}
	return ""
}

// icmpTypes are the names of -m icmp --icmp-type (IANA icmp-parameters, in iptables' spelling: extensions/libxt_icmp.h).
var icmpTypes = []icmpName{
	{"any", 255, 0, 255}, {"echo-reply", 0, 0, 255}, {"pong", 0, 0, 255},
	{"destination-unreachable", 3, 0, 255},
	{"network-unreachable", 3, 0, 0}, {"host-unreachable", 3, 1, 1}, {"protocol-unreachable", 3, 2, 2}, {"port-unreachable", 3, 3, 3},
	{"fragmentation-needed", 3, 4, 4}, {"source-route-failed", 3, 5, 5}, {"network-unknown", 3, 6, 6}, {"host-unknown", 3, 7, 7},
	{"network-prohibited", 3, 9, 9}, {"host-prohibited", 3, 10, 10}, {"TOS-network-unreachable", 3, 11, 11}, {"TOS-host-unreachable", 3, 12, 12},
	{"communication-prohibited", 3, 13, 13}, {"host-precedence-violation", 3, 14, 14}, {"precedence-cutoff", 3, 15, 15},
	{"source-quench", 4, 0, 255}, {"redirect", 5, 0, 255}, {"network-redirect", 5, 0, 0}, {"host-redirect", 5, 1, 1},
	{"TOS-network-redirect", 5, 2, 2}, {"TOS-host-redirect", 5, 3, 3}, {"echo-request", 8, 0, 255}, {"ping", 8, 0, 255},
	{"router-advertisement", 9, 0, 255}, {"router-solicitation", 10, 0, 255},
	{"time-exceeded", 11, 0, 255}, {"ttl-exceeded", 11, 0, 255}, {"ttl-zero-during-transit", 11, 0, 0}, {"ttl-zero-during-reassembly", 11, 1, 1},
	{"parameter-problem", 12, 0, 255}, {"ip-header-bad", 12, 0, 0}, {"required-option-missing", 12, 1, 1},
	{"timestamp-request", 13, 0, 255}, {"timestamp-reply", 14, 0, 255}, {"address-mask-request", 17, 0, 255}, {"address-mask-reply", 18, 0, 255},
}

// icmpv6Types are the names of -m icmp6 --icmpv6-type (IANA icmpv6-parameters, in iptables' spelling).
var icmpv6Types = []icmpName{
	{"destination-unreachable", 1, 0, 255}, {"no-route", 1, 0, 0}, {"communication-prohibited", 1, 1, 1}, {"beyond-scope", 1, 2, 2},
	{"address-unreachable", 1, 3, 3}, {"port-unreachable", 1, 4, 4}, {"failed-policy", 1, 5, 5}, {"reject-route", 1, 6, 6},
	{"packet-too-big", 2, 0, 255}, {"time-exceeded", 3, 0, 255}, {"ttl-exceeded", 3, 0, 255}, {"ttl-zero-during-transit", 3, 0, 0},
	{"ttl-zero-during-reassembly", 3, 1, 1}, {"parameter-problem", 4, 0, 255}, {"bad-header", 4, 0, 0}, {"unknown-header-type", 4, 1, 1},
	{"unknown-option", 4, 2, 2}, {"echo-request", 128, 0, 255}, {"ping", 128, 0, 255}, {"echo-reply", 129, 0, 255}, {"pong", 129, 0, 255},
	{"mld-listener-query", 130, 0, 255}, {"mld-listener-report", 131, 0, 255}, {"mld-listener-done", 132, 0, 255}, {"mld-listener-reduction", 132, 0, 255},
	{"router-solicitation", 133, 0, 255}, {"router-advertisement", 134, 0, 255}, {"neighbour-solicitation", 135, 0, 255},
	{"neighbor-solicitation", 135, 0, 255}, {"neighbour-advertisement", 136, 0, 255}, {"neighbor-advertisement", 136, 0, 255}, {"redirect", 137, 0, 255},
}

type icmpName struct {
	name             string
	typ              uint8
	minCode, maxCode uint8
}
