package dataplane

import (
	"encoding/binary"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/rules"
)

// What a REJECT rule sends back is the kernel's answer on a bridge (nf_reject_skb_v4_tcp_reset, nf_reject_skb_v4_unreach
// and their IPv6 twins, net/ipv4/netfilter/nf_reject_ipv4.c and net/ipv6/netfilter/nf_reject_ipv6.c): a wire has no
// addresses of its own, so it speaks in the name of the host that was meant, and its MAC address too. The answer leaves
// through the port that the packet came in on, with the same VLAN tags. It is neither tracked nor judged.
const (
	rejectTTL = 64 // ip_default_ttl and hop_limit as Linux has them

	quote4 = 536  // bytes of an IPv4 datagram that an answer quotes: with its own headers it stays below 576, RFC 1812 section 4.3.2.3
	quote6 = 1220 // the same for IPv6, below the 1280 bytes of its least MTU, RFC 4443 section 2.4(c)

	icmpUnreachable = 3 // type of ICMP's destination unreachable, RFC 792

	// minFrame is the shortest Ethernet frame without its checksum, IEEE 802.3 section 3.2.8. In zero-copy mode drivers send
	// what they are given: an answer is padded here.
	minFrame = 60
)

// reject answers a packet that a REJECT rule decided, if it may be answered and there is room: at most as many in a turn
// as a burst is long. now is the time of the turn.
func (w *Worker) reject(p *packet.Packet, conn *conntrack.Conn, with rules.RejectWith, now conntrack.Tick) {
	out := &w.answers[p.In]
	if !answerable(p, with) || len(*out) == cap(*out) {
		return
	}
	if with != rules.RejectTCPReset && !w.icmp.allow(p.Src, p.Family, icmpUnreachable, now, w.since(now)/1e6) {
		w.c.Limited++
		return
	}
	if w.wire.Alloc(w.fresh[:]) == 0 {
		return
	}
	f := w.fresh[0]
	n := writeReject(f.Data, p, with)
	if n == 0 {
		w.giveBack(f)
		return
	}
	f.Data = f.Data[:n]
	*out = append(*out, f)
	w.c.Answered++
	if with == rules.RejectTCPReset {
		w.table.Reset(conn, now)
	}
}

// answer gives the answers that leave through a port to its TX ring. They matter less than what is forwarded: those that
// the ring does not take are freed.
func (w *Worker) answer(out packet.Port) {
	f := w.answers[out]
	if len(f) == 0 {
		return
	}
	n := w.wire.Send(out, f)
	for i := range f[:n] {
		w.c.Port[out].TxFrames++
		w.c.Port[out].TxBytes += uint64(len(f[i].Data))
	}
	w.c.Answered -= uint64(len(f) - n)
	for _, f := range f[n:] {
		w.giveBack(f)
	}
	w.answers[out] = f[:0]
}

// giveBack appends a frame of the worker's own to what goes back to the free list.
func (w *Worker) giveBack(f packet.Frame) {
	if len(w.free) == cap(w.free) {
		w.release()
	}
	w.free = append(w.free, f)
}

// answerable says whether a packet may be answered. There is no answer to a RST or an ICMP error, which would make two
// hosts answer each other for ever; to a fragment by itself; to what is sent to a group or by nobody in particular
// (RFC 1122 section 3.2.2, RFC 4443 section 2.4(e)); and to a packet whose transport checksum is wrong.
func answerable(p *packet.Packet, with rules.RejectWith) bool {
	if p.Frame[0]&1 != 0 || p.Flags&(packet.Fragment|packet.LaterFragment) != 0 || p.Problem == packet.ProblemExtHeader || !single(p.Src, p.Family) || !single(p.Dst, p.Family) {
		return false
	}
	t := p.Transport()
	if p.Family == 6 && len(t) == 0 {
		return false // nor to IPv6 headers alone, or such as lead nowhere (nf_reject_v6_csum_ok, net/ipv6/netfilter/nf_reject_ipv6.c)
	}
	switch {
	case with == rules.RejectTCPReset:
		// nf_reject_ip_tcphdr_get
		if p.Proto != packet.ProtoTCP || len(t) < 20 || t[13]&packet.RST != 0 {
			return false
		}
	case p.Proto == packet.ProtoICMP && p.Family == 4:
		// icmp_pointers in net/ipv4/icmp.c: what is neither query nor reply counts as an error
		if len(t) == 0 || 1<<min(t[0], 31)&(1<<0|1<<8|1<<13|1<<14|1<<15|1<<16|1<<17|1<<18) == 0 {
			return false
		}
	case p.Proto == packet.ProtoICMPv6 && p.Family == 6:
		if len(t) == 0 || t[0] < 128 || t[0] == 137 {
			return false
		}
	}
	return intact(p, t)
}

