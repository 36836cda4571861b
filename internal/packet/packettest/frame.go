package packettest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Protocol numbers, as the IP header has them.
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoGRE     = 47
	ProtoESP     = 50
	ProtoICMPv6  = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// TCP flags, RFC 9293 section 3.1.
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// AP returns the address and port of text such as "10.0.0.1:80" or "[2001:db8::1]:80".
func AP(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// IP returns the address of text such as "10.0.0.1" or "2001:db8::1".
func IP(s string) netip.Addr { return netip.MustParseAddr(s) }

// frame collects what the options say.
type frame struct {
	etherDst, etherSrc [6]byte
	tags               []byte // TPID and TCI of each tag, outermost first
	ttl, tos           uint8
	id                 uint16
	df                 bool
	label              uint32
	ipOptions          []byte
	exts               []extHeader
	pad, minimum       int
	seq, ack           uint32
	window, urgent     uint16
	tcpOptions         []byte
	dataOffset         uint8 // of DCCP; 0: 4
	payload            []byte
	coverage           uint16
	badChecksum        bool
	noChecksum         bool
	badHeaderChecksum  bool
}

// extHeader is one IPv6 extension header; its first byte is set to the number of what follows.
type extHeader struct {
	proto uint8
	body  []byte
}

// Option changes a frame before it is put together.
type Option func(*frame)

// Ether sets the MAC addresses; without it they are 02:00:00:00:00:02 and 02:00:00:00:00:01.
func Ether(dst, src [6]byte) Option { return func(f *frame) { f.etherDst, f.etherSrc = dst, src } }

// VLAN adds 802.1Q tags with these ids, outermost first.
func VLAN(ids ...uint16) Option {
	return func(f *frame) {
		for _, id := range ids {
			f.tags = append(f.tags, 0x81, 0, byte(id>>8), byte(id))
		}
	}
}

// QinQ adds an 802.1ad service tag and an 802.1Q tag within it.
func QinQ(outer, inner uint16) Option {
	return func(f *frame) {
		f.tags = append(f.tags, 0x88, 0xa8, byte(outer>>8), byte(outer), 0x81, 0, byte(inner>>8), byte(inner))
	}
}

// TTL sets the TTL or hop limit; without it 64.
func TTL(n uint8) Option { return func(f *frame) { f.ttl = n } }

// TOS sets the TOS byte or traffic class.
func TOS(n uint8) Option { return func(f *frame) { f.tos = n } }

// ID sets the IPv4 identification.
func ID(n uint16) Option { return func(f *frame) { f.id = n } }

// DF sets the IPv4 don't fragment flag.
func DF() Option { return func(f *frame) { f.df = true } }

// FlowLabel sets the IPv6 flow label, 20 bits.
func FlowLabel(n uint32) Option { return func(f *frame) { f.label = n & 0xfffff } }

// IPv4Options puts options into the IPv4 header, padded to four bytes with end of list; at most 40 bytes.
func IPv4Options(b []byte) Option { return func(f *frame) { f.ipOptions = pad(b, 4) } }

// ExtHeader adds an IPv6 extension header with this protocol number. Its first byte, the next header, is set when the
// frame is put together; everything else, its length byte too, is as given.
func ExtHeader(proto uint8, header []byte) Option {
	return func(f *frame) { f.exts = append(f.exts, extHeader{proto, append([]byte(nil), header...)}) }
}

// HopByHop adds an IPv6 hop-by-hop header with these options, padded to eight bytes with Pad1.
func HopByHop(options []byte) Option { return ExtHeader(0, optionHeader(options)) }

// DestinationOptions adds an IPv6 destination options header with these options, padded to eight bytes with Pad1.
func DestinationOptions(options []byte) Option { return ExtHeader(60, optionHeader(options)) }

// Routing adds an IPv6 routing header of this type with no segments left; data is padded to eight bytes.
func Routing(typ uint8, data []byte) Option {
	h := pad(append([]byte{0, 0, typ, 0, 0, 0, 0, 0}, data...), 8)
	h[1] = byte(len(h)/8 - 1)
	return ExtHeader(43, h)
}

// AH adds an authentication header with an integrity check value of n bytes, a multiple of 4, RFC 4302.
func AH(n int) Option {
	h := make([]byte, 12+n)
	h[1] = byte(len(h)/4 - 2)
	return ExtHeader(51, h)
}

// AtomicFragment adds an IPv6 fragment header with offset 0 and no more fragments, RFC 6946.
func AtomicFragment(id uint32) Option { return FragmentHeader(0, false, id) }

// FragmentHeader adds an IPv6 fragment header; offset is in bytes, a multiple of 8.
func FragmentHeader(offset uint16, more bool, id uint32) Option {
	h := make([]byte, 8)
	if more {
		offset |= 1
	}
	binary.BigEndian.PutUint16(h[2:], offset)
	binary.BigEndian.PutUint32(h[4:], id)
	return ExtHeader(44, h)
}

func optionHeader(options []byte) []byte {
	h := pad(append([]byte{0, 0}, options...), 8)
	h[1] = byte(len(h)/8 - 1)
	return h
}

// Pad adds n zero bytes behind the datagram, as a short Ethernet frame has.
func Pad(n int) Option { return func(f *frame) { f.pad = n } }

// Minimum pads the frame to 60 bytes: a minimum Ethernet frame without its check sequence.
func Minimum() Option { return func(f *frame) { f.minimum = 60 } }

// Seq sets the TCP sequence number.
func Seq(n uint32) Option { return func(f *frame) { f.seq = n } }

// Ack sets the TCP acknowledgement number.
func Ack(n uint32) Option { return func(f *frame) { f.ack = n } }

// Window sets the TCP window as it is in the header, unscaled; without it 65535.
func Window(n uint16) Option { return func(f *frame) { f.window = n } }

// Urgent sets the TCP urgent pointer.
func Urgent(n uint16) Option { return func(f *frame) { f.urgent = n } }

// TCPOptions puts options into the TCP header, padded to four bytes with end of list; at most 40 bytes together.
func TCPOptions(options ...[]byte) Option {
	return func(f *frame) {
		var b []byte
		for _, o := range options {
			b = append(b, o...)
		}
		f.tcpOptions = pad(b, 4)
	}
}

// MSS returns the TCP maximum segment size option, RFC 9293 section 3.7.1.
func MSS(n uint16) []byte { return []byte{2, 4, byte(n >> 8), byte(n)} }

// WindowScale returns the TCP window scale option, RFC 7323 section 2.2.
func WindowScale(shift uint8) []byte { return []byte{3, 3, shift} }

// SACKPermitted returns the TCP SACK permitted option, RFC 2018 section 2.
func SACKPermitted() []byte { return []byte{4, 2} }

// SACK returns the TCP SACK option with these blocks: left edge and right edge of each, RFC 2018 section 3.
func SACK(edges ...uint32) []byte {
	b := []byte{5, byte(2 + 4*len(edges))}
	for _, e := range edges {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	return b
}

// Timestamps returns the TCP timestamps option, RFC 7323 section 3.2.
func Timestamps(value, echo uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{8, 10}, value)
	return binary.BigEndian.AppendUint32(b, echo)
}

// NOP returns n TCP no-operation options.
func NOP(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 1
	}
	return b
}

