package main

import (
	"bytes"

	"corewire/internal/packet"
)

// skipped is the table of frames that say nothing about the firewall, because a bridge or a tap treats them in a way that
// no wire does. They are not sent.
var skipped = []struct {
	name   string
	reason string // with the kernel's source
	match  func(frame []byte, p *packet.Packet) bool
}{
	{
		"short", "a tap refuses frames without a whole Ethernet header (tun_get_user, drivers/net/tun.c)",
		func(f []byte, _ *packet.Packet) bool { return len(f) < packet.EthernetHeader },
	},
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
	match  func(p *packet.Packet, k *passage, d *decision) bool
}{}

// explain returns the name of the row that explains a difference; "" if there is none.
func explain(p *packet.Packet, k *passage, d *decision) string {
	for _, row := range known {
		if row.match(p, k, d) {
			return row.name
		}
	}
	return ""
}
