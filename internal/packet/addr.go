package packet

import (
	"encoding/binary"
	"net/netip"
)

// Addr is an IPv6 address, or an IPv4 one in the form ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2), as two
// big-endian-read words: comparison and hashing need no loops, and one form serves both families.
//
// An IPv6 packet can carry an IPv4-mapped address as well; only Key.Family or Packet.Family tells the two apart.
type Addr struct{ Hi, Lo uint64 }

// mapped is bits 32 to 47 of Addr.Lo of every IPv4 address.
const mapped = 0xffff << 32

// addr4 returns the Addr of an IPv4 address in host byte order.
func addr4(v uint32) Addr { return Addr{0, mapped | uint64(v)} }

// AddrFrom returns a as Addr. The zone of a scoped address is ignored; the zero netip.Addr gives the zero Addr.
func AddrFrom(a netip.Addr) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	b := a.As16()
	return Addr{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// Netip returns a as netip.Addr: an IPv4 one if a is in the mapped form, as Unmap does.
func (a Addr) Netip() netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{byte(a.Lo >> 24), byte(a.Lo >> 16), byte(a.Lo >> 8), byte(a.Lo)})
	}
	return a.Netip6()
}

// Netip6 returns a as an IPv6 netip.Addr also where it has the form of a mapped IPv4 address: the address of an
// IPv6 packet as it was on the wire.
func (a Addr) Netip6() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return netip.AddrFrom16(b)
}

// Is4 reports whether a has the form of an IPv4 address, ::ffff:0:0/96.
func (a Addr) Is4() bool { return a.Hi == 0 && a.Lo>>32 == 0xffff }

// Less reports whether a is below b: the order that Key's ends are in.
func (a Addr) Less(b Addr) bool { return a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo }

// String returns the text form of a, as Netip().String().
func (a Addr) String() string { return a.Netip().String() }