// DataOffset sets where a DCCP packet's payload begins, in words of four bytes: what stands in it before is more of the header,
// and options.
func DataOffset(words uint8) Option { return func(f *frame) { f.dataOffset = words } }

// Payload sets what follows the transport header.
func Payload(b []byte) Option { return func(f *frame) { f.payload = b } }

// PayloadLen sets n bytes of payload, counting up from 0.
func PayloadLen(n int) Option {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return Payload(b)
}

// Coverage sets the UDPLite checksum coverage; without it 0, everything.
func Coverage(n uint16) Option { return func(f *frame) { f.coverage = n } }

// BadChecksum makes the transport checksum wrong.
func BadChecksum() Option { return func(f *frame) { f.badChecksum = true } }

// NoChecksum sets the transport checksum to 0: none, for UDP.
func NoChecksum() Option { return func(f *frame) { f.noChecksum = true } }

// BadHeaderChecksum makes the IPv4 header checksum wrong.
func BadHeaderChecksum() Option { return func(f *frame) { f.badHeaderChecksum = true } }

// collect returns the frame that the options describe.
func collect(options []Option) *frame {
	f := &frame{etherDst: [6]byte{2, 0, 0, 0, 0, 2}, etherSrc: [6]byte{2, 0, 0, 0, 0, 1}, ttl: 64, window: 65535}
	for _, o := range options {
		o(f)
	}
	return f
}

