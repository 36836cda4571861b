package packetlog

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"corewire/internal/packet"
)

const hexDigits = "0123456789abcdef"

// line writes the kernel's line of a packet. Each method that meets the end of the data where a header should be writes
// what the kernel writes there.
type line struct {
	b    []byte
	e    *Entry
	data []byte // from the IP header
}

func (l *line) text(parts ...string) {
	for _, s := range parts {
		l.b = append(l.b, s...)
	}
}

func (l *line) number(name string, n uint32) {
	l.b = append(l.b, name...)
	l.b = append(strconv.AppendUint(l.b, uint64(n), 10), ' ')
}

// hex writes a number with at least so many digits.
func (l *line) hex(name string, n uint32, digits int, upper bool) {
	l.b = append(l.b, name...)
	d := hexDigits
	if upper {
		d = "0123456789ABCDEF"
	}
	started := false
	for i := 7; i >= 0; i-- {
		v := n >> (4 * i) & 15
		if v != 0 || started || i < digits {
			started = true
			l.b = append(l.b, d[v])
		}
	}
	l.b = append(l.b, ' ')
}

// bytes writes bytes as two digits each.
func (l *line) bytes(data []byte, upper bool, between string) {
	d := hexDigits
	if upper {
		d = "0123456789ABCDEF"
	}
	for i, c := range data {
		if i > 0 {
			l.b = append(l.b, between...)
		}
		l.b = append(l.b, d[c>>4], d[c&15])
	}
}

// at returns n bytes from an offset on; nil if there are less. kept tells whether the packet has them.
func (l *line) at(offset, n int) []byte {
	if offset+n > len(l.data) {
		return nil
	}
	return l.data[offset : offset+n]
}

// left is how many bytes the datagram has from an offset on, as the kernel counts them: modulo 2³².
func (l *line) left(offset int) uint32 { return uint32(l.e.End - l.e.L3 - offset) }

func (l *line) incomplete(offset int) {
	l.text("INCOMPLETE [", strconv.FormatUint(uint64(l.left(offset)), 10), " bytes] ")
}

// options writes options as the kernel does.
func (l *line) options(data []byte) {
	l.text("OPT (")
	l.bytes(data, true, "")
	l.text(") ")
}

// mac is dump_mac_header: the kernel has taken the VLAN tag out of the header by then.
func (l *line) mac() {
	f := l.e.Frame
	if len(f) < packet.EthernetHeader {
		l.text("MAC= ")
		return
	}
	typ := binary.BigEndian.Uint16(f[12:])
	tagged := (typ == packet.EtherTypeVLAN || typ == packet.EtherTypeQinQ) && len(f) >= packet.EthernetHeader+4
	proto := f[12:14]
	if tagged {
		proto = f[16:18]
	}
	if !l.e.MACDecode {
		l.text("MAC=")
		l.bytes(f[:12], false, ":")
		l.text(":")
		l.bytes(proto, false, ":")
		l.text(" ")
		return
	}
	l.text("MACSRC=")
	l.bytes(f[6:12], false, ":")
	l.text(" MACDST=")
	l.bytes(f[:6], false, ":")
	l.text(" ")
	if tagged {
		l.hex("VPROTO=", uint32(typ), 4, false)
		l.number("VID=", uint32(binary.BigEndian.Uint16(f[14:])))
	}
	l.hex("MACPROTO=", uint32(binary.BigEndian.Uint16(proto)), 4, false)
}

// mark ends the outer packet's part.
func (l *line) mark() {
	if l.e.Mark != 0 {
		l.hex("MARK=0x", l.e.Mark, 1, false)
	}
}

// ipv4 is dump_ipv4_packet.
func (l *line) ipv4(off int) {
	h := l.at(off, 20)
	if h == nil {
		l.text("TRUNCATED")
		return
	}
	l.text("SRC=", netip.AddrFrom4([4]byte(h[12:16])).String(), " DST=", netip.AddrFrom4([4]byte(h[16:20])).String(), " ")
	l.number("LEN=", uint32(binary.BigEndian.Uint16(h[2:])))
	l.hex("TOS=0x", uint32(h[1]&0x1e), 2, true)
	l.hex("PREC=0x", uint32(h[1]&0xe0), 2, true)
	l.number("TTL=", uint32(h[8]))
	l.number("ID=", uint32(binary.BigEndian.Uint16(h[4:])))
	frag := binary.BigEndian.Uint16(h[6:])
	for _, f := range [...]struct {
		bit  uint16
		name string
	}{{0x8000, "CE "}, {0x4000, "DF "}, {0x2000, "MF "}} {
		if frag&f.bit != 0 {
			l.text(f.name)
		}
	}
	frag &= 0x1fff
	if frag != 0 {
		l.number("FRAG:", uint32(frag))
	}
	size := int(h[0]&15) * 4
	if l.e.IPOptions && size > 20 {
		o := l.at(off+20, size-20)
		if o == nil {
			l.text("TRUNCATED")
			return
		}
		l.options(o)
	}
	proto, ptr := h[9], off+size
	switch proto {
	case packet.ProtoTCP:
		if !l.tcp(ptr, frag != 0) {
			return
		}
	case packet.ProtoUDP, packet.ProtoUDPLite:
		if !l.udp(ptr, proto, frag != 0) {
			return
		}
	case packet.ProtoICMP:
		l.text("PROTO=ICMP ")
		if frag == 0 {
			l.icmp(off, ptr)
		}
	case packet.ProtoAH:
		if frag == 0 {
			l.text("PROTO=AH ")
			l.spi(ptr, 12, 4)
		}
	case packet.ProtoESP:
		l.text("PROTO=ESP ")
		if frag == 0 {
			l.spi(ptr, 8, 0)
		}
	default:
		l.number("PROTO=", uint32(proto))
	}
	if off == 0 {
		l.mark()
	}
}

