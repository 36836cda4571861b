package conntrack

import (
	"encoding/binary"

	"corewire/internal/packet"
)

// The TCP tracker: the behaviour of net/netfilter/nf_conntrack_proto_tcp.c (Linux 6.12 to 6.18), with its state
// machine as data and its memory packed into 48 bytes.
//
// A middle box sees every segment but not whether it arrived, so it keeps for each side what its segments have
// claimed and what the other side has granted (Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter",
// SANE 2000), and follows the connection's state from the flags alone.

// The states are numbered as enum tcp_conntrack is (uapi/linux/netfilter/nf_conntrack_tcp.h), since listings, ctnetlink
// and saved tables use these numbers; settings.go has them beside their timeouts. SYN_SENT and SYN_RECV: SYN and
// SYN/ACK seen. ESTABLISHED: the handshake's last ACK seen, or picked up in the middle. FIN_WAIT: the FIN of one side
// seen; CLOSE_WAIT: that FIN was followed by an ACK; LAST_ACK: the FIN of both sides seen; TIME_WAIT: the last ACK
// seen. CLOSE: RST seen. SYN_SENT2: SYN seen from both sides, a simultaneous open.
const (
	tcpStates = tcpSynSent2 + 1 // number of states

	// What the table of transitions says besides a state.
	tcpIgnore  uint8 = 0xfe // let it pass, keep the state: the ends may know better
	tcpInvalid uint8 = 0xff // INVALID
)

// tcpStateNames is how listings spell the states (tcp_conntrack_names).
var tcpStateNames = [tcpStates]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

// Flags of a TCP header (RFC 9293 section 3.1), as in Packet.TCPFlags.
const (
	tcpFIN uint8 = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
	tcpURG
)

// Classes of segments: what a segment is to the state machine. RST outranks SYN, SYN outranks FIN, FIN outranks ACK.
const (
	tcpClassNone uint8 = iota // an illegal set of flags; as the class of the last segment: there was none
	tcpClassSYN
	tcpClassSYNACK
	tcpClassFIN
	tcpClassACK
	tcpClassRST
	tcpClasses
)

// tcpClassOf gives the class of the legal flag sets; every other set is tcpClassNone. PSH, ECE and CWR may be added to
// any and are masked off before (tcp_valid_flags).
var tcpClassOf = [64]uint8{
	tcpSYN:                   tcpClassSYN,
	tcpSYN | tcpURG:          tcpClassSYN,
	tcpSYN | tcpACK:          tcpClassSYNACK,
	tcpRST:                   tcpClassRST,
	tcpRST | tcpACK:          tcpClassRST,
	tcpFIN | tcpACK:          tcpClassFIN,
	tcpFIN | tcpACK | tcpURG: tcpClassFIN,
	tcpACK:                   tcpClassACK,
	tcpACK | tcpURG:          tcpClassACK,
}

// Two-letter names for the table below only.
const (
	tNO = tcpNone
	tSS = tcpSynSent
	tSR = tcpSynRecv
	tES = tcpEstablished
	tFW = tcpFinWait
	tCW = tcpCloseWait
	tLA = tcpLastAck
	tTW = tcpTimeWait
	tCL = tcpClose
	tS2 = tcpSynSent2
	tIG = tcpIgnore
	tIV = tcpInvalid
)

// tcpTransition is the state machine: [direction][class][state before] gives the state after, tcpIgnore or tcpInvalid.
// What depends on more than these three is in tcpJudge: reopening, resynchronising, challenge ACKs, RST checks.
var tcpTransition = [2][tcpClasses][tcpStates]uint8{
	Original: {
		//               NO   SS   SR   ES   FW   CW   LA   TW   CL   S2
		tcpClassNone:   {tIV, tIV, tIV, tIV, tIV, tIV, tIV, tIV, tIV, tIV},
		tcpClassSYN:    {tSS, tSS, tIG, tIG, tIG, tIG, tIG, tSS, tSS, tS2},
		tcpClassSYNACK: {tIV, tIV, tSR, tIV, tIV, tIV, tIV, tIV, tIV, tSR},
		tcpClassFIN:    {tIV, tIV, tFW, tFW, tLA, tLA, tLA, tTW, tCL, tIV},
		tcpClassACK:    {tES, tIV, tES, tES, tCW, tCW, tTW, tTW, tCL, tIV},
		tcpClassRST:    {tIV, tCL, tCL, tCL, tCL, tCL, tCL, tCL, tCL, tCL},
	},
	Reply: {
		//               NO   SS   SR   ES   FW   CW   LA   TW   CL   S2
		tcpClassNone:   {tIV, tIV, tIV, tIV, tIV, tIV, tIV, tIV, tIV, tIV},
		tcpClassSYN:    {tIV, tS2, tIV, tIV, tIV, tIV, tIV, tSS, tIV, tS2},
		tcpClassSYNACK: {tIV, tSR, tIG, tIG, tIG, tIG, tIG, tIG, tIG, tSR},
		tcpClassFIN:    {tIV, tIV, tFW, tFW, tLA, tLA, tLA, tTW, tCL, tIV},
		tcpClassACK:    {tIV, tIG, tSR, tES, tCW, tCW, tTW, tTW, tCL, tIG},
		tcpClassRST:    {tIV, tCL, tCL, tCL, tCL, tCL, tCL, tCL, tCL, tCL},
	},
}

