package rules

import (
	"fmt"
	"strings"

	"corewire/internal/packet"
)

// ports returns the ports that a packet may come from so that the interface matches, as bits by packet.Port: first is
// the port to arrive on when the name is that of the inside, second when it is that of the outside.
func (c *compiler) ports(m InterfaceMatch, first, second packet.Port) uint16 {
	if m.Pos.Line == 0 {
		return 3
	}
	// Without an interface there the kernel compares with an empty name, which agrees with "+" alone (ip_packet_match).
	if none := &baseTable[c.place/2]; none.noIn && first == packet.Inside || none.noOut && first == packet.Outside {
		if (m.Name == "+") != m.Not {
			return 3
		}
		return 0
	}
	return c.devices(m, first, second)
}

// devices is ports for an interface that there is.
func (c *compiler) devices(m InterfaceMatch, first, second packet.Port) uint16 {
	if m.Pos.Line == 0 {
		return 3
	}
	var bits uint16
	if c.named(m.Name, "inside", c.opt.InsideName) {
		bits |= 1 << first
	}
	if c.named(m.Name, "outside", c.opt.OutsideName) {
		bits |= 1 << second
	}
	if bits == 0 && !c.ifWarned[m.Name] {
		if c.ifWarned == nil {
			c.ifWarned = make(map[string]bool)
		}
		c.ifWarned[m.Name] = true
		c.rs.warnings = append(c.rs.warnings, Warning{m.Pos, fmt.Sprintf("interface %s is neither port of the wire: no packet comes or goes there", m.Name)})
	}
	if m.Not {
		bits ^= 3
	}
	return bits
}

// named says whether a rule's interface name, perhaps with a "+" at its end, names the port.
func (c *compiler) named(pattern, port, device string) bool {
	if p, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(port, p) || device != "" && strings.HasPrefix(device, p)
	}
	return pattern == port || device != "" && pattern == device
}
