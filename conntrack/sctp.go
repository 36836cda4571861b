package conntrack

import (
	"encoding/binary"

	"corewire/internal/packet"
)

// The SCTP tracker: the behaviour of net/netfilter/nf_conntrack_proto_sctp.c (Linux 6.12 to 6.18). States follow from
// chunk types; who may send them is checked by the verification tags (RFC 9260 sections 8.4 and 8.5).

// sctpStateNames is how listings spell the states (sctp_conntrack_names), indexed by state.
var sctpStateNames = [sctpTimeouts]string{
	"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT",
}

// Chunk types (RFC 9260 section 3.2). Those up to sctpShutdownComplete that are not named here (SACK, ECNE, CWR), and
// all later ones, change no state.
const (
	sctpData             uint8 = 0
	sctpInit             uint8 = 1
	sctpInitAck          uint8 = 2
	sctpHeartbeat        uint8 = 4
	sctpHeartbeatAck     uint8 = 5
	sctpAbort            uint8 = 6
	sctpShutdown         uint8 = 7
	sctpShutdownAck      uint8 = 8
	sctpError            uint8 = 9
	sctpCookieEcho       uint8 = 10
	sctpCookieAck        uint8 = 11
	sctpShutdownComplete uint8 = 14
	sctpChunks                 = 15 // number of types that the table below knows

	sctpReflected uint8 = 1 // chunk flag T: the tag is the peer's (RFC 9260 sections 3.3.7, 3.3.13)
)

// Two-letter names for the table below only; kIV: INVALID.
const (
	kCL = sctpClosed
	kCW = sctpCookieWait
	kCE = sctpCookieEchoed
	kES = sctpEstablished
	kSS = sctpShutdownSent
	kSR = sctpShutdownRecd
	kSA = sctpShutdownAckSent
	kHS = sctpHeartbeatSent
	kIV = 0xff
)

// sctpTransition is the state machine: [direction][chunk type][state before] gives the state after, or kIV. A row of
// zeros is a chunk that changes nothing.
var sctpTransition = [2][sctpChunks][sctpTimeouts]uint8{
	Original: {
		//                     NO   CL   CW   CE   ES   SS   SR   SA   HS
		sctpInit:             {kCL, kCL, kCW, kCE, kES, kCL, kCL, kSA, kCW},
		sctpInitAck:          {kCL, kCL, kCW, kCE, kES, kSS, kSR, kSA, kCL},
		sctpAbort:            {kCL, kCL, kCL, kCL, kCL, kCL, kCL, kCL, kCL},
		sctpShutdown:         {kCL, kCL, kCW, kCE, kSS, kSS, kSR, kSA, kCL},
		sctpShutdownAck:      {kSA, kCL, kCW, kCE, kES, kSA, kSA, kSA, kSA},
		sctpError:            {kCL, kCL, kCW, kCE, kES, kSS, kSR, kSA, kCL},
		sctpCookieEcho:       {kCL, kCL, kCE, kCE, kES, kSS, kSR, kSA, kCL},
		sctpCookieAck:        {kCL, kCL, kCW, kES, kES, kSS, kSR, kSA, kCL},
		sctpShutdownComplete: {kCL, kCL, kCW, kCE, kES, kSS, kSR, kCL, kCL},
		sctpHeartbeat:        {kHS, kCL, kCW, kCE, kES, kSS, kSR, kSA, kHS},
		sctpHeartbeatAck:     {kCL, kCL, kCW, kCE, kES, kSS, kSR, kSA, kHS},
	},
	Reply: {
		//                     NO   CL   CW   CE   ES   SS   SR   SA   HS
		sctpInit:             {kIV, kCL, kCW, kCE, kES, kSS, kSR, kSA, kIV},
		sctpInitAck:          {kIV, kCW, kCW, kCE, kES, kSS, kSR, kSA, kIV},
		sctpAbort:            {kIV, kCL, kCL, kCL, kCL, kCL, kCL, kCL, kIV},
		sctpShutdown:         {kIV, kCL, kCW, kCE, kSR, kSS, kSR, kSA, kIV},
		sctpShutdownAck:      {kIV, kCL, kCW, kCE, kES, kSA, kSA, kSA, kIV},
		sctpError:            {kIV, kCL, kCW, kCL, kES, kSS, kSR, kSA, kIV},
		sctpCookieEcho:       {kIV, kCL, kCE, kCE, kES, kSS, kSR, kSA, kIV},
		sctpCookieAck:        {kIV, kCL, kCW, kES, kES, kSS, kSR, kSA, kIV},
		sctpShutdownComplete: {kIV, kCL, kCW, kCE, kES, kSS, kSR, kCL, kIV},
		sctpHeartbeat:        {kIV, kCL, kCW, kCE, kES, kSS, kSR, kSA, kHS},
		sctpHeartbeatAck:     {kIV, kCL, kCW, kCE, kES, kSS, kSR, kSA, kES},
	},
}