// tcpSide is what the tracker knows of one side of a connection. Sequence numbers are compared by signed difference.
type tcpSide struct {
	end    uint32 // highest sequence number sent, plus one: max(seq + len)
	maxEnd uint32 // highest sequence number that the other side allows: max(ack + window)
	maxWin uint32 // largest window advertised by this side, in bytes; 0: nothing seen of this side yet
	maxAck uint32 // highest acknowledgement sent; valid with tcpMaxAckKnown
}

// tcpState is the memory of a TCP connection: 48 bytes, where the kernel's struct ip_ct_tcp has 60, with nothing left
// out. What makes the difference: the last segment's length instead of its end, a scale that is 0 where the option
// was absent, one bit for "closing" (only ever used as the OR of both sides), and the options of an ignored SYN in
// the room of the last class, where they are only meaningful while that SYN is the last segment.
type tcpState struct {
	side    [2]tcpSide // by direction: Original, Reply
	lastSeq uint32     // sequence number of the last ACK or ignored segment
	lastAck uint32     // acknowledgement of the last ACK, or of an ignored ACK in SYN_SENT
	lastLen uint16     // sequence space that the segment of lastSeq took
	lastWin uint16     // window of the segment of lastSeq, unscaled
	scale   uint8      // window scale code of Original (low four bits) and Reply: 0 without the option, else scale + 1
	flags   uint8      // per side two bits each of tcpSACK, tcpUnacked, tcpMaxAckKnown; the mode in the highest two
	last    uint8      // class and direction of the last segment, see setLast; tcpClosing
	retrans uint8      // how often the last ACK was repeated; wraps, as the kernel's does
}

// Bits of tcpState.flags, for Original; shifted left by one for Reply.
const (
	tcpSACK        uint8 = 0x01 // this side permits SACK (RFC 2018)
	tcpUnacked     uint8 = 0x04 // this side has sent data that nobody acknowledged
	tcpMaxAckKnown uint8 = 0x10 // maxAck is valid

	tcpSideFlags = tcpSACK | tcpUnacked | tcpMaxAckKnown
)

// Modes of a connection, in the highest two bits of tcpState.flags. The kernel keeps them as three flags, of which no
// other combination can occur: a connection that was picked up never was in SYN_SENT.
const (
	tcpModePlain        uint8 = 0x00
	tcpModeSimultaneous uint8 = 0x40 // SYN seen from both sides
	tcpModePickedUp     uint8 = 0x80 // began in the middle: windows of both sides are judged liberally
	tcpModeHalfPicked   uint8 = 0xc0 // picked up, then Original resynchronised by a handshake: only Reply is liberal
	tcpModeMask         uint8 = 0xc0
)

// Bits of tcpState.last. Without tcpIgnoredSYN the lowest bits are class<<1 | direction; with it, the last segment was
// an ignored SYN of the original direction and they are its options: scale code<<2, SACK, expected challenge ACK.
const (
	tcpClosing        uint8 = 0x80 // one side has begun to close with a FIN (the kernel's CLOSE_INIT of either side)
	tcpIgnoredSYN     uint8 = 0x40
	tcpIgnoredSACK    uint8 = 0x02
	tcpChallengeComes uint8 = 0x01 // the SYN hit LAST_ACK: a challenge ACK (RFC 5961 section 4) may answer it
	tcpLastMask       uint8 = 0x7f
)

// lastClass returns the class of the last segment that was accepted or ignored.
func (s *tcpState) lastClass() uint8 {
	if s.last&tcpIgnoredSYN != 0 {
		return tcpClassSYN
	}
	return s.last & tcpLastMask >> 1
}

