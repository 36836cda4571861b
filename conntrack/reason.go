package conntrack

// Reason says which check made a packet INVALID. The zero value means that none did.
type Reason uint8

const (
	ReasonNone Reason = iota
	// Found before any tracker looked.
	ReasonMalformed  // the parser found a problem in the transport header (Packet.Problem)
	ReasonChecksum   // bad transport checksum (nf_conntrack_checksum = 1)
	ReasonNoInverse  // ICMP type that can neither ask nor answer (nf_conntrack_invert_icmp_tuple)
	ReasonNotNew     // ICMP answer without its request
	ReasonNotRelated // ICMP error: the packet quoted belongs to no known connection
	ReasonQuote      // ICMP error: the packet quoted cannot be read
	ReasonOuterAddr  // ICMP error: addressed to someone else than the sender of the quoted packet
	ReasonFragment   // a fragment that was not reassembled
	// TCP (nf_conntrack_proto_tcp.c).
	ReasonTCPState    // the segment is not allowed in the connection's state
	ReasonTCPNotNew   // neither a SYN nor, with tcp_loose, an ACK that could pick a connection up
	ReasonTCPSeqOver  // sequence number beyond the receiver's window
	ReasonTCPSeqUnder // older than what the receiver can want
	ReasonTCPAckOver  // acknowledges what was not sent
	ReasonTCPAckUnder // acknowledges something far too old
	ReasonTCPRst      // RST with a sequence number already acknowledged
	ReasonTCPSynProxy // a SYN in a connection whose peer ignores it
	// SCTP (nf_conntrack_proto_sctp.c).
	ReasonSCTPState // the chunk is not allowed in the connection's state
	ReasonSCTPChunk // malformed or forbidden combination of chunks
	ReasonSCTPVtag  // wrong verification tag
	// GRE (nf_conntrack_proto_gre.c).
	ReasonGRE // a version 1 packet of no known PPTP session
	// TCP again. The last four name segments that pass without changing the connection (actAccept), for the counters.
	ReasonTCPFlags     // illegal set of flags
	ReasonTCPIgnored   // cannot be placed: a SYN, SYN/ACK or ACK that the ends have to sort out
	ReasonTCPChallenge // the challenge ACK (RFC 5961) that answers an ignored SYN
	ReasonTCPOvershot  // somewhat more than the receiver allowed
	Reasons            // number of reasons
)

var reasonNames = [Reasons]string{
	ReasonNone:         "none",
	ReasonMalformed:    "malformed transport header",
	ReasonChecksum:     "bad checksum",
	ReasonNoInverse:    "icmp type without counterpart",
	ReasonNotNew:       "icmp answer without request",
	ReasonNotRelated:   "icmp error for no known connection",
	ReasonQuote:        "icmp error with an unreadable quote",
	ReasonOuterAddr:    "icmp error not addressed to the quoted sender",
	ReasonFragment:     "fragment not reassembled",
	ReasonTCPState:     "tcp invalid in this state",
	ReasonTCPNotNew:    "tcp not the start of a connection",
	ReasonTCPSeqOver:   "tcp sequence beyond window",
	ReasonTCPSeqUnder:  "tcp sequence too old",
	ReasonTCPAckOver:   "tcp ack of unsent data",
	ReasonTCPAckUnder:  "tcp ack too old",
	ReasonTCPRst:       "tcp rst outside window",
	ReasonTCPSynProxy:  "tcp syn ignored",
	ReasonSCTPState:    "sctp invalid in this state",
	ReasonSCTPChunk:    "sctp invalid chunks",
	ReasonSCTPVtag:     "sctp wrong verification tag",
	ReasonGRE:          "gre without pptp session",
	ReasonTCPFlags:     "tcp illegal flags",
	ReasonTCPIgnored:   "tcp out of place",
	ReasonTCPChallenge: "tcp challenge ack",
	ReasonTCPOvershot:  "tcp more than the window",
}

// String names the reason in lower case, as in drop reports and metrics.
func (r Reason) String() string {
	if r < Reasons {
		return reasonNames[r]
	}
	return "unknown"
}