// sctpNext returns the state after a chunk, or kIV.
func sctpNext(dir Dir, chunk, state uint8) uint8 {
	if chunk >= sctpChunks {
		return state
	}
	// Every row of a chunk that matters begins with a state or kIV: NONE (0) marks the others.
	if next := sctpTransition[dir][chunk][state]; next != sctpNone {
		return next
	}
	return state
}

// sctpState is the memory of an SCTP association.
type sctpState struct {
	tag   [2]uint32 // verification tag that packets of each direction carry; 0: not known
	init  [2]uint8  // 1: an INIT of this direction waits for its COOKIE ACK
	probe uint8     // sctpProbing | direction: a HEARTBEAT with a foreign tag was let through
}

// sctpProbing in sctpState.probe: set by a HEARTBEAT whose tag is not the known one, as a peer sends it on a new path
// before the firewall saw the association; the lowest bit is its direction.
const sctpProbing uint8 = 2

// sctpChunk is one chunk of a packet.
type sctpChunk struct {
	kind, flags uint8
	size        uint16 // the length field: header and value without padding
	off         int    // offset of the chunk behind the start of the SCTP header
}

// sctpHeader is the size of the common header (RFC 9260 section 3.1).
const sctpHeader = 12

// sctpChunkAt reads the chunk header at offset off of an SCTP packet; ok is false behind the last one. A value that is
// cut off is not noticed here.
func sctpChunkAt(h []byte, off int) (c sctpChunk, next int, ok bool) {
	if off+4 > len(h) {
		return sctpChunk{}, off, false
	}
	c = sctpChunk{kind: h[off], flags: h[off+1], size: binary.BigEndian.Uint16(h[off+2 : off+4]), off: off}
	return c, off + (int(c.size)+3)&^3, true
}

// sctpInitTag reads the initiate tag of an INIT or INIT ACK; ok is false when the chunk's fixed part is cut off.
func sctpInitTag(h []byte, c sctpChunk) (tag uint32, ok bool) {
	if c.off+4+16 > len(h) {
		return 0, false
	}
	return binary.BigEndian.Uint32(h[c.off+4 : c.off+8]), true
}

// sctpSet is a set of the chunk types below 32.
type sctpSet uint32

func (m sctpSet) has(kind uint8) bool { return m>>kind&1 != 0 }

// sctpExempt are the chunks whose packets do not need the known tag: they are checked one by one, or set it.
const sctpExempt sctpSet = 1<<sctpInit | 1<<sctpShutdownComplete | 1<<sctpCookieEcho | 1<<sctpAbort | 1<<sctpShutdownAck | 1<<sctpHeartbeat | 1<<sctpHeartbeatAck

