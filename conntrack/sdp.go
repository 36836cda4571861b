package conntrack

import "corewire/internal/packet"

// Session descriptions (RFC 4566) in SIP messages, with the rules of process_sdp in net/netfilter/nf_conntrack_sip.c,
// Linux 6.12. A description begins at the line "v="; the connection address "c=" before the first media line holds for
// all media, one behind a media line for that media.

// sdpMedia are the media types that expectations are made for, and their classes (sdp_media_types).
var sdpMedia = [...]struct {
	name  string
	class uint8
}{{"audio ", sipAudio}, {"video ", sipVideo}, {"image ", sipImage}}

// sdpLine finds the first line that begins with the letter kind and "=", behind the first line break from i on; not beyond
// a line of kind stop, if that is not 0. It returns where the line's text begins; -1 if there is none
// (ct_sip_get_sdp_header).
func (m *sipMessage) sdpLine(i int, kind, stop byte) int {
	b := m.b
	for ; i < len(b); i++ {
		if !isBreak(b[i]) {
			continue
		}
		if i++; i >= len(b) {
			break
		}
		if b[i-1] == '\r' && b[i] == '\n' {
			if i++; i >= len(b) {
				break
			}
		}
		if len(b)-i < 2 || b[i+1] != '=' {
			continue
		}
		switch c := lower(b[i]); {
		case c == stop && stop != 0:
			return -1
		case c == kind:
			return i + 2
		}
	}
	return -1
}

// sdpConnection reads the connection address between i and the next media line; false if there is none that can be read.
func (m *sipMessage) sdpConnection(i int) (packet.Addr, bool) {
	if i = m.sdpLine(i, 'c', 'm'); i < 0 {
		return packet.Addr{}, false
	}
	want := "IN IP4 "
	if m.family == 6 {
		want = "IN IP6 "
	}
	for ; i < len(m.b)-len(want) && !isBreak(m.b[i]); i++ {
		if string(m.b[i:i+len(want)]) != want {
			continue
		}
		var a packet.Addr
		n := 0
		if m.family == 6 {
			a, n = scanAddr6(m.b[i+len(want):])
		} else {
			a, n = scanAddr4(m.b[i+len(want):])
		}
		return a, n > 0
	}
	return packet.Addr{}, false
}

// sdpWalk goes through the media of a session description.
type sdpWalk struct {
	at      int
	session packet.Addr // connection address of the whole session
	shared  bool        // session is valid
	found   int         // media found so far; no more than there are media types
}

// sdpStream is where media will be received.
type sdpStream struct {
	addr  packet.Addr
	port  uint16
	class uint8
}

// begin finds the description; false if the message has none.
func (w *sdpWalk) begin(m *sipMessage) bool {
	i := m.sdpLine(0, 'v', 0)
	if i < 0 || digitsLen(m.b[i:]) == 0 {
		return false
	}
	w.at = i
	w.session, w.shared = m.sdpConnection(i)
	return true
}

// next returns the next media of a known type with a port. matchPartial means that the message is dropped: a port that
// no expectation may be made for, or no address.
func (w *sdpWalk) next(m *sipMessage) (s sdpStream, r match) {
	for w.found < len(sdpMedia) {
		i := m.sdpLine(w.at, 'm', 0)
		if i < 0 {
			return s, matchNone
		}
		// "m=<media> <port>": letters, a space, digits.
		n := alphaLen(m.b[i:])
		if i+n >= len(m.b) || m.b[i+n] != ' ' {
			return s, matchNone
		}
		n++
		digits := digitsLen(m.b[i+n:])
		w.at = i + n + digits
		known := false
		for _, t := range sdpMedia {
			if n == len(t.name) && string(m.b[i:i+n]) == t.name {
				known, s.class = true, t.class
			}
		}
		if !known {
			continue
		}
		w.at = i + n
		port, _ := scanNumber(m.b[i+n:])
		if port == 0 { // the stream is not active
			continue
		}
		if port < 1024 || port > 65535 {
			return s, matchPartial
		}
		s.port = uint16(port)
		var ok bool
		if s.addr, ok = m.sdpConnection(w.at); !ok {
			if !w.shared {
				return s, matchPartial
			}
			s.addr = w.session
		}
		w.found++
		return s, matchFound
	}
	return s, matchNone
}
