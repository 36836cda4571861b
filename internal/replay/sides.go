package replay

import (
	"encoding/binary"
	"net/netip"

	"corewire/internal/packet"
)

// maxStations bounds the link-layer addresses that are remembered. A frame from a further one is treated as unknown.
const maxStations = 1 << 20

// Sides finds out at which port a frame arrived that was captured on a wire with both directions in one file.
//
//   - An IP packet is from the inside if its source address lies in one of the inside's networks, else from the outside.
//   - ARP likewise, by the sender's protocol address.
//   - Other frames, and those whose source address is unspecified (0.0.0.0, ::) or cannot be read, come from where the
//     last IP packet or ARP with their source MAC address came from; an unknown MAC address is taken for inside.
type Sides struct {
	inside   []netip.Prefix
	stations map[[6]byte]packet.Port
	packet   packet.Packet
}

// NewSides returns a Sides for the networks of the inside.
func NewSides(inside []netip.Prefix) *Sides {
	return &Sides{inside: inside, stations: map[[6]byte]packet.Port{}}
}

// Port returns where a frame arrived, and remembers its source MAC address.
func (s *Sides) Port(frame []byte) packet.Port {
	if len(frame) < packet.EthernetHeader {
		return packet.Inside
	}
	mac := [6]byte(frame[6:12])
	source, ok := s.source(frame)
	if !ok || source.IsUnspecified() {
		return s.stations[mac] // Inside where it is unknown
	}
	port := packet.Outside
	for _, p := range s.inside {
		if p.Contains(source) {
			port = packet.Inside
			break
		}
	}
	if _, known := s.stations[mac]; known || len(s.stations) < maxStations {
		s.stations[mac] = port
	}
	return port
}

// source returns the address that a frame says it is from.
func (s *Sides) source(frame []byte) (netip.Addr, bool) {
	p := &s.packet
	p.Frame = frame
	packet.Parse(p)
	switch {
	case p.Class == packet.ClassARP:
		return arpSender(frame)
	case p.Class > packet.ClassIPv6:
		return netip.Addr{}, false
	case p.Problem.Header():
		// What the parser refuses still has a source where the address lies within the frame.
		return headerSource(frame)
	}
	return p.Src.Netip(), true
}

// behindTags returns what follows the Ethernet header and its VLAN tags, and its type.
func behindTags(frame []byte) (uint16, []byte) {
	typ, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for (typ == packet.EtherTypeVLAN || typ == packet.EtherTypeQinQ) && len(rest) >= 4 {
		typ, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	return typ, rest
}

// arpSender returns the sender's protocol address of ARP for IPv4 over Ethernet (RFC 826).
func arpSender(frame []byte) (netip.Addr, bool) {
	_, arp := behindTags(frame)
	if len(arp) < 18 || binary.BigEndian.Uint16(arp[2:]) != packet.EtherTypeIPv4 || arp[4] != 6 || arp[5] != 4 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(arp[14:18])), true
}

// headerSource returns the source address of an IP header that is otherwise malformed.
func headerSource(frame []byte) (netip.Addr, bool) {
	typ, ip := behindTags(frame)
	switch {
	case typ == packet.EtherTypeIPv4 && len(ip) >= 16:
		return netip.AddrFrom4([4]byte(ip[12:16])), true
	case typ == packet.EtherTypeIPv6 && len(ip) >= 24:
		return netip.AddrFrom16([16]byte(ip[8:24])), true
	}
	return netip.Addr{}, false
}