// sctpRead finds the SCTP packet in the frame and the types of its chunks. It returns false when there is no chunk, a
// chunk of length zero, an INIT, INIT ACK or SHUTDOWN COMPLETE that is not alone, or a COOKIE ECHO or COOKIE ACK that is
// not the first (RFC 9260 sections 3.3.11, 3.3.12 and 6.10).
func sctpRead(p *packet.Packet) (h []byte, kinds sctpSet, ok bool) {
	l4, end := int(p.L4), int(p.End)
	if end > len(p.Frame) || l4+sctpHeader > end {
		return nil, 0, false
	}
	h = p.Frame[l4:end:end]
	alone := false
	for off := sctpHeader; ; {
		c, next, ok := sctpChunkAt(h, off)
		if !ok {
			return h, kinds, off > sctpHeader
		}
		switch c.kind {
		case sctpInit, sctpInitAck, sctpShutdownComplete:
			alone = true
		}
		first := off == sctpHeader
		if c.size == 0 || !first && (alone || c.kind == sctpCookieEcho || c.kind == sctpCookieAck) {
			return nil, 0, false
		}
		if c.kind < 32 {
			kinds |= 1 << c.kind
		}
		off = next
	}
}

// sctpNew judges the first packet of an association that is not in the table. s is all zero.
func sctpNew(s *sctpState, p *packet.Packet, _ Tick, set *Settings) outcome {
	h, kinds, ok := sctpRead(p)
	if !ok {
		return outcome{act: actInvalid, why: ReasonSCTPChunk}
	}
	if kinds.has(sctpAbort) || kinds.has(sctpShutdownComplete) || kinds.has(sctpCookieAck) {
		return outcome{act: actInvalid, why: ReasonSCTPState} // out of the blue (RFC 9260 section 8.4)
	}
	tag := binary.BigEndian.Uint32(h[4:8])
	for off := sctpHeader; ; {
		c, next, ok := sctpChunkAt(h, off)
		if !ok {
			break
		}
		if sctpNext(Original, c.kind, sctpNone) == sctpNone {
			return outcome{act: actInvalid, why: ReasonSCTPState}
		}
		switch c.kind {
		case sctpInit:
			initTag, ok := sctpInitTag(h, c)
			if tag != 0 || !ok {
				return outcome{act: actInvalid, why: ReasonSCTPVtag}
			}
			s.tag[Reply] = initTag
		case sctpHeartbeat:
			s.tag[Original] = tag // a further path of an association that is known elsewhere
		case sctpShutdownAck:
			s.tag[Reply] = tag // its answer carries the same tag (RFC 9260 section 8.4 item 5)
		}
		off = next
	}
	return sctpJudge(s, sctpNone, Original, h, kinds, set)
}

// sctpPacket judges a later packet of an association.
func sctpPacket(s *sctpState, state uint8, dir Dir, _ uint32, p *packet.Packet, _ Tick, set *Settings) outcome {
	h, kinds, ok := sctpRead(p)
	if !ok {
		return outcome{act: actInvalid, state: state, why: ReasonSCTPChunk}
	}
	return sctpJudge(s, state, dir, h, kinds, set)
}