// lastDir returns the direction of the segment of lastClass.
func (s *tcpState) lastDir() Dir {
	if s.last&tcpIgnoredSYN != 0 {
		return Original
	}
	return Dir(s.last & 1)
}

// setLast notes class and direction of a segment; the options of an ignored SYN are gone with it.
func (s *tcpState) setLast(class uint8, dir Dir) {
	s.last = s.last&tcpClosing | class<<1 | uint8(dir)
}

// lastEnd returns the sequence number behind the segment of lastSeq.
func (s *tcpState) lastEnd() uint32 { return s.lastSeq + uint32(s.lastLen) }

// has reports whether a side has one of the flags tcpSACK, tcpUnacked, tcpMaxAckKnown.
func (s *tcpState) has(d Dir, flag uint8) bool { return s.flags&(flag<<d) != 0 }

func (s *tcpState) set(d Dir, flag uint8)   { s.flags |= flag << d }
func (s *tcpState) clear(d Dir, flag uint8) { s.flags &^= flag << d }

// mode returns the connection's mode.
func (s *tcpState) mode() uint8 { return s.flags & tcpModeMask }

func (s *tcpState) setMode(m uint8) { s.flags = s.flags&^tcpModeMask | m }

// liberal reports whether the windows of a side's segments are not enforced.
func (s *tcpState) liberal(d Dir) bool {
	m := s.mode()
	return m == tcpModePickedUp || m == tcpModeHalfPicked && d == Reply
}

// scaleCode returns a side's window scale plus one, or 0 when it sent no such option.
func (s *tcpState) scaleCode(d Dir) uint8 { return s.scale >> (4 * d) & 15 }

func (s *tcpState) setScaleCode(d Dir, code uint8) {
	s.scale = s.scale&^(15<<(4*d)) | code<<(4*d)
}

// shift returns how far a side's windows are to be shifted left (RFC 7323 section 2.2): 0 to 14.
func (s *tcpState) shift(d Dir) uint8 {
	code := s.scaleCode(d)
	if code == 0 {
		return 0
	}
	return code - 1
}

// tcpBefore reports whether sequence number a lies before b (RFC 9293 section 3.4).
func tcpBefore(a, b uint32) bool { return int32(a-b) < 0 }

// tcpSegment is what the tracker reads from a header. It lives on the stack of tcpNew or tcpPacket.
type tcpSegment struct {
	seq, ack uint32
	end      uint32 // seq plus the sequence space that the segment takes, SYN and FIN included
	win      uint32 // the window field, unscaled
	class    uint8
	flags    uint8
	options  []byte // aliases the frame
}

// read takes the segment apart. It returns false when the header does not fit into the datagram.
func (g *tcpSegment) read(p *packet.Packet) bool {
	l4, end := int(p.L4), int(p.End)
	if end > len(p.Frame) || l4+20 > end {
		return false
	}
	h := p.Frame[l4:end:end]
	header := int(h[12]>>4) * 4
	if header < 20 || header > len(h) {
		return false
	}
	g.seq = binary.BigEndian.Uint32(h[4:8])
	g.ack = binary.BigEndian.Uint32(h[8:12])
	g.flags = h[13]
	g.win = uint32(binary.BigEndian.Uint16(h[14:16]))
	g.class = tcpClassOf[g.flags&(tcpFIN|tcpSYN|tcpRST|tcpACK|tcpURG)]
	g.options = h[20:header:header]
	g.end = g.seq + uint32(len(h)-header)
	if g.flags&tcpSYN != 0 {
		g.end++
	}
	if g.flags&tcpFIN != 0 {
		g.end++
	}
	return true
}

// Kinds of TCP options (RFC 9293 section 3.1, RFC 7323, RFC 2018).
const (
	tcpOptEnd           = 0
	tcpOptNop           = 1
	tcpOptWindowScale   = 3
	tcpOptSACKPermitted = 4
	tcpOptSACK          = 5
	tcpOptTimestamp     = 8

	tcpMaxShift = 14 // RFC 7323 section 2.3: a larger shift counts as 14
)

// nextOption takes the first option that is not padding off a list and returns its kind and value. At the end of the
// list, and at an option that is cut off or has an impossible length, kind is tcpOptEnd.
func nextOption(list []byte) (kind uint8, value, rest []byte) {
	for len(list) > 0 && list[0] == tcpOptNop {
		list = list[1:]
	}
	if len(list) < 2 {
		return tcpOptEnd, nil, nil
	}
	size := int(list[1])
	if list[0] == tcpOptEnd || size < 2 || size > len(list) {
		return tcpOptEnd, nil, nil
	}
	return list[0], list[2:size], list[size:]
}

