package ipset

import (
	"strconv"
	"strings"
)

// protocols are the names of transport protocols, as /etc/protocols of Debian 12 has them: what ipset writes, and reads.
var protocols = map[uint8]string{
	1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", 6: "tcp", 8: "egp", 9: "igp", 12: "pup", 17: "udp", 20: "hmp", 22: "xns-idp", 27: "rdp",
	29: "iso-tp4", 33: "dccp", 36: "xtp", 37: "ddp", 38: "idpr-cmtp", 41: "ipv6", 43: "ipv6-route", 44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47: "gre",
	50: "esp", 51: "ah", 57: "skip", 58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts", 73: "rspf", 81: "vmtp", 88: "eigrp", 89: "ospf", 93: "ax.25",
	94: "ipip", 97: "etherip", 98: "encap", 103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 124: "isis", 132: "sctp", 133: "fc",
	135: "mobility-header", 136: "udplite", 137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141: "wesp", 142: "rohc", 143: "ethernet",
}

// protocolNumber reads a protocol by name or number.
func protocolNumber(s string) (uint8, bool) {
	if strings.EqualFold(s, "icmpv6") {
		return 58, true
	}
	if v, err := strconv.ParseUint(s, 10, 8); err == nil {
		return uint8(v), true
	}
	for n, name := range protocols {
		if strings.EqualFold(s, name) {
			return n, true
		}
	}
	return 0, false
}

func protocolText(n uint8) string {
	if s, ok := protocols[n]; ok {
		return s
	}
	return strconv.Itoa(int(n))
}

// icmpName is a name for a type and code. Of several, the first is written.
type icmpName struct {
	name      string
	typ, code uint8
}

func icmpNames(v6 bool) []icmpName {
	if v6 {
		return icmp6[:]
	}
	return icmp4[:]
}

// icmp4 are the names that `ipset help hash:ip,port` lists, with RFC 792's and RFC 1812's numbers.
var icmp4 = [...]icmpName{
	{"echo-reply", 0, 0}, {"pong", 0, 0},
	{"network-unreachable", 3, 0}, {"host-unreachable", 3, 1}, {"protocol-unreachable", 3, 2}, {"port-unreachable", 3, 3},
	{"fragmentation-needed", 3, 4}, {"source-route-failed", 3, 5}, {"network-unknown", 3, 6}, {"host-unknown", 3, 7},
	{"network-prohibited", 3, 9}, {"host-prohibited", 3, 10}, {"TOS-network-unreachable", 3, 11}, {"TOS-host-unreachable", 3, 12},
	{"communication-prohibited", 3, 13}, {"host-precedence-violation", 3, 14}, {"precedence-cutoff", 3, 15},
	{"source-quench", 4, 0},
	{"network-redirect", 5, 0}, {"host-redirect", 5, 1}, {"TOS-network-redirect", 5, 2}, {"TOS-host-redirect", 5, 3},
	{"echo-request", 8, 0}, {"ping", 8, 0}, {"router-advertisement", 9, 0}, {"router-solicitation", 10, 0},
	{"ttl-zero-during-transit", 11, 0}, {"ttl-zero-during-reassembly", 11, 1},
	{"ip-header-bad", 12, 0}, {"required-option-missing", 12, 1},
	{"timestamp-request", 13, 0}, {"timestamp-reply", 14, 0}, {"address-mask-request", 17, 0}, {"address-mask-reply", 18, 0},
}

// icmp6 are those of ICMPv6, with RFC 4443's and RFC 4861's numbers.
var icmp6 = [...]icmpName{
	{"no-route", 1, 0}, {"communication-prohibited", 1, 1}, {"address-unreachable", 1, 3}, {"port-unreachable", 1, 4},
	{"packet-too-big", 2, 0}, {"ttl-zero-during-transit", 3, 0}, {"ttl-zero-during-reassembly", 3, 1},
	{"bad-header", 4, 0}, {"unknown-header-type", 4, 1}, {"unknown-option", 4, 2},
	{"echo-request", 128, 0}, {"ping", 128, 0}, {"echo-reply", 129, 0}, {"pong", 129, 0},
	{"router-solicitation", 133, 0}, {"router-advertisement", 134, 0},
	{"neighbour-solicitation", 135, 0}, {"neigbour-solicitation", 135, 0}, {"neighbour-advertisement", 136, 0}, {"neigbour-advertisement", 136, 0},
	{"redirect", 137, 0},
}
