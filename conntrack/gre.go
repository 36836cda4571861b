package conntrack

import "corewire/internal/packet"

// The GRE tracker: the behaviour of net/netfilter/nf_conntrack_proto_gre.c (Linux 6.12 to 6.18). Plain GRE (version 0,
// RFC 2784) is one connection per pair of addresses. PPTP's GRE (version 1, RFC 2637 section 4.1) carries only the
// receiver's call id, so that the two directions of a session have nothing in common that could be read from a
// packet: without a PPTP session known from its control connection each direction is a connection of its own. Parse puts the
// call id into the key as the receiver's port, and leaves the sender's 0.

// greState is the memory of a GRE connection. The timeouts are those of its beginning, in ms; a helper may set others.
type greState struct {
	timeout uint32 // one direction seen
	stream  uint32 // both directions seen
}

// greNew begins a connection with any packet.
func greNew(s *greState, _ *packet.Packet, _ Tick, set *Settings) outcome {
	s.timeout, s.stream = set.gre, set.greStream
	return outcome{timeout: max(s.timeout, 1)}
}

// grePacket refreshes a connection: once packets were seen in both directions it is a stream, and ASSURED.
func grePacket(s *greState, state uint8, _ Dir, status uint32, _ *packet.Packet, _ Tick, _ *Settings) outcome {
	if status&StatusSeenReply != 0 {
		return outcome{timeout: max(s.stream, 1), status: StatusAssured, state: state}
	}
	return outcome{timeout: max(s.timeout, 1), state: state}
}
