package conntrack

import (
	"encoding/binary"

	"corewire/internal/packet"
)

// The PPTP helper: which GRE call ids a control connection has agreed upon (RFC 2637), with the rules of
// net/netfilter/nf_conntrack_pptp.c, Linux 6.12. Like there, the client of the control connection is taken for the PNS
// and the server for the PAC, and one call per control connection is followed. IPv4 only.
//
//	PNS (client) ── Start-Control-Connection-Request ─▶ PAC      session: none → requested
//	             ◀─ Start-Control-Connection-Reply ────          requested → confirmed
//	             ── Outgoing-Call-Request, call id N ─▶          call: outRequested, pns = N
//	             ◀─ Outgoing-Call-Reply, call id A, peer N ──    outConfirmed, pac = A: GRE is expected both ways
//
// An incoming call runs the other way: Incoming-Call-Request, -Reply, -Connected.

// State of the control session and of the call in it (enum pptp_ctrlsess_state, enum pptp_ctrlcall_state); the order
// matters to the comparisons below.
const (
	pptpNone uint8 = iota
	pptpError
	pptpStopRequested
	pptpRequested
	pptpConfirmed
)

const (
	pptpCallNone uint8 = iota
	pptpCallOutRequested
	pptpCallOutConfirmed
	pptpCallInRequested
	pptpCallInReplied
	pptpCallInConfirmed
	pptpCallClear
)

// pptpState is the memory of a PPTP control connection.
type pptpState struct {
	session, call uint8
	pns, pac      uint16 // call ids: the client's and the server's
}

// pptpAct is what a control message asks for.
type pptpAct uint8

const (
	pptpNothing pptpAct = iota
	pptpExpect          // GRE between the call ids pns and pac of the state is expected
	pptpEnd             // the call is over: its GRE is no longer expected, its connection goes
)

// Control message types (RFC 2637 section 2).
const (
	pptpStartRequest = 1 + iota
	pptpStartReply
	pptpStopRequest
	pptpStopReply
	pptpEchoRequest
	pptpEchoReply
	pptpOutRequest
	pptpOutReply
	pptpInRequest
	pptpInReply
	pptpInConnected
	pptpClearRequest
	pptpDisconnect
	pptpWANError
	pptpLinkInfo
)

// pptpHeader is the length of a control message up to its type and the reserved field behind it (RFC 2637 section 2.1).
const pptpHeader = 12

// pptpSize is the least length of each message behind its header; 0 for the types without a bound (pptp_msg_size).
var pptpSize = [pptpLinkInfo + 1]uint8{
	pptpStartRequest: 144, pptpStartReply: 144, pptpStopRequest: 4, pptpStopReply: 4,
	pptpOutRequest: 156, pptpOutReply: 20, pptpInRequest: 208, pptpInReply: 12, pptpInConnected: 16,
	pptpClearRequest: 4, pptpDisconnect: 136, pptpWANError: 28, pptpLinkInfo: 12,
}

// message reads the control message at the start of a segment's payload and moves the state. What does not fit the state
// is ignored.
func (s *pptpState) message(b []byte, dir Dir) pptpAct {
	// The first word is the length, which the kernel does not look at; then type 1 (control) and the magic cookie.
	if len(b) < pptpHeader || binary.BigEndian.Uint16(b[2:]) != 1 || binary.BigEndian.Uint32(b[4:]) != 0x1a2b3c4d {
		return pptpNothing
	}
	kind := binary.BigEndian.Uint16(b[8:])
	b = b[pptpHeader:]
	if kind == 0 || kind > pptpLinkInfo || len(b) < int(pptpSize[kind]) || pptpSize[kind] == 0 {
		return pptpNothing
	}
	if dir == Original {
		s.fromPNS(kind, b)
		return pptpNothing
	}
	return s.fromPAC(kind, b)
}

