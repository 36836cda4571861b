package packet

// Problem says why an IP packet is malformed. The zero value means that nothing was found.
//
// There are two kinds, told apart by Header. Header problems are those for which Linux drops a bridged packet before
// any rule sees it: br_validate_ipv4 (net/bridge/br_netfilter_hooks.c), which checks what ip_rcv_core does
// (net/ipv4/ip_input.c), br_validate_ipv6 (net/bridge/br_netfilter_ipv6.c), nf_ct_frag6_gather
// (net/ipv6/netfilter/nf_conntrack_reasm.c). With the others connection tracking calls the packet INVALID, and the
// rules decide.
type Problem uint8

const (
	// ProblemNone: the packet is well formed as far as Parse looks.
	ProblemNone Problem = iota

	// ProblemIPShort: the frame ends within the fixed IP header.
	ProblemIPShort
	// ProblemIPVersion: the version is not the one that the EtherType names.
	ProblemIPVersion
	// ProblemIPHeaderLength: the IPv4 header length is below 20 or beyond the frame's end.
	ProblemIPHeaderLength
	// ProblemIPChecksum: the IPv4 header checksum is wrong.
	ProblemIPChecksum
	// ProblemIPLength: total length or payload length go beyond the frame's end, or end within the header.
	ProblemIPLength
	// ProblemHopByHop: the IPv6 hop-by-hop header is cut off, an option exceeds it, or a jumbo payload option is
	// wrong (nf_ip6_check_hbh_len, net/netfilter/utils.c; RFC 2675).
	ProblemHopByHop
	// ProblemFragmentHeader: the IPv6 fragment header is cut off, or nothing at all follows it.
	ProblemFragmentHeader

	// ProblemLinkShort: the frame ends within a VLAN tag or a PPPoE session header; see cutOff.
	ProblemLinkShort

	// ProblemExtHeader: an IPv6 extension header is cut off, the chain ends with No Next Header, or a fragment header with
	// an offset is a second one or not fit to be held: no transport protocol can be found (ipv6_skip_exthdr, net/ipv6/exthdrs_core.c).
	ProblemExtHeader
	// ProblemTCPShort: fewer than 20 bytes of TCP.
	ProblemTCPShort
	// ProblemTCPOffset: the TCP data offset is below 5 words or beyond the packet's end.
	ProblemTCPOffset
	// ProblemUDPShort: fewer than 8 bytes of UDP or UDPLite.
	ProblemUDPShort
	// ProblemUDPLength: the UDP length is below 8 or beyond the packet's end.
	ProblemUDPLength
	// ProblemUDPLiteCoverage: the UDPLite coverage is between 1 and 7 or beyond the packet's end, RFC 3828 section 3.1.
	ProblemUDPLiteCoverage
	// ProblemUDPLiteNoChecksum: the UDPLite checksum is 0, which RFC 3828 section 3.1 forbids.
	ProblemUDPLiteNoChecksum
	// ProblemSCTPShort: fewer than 12 bytes of SCTP.
	ProblemSCTPShort
	// ProblemICMPShort: fewer than 8 bytes of ICMP or ICMPv6, or an ICMPv6 redirect that is cut off.
	ProblemICMPShort
	// ProblemICMPType: neither query, reply, error nor neighbour discovery: no connection can come from it.
	ProblemICMPType
	// ProblemICMPFamily: ICMP in IPv6 or ICMPv6 in IPv4.
	ProblemICMPFamily
	// ProblemICMPRedirect: an ICMPv6 redirect not from a link-local router with hop limit 255, with a code, or
	// without the redirected packet (nf_conntrack_icmpv6_redirect; RFC 4861 section 8.1).
	ProblemICMPRedirect
	// ProblemICMPQuote: the packet that an ICMP error quotes is cut off before its ports, is a fragment other than the
	// first, or is itself an ICMP message that is no query or reply.
	ProblemICMPQuote
	// ProblemICMPQuoteAddr: an ICMP error was not sent to the source of the packet that it quotes
	// (nf_conntrack_inet_error compares them; without address translation that needs no connection).
	ProblemICMPQuoteAddr
	// ProblemGREProtocol: a version 1 GRE header that does not carry PPP, RFC 2637 section 4.1.
	ProblemGREProtocol

	Problems // number of problems
)

// problemNames are the spellings of the drop reasons and invalid reasons that metrics and listings show.
var problemNames = [Problems]string{
	ProblemNone:              "",
	ProblemIPShort:           "ip-short",
	ProblemIPVersion:         "ip-version",
	ProblemIPHeaderLength:    "ip-header-length",
	ProblemIPChecksum:        "ip-checksum",
	ProblemIPLength:          "ip-length",
	ProblemHopByHop:          "ipv6-hop-by-hop",
	ProblemFragmentHeader:    "ipv6-fragment-header",
	ProblemLinkShort:         "link-short",
	ProblemExtHeader:         "ipv6-ext-header",
	ProblemTCPShort:          "tcp-short",
	ProblemTCPOffset:         "tcp-offset",
	ProblemUDPShort:          "udp-short",
	ProblemUDPLength:         "udp-length",
	ProblemUDPLiteCoverage:   "udplite-coverage",
	ProblemUDPLiteNoChecksum: "udplite-no-checksum",
	ProblemSCTPShort:         "sctp-short",
	ProblemICMPShort:         "icmp-short",
	ProblemICMPType:          "icmp-type",
	ProblemICMPFamily:        "icmp-family",
	ProblemICMPRedirect:      "icmp-redirect",
	ProblemICMPQuote:         "icmp-quote",
	ProblemICMPQuoteAddr:     "icmp-quote-address",
	ProblemGREProtocol:       "gre-protocol",
}

// String returns the problem's spelling in metrics, listings and logs; "" for ProblemNone.
func (p Problem) String() string {
	if p < Problems {
		return problemNames[p]
	}
	return "unknown"
}

// Header reports whether the problem is one of the IP header, for which the wire drops the packet without asking the
// rules. Of a Packet with such a problem only Frame, In, Class, Family, VLAN and L3 are valid. All but ProblemLinkShort,
// whose frames are ClassOther, are those of IP packets.
func (p Problem) Header() bool { return p-1 < ProblemExtHeader-1 }