// synOptions reads the options that matter in a SYN: the window scale as a scale code, and whether SACK is permitted.
func synOptions(list []byte) (scaleCode uint8, sack bool) {
	for {
		kind, value, rest := nextOption(list)
		switch {
		case kind == tcpOptEnd:
			return scaleCode, sack
		case kind == tcpOptSACKPermitted && len(value) == 0:
			sack = true
		case kind == tcpOptWindowScale && len(value) == 1:
			scaleCode = min(value[0], tcpMaxShift) + 1
		}
		list = rest
	}
}

// onlyTimestamp reports whether a list is a timestamp with its usual padding, by far the most frequent one of an open
// connection.
func onlyTimestamp(list []byte) bool {
	return len(list) == 12 && binary.BigEndian.Uint32(list) == tcpOptNop<<24|tcpOptNop<<16|tcpOptTimestamp<<8|10
}

// sackEdge returns the highest right edge of a segment's SACK blocks, or ack where none is higher. Only the first
// SACK option counts.
func sackEdge(list []byte, ack uint32) uint32 {
	if onlyTimestamp(list) {
		return ack
	}
	edge := ack
	for {
		kind, value, rest := nextOption(list)
		if kind == tcpOptEnd {
			return edge
		}
		if kind == tcpOptSACK && len(value) >= 8 && len(value)%8 == 0 {
			for ; len(value) >= 8; value = value[8:] {
				if right := binary.BigEndian.Uint32(value[4:8]); tcpBefore(edge, right) {
					edge = right
				}
			}
			return edge
		}
		list = rest
	}
}

// learnOptions takes over the options of a SYN. A header without any option leaves what was known.
func (s *tcpState) learnOptions(d Dir, options []byte) {
	if len(options) == 0 {
		return
	}
	code, sack := synOptions(options)
	s.clear(d, tcpSideFlags)
	s.setScaleCode(d, code)
	if sack {
		s.set(d, tcpSACK)
	}
}

// begin sets up a side from its SYN or SYN/ACK.
func (s *tcpState) begin(d Dir, g *tcpSegment) {
	side := &s.side[d]
	side.end, side.maxEnd = g.end, g.end
	side.maxWin = max(g.win, 1)
	s.learnOptions(d, g.options)
	// Windows are scaled only where both sides sent the option (RFC 7323 section 2.2); the second one settles it.
	if d == Reply && (s.scaleCode(Original) == 0 || s.scaleCode(Reply) == 0) {
		s.setScaleCode(Original, min(s.scaleCode(Original), 1))
		s.setScaleCode(Reply, min(s.scaleCode(Reply), 1))
	}
}

// tcpNew judges the first segment of a connection that is not in the table. s is all zero.
func tcpNew(s *tcpState, p *packet.Packet, _ Tick, set *Settings) outcome {
	var g tcpSegment
	if !g.read(p) {
		return outcome{act: actInvalid, why: ReasonMalformed}
	}
	if g.class == tcpClassNone {
		return outcome{act: actInvalid, why: ReasonTCPFlags}
	}
	side := &s.side[Original]
	switch tcpTransition[Original][g.class][tcpNone] {
	case tcpSynSent:
		side.end, side.maxEnd = g.end, g.end
		side.maxWin = max(g.win, 1)
		s.learnOptions(Original, g.options)
	case tcpEstablished:
		if set.tcpLoose == 0 {
			return outcome{act: actInvalid, why: ReasonTCPNotNew}
		}
		// In the middle of a connection: window scales are unknown, so windows cannot be enforced.
		side.end = g.end
		side.maxWin = max(g.win, 1)
		side.maxEnd = g.end + side.maxWin
		s.flags = tcpSACK | tcpSACK<<Reply | tcpModePickedUp
	default:
		return outcome{act: actInvalid, why: ReasonTCPNotNew}
	}
	return tcpJudge(s, tcpNone, Original, 0, &g, set)
}

// tcpPacket judges a later segment of a connection.
func tcpPacket(s *tcpState, state uint8, dir Dir, status uint32, p *packet.Packet, _ Tick, set *Settings) outcome {
	var g tcpSegment
	if !g.read(p) {
		return outcome{act: actInvalid, state: state, why: ReasonMalformed}
	}
	if g.class == tcpClassNone {
		return outcome{act: actInvalid, state: state, why: ReasonTCPFlags}
	}
	return tcpJudge(s, state, dir, status, &g, set)
}