// sctpJudge checks the tag and runs the state machine over the chunks. What an earlier chunk changed holds even when
// a later one makes the packet INVALID. state is sctpNone for the first packet only.
func sctpJudge(s *sctpState, state uint8, dir Dir, h []byte, kinds sctpSet, set *Settings) outcome {
	tag := binary.BigEndian.Uint32(h[4:8])
	fresh := state == sctpNone
	out := outcome{state: state}
	if kinds&sctpExempt == 0 && tag != s.tag[dir] {
		out.act, out.why = actInvalid, ReasonSCTPVtag
		return out
	}
	ignored := false // let through, but without refreshing the timeout
	for off := sctpHeader; ; {
		c, next, ok := sctpChunkAt(h, off)
		if !ok {
			break
		}
		off = next
		switch s.checkTag(dir, c, tag, kinds, ignored) {
		case sctpTagWrong:
			out.act, out.why = actInvalid, ReasonSCTPVtag
			return out
		case sctpTagProbe:
			ignored = true
			continue
		}
		before := out.state
		after := sctpNext(dir, c.kind, before)
		if after == kIV {
			out.act, out.why = actInvalid, ReasonSCTPState
			return out
		}
		switch c.kind {
		case sctpInit:
			initTag, ok := sctpInitTag(h, c)
			if !ok {
				out.act, out.why = actInvalid, ReasonSCTPChunk
				return out
			}
			// An INIT with the tag that is known already is a repeated or late one and begins nothing.
			if before == sctpNone || s.tag[dir^1] != initTag {
				if s.init[dir] != 0 && s.init[dir^1] != 0 {
					s.init[dir^1] = 0
				}
				s.init[dir] = 1
			}
			s.tag[dir^1] = initTag
			if after == sctpClosed && before == sctpClosed && !fresh {
				ignored = true // repeated INITs do not keep an unanswered entry alive
			}
		case sctpInitAck:
			initTag, ok := sctpInitTag(h, c)
			if !ok {
				out.act, out.why = actInvalid, ReasonSCTPChunk
				return out
			}
			known := s.tag[dir^1]
			// The tag may change only where the other side has an INIT of its own under way, and not where both have
			// (INIT collision, RFC 9260 section 5.2.1).
			if known != initTag && (s.init[dir^1] == 0 && known != 0 || s.init[dir] != 0 && s.init[dir^1] != 0) {
				out.act, out.why = actInvalid, ReasonSCTPVtag
				return out
			}
			s.tag[dir^1] = initTag
		}
		out.state = after
		if after != before && after == sctpEstablished {
			out.status = StatusAssured
		}
	}
	if !ignored {
		out.timeout = max(set.sctp[out.state], 1)
	}
	return out
}

// What checkTag says of a chunk.
const (
	sctpTagRight uint8 = iota
	sctpTagWrong
	sctpTagProbe // a HEARTBEAT with a foreign tag: let it through, its answer will show who is right
)

// checkTag applies the rules for the verification tag that depend on the chunk (RFC 9260 section 8.5.1), and learns
// tags from heartbeats. ignored: an earlier chunk of the packet was a probe or a repeated INIT.
func (s *sctpState) checkTag(dir Dir, c sctpChunk, tag uint32, kinds sctpSet, ignored bool) uint8 {
	right := true
	switch c.kind {
	case sctpInit:
		right = tag == 0
	case sctpAbort, sctpShutdownComplete:
		if c.flags&sctpReflected != 0 {
			dir ^= 1
		}
		right = tag == s.tag[dir]
	case sctpCookieEcho:
		right = tag == s.tag[dir]
	case sctpCookieAck:
		s.init = [2]uint8{}
	case sctpHeartbeat:
		switch {
		case s.tag[dir] == 0:
			s.tag[dir] = tag
		case tag == s.tag[dir]:
			s.probe &^= sctpProbing
		case kinds.has(sctpData) || ignored:
			right = false
		default:
			s.probe = sctpProbing | uint8(dir)
			return sctpTagProbe
		}
	case sctpHeartbeatAck:
		switch {
		case s.tag[dir] == 0:
			s.tag[dir] = tag
		case tag == s.tag[dir]:
			s.probe &^= sctpProbing
		case kinds.has(sctpData) || ignored || s.probe != sctpProbing|uint8(dir^1):
			right = false
		default:
			// The answer to the probe: both sides agree on new tags.
			s.probe &^= sctpProbing
			s.tag[dir], s.tag[dir^1] = tag, 0
		}
	}
	if !right {
		return sctpTagWrong
	}
	return sctpTagRight
}

// sctpClosingState reports whether an association in this state is ending: its entry may be taken for room even when
// it is ASSURED, once the table is nearly full (sctp_can_early_drop).
func sctpClosingState(state uint8) bool {
	return state >= sctpShutdownSent && state <= sctpShutdownAckSent
}