// ether returns the Ethernet header and the tags with this EtherType, or length, at the end.
func (f *frame) ether(typ uint16) []byte {
	b := append([]byte(nil), f.etherDst[:]...)
	b = append(b, f.etherSrc[:]...)
	b = append(b, f.tags...)
	return binary.BigEndian.AppendUint16(b, typ)
}

// finish pads the frame.
func (f *frame) finish(b []byte) []byte {
	b = append(b, make([]byte, f.pad)...)
	if len(b) < f.minimum {
		b = append(b, make([]byte, f.minimum-len(b))...)
	}
	return b
}

// checksum sets the transport checksum at t[at:at+2] as the options say: over a pseudo header if pseudo is not 0, being
// the protocol number then, and over the first cover bytes of t.
func (f *frame) checksum(src, dst netip.Addr, t []byte, at int, pseudo uint8, cover int) {
	t[at], t[at+1] = 0, 0
	if f.noChecksum {
		return
	}
	var sum uint32
	if pseudo != 0 {
		sum = pseudoSum(src, dst, pseudo, len(t))
	}
	c := ^addWords(sum, t[:cover])
	if c == 0 && pseudo == ProtoUDP {
		c = 0xffff
	}
	if f.badChecksum {
		if c ^= 0x5555; c == 0 {
			c = 1
		}
	}
	binary.BigEndian.PutUint16(t[at:], c)
}

// ip puts the datagram around the transport bytes and the frame around the datagram.
func (f *frame) ip(src, dst netip.Addr, proto uint8, transport []byte) []byte {
	src, dst = src.Unmap(), dst.Unmap()
	if src.Is4() != dst.Is4() {
		panic(fmt.Sprintf("packettest: %v and %v are of two families", src, dst))
	}
	if src.Is4() {
		return f.ip4(src, dst, proto, transport)
	}
	return f.ip6(src, dst, proto, transport)
}

func (f *frame) ip4(src, dst netip.Addr, proto uint8, transport []byte) []byte {
	b := f.ether(0x0800)
	l3 := len(b)
	hl := 20 + len(f.ipOptions)
	b = append(b, 0x40|byte(hl/4), f.tos)
	b = binary.BigEndian.AppendUint16(b, uint16(hl+len(transport)))
	b = binary.BigEndian.AppendUint16(b, f.id)
	if f.df {
		b = append(b, 0x40, 0)
	} else {
		b = append(b, 0, 0)
	}
	b = append(b, f.ttl, proto, 0, 0)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = append(b, f.ipOptions...)
	setHeaderChecksum(b[l3:])
	if f.badHeaderChecksum {
		b[l3+10] ^= 0x55
	}
	return f.finish(append(b, transport...))
}

func (f *frame) ip6(src, dst netip.Addr, proto uint8, transport []byte) []byte {
	b := f.ether(0x86dd)
	var body []byte
	next := proto
	for i := len(f.exts) - 1; i >= 0; i-- {
		h := append([]byte(nil), f.exts[i].body...)
		h[0], next = next, f.exts[i].proto
		body = append(h, body...)
	}
	body = append(body, transport...)
	b = binary.BigEndian.AppendUint32(b, 6<<28|uint32(f.tos)<<20|f.label)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, next, f.ttl)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return f.finish(append(b, body...))
}

// pad returns b with zero bytes added up to a multiple of n.
func pad(b []byte, n int) []byte {
	b = append([]byte(nil), b...)
	for len(b)%n != 0 {
		b = append(b, 0)
	}
	return b
}
