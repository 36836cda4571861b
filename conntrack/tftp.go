package conntrack

import (
	"encoding/binary"

	"corewire/internal/packet"
)

// The TFTP helper (RFC 1350; net/netfilter/nf_conntrack_tftp.c, Linux 6.12): the server answers a read or write request
// from a port of its own choice, to the port that the request came from.

// tftpRequest reports whether a datagram's payload is a read or write request.
func tftpRequest(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	op := binary.BigEndian.Uint16(b)
	return op == 1 || op == 2
}

// tftp reads a datagram. It reports whether the datagram may pass.
func (h *help) tftp(b []byte) bool {
	if !tftpRequest(b) {
		return true
	}
	client, server, port := h.src, h.dst, h.sport
	if h.dir == Reply {
		client, server, port = h.dst, h.src, h.dport
	}
	return h.expect(h.want(server, client, port, packet.ProtoUDP, expectAnyPt)) == expectMade
}