// plain judges what nearly every segment is: an ACK of an open connection that fits in every way, and so needs neither the
// state machine nor what follows a failed condition. It returns the timeout; for any other segment 0, and changes nothing.
func (s *tcpState) plain(state uint8, dir Dir, status uint32, p *packet.Packet, set *Settings) uint32 {
	if state != tcpEstablished || p.TCPFlags&(tcpFIN|tcpSYN|tcpRST|tcpACK) != tcpACK || ^status&(StatusSeenReply|StatusAssured) != 0 {
		return 0
	}
	var g tcpSegment
	if !g.read(p) || !s.fits(dir, &g) {
		return 0
	}
	s.learn(dir, &g, g.seq, g.ack, g.ack, g.end)
	s.setLast(tcpClassACK, dir)
	return s.timeout(state, tcpClassACK, set)
}

// fits reports whether an ACK meets all conditions of window and has no SACK blocks to be looked at. When it says no,
// window may still say yes.
func (s *tcpState) fits(dir Dir, g *tcpSegment) bool {
	sender, receiver := &s.side[dir], &s.side[dir^1]
	if len(g.options) != 0 && s.has(dir^1, tcpSACK) && !onlyTimestamp(g.options) {
		return false
	}
	return sender.maxWin != 0 && receiver.maxWin != 0 &&
		tcpBefore(g.seq, sender.maxEnd+1) && tcpBefore(g.ack, receiver.end+1) &&
		!tcpBefore(g.end, sender.end-receiver.maxWin) && !tcpBefore(g.ack, receiver.end-max(sender.maxWin, tcpMinAckWindow))
}

// tcpJudge runs the state machine and the window checks over one segment and writes to s what they learn from it.
func tcpJudge(s *tcpState, state uint8, dir Dir, status uint32, g *tcpSegment, set *Settings) outcome {
	before, after := state, tcpTransition[dir][g.class][state]
	checkWindow := true
	switch after {
	case tcpInvalid:
		return outcome{act: actInvalid, state: state, why: ReasonTCPState}

	case tcpIgnore:
		if !s.resynchronise(dir, g) {
			return s.ignore(state, dir, g)
		}
		before, after = tcpSynSent, tcpSynRecv

	case tcpSynSent:
		if state < tcpTimeWait {
			break
		}
		// A SYN in TIME_WAIT or CLOSE begins a new connection (RFC 9293 section 3.6.1) where the old one was closed
		// by a FIN, or where its last segment was an RST of the same side. Otherwise the ends have to sort it out.
		if s.last&tcpClosing != 0 || s.lastClass() == tcpClassRST && s.lastDir() == dir {
			return outcome{act: actReopen, state: state}
		}
		return s.ignore(state, dir, g)

	case tcpTimeWait:
		// A challenge ACK answers the SYN that was ignored, and not the last FIN (RFC 5961 section 4.2).
		if state == tcpLastAck && g.class == tcpClassACK && dir == Reply && s.last&(tcpIgnoredSYN|tcpChallengeComes) == tcpIgnoredSYN|tcpChallengeComes {
			s.last &^= tcpChallengeComes
			return outcome{state: state, why: ReasonTCPChallenge}
		}

	case tcpSynSent2:
		s.setMode(tcpModeSimultaneous)

	case tcpSynRecv:
		if dir == Reply && g.class == tcpClassACK && s.mode() == tcpModeSimultaneous {
			after = tcpEstablished
		}

	case tcpClose:
		if g.class != tcpClassRST {
			break
		}
		var ok bool
		if after, checkWindow, ok = s.reset(state, dir, status, g, set); !ok {
			return outcome{act: actInvalid, state: state, why: ReasonTCPRst}
		}
	}

	if checkWindow {
		switch act, why := s.window(state, dir, g, set); act {
		case tcpWindowIgnore:
			return outcome{state: state, why: why}
		case tcpWindowInvalid:
			return outcome{act: actInvalid, state: state, why: why, timeout: s.outOfSync(dir, status, g, set)}
		}
	}

	s.setLast(g.class, dir)
	if after == tcpFinWait && before != tcpFinWait {
		s.last |= tcpClosing
	}
	timeout := s.timeout(after, g.class, set)

	if status&StatusSeenReply == 0 {
		if g.class == tcpClassRST {
			// A connection whose only answer is an RST never was one.
			return outcome{act: actKill, state: after}
		}
		if g.class == tcpClassSYN && before == tcpSynSent {
			// A repeated SYN does not refresh: an unanswered entry would otherwise live as long as somebody tries.
			return outcome{state: after}
		}
		if after == tcpEstablished {
			// Picked up and not answered yet.
			timeout = min(timeout, max(set.tcp[tcpTimeoutUnack], 1))
		}
	} else if status&StatusAssured == 0 && after == tcpEstablished && (before == tcpSynRecv || before == tcpEstablished) {
		return outcome{state: after, timeout: timeout, status: StatusAssured}
	}
	return outcome{state: after, timeout: timeout}
}

