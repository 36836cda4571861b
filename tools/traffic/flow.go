package traffic

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// Proto is the transport protocol of the generated frames, with its IP protocol number.
type Proto uint8

const (
	TCP Proto = 6  // segments with ACK set and no data: what an established connection looks like
	UDP Proto = 17 // datagrams with a checksum
)

// String returns "tcp" or "udp".
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Order is the order in which a generator goes through its flows.
type Order uint8

const (
	Sequential Order = iota // 0, 1, 2, …, and again from 0
	Random                  // a fixed pseudo-random sequence: what defeats caches
)

// Side says which end of the flows a generator plays.
type Side uint8

const (
	Requests Side = iota // frames from the varying end (client) to the fixed one (server)
	Replies              // frames back
)

const (
	firstPort    = 1024  // of the varying end
	portsPerHost = 32768 // ports that a varying address uses, a power of two
	portBits     = 15    // its logarithm
	// MaxFlows is the largest number of flows: all values of the low 16 bits of the address, times the ports.
	MaxFlows = portsPerHost << 16
)

// Flows describes a family of flows between varying ports and addresses of the client's subnet and one server port.
type Flows struct {
	Proto Proto
	// Count is the number of flows, 1 to MaxFlows.
	Count uint32
	// Client is the first client address, Server the server's; both of one family. With n flows the client
	// addresses run to Client + (n-1)/32768, within the low 16 bits.
	Client, Server netip.Addr
	// ServerPort is the server's port.
	ServerPort uint16
	// ClientMAC and ServerMAC are the Ethernet addresses of the two ends, 6 bytes each.
	ClientMAC, ServerMAC net.HardwareAddr
}

const (
	etherLen = 14
	tcpLen   = 20
	udpLen   = 8
)

func (f *Flows) validate() error {
	switch {
	case f.Proto != TCP && f.Proto != UDP:
		return fmt.Errorf("flows of %v: must be tcp or udp", f.Proto)
	case f.Count < 1 || f.Count > MaxFlows:
		return fmt.Errorf("%d flows: must be 1 to %d", f.Count, uint32(MaxFlows))
	case !f.Client.IsValid() || f.Client.Is4() != f.Server.Is4() || !f.Server.IsValid():
		return fmt.Errorf("flows from %v to %v: need two addresses of one family", f.Client, f.Server)
	case len(f.ClientMAC) != 6 || len(f.ServerMAC) != 6:
		return fmt.Errorf("flows between %v and %v: need two Ethernet addresses", f.ClientMAC, f.ServerMAC)
	}
	if low := f.clientLow(); uint64(low)+uint64(f.Count-1)>>portBits > 0xffff {
		return fmt.Errorf("%d flows from %v on: %d addresses do not fit into its low 16 bits", f.Count, f.Client, (f.Count-1)>>portBits+1)
	}
	return nil
}

// clientLow is the low 16 bits of the first client address, which the flows count up.
func (f *Flows) clientLow() uint16 {
	b := f.Client.AsSlice()
	return binary.BigEndian.Uint16(b[len(b)-2:])
}

// headers returns the bytes up to the end of the transport header.
func (f *Flows) headers() int {
	n := etherLen + 20
	if f.Client.Is6() {
		n = etherLen + 40
	}
	if f.Proto == TCP {
		return n + tcpLen
	}
	return n + udpLen
}

// Frame returns the frame of a flow as the generator sends it, size bytes long without FCS. It is the slow twin of the
// XDP program, and the program's template is the frame of flow 0.
func (f *Flows) Frame(side Side, flow uint32, size int) ([]byte, error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	if size < f.headers() || size > MaxSize {
		return nil, fmt.Errorf("frame of %d bytes: must be %d to %d", size, f.headers(), MaxSize)
	}
	client := f.Client.AsSlice()
	binary.BigEndian.PutUint16(client[len(client)-2:], f.clientLow()+uint16(flow>>portBits))
	server := f.Server.AsSlice()
	clientPort := firstPort + uint16(flow&(portsPerHost-1))

	src, dst, srcPort, dstPort, srcMAC, dstMAC := client, server, clientPort, f.ServerPort, f.ClientMAC, f.ServerMAC
	if side == Replies {
		src, dst, srcPort, dstPort, srcMAC, dstMAC = dst, src, dstPort, srcPort, dstMAC, srcMAC
	}
	b := make([]byte, size)
	copy(b, dstMAC)
	copy(b[6:], srcMAC)
	ip := b[etherLen:]
	var l4 []byte
	if f.Client.Is4() { // RFC 791 section 3.1
		binary.BigEndian.PutUint16(b[12:], 0x0800)
		ip[0] = 0x45
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ip[6] = 0x40 // DF
		ip[8] = 64
		ip[9] = byte(f.Proto)
		copy(ip[12:], src)
		copy(ip[16:], dst)
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip[:20])))
		l4 = ip[20:]
	} else { // RFC 8200 section 3
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
		ip[0] = 0x60
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		ip[6] = byte(f.Proto)
		ip[7] = 64
		copy(ip[8:], src)
		copy(ip[24:], dst)
		l4 = ip[40:]
	}
	binary.BigEndian.PutUint16(l4, srcPort)
	binary.BigEndian.PutUint16(l4[2:], dstPort)
	at := 6 // of the checksum
	if f.Proto == TCP {
		at = 16
		binary.BigEndian.PutUint32(l4[4:], 1)    // sequence number: the same in every segment, as a keep-alive's
		binary.BigEndian.PutUint32(l4[8:], 1)    // acknowledgement
		l4[12] = tcpLen / 4 << 4                 // data offset
		l4[13] = 0x10                            // ACK
		binary.BigEndian.PutUint16(l4[14:], 512) // window
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	// RFC 768 and RFC 9293 section 3.1: the pseudo header is addresses, protocol and length.
	c := ^fold(sum16(src) + sum16(dst) + uint32(f.Proto) + uint32(len(l4)) + sum16(l4))
	if c == 0 && f.Proto == UDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
	return b, nil
}

// sum16 adds 16-bit words (RFC 1071); an odd last byte counts as if a zero followed.
func sum16(b []byte) uint32 {
	var s uint32
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i&1))
	}
	return s
}

// fold adds the carries until 16 bits are left.
func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
