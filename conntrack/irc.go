package conntrack

import (
	"bytes"

	"corewire/internal/packet"
)

// The IRC helper: direct client connections (DCC), which a client offers to another in a private message, with the rules
// of net/netfilter/nf_conntrack_irc.c, Linux 6.12:
//
//	PRIVMSG someone :<1>DCC SEND name 3232235777 4000 123456<1>
//
// The address is a decimal number of 32 bits, so only IPv4 is read. Only the client's side is (the server relays the
// offers of others), and only the first message of a segment.

// irc reads a segment. It reports whether the segment may pass.
func (h *help) irc(b []byte) bool {
	if !h.established || h.dir == Reply || len(b) == 0 {
		return true
	}
	addr, port, m := ircOffer(b)
	if m != matchFound || addr != h.src || port == 0 { // an offer of another's address is forged
		return true
	}
	w := h.want(packet.Addr{}, addr, port, packet.ProtoTCP, expectAnySrc|expectAnyPt)
	w.policy = policy{uint8(h.set.ircChannels), h.set.ircTimeout}
	return h.expect(w) == expectMade
}

// ircSearch is how much of a segment is looked at, in bytes (MAX_SEARCH_SIZE).
const ircSearch = 4095

// ircOffer finds a DCC offer in a segment's payload.
func ircOffer(b []byte) (addr packet.Addr, port uint16, m match) {
	b = b[:min(len(b), ircSearch)]
	for len(b) > 10 && (b[0] == ' ' || isBreak(b[0])) {
		b = b[1:]
	}
	if len(b) > 10 { // "PRIVMSG x "
		if !foldPrefix(b, "PRIVMSG ") {
			return addr, 0, matchNone
		}
		b = b[8:]
	}
	// 26 is the length of the shortest offer, from " :" on. The text behind the first " :" is the message, and only
	// there an offer may be; but an offer of an unknown kind may be followed by a further " :".
	for len(b) > 26 {
		if b[0] != ' ' || b[1] != ':' {
			b = b[1:]
			continue
		}
		b = b[2:]
		if !bytes.HasPrefix(b, ircDCC) {
			return addr, 0, matchNone
		}
		b = b[len(ircDCC):]
		if n := ircKind(b); n > 0 {
			return ircArguments(b[n:])
		}
	}
	return addr, 0, matchNone
}

var ircDCC = []byte("\x01DCC ")

// ircKind returns the length of the offer's kind, the space included; 0 for one that is not known (dccprotos).
func ircKind(b []byte) int {
	for _, kind := range [...]string{"SEND ", "CHAT ", "MOVE ", "TSEND ", "SCHAT "} {
		if len(b) >= len(kind) && string(b[:len(kind)]) == kind {
			return len(kind)
		}
	}
	return 0
}

// ircArguments reads "name address port" (parse_dcc). The line must end within the segment.
func ircArguments(b []byte) (addr packet.Addr, port uint16, m match) {
	// b has 14 bytes at least. "AAAAAAAA P\1\n" must follow the name.
	i := 0
	for b[i] != ' ' {
		if i++; i > len(b)-12 {
			return addr, 0, matchNone
		}
	}
	b = b[i+1:]
	if bytes.IndexByte(b, '\n') < 0 {
		return addr, 0, matchNone
	}
	ip, n := ircNumber(b)
	b = b[n:]
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	p, _ := ircNumber(b)
	return addr4(uint32(ip)), uint16(p), matchFound
}

// ircNumber reads a decimal number; none is 0, and what is too large wraps (simple_strtoul, lib/vsprintf.c).
func ircNumber(b []byte) (uint64, int) {
	var v uint64
	i := 0
	for ; i < len(b) && isDigit(b[i]); i++ {
		v = v*10 + uint64(b[i]-'0')
	}
	return v, i
}