// resynchronise handles a SYN/ACK of the reply direction that acknowledges the SYN ignored just before: both ends are
// in a new handshake, of which only the firewall did not know. Its memory becomes what it would be after that SYN.
// It returns false, and changes nothing, for any other segment.
func (s *tcpState) resynchronise(dir Dir, g *tcpSegment) bool {
	if g.class != tcpClassSYNACK || s.lastClass() != tcpClassSYN || s.lastDir() == dir || g.ack != s.lastEnd() {
		return false
	}
	peer := s.lastDir()
	side := &s.side[peer]
	side.end, side.maxEnd = s.lastEnd(), s.lastEnd()
	side.maxWin = max(uint32(s.lastWin), 1)
	s.clear(peer, tcpSideFlags)
	s.setScaleCode(peer, 0)
	if s.last&tcpIgnoredSYN != 0 {
		s.setScaleCode(peer, s.last>>2&15)
		if s.last&tcpIgnoredSACK != 0 {
			s.set(peer, tcpSACK)
		}
		s.last &^= tcpChallengeComes
	}
	if s.mode() == tcpModePickedUp {
		s.setMode(tcpModeHalfPicked)
	}
	s.side[dir] = tcpSide{}
	s.clear(dir, tcpSideFlags)
	s.setScaleCode(dir, 0)
	s.last &^= tcpClosing
	return true
}

// ignore lets a segment pass that the state machine cannot place, and remembers what the ends may do with it.
func (s *tcpState) ignore(state uint8, dir Dir, g *tcpSegment) outcome {
	s.setLast(g.class, dir)
	s.lastSeq = g.seq
	s.lastLen = uint16(g.end - g.seq)
	s.lastWin = uint16(g.win)
	switch {
	case g.class == tcpClassSYN && dir == Original:
		code, sack := synOptions(g.options)
		s.last = s.last&tcpClosing | tcpIgnoredSYN | code<<2
		if sack {
			s.last |= tcpIgnoredSACK
		}
		if state == tcpLastAck {
			s.last |= tcpChallengeComes
		}
		if s.mode() == tcpModeSimultaneous {
			s.setMode(tcpModePlain)
		}
	case g.class == tcpClassACK && dir == Reply && state == tcpSynSent:
		// Perhaps a challenge ACK of a half-open connection; the RST that answers it will carry this number.
		s.lastAck = g.ack
	}
	return outcome{state: state, why: ReasonTCPIgnored}
}

// reset judges an RST by its sequence number. It returns the state that follows and whether the window still has to
// be checked; ok is false when the RST is INVALID.
func (s *tcpState) reset(state uint8, dir Dir, status uint32, g *tcpSegment, set *Settings) (after uint8, checkWindow, ok bool) {
	if tcpClosingState(state) {
		// The tuple may be in use by the next connection already; what is known here is of the past.
		return tcpClose, false, true
	}
	after = tcpClose
	if s.has(dir^1, tcpMaxAckKnown) && s.lastClass() != tcpClassSYN {
		maxAck := s.side[dir^1].maxAck
		established := state == tcpEstablished && status&StatusAssured != 0
		if g.seq == 0 && !established {
			// The likely answer to a SYN that was let through.
			return tcpClose, true, true
		}
		if tcpBefore(g.seq, maxAck) && set.tcpIgnoreInvalidRST == 0 {
			return state, false, false
		}
		if !established || g.seq == maxAck {
			return tcpClose, true, true
		}
		if s.lastClass() == tcpClassACK && s.lastDir() == dir && g.seq == s.lastEnd() {
			// Follows directly on this side's last segment.
			return tcpClose, true, true
		}
		// Not exactly the next number: the receiver will not close but answer with a challenge ACK (RFC 5961
		// section 3.2), and the connection goes on.
		after = state
	}
	answersSYN := status&StatusSeenReply != 0 && s.lastClass() == tcpClassSYN && s.lastDir() != dir
	answersACK := status&StatusAssured == 0 && s.lastClass() == tcpClassACK
	if (answersSYN || answersACK) && g.ack == s.lastEnd() {
		// The answer to a SYN or ACK that was let through without knowing its place: windows say nothing about it.
		return after, false, true
	}
	if state == tcpSynSent && s.lastClass() == tcpClassACK && s.lastDir() == Reply && g.seq == s.lastAck {
		// The answer to the challenge ACK that answered the SYN.
		return after, false, true
	}
	return after, true, true
}

