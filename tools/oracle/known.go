package main

import (
	"bytes"

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
		// Of an assured connection's packet Linux 6.18 adds nothing, but first throws out what has closed, the packet's own as well
		// if it was the last ACK or a RST; a count of 0 then means for xt_connlimit that memory ran out, and drops it. It throws out
		// at most once a jiffy, and an address that it has forgotten, when others come to the same of 256 trees by a secret hash,
		// begins at 1 again: this hangs on time and chance, not on rules and frames, and is not copied.
		"connlimit", "of a packet that is not its connection's first Linux counts too much or nothing: looking through the address's connections it " +
			"stops at the packet's own, so that closed ones behind it still count; and since 6.18 it drops the packet of an assured connection that has " +
			"closed where no other is left (__nf_conncount_add and count_tree, net/netfilter/nf_conncount.c)",
		func(c *comparison, p *packet.Packet, k *passage, d *decision) bool {
			_, seen := c.views[p.Key]
			return c.counted && seen && p.Proto == packet.ProtoTCP && p.TCPFlags&packet.SYN == 0 && len(k.out) == 0 && len(d.out) > 0
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