// spi writes the security parameter index of a header of a size (struct ip_auth_hdr, ip_esp_hdr).
func (l *line) spi(ptr, size, at int) {
	h := l.at(ptr, size)
	if h == nil {
		l.incomplete(ptr)
		return
	}
	l.hex("SPI=0x", binary.BigEndian.Uint32(h[at:]), 1, false)
}

// icmpNeeds is the size that an ICMP packet must have for its kind (required_len).
var icmpNeeds = [19]uint8{0: 4, 3: 28, 4: 28, 5: 28, 8: 4, 11: 28, 12: 28, 13: 20, 14: 20, 17: 12, 18: 12}

func (l *line) icmp(off, ptr int) {
	h := l.at(ptr, 8)
	if h == nil {
		l.incomplete(ptr)
		return
	}
	l.number("TYPE=", uint32(h[0]))
	l.number("CODE=", uint32(h[1]))
	if int(h[0]) < len(icmpNeeds) && l.left(ptr) < uint32(icmpNeeds[h[0]]) {
		l.incomplete(ptr)
		return
	}
	switch h[0] {
	case 0, 8:
		l.number("ID=", uint32(binary.BigEndian.Uint16(h[4:])))
		l.number("SEQ=", uint32(binary.BigEndian.Uint16(h[6:])))
	case 12:
		l.number("PARAMETER=", uint32(h[4]))
	case 3, 4, 5, 11:
		if h[0] == 5 {
			l.text("GATEWAY=", netip.AddrFrom4([4]byte(h[4:8])).String(), " ")
		}
		if off == 0 { // an error about an error is shown without what that quotes
			l.text("[")
			l.ipv4(ptr + 8)
			l.text("] ")
		}
		if h[0] == 3 && h[1] == 4 {
			l.number("MTU=", uint32(binary.BigEndian.Uint16(h[6:])))
		}
	}
}

// tcp is nf_log_dump_tcp_header; false where the kernel ends the line.
func (l *line) tcp(ptr int, fragment bool) bool {
	l.text("PROTO=TCP ")
	if fragment {
		return true
	}
	h := l.at(ptr, 20)
	if h == nil {
		l.incomplete(ptr)
		return false
	}
	l.number("SPT=", uint32(binary.BigEndian.Uint16(h)))
	l.number("DPT=", uint32(binary.BigEndian.Uint16(h[2:])))
	if l.e.Sequence {
		l.number("SEQ=", binary.BigEndian.Uint32(h[4:]))
		l.number("ACK=", binary.BigEndian.Uint32(h[8:]))
	}
	l.number("WINDOW=", uint32(binary.BigEndian.Uint16(h[14:])))
	l.hex("RES=0x", uint32(h[12]&0x0e)<<2, 2, false) // TCP_RESERVED_BITS, 0x0e000000 of the word, shifted by 22
	if h[12]&1 != 0 {
		l.text("AE ") // accurate ECN, since Linux 6.16; a reserved bit before
	}
	for i, name := range [...]string{"CWR ", "ECE ", "URG ", "ACK ", "PSH ", "RST ", "SYN ", "FIN "} {
		if h[13]&(0x80>>i) != 0 {
			l.text(name)
		}
	}
	l.number("URGP=", uint32(binary.BigEndian.Uint16(h[18:])))
	if size := int(h[12]>>4) * 4; l.e.TCPOptions && size > 20 {
		o := l.at(ptr+20, size-20)
		if o == nil {
			l.text("OPT (TRUNCATED)")
			return false
		}
		l.options(o)
	}
	return true
}

// udp is nf_log_dump_udp_header; false where the kernel ends the line.
func (l *line) udp(ptr int, proto uint8, fragment bool) bool {
	l.text("PROTO=UDP")
	if proto == packet.ProtoUDPLite {
		l.text("LITE")
	}
	l.text(" ")
	if fragment {
		return true
	}
	h := l.at(ptr, 8)
	if h == nil {
		l.incomplete(ptr)
		return false
	}
	l.number("SPT=", uint32(binary.BigEndian.Uint16(h)))
	l.number("DPT=", uint32(binary.BigEndian.Uint16(h[2:])))
	l.number("LEN=", uint32(binary.BigEndian.Uint16(h[4:])))
	return true
}