// tcpClosingState reports whether a connection in this state is ending: its entry may be taken for room even when it
// is ASSURED, once the table is nearly full (tcp_can_early_drop).
func tcpClosingState(state uint8) bool {
	return state >= tcpFinWait && state <= tcpClose
}

// What the window checks say.
const (
	tcpWindowAccept uint8 = iota
	tcpWindowIgnore       // let it pass, learn nothing from it
	tcpWindowInvalid
)

// tcpMinAckWindow is the least distance by which an acknowledgement may lag behind: one unscaled window plus some
// slack (MAXACKWINCONST).
const tcpMinAckWindow = 66000

// window holds a segment against van Rooij's conditions and, when it meets them, learns from it. sender is the side
// that sent the segment; sack is the highest edge acknowledged, the SACK blocks included.
//
//	I    seq     <= sender.maxEnd                     else INVALID (TCPSeqOver), or passed over when it is
//	                                                  little and all else fits (TCPOvershot)
//	II   end     >= sender.end - receiver.maxWin      else passed over (TCPSeqUnder)
//	III  sack    <= receiver.end                      else INVALID (TCPAckOver)
//	IV   sack    >= receiver.end - max(sender.maxWin, tcpMinAckWindow)   else passed over (TCPAckUnder)
//
// They are checked in the order I, III, II, IV. Where the sender is judged liberally every failure is accepted, but
// still nothing is learnt.
func (s *tcpState) window(state uint8, dir Dir, g *tcpSegment, set *Settings) (act uint8, why Reason) {
	sender, receiver := &s.side[dir], &s.side[dir^1]
	seq, ack, end, win := g.seq, g.ack, g.end, g.win
	syn := g.flags&tcpSYN != 0
	sack := ack
	if s.has(dir^1, tcpSACK) && len(g.options) != 0 {
		sack = sackEdge(g.options, ack)
	}

	if sender.maxWin == 0 {
		if syn {
			s.begin(dir, g)
			if g.flags&tcpACK == 0 {
				return tcpWindowAccept, ReasonNone // simultaneous open
			}
		} else {
			// The first segment of a side whose handshake was not seen.
			sender.end = end
			sender.maxWin = max(win<<s.shift(dir), 1)
			sender.maxEnd = end + sender.maxWin
			if receiver.maxWin == 0 {
				receiver.end, receiver.maxEnd = sack, sack
			} else if sack == receiver.end+1 {
				receiver.end++ // the answer to a keep-alive that repeated the last byte
			}
		}
	} else if syn && tcpBefore(sender.end, end) && (state == tcpSynSent || state == tcpSynRecv) {
		// The handshake begins again with higher numbers (RFC 9293 section 3.4.3).
		s.begin(dir, g)
		if dir == Reply && g.flags&tcpACK == 0 {
			return tcpWindowAccept, ReasonNone
		}
	}

	if g.flags&tcpACK == 0 || g.flags&tcpRST != 0 && ack == 0 {
		// No acknowledgement, or the zero that some stacks put into an RST: nothing to hold against it.
		ack, sack = receiver.end, receiver.end
	}
	if g.class == tcpClassRST && seq == 0 && state == tcpSynSent {
		seq, end = sender.end, sender.end // an RST that answers a SYN without an ACK has no number of its own
	}

	lowest := receiver.end - max(sender.maxWin, tcpMinAckWindow)
	if seqOver := !tcpBefore(seq, sender.maxEnd+1); seqOver {
		overshoot := end - sender.maxEnd + 1
		if receiver.maxWin != 0 && overshoot <= receiver.maxWin &&
			!tcpBefore(end, sender.end-receiver.maxWin) && !tcpBefore(sack, lowest) && tcpBefore(sack, receiver.end+1) {
			// More than the receiver allowed, but all else fits. The receiver may well take it, and its ACK must not
			// fail III then.
			sender.end = end
			s.set(dir, tcpUnacked)
			return s.misfit(dir, tcpWindowIgnore, ReasonTCPOvershot, set)
		}
		return s.misfit(dir, tcpWindowInvalid, ReasonTCPSeqOver, set)
	}
	if !tcpBefore(sack, receiver.end+1) {
		return s.misfit(dir, tcpWindowInvalid, ReasonTCPAckOver, set)
	}
	if receiver.maxWin != 0 && tcpBefore(end, sender.end-receiver.maxWin) {
		return s.misfit(dir, tcpWindowIgnore, ReasonTCPSeqUnder, set)
	}
	if tcpBefore(sack, lowest) {
		return s.misfit(dir, tcpWindowIgnore, ReasonTCPAckUnder, set)
	}

	s.learn(dir, g, seq, ack, sack, end)
	return tcpWindowAccept, ReasonNone
}

