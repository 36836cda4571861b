package ring

import (
	"encoding/binary"
	"fmt"

	"github.com/gopacket/gopacket/layers"
)

// linkType is the link layer of a capture, by its number in capture files (https://www.tcpdump.org/linktypes.html).
type linkType uint16

const (
	linkNull     linkType = 0   // BSD loopback: address family in the capturing machine's byte order
	linkEthernet linkType = 1   //
	linkRaw12    linkType = 12  // DLT_RAW of most systems, found in files of old writers
	linkRaw14    linkType = 14  // DLT_RAW of OpenBSD, likewise
	linkRaw      linkType = 101 // an IPv4 or IPv6 datagram
	linkLoop     linkType = 108 // OpenBSD loopback: address family in network order
	linkSLL      linkType = 113 // Linux cooked capture, version 1 (tcpdump -i any)
	linkIPv4     linkType = 228 // an IPv4 datagram
	linkIPv6     linkType = 229 // an IPv6 datagram
	linkSLL2     linkType = 276 // Linux cooked capture, version 2
)

// Sizes of link-layer headers in bytes.
const (
	etherSize   = 14
	nullSize    = 4
	sllSize     = 16
	sll2Size    = 20
	maxLinkSize = sll2Size
)

// Ethernet types that the synthetic header needs.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// syntheticMAC are the addresses in front of frames that have none: locally administered, so that they collide with no
// vendor's. Both directions have the same, since nothing tells them apart.
var syntheticMAC = [12]byte{0x02, 'w', 'i', 'r', 'e', 2, 0x02, 'w', 'i', 'r', 'e', 1}

// String returns the name in error messages.
func (l linkType) String() string {
	if l < linkType(layers.LinkTypeMax) {
		if s := layers.LinkType(l).String(); s != "UnknownLinkType" {
			return fmt.Sprintf("%d (%s)", l, s)
		}
	}
	return fmt.Sprint(uint16(l))
}

// headerSize returns the size of the link type's own header, which the synthetic Ethernet header stands in for, and
// whether the link type is supported at all.
func (l linkType) headerSize() (int, bool) {
	switch l {
	case linkEthernet, linkRaw, linkRaw12, linkRaw14, linkIPv4, linkIPv6:
		return 0, true
	case linkNull, linkLoop:
		return nullSize, true
	case linkSLL:
		return sllSize, true
	case linkSLL2:
		return sll2Size, true
	}
	return 0, false
}

// file returns the link type under which frames are written: the one that they came with, but for the numbers of raw
// IP that mean something else on other systems.
func (l linkType) file() linkType {
	if l == linkRaw12 || l == linkRaw14 {
		return linkRaw
	}
	return l
}

// etherType returns the Ethernet type for the synthetic header of a frame with data, whose own header is data[:n].
// It is 0, which no receiver takes for a protocol, where the link layer does not say or the frame is too short.
func (l linkType) etherType(data []byte) uint16 {
	switch l {
	case linkIPv4:
		return etherIPv4
	case linkIPv6:
		return etherIPv6
	case linkRaw, linkRaw12, linkRaw14:
		if len(data) > 0 {
			switch data[0] >> 4 {
			case 4:
				return etherIPv4
			case 6:
				return etherIPv6
			}
		}
	case linkNull, linkLoop:
		if len(data) >= nullSize {
			return familyType(binary.BigEndian.Uint32(data))
		}
	case linkSLL:
		if len(data) >= sllSize {
			return binary.BigEndian.Uint16(data[14:])
		}
	case linkSLL2:
		if len(data) >= sll2Size {
			return binary.BigEndian.Uint16(data)
		}
	}
	return 0
}

// familyType returns the Ethernet type of a BSD address family, in either byte order: a family is less than 2¹⁶.
func familyType(family uint32) uint16 {
	if family >= 1<<16 {
		family = family>>24 | family>>8&0xff00
	}
	switch family {
	case 2: // AF_INET everywhere
		return etherIPv4
	case 10, 24, 28, 30: // AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS
		return etherIPv6
	}
	return 0
}

// setEtherType writes the protocol into the link type's own header, for a frame that copies the header of another.
func (l linkType) setEtherType(header []byte, t uint16) {
	switch l {
	case linkSLL:
		binary.BigEndian.PutUint16(header[14:], t)
	case linkSLL2:
		binary.BigEndian.PutUint16(header, t)
	case linkNull, linkLoop:
		if t != familyType(binary.BigEndian.Uint32(header)) {
			family := uint32(2)
			if t == etherIPv6 {
				family = 30 // the one number that tcpdump takes on every system
			}
			binary.BigEndian.PutUint32(header, family) // NULL is read in either byte order
		}
	}
}