// single says whether an address can be one host's, as far as it shows: not unspecified, loopback, multicast or the
// limited broadcast, which a router would not forward either (ip_route_input_slow, net/ipv4/route.c).
func single(a packet.Addr, family uint8) bool {
	if family == 6 {
		return a.Hi>>56 != 0xff && (a.Hi != 0 || a.Lo > 1)
	}
	v := uint32(a.Lo)
	return v>>24 != 0 && v>>24 != 127 && v>>28 != 14 && v != 1<<32-1
}

// intact verifies the checksum of transport t as the kernel does before it answers (nf_reject_verify_csum,
// include/net/netfilter/nf_reject.h, and nf_ip_checksum, net/netfilter/utils.c): over all of it, for every protocol but
// those that have none or another one.
func intact(p *packet.Packet, t []byte) bool {
	sum := uint64(0)
	switch p.Proto {
	case packet.ProtoGRE, packet.ProtoAH, packet.ProtoESP, packet.ProtoSCTP, packet.ProtoUDPLite, packet.ProtoDCCP:
		return true
	case packet.ProtoUDP:
		if len(t) >= 8 && t[6]|t[7] == 0 {
			return true
		}
		sum = packet.PseudoHeader(p.Src, p.Dst, p.Proto, p.Family, len(t))
	default:
		if p.Family == 6 || p.Proto == packet.ProtoTCP {
			sum = packet.PseudoHeader(p.Src, p.Dst, p.Proto, p.Family, len(t))
		}
	}
	return packet.Checksum(packet.SumBytes(sum, t)) == 0
}

// writeReject writes the answer to an answerable packet into b and returns its length, 0 if b is too short for it.
func writeReject(b []byte, p *packet.Packet, with rules.RejectWith) int {
	l3, old, t := int(p.L3), p.Frame[p.L3:p.End], p.Transport()
	header, quote, proto := 20, quote4, uint8(packet.ProtoICMP)
	if p.Family == 6 {
		header, quote, proto = 40, quote6, packet.ProtoICMPv6
	}
	size := 20
	if with == rules.RejectTCPReset {
		proto = packet.ProtoTCP
	} else {
		quote = min(quote, len(old))
		size = 8 + quote
	}
	l4 := l3 + header
	end := l4 + size
	n := max(end, minFrame)
	if n > len(b) {
		return 0
	}
	b = b[:n]
	clear(b[l3:])
	copy(b[0:6], p.Frame[6:12])
	copy(b[6:12], p.Frame[0:6])
	copy(b[12:l3], p.Frame[12:l3]) // tags and EtherType

	ip, up := b[l3:l4], b[l4:end]
	if p.Family == 6 {
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(size))
		ip[6], ip[7] = proto, rejectTTL
		copy(ip[8:24], old[24:40])
		copy(ip[24:40], old[8:24])
	} else {
		ip[0] = 4<<4 | 5
		binary.BigEndian.PutUint16(ip[2:], uint16(header+size))
		ip[6] = 0x40 // do not fragment: an identification of 0 needs it, RFC 6864 section 4
		ip[8], ip[9] = rejectTTL, proto
		copy(ip[12:16], old[16:20])
		copy(ip[16:20], old[12:16])
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(packet.SumBytes(0, ip)))
	}

	pseudo := packet.PseudoHeader(p.Dst, p.Src, proto, p.Family, size)
	at := 2
	if with == rules.RejectTCPReset {
		// RFC 9293 section 3.5.2: in sequence for the one who sent the segment. The length is the datagram's, whatever the
		// data offset says.
		copy(up[0:2], t[2:4])
		copy(up[2:4], t[0:2])
		up[12], up[13] = 5<<4, packet.RST
		if t[13]&packet.ACK != 0 {
			copy(up[4:8], t[8:12])
		} else {
			length := uint32(len(t)) - uint32(t[12]>>4)*4 + uint32(t[13]&packet.SYN)/packet.SYN + uint32(t[13]&packet.FIN)
			binary.BigEndian.PutUint32(up[8:], binary.BigEndian.Uint32(t[4:])+length)
			up[13] |= packet.ACK
		}
		at = 16
	} else {
		up[0], up[1] = icmpUnreachable, with.Code(rules.IPv4)
		if p.Family == 6 {
			up[0], up[1] = 1, with.Code(rules.IPv6)
		} else {
			pseudo = 0
		}
		copy(up[8:], old[:quote])
	}
	binary.BigEndian.PutUint16(up[at:], packet.Checksum(packet.SumBytes(pseudo, up)))
	return n
}