// learn takes over what a segment that met all conditions says: seq and end are its sequence numbers, ack its
// acknowledgement and sack the highest edge acknowledged, which for some RSTs are not those of the header.
func (s *tcpState) learn(dir Dir, g *tcpSegment, seq, ack, sack, end uint32) {
	sender, receiver := &s.side[dir], &s.side[dir^1]
	win := g.win
	if g.flags&tcpSYN == 0 {
		win <<= s.shift(dir) // the window of a SYN is never scaled
	}
	sender.maxWin = max(sender.maxWin, win+(sack-ack))
	if tcpBefore(sender.end, end) {
		sender.end = end
		s.set(dir, tcpUnacked)
	}
	if g.flags&tcpACK != 0 && (!s.has(dir, tcpMaxAckKnown) || tcpBefore(sender.maxAck, ack)) {
		sender.maxAck = ack
		s.set(dir, tcpMaxAckKnown)
	}
	if receiver.maxWin != 0 && tcpBefore(sender.maxEnd, end) {
		receiver.maxWin += end - sender.maxEnd
	}
	if tcpBefore(receiver.maxEnd-1, sack+win) {
		receiver.maxEnd = sack + win
		if win == 0 {
			receiver.maxEnd++ // a closed window may still be probed with one byte
		}
	}
	if ack == receiver.end {
		s.clear(dir^1, tcpUnacked)
	}
	if g.class == tcpClassACK {
		if s.lastDir() == dir && s.lastSeq == seq && s.lastAck == ack && s.lastEnd() == end && uint32(s.lastWin) == g.win {
			s.retrans++
		} else {
			s.lastSeq, s.lastAck = seq, ack
			s.lastLen, s.lastWin = uint16(end-seq), uint16(g.win)
			s.retrans = 0
		}
	}
}

// misfit turns a failed condition into acceptance where the sender is judged liberally.
func (s *tcpState) misfit(dir Dir, act uint8, why Reason, set *Settings) (uint8, Reason) {
	if set.tcpBeLiberal != 0 || s.liberal(dir) {
		return tcpWindowAccept, ReasonNone
	}
	return act, why
}

// outOfSync returns the timeout to which an entry is shortened, or 0, when a segment failed the window checks: a FIN or
// RST from both sides outside of the windows means that the connection is over, and that the tracker lost it.
func (s *tcpState) outOfSync(dir Dir, status uint32, g *tcpSegment, set *Settings) uint32 {
	if status&StatusAssured == 0 || status&StatusFixedTimeout != 0 || g.class != tcpClassRST && g.class != tcpClassFIN {
		return 0
	}
	if last := s.lastClass(); s.lastDir() != dir && (last == tcpClassFIN || last == tcpClassRST) {
		return set.tcp[tcpTimeoutUnack]
	}
	s.setLast(g.class, dir)
	return 0
}

// timeout chooses the timeout of the state that a segment leads to, in ms. It is never 0, which in an outcome means
// something else: a timeout set to 0 ends an entry after a millisecond.
func (s *tcpState) timeout(state, class uint8, set *Settings) uint32 {
	t, unacked, retrans := set.tcp[state], set.tcp[tcpTimeoutUnack], set.tcp[tcpTimeoutMaxRetrans]
	switch {
	case uint32(s.retrans) >= set.tcpMaxRetrans && t > retrans:
		t = retrans
	case class == tcpClassRST:
		t = set.tcp[tcpClose] // also for one that leaves the connection ESTABLISHED; seen on 6.18, later sources differ
	case s.flags&(tcpUnacked|tcpUnacked<<Reply) != 0 && t > unacked:
		t = unacked
	case s.lastWin == 0 && t > retrans:
		t = retrans
	}
	return max(t, 1)
}
