package main

import (
	"bytes"
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
		"two seconds", "an UDP connection becomes a stream when it is older than two seconds, which the kernel counts in jiffies (nf_conntrack_udp_packet, " +
			"net/netfilter/nf_conntrack_proto_udp.c): around that moment the sides' clocks decide",
		func(c *comparison, p *packet.Packet, k *passage, d *decision) bool {
			born, ok := c.born[p.Key]
			age := time.Duration(c.pace.now()-born) * time.Millisecond
			return ok && p.Proto == packet.ProtoUDP && (age-2*time.Second).Abs() < tolerance
		},
	},
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
