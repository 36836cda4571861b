package conntrack

import "corewire/internal/packet"

// What SIP messages lead to, with the rules of net/netfilter/nf_conntrack_sip.c, Linux 6.12, without its address
// translation:
//
//   - An INVITE, and everything that carries a session description in the dialogue, makes expectations for the media
//     (RTP and the port above it, RTCP), where the description names the sender itself (sip_direct_media).
//   - A REGISTER makes one for calls from the registrar: it is permanent, and inactive until the registrar confirms it;
//     its deadline is the one that the registrar grants.
//   - A new INVITE, a BYE, and a refusal remove the media's expectations that have not been used.
//
// sip_external_media asks the routing table, which a wire does not have, and is not provided.

// sipState is the memory of a SIP connection.
type sipState struct {
	register uint32 // CSeq of the last REGISTER
	invite   uint32 // CSeq of the last INVITE
}

// Sets of classes for Expectations.drop.
const (
	sipMediaClasses = 1<<sipAudio | 1<<sipVideo | 1<<sipImage
	sipSignalClass  = 1 << sipSignalling
)

// sipStream reads a segment of a SIP connection over TCP: as many messages as it holds whole. It reports whether the
// segment may pass.
func (h *help) sipStream(b []byte) bool {
	for len(b) >= sipShortest {
		n := sipNext(b, h.family)
		if n == 0 {
			return true
		}
		if !h.sip(b[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// sipDatagram reads a datagram. It reports whether the datagram may pass.
func (h *help) sipDatagram(b []byte) bool { return len(b) < sipShortest || h.sip(b) }

// sip reads one message (process_sip_msg).
func (h *help) sip(b []byte) bool {
	m := sipMessage{b, h.family}
	s, r := m.start()
	if r != matchFound {
		return r == matchNone
	}
	if s.code == 0 {
		switch s.method {
		case sipInvite:
			h.store.drop(&h.master, sipMediaClasses, dropAll)
			if !h.sdp(&m) {
				return false
			}
			h.aid.sip.invite = s.cseq
			return true
		case sipBye:
			h.store.drop(&h.master, sipMediaClasses, dropAll)
			return true
		case sipRegister:
			return h.register(&m, s.cseq)
		}
		return h.sdp(&m)
	}
	switch {
	case s.method == sipOther:
		return true
	case s.method == sipRegister:
		return h.registered(&m, &s)
	case s.code >= 100 && s.code <= 299:
		return h.sdp(&m)
	case h.aid.sip.invite == s.cseq:
		h.store.drop(&h.master, sipMediaClasses, dropAll)
	}
	return true
}

// sdp expects the media of a session description (process_sdp).
func (h *help) sdp(m *sipMessage) bool {
	var w sdpWalk
	if !w.begin(m) {
		return true
	}
	for {
		s, r := w.next(m)
		if r != matchFound {
			return r == matchNone
		}
		if !h.media(&s) {
			return false
		}
	}
}

// media expects one stream and its control channel, on the next lower even port and the one above it
// (set_expected_rtp_rtcp; RFC 3550 section 11).
func (h *help) media(s *sdpStream) bool {
	src, flags := packet.Addr{}, expectAnySrc|expectAnyPt
	if h.set.sipDirectMedia != 0 {
		if s.addr != h.src {
			return true
		}
		src, flags = h.dst, expectAnyPt
	}
	rtp := h.want(src, s.addr, s.port, packet.ProtoUDP, flags)
	rtp.class, rtp.scope = s.class, anyMaster
	rtp.policy = helpers[HelperSIP].policy[s.class]
	// Both ends of a call may be behind this wire, and then each of their connections carries the same description.
	if h.store.foreign(&h.master, &rtp.tuple, s.class, h.now) {
		return true
	}
	rtcp := *rtp
	rtp.tuple.ports = makePorts(0, s.port&^1, rtp.tuple.zone(), packet.ProtoUDP, h.family)
	rtcp.tuple.ports = makePorts(0, s.port|1, rtp.tuple.zone(), packet.ProtoUDP, h.family)
	first := h.expect(rtp)
	if first != expectMade && first != expectAlready {
		return false
	}
	if second := h.expect(&rtcp); second != expectMade && second != expectAlready {
		if first == expectMade {
			h.store.withdraw(&h.master, &rtp.tuple, h.now)
		}
		return false
	}
	return true
}

// register expects calls for a client that registers its own address (process_register_request).
func (h *help) register(m *sipMessage, cseq uint32) bool {
	if h.expected {
		return true // an expected connection does not register again
	}
	expires, _ := m.number(sipExpires)
	var w sipWalk
	addr, port, v, r := w.contact(m)
	if r != matchFound {
		return r == matchNone
	}
	if addr != h.src || !m.transport(v.at+v.n, h.proto) {
		return true // somebody else is registered, or over another transport
	}
	switch n, r := m.expires(v.at + v.n); r {
	case matchPartial:
		return false
	case matchFound:
		expires = n
	}
	if expires > 0 { // 0 ends a registration: its expectation goes with the answer
		src, flags := packet.Addr{}, expectAnySrc|expectAnyPt
		if h.set.sipDirectSignalling != 0 {
			src, flags = h.dst, expectAnyPt
		}
		w := h.want(src, addr, port, h.proto, flags|expectAssign|ExpectPermanent|ExpectInactive)
		if h.expect(w) != expectMade {
			return false
		}
	}
	h.aid.sip.register = cseq
	return true
}

// registered makes the expectation of a registration active for as long as the registrar grants it, or removes it
// (process_register_response).
func (h *help) registered(m *sipMessage, s *sipStart) bool {
	if h.aid.sip.register != s.cseq || s.code >= 100 && s.code <= 199 {
		return true
	}
	if s.code >= 200 && s.code <= 299 {
		granted, _ := m.number(sipExpires)
		var w sipWalk
		for {
			addr, port, v, r := w.contact(m)
			if r == matchPartial {
				return false
			}
			if r == matchNone {
				break
			}
			if addr != h.dst || !m.transport(v.at+v.n, h.proto) {
				continue
			}
			expires := granted
			switch n, r := m.expires(v.at + v.n); r {
			case matchPartial:
				return false
			case matchFound:
				expires = n
			}
			if expires == 0 {
				break
			}
			until := h.now + Tick(min(expires, maxTimeout))*1000
			if h.store.refresh(&h.master, sipSignalling, addr, port, h.proto, until) {
				return true
			}
		}
	}
	h.store.drop(&h.master, sipSignalClass, dropNewest)
	return true
}
