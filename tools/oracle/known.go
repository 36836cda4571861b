package main

import (
	"bytes"
	"encoding/binary"
	"time"

	"corewire/internal/packet"
)

// skipped is the table of frames that say nothing about the firewall, because a bridge or a tap treats them in a way that
// no wire does. They are not sent. Neither are frames without a whole Ethernet header ("short"): a tap refuses them
// (tun_get_user, drivers/net/tun.c).
var skipped = []struct {
	name   string
	reason string // with the kernel's source
	match  func(frame []byte, p *packet.Packet) bool
}{
	{
		"pause", "no bridge passes MAC pause frames (br_handle_frame, net/bridge/br_input.c)",
		func(f []byte, _ *packet.Packet) bool { return bytes.Equal(f[:6], []byte{1, 0x80, 0xc2, 0, 0, 1}) },
	},
	{
		"long", "longer than a tap's largest MTU (is_skb_forwardable, net/core/dev.c)",
		func(f []byte, _ *packet.Packet) bool { return len(f) > tapMTU+packet.EthernetHeader },
	},
}

// skip returns the name of the row for a frame that cannot be compared; "" for every other.
func skip(frame []byte, p *packet.Packet) string {
	for _, row := range skipped {
		if row.match(frame, p) {
			return row.name
		}
	}
	return ""
}

// known is the table of differences that stay.
var known = []struct {
	name   string
	reason string // with the kernel's source
	match  func(c *comparison, p *packet.Packet, k *passage, d *decision) bool
}{
	{
		"cut tag", "a frame that ends within its VLAN tag is dropped on reception (skb_vlan_untag, net/core/skbuff.c); for the wire it is a frame of class other, which the " +
			"policy of that class can block",
		func(_ *comparison, p *packet.Packet, k *passage, d *decision) bool {
			return p.Class == packet.ClassOther && cutTag(p.Frame) && len(k.out) == 0
		},
	},
	{
		"nested tags", "br_netfilter looks behind one VLAN tag only (vlan_proto, net/bridge/br_netfilter_hooks.c): what has two passes a Linux bridge unseen by any rule",
		func(_ *comparison, p *packet.Packet, k *passage, d *decision) bool {
			return p.L3 > packet.EthernetHeader+4 && len(k.out) > 0 && len(k.sights) == 0
		},
	},
	{
		"two seconds", "an UDP connection becomes a stream when it is older than two seconds, which the kernel counts in jiffies (nf_conntrack_udp_packet, " +
			"net/netfilter/nf_conntrack_proto_udp.c): around that moment the sides' clocks decide",
		func(c *comparison, p *packet.Packet, k *passage, d *decision) bool {
			born, ok := c.born[p.Key]
			age := time.Duration(c.pace.now()-born) * time.Millisecond
			return ok && p.Proto == packet.ProtoUDP && (age-2*time.Second).Abs() < tolerance
		},
	},
	{
		"broken headers", "ip6_tables drops a packet whose extension headers cannot be followed at the first rule with -p (ip6_packet_match, net/ipv6/netfilter/ip6_tables.c); " +
			"here such a rule does not match, in the raw table neither. The packet is INVALID: with a rule that drops these first, both sides are equal",
		func(_ *comparison, p *packet.Packet, k *passage, d *decision) bool {
			return p.Problem == packet.ProblemExtHeader && len(k.out) == 0 && (len(k.sights) == 0 || k.sights[0].Entry == 0)
		},
	},
	{
		"late hop-by-hop", "br_validate_ipv6 runs again in the FORWARD hook (br_nf_forward_ip, net/bridge/br_netfilter_hooks.c) and finds bad hop-by-hop options that a " +
			"fragment header had hidden: both sides drop such a packet, but Linux lets it change its connection first",
		func(c *comparison, p *packet.Packet, k *passage, d *decision) bool { return c.late[ipv6Pair(p)] },
	},
}

// cutTag reports whether a frame ends within a VLAN tag or the two bytes behind it, which the kernel wants as well.
func cutTag(f []byte) bool {
	if len(f) < packet.EthernetHeader {
		return false
	}
	typ := binary.BigEndian.Uint16(f[12:])
	return (typ == packet.EtherTypeVLAN || typ == packet.EtherTypeQinQ) && len(f) < packet.EthernetHeader+4+2
}

// ipv6Pair returns the addresses of an IPv6 packet, the lower one first, also of one that was not parsed.
func ipv6Pair(p *packet.Packet) (pair [2]packet.Addr) {
	if p.Class != packet.ClassIPv6 || int(p.L3)+40 > len(p.Frame) {
		return pair
	}
	h := p.Frame[p.L3:]
	for i := range pair {
		at := h[8+16*i:]
		pair[i] = packet.Addr{Hi: binary.BigEndian.Uint64(at), Lo: binary.BigEndian.Uint64(at[8:])}
	}
	if pair[1].Hi < pair[0].Hi || pair[1].Hi == pair[0].Hi && pair[1].Lo < pair[0].Lo {
		pair[0], pair[1] = pair[1], pair[0]
	}
	return pair
}

// explain returns the name of the row that explains a difference; "" if there is none.
func (c *comparison) explain(p *packet.Packet, k *passage, d *decision) string {
	for _, row := range known {
		if row.match(c, p, k, d) {
			return row.name
		}
	}
	return ""
}