// expanded writes an address in eight groups of four digits (%pI6).
func expanded(a []byte) string {
	var b []byte
	for i := 0; i < 16; i += 2 {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, hexDigits[a[i]>>4], hexDigits[a[i]&15], hexDigits[a[i+1]>>4], hexDigits[a[i+1]&15])
	}
	return string(b)
}

// followed reports whether the line looks behind an extension header (nf_ip6_ext_hdr, include/linux/netfilter_ipv6.h).
func followed(next uint8) bool {
	switch next {
	case packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoFragment, packet.ProtoESP, packet.ProtoAH, packet.ProtoDestOpts:
		return true
	}
	return false
}

// ipv6 is dump_ipv6_packet.
func (l *line) ipv6(off int, outer bool) {
	h := l.at(off, 40)
	if h == nil {
		l.text("TRUNCATED")
		return
	}
	l.text("SRC=", expanded(h[8:24]), " DST=", expanded(h[24:40]), " ")
	word := binary.BigEndian.Uint32(h)
	l.number("LEN=", uint32(binary.BigEndian.Uint16(h[4:]))+40)
	l.number("TC=", word>>20&0xff)
	l.number("HOPLIMIT=", uint32(h[7]))
	l.number("FLOWLBL=", word&0xfffff)
	fragment := false
	ptr, next := off+40, h[6]
	for followed(next) {
		x := l.at(ptr, 2)
		if x == nil {
			l.text("TRUNCATED")
			return
		}
		if l.e.IPOptions {
			l.text("OPT ( ")
		}
		size := 8
		switch next {
		case packet.ProtoFragment:
			l.text("FRAG:")
			f := l.at(ptr, 8)
			if f == nil {
				l.text("TRUNCATED ")
				return
			}
			at := binary.BigEndian.Uint16(f[2:])
			l.number("", uint32(at&0xfff8))
			if at&1 != 0 {
				l.text("INCOMPLETE ")
			}
			l.hex("ID:", binary.BigEndian.Uint32(f[4:]), 8, false)
			fragment = fragment || at&0xfff8 != 0
		case packet.ProtoAH:
			if l.e.IPOptions {
				l.text("AH ")
				if !l.security(ptr, 12, 4, fragment) {
					return
				}
			}
			size = (int(x[1]) + 2) * 4 // RFC 4302 section 2.2
		case packet.ProtoESP:
			if l.e.IPOptions {
				l.text("ESP ")
				if l.security(ptr, 8, 0, fragment) {
					l.b = append(l.b[:len(l.b)-1], " )"...)
				}
			}
			return
		default:
			if fragment {
				if l.e.IPOptions {
					l.text(")")
				}
				return
			}
			size = (int(x[1]) + 1) * 8 // RFC 8200 section 4.3
		}
		if l.e.IPOptions {
			l.text(") ")
		}
		next = x[0]
		ptr += size
	}
	switch next {
	case packet.ProtoTCP:
		if !l.tcp(ptr, fragment) {
			return
		}
	case packet.ProtoUDP, packet.ProtoUDPLite:
		if !l.udp(ptr, next, fragment) {
			return
		}
	case packet.ProtoICMPv6:
		l.text("PROTO=ICMPv6 ")
		if !fragment && !l.icmpv6(ptr, outer) {
			return
		}
	default:
		l.number("PROTO=", uint32(next))
	}
	if outer {
		l.mark()
	}
}

// security writes the index of an AH or ESP header among the options; false where the kernel ends the line.
func (l *line) security(ptr, size, at int, fragment bool) bool {
	if fragment {
		l.text(")")
		return false
	}
	h := l.at(ptr, size)
	if h == nil {
		l.text("INCOMPLETE [", strconv.FormatUint(uint64(l.left(ptr)), 10), " bytes] )")
		return false
	}
	l.hex("SPI=0x", binary.BigEndian.Uint32(h[at:]), 1, false)
	return true
}

// icmpv6 writes an ICMPv6 header; false where the kernel ends the line.
func (l *line) icmpv6(ptr int, outer bool) bool {
	h := l.at(ptr, 8)
	if h == nil {
		l.incomplete(ptr)
		return false
	}
	l.number("TYPE=", uint32(h[0]))
	l.number("CODE=", uint32(h[1]))
	switch h[0] {
	case 128, 129:
		l.number("ID=", uint32(binary.BigEndian.Uint16(h[4:])))
		l.number("SEQ=", uint32(binary.BigEndian.Uint16(h[6:])))
	case 1, 2, 3, 4:
		if h[0] == 4 {
			l.hex("POINTER=", binary.BigEndian.Uint32(h[4:]), 8, false)
		}
		if outer {
			l.text("[")
			l.ipv6(ptr+8, false)
			l.text("] ")
		}
		if h[0] == 2 {
			l.number("MTU=", binary.BigEndian.Uint32(h[4:]))
		}
	}
	return true
}