// fromPNS is pptp_outbound_pkt. b has the length that kind needs.
func (s *pptpState) fromPNS(kind uint16, b []byte) {
	id := binary.BigEndian.Uint16(b)
	switch kind {
	case pptpStartRequest:
		if s.session == pptpNone {
			s.session = pptpRequested
		}
	case pptpStopRequest:
		s.session = pptpStopRequested
	case pptpOutRequest:
		if s.session == pptpConfirmed {
			s.call, s.pns = pptpCallOutRequested, id
		}
	case pptpInReply:
		if s.call != pptpCallInRequested && s.call != pptpCallInReplied || s.pac != binary.BigEndian.Uint16(b[2:]) {
			return
		}
		if b[4] != 1 { // not accepted
			s.call = pptpCallNone
			return
		}
		s.call, s.pns = pptpCallInReplied, id
	case pptpClearRequest:
		if s.session == pptpConfirmed {
			s.call = pptpCallClear
		}
	}
}

// fromPAC is pptp_inbound_pkt. b has the length that kind needs.
func (s *pptpState) fromPAC(kind uint16, b []byte) pptpAct {
	id := binary.BigEndian.Uint16(b)
	switch kind {
	case pptpStartReply:
		if s.session < pptpRequested {
			return pptpNothing
		}
		s.session = pptpError
		if b[2] == 1 {
			s.session = pptpConfirmed
		}
	case pptpStopReply:
		if s.session > pptpStopRequested {
			return pptpNothing
		}
		s.session = pptpError
		if b[0] == 1 {
			s.session = pptpNone
		}
	case pptpOutReply:
		if s.session != pptpConfirmed || s.call != pptpCallOutRequested && s.call != pptpCallOutConfirmed ||
			s.pns != binary.BigEndian.Uint16(b[2:]) {
			return pptpNothing
		}
		if b[4] != 1 { // not connected
			s.call = pptpCallNone
			return pptpNothing
		}
		s.call, s.pac = pptpCallOutConfirmed, id
		return pptpExpect
	case pptpInRequest:
		if s.session == pptpConfirmed {
			s.call, s.pac = pptpCallInRequested, id
		}
	case pptpInConnected: // here the first word is the peer's call id
		if s.session != pptpConfirmed || s.call != pptpCallInReplied && s.call != pptpCallInConfirmed || s.pns != id {
			return pptpNothing
		}
		s.call = pptpCallInConfirmed
		return pptpExpect
	case pptpDisconnect:
		s.call = pptpCallNone
		return pptpEnd
	}
	return pptpNothing
}

// tuple returns the tuple of the call's GRE packets from the PNS to the PAC, k being the key of the control connection and
// flipped entryFlipped of its entry.
func (s *pptpState) tuple(k *packet.Key, flipped uint8) expectTuple {
	t := expectTuple{k.A, k.B, makePorts(s.pns, s.pac, k.Zone, packet.ProtoGRE, k.Family)}
	if flipped != 0 {
		t.src, t.dst = t.dst, t.src
	}
	return t
}

// pptp reads a segment. It never drops one.
func (t *Table) pptp(h *help, b []byte) {
	if !h.established {
		return
	}
	s := &h.aid.pptp
	switch s.message(b, h.dir) {
	case pptpExpect:
		call := s.tuple(h.master.key, h.master.flipped)
		h.store.connectCall(&h.master, &call, h.now)
	case pptpEnd:
		t.hangUp(&h.master, s)
	}
}

// hangUp ends a call (pptp_destroy_siblings): its call ids are forgotten, and its connection goes, or else what is
// expected in its place. Whether there is a connection is known for this shard only; for those of other shards both go.
func (t *Table) hangUp(m *master, s *pptpState) {
	call := s.tuple(m.key, m.flipped)
	k := call.key()
	state := callExpected
	if t.peek(&k, t.hashOf(&k)) != 0 {
		state = callConnected
	}
	t.expect.endCall(m, &call, state)
}
