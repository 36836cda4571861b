package conntrack

import "corewire/internal/packet"

// TCPSide is what the tracker knows of one side of a TCP connection, with the names of the kernel's struct
// ip_ct_tcp_state (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
type TCPSide struct {
	End     uint32 // highest sequence number sent, plus one
	MaxEnd  uint32 // highest sequence number that the other side allows
	MaxWin  uint32 // largest window advertised, in bytes
	MaxAck  uint32 // highest acknowledgement sent; valid with AckSeen
	Scale   uint8  // window scale, 0 to 14; 0 without the option
	SACK    bool   // permits selective acknowledgements
	Liberal bool   // its segments' windows are not enforced
	Unacked bool   // it has sent data that nobody acknowledged
	AckSeen bool
}

// TCPInfo is what decides about the next segment of a TCP connection, besides the state: for diagnosis and for the
// comparison with the kernel.
type TCPInfo struct {
	Side    [2]TCPSide // by direction
	Retrans uint8      // how often the last ACK was repeated
}

// TCPInfo copies what the tracker knows of a TCP connection; false if the packet has none.
func (t *Table) TCPInfo(c *Conn, out *TCPInfo) bool {
	if c.Ref == 0 || t.hot.items[c.Ref].key.Proto != packet.ProtoTCP {
		return false
	}
	s := t.cold.items[c.Ref].tcp()
	for d := range out.Side {
		dir := Dir(d)
		from := &s.side[d]
		out.Side[d] = TCPSide{
			End: from.end, MaxEnd: from.maxEnd, MaxWin: from.maxWin, MaxAck: from.maxAck, Scale: s.shift(dir),
			SACK: s.has(dir, tcpSACK), Liberal: s.liberal(dir), Unacked: s.has(dir, tcpUnacked), AckSeen: s.has(dir, tcpMaxAckKnown),
		}
	}
	out.Retrans = s.retrans
	return true
}
