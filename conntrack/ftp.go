package conntrack

import (
	"bytes"

	"corewire/internal/packet"
)

// The FTP helper: which data connection a control connection announces (RFC 959 PORT and PASV, RFC 1123 section
// 4.1.2.6, RFC 2428 EPRT and EPSV), with the rules of net/netfilter/nf_conntrack_ftp.c, Linux 6.12.
//
// The helper does not reassemble TCP. It reads a segment only if the segment begins where a line began: where an earlier
// segment of the same direction ended with a newline (ftpState.line). A command that is split over segments is
// therefore never half understood: a segment that could be the beginning of an announcement is dropped, and the sender's
// retransmission brings it whole or never; and text within a file name or a multi-line reply is never taken for
// an announcement.

// ftpLines is how many line beginnings per direction are remembered (NUM_SEQ_TO_REMEMBER): two, so that a
// retransmission of the segment before still counts.
const ftpLines = 2

// ftpState is the memory of an FTP control connection, by direction.
type ftpState struct {
	line  [2][ftpLines]uint32 // sequence numbers at which a line begins; the first known[dir] are valid
	known [2]uint8
	// pickup: the connection was restored or found in its middle, and the next segment counts as the beginning of a line
	// (NF_CT_FTP_SEQ_PICKUP).
	pickup [2]uint8
}

// begins reports whether a line begins at seq (find_nl_seq). A pickup is used up by the first segment that asks.
func (s *ftpState) begins(dir Dir, seq uint32) bool {
	for i := range min(s.known[dir], ftpLines) {
		if s.line[dir][i] == seq {
			return true
		}
	}
	if s.pickup[dir] != 0 {
		s.pickup[dir] = 0
		return true
	}
	return false
}

// ends notes that a line begins at seq, in place of the older of those known unless seq is older still (update_nl_seq).
func (s *ftpState) ends(dir Dir, seq uint32) {
	l := &s.line[dir]
	n := min(s.known[dir], ftpLines)
	for i := range n {
		if l[i] == seq {
			return
		}
	}
	if n < ftpLines {
		l[n] = seq
		s.known[dir] = n + 1
		return
	}
	oldest := 1
	if int32(l[0]-l[1]) < 0 {
		oldest = 0
	}
	if int32(seq-l[oldest]) > 0 {
		l[oldest] = seq
	}
}

// ftp reads a segment of a control connection; seq is the payload's first sequence number. It reports whether the segment
// may pass.
func (h *help) ftp(b []byte, seq uint32) bool {
	if !h.established || len(b) == 0 {
		return true
	}
	s := &h.aid.ftp
	pass := true
	if s.begins(h.dir, seq) {
		addr, port, m := ftpAnnounced(b, h.dir, h.family, h.src)
		switch {
		case m == matchPartial:
			return false
		case m == matchNone, addr != h.src && h.set.ftpLoose == 0:
			// An address other than the sender's own would let it open holes to other machines.
		default:
			pass = h.expect(h.want(h.dst, addr, port, packet.ProtoTCP, expectAnyPt)) == expectMade
		}
	}
	if b[len(b)-1] == '\n' {
		s.ends(h.dir, seq+uint32(len(b)))
	}
	return pass
}

// match is a parser's answer.
type match uint8

const (
	matchNone    match = iota // nothing of interest
	matchFound                // an announcement
	matchPartial              // what may be the beginning of one, or a malformed one: the packet is dropped
)

// ftpAnnounced looks for an announcement at the start of a segment's payload: PORT and EPRT from the client, 227 and 229
// replies from the server. own is the segment's source address, which a 229 reply means without saying it.
func ftpAnnounced(b []byte, dir Dir, family uint8, own packet.Addr) (addr packet.Addr, port uint16, m match) {
	first, second := "PORT", "EPRT"
	if dir == Reply {
		first, second = "227 ", "229 "
	}
	if m := ftpKeyword(b, first); m != matchNone {
		if m == matchPartial {
			return own, 0, m
		}
		b = b[len(first):]
		if dir == Original {
			if b = ftpBehind(b, ' '); b == nil {
				return own, 0, matchPartial
			}
			return ftpHostPort(b, '\r')
		}
		// RFC 1123: the first digit begins the numbers, whatever stands before and behind.
		for i, c := range b {
			if isDigit(c) {
				return ftpHostPort(b[i:], 0)
			}
		}
		return own, 0, matchPartial
	}
	if m := ftpKeyword(b, second); m != matchFound {
		return own, 0, m
	}
	b = b[len(second):]
	if dir == Original {
		if b = ftpBehind(b, ' '); b == nil {
			return own, 0, matchPartial
		}
		return ftpExtended(b, family)
	}
	if b = ftpBehind(b, '('); b == nil {
		return own, 0, matchPartial
	}
	if len(b) <= 3 || !ftpDelimiter(b[0]) || b[1] != b[0] || b[2] != b[0] {
		return own, 0, matchPartial
	}
	port, m = ftpPort(b[3:], b[0])
	return own, port, m
}

// ftpKeyword compares the start of a payload with a keyword. A payload that is not longer than the keyword and agrees
// with it as far as it goes is a partial match.
func ftpKeyword(b []byte, keyword string) match {
	switch {
	case len(b) <= len(keyword):
		if foldPrefix(b, keyword[:len(b)]) {
			return matchPartial
		}
	case foldPrefix(b, keyword):
		return matchFound
	}
	return matchNone
}

// ftpBehind returns what follows the first c; nil if there is none.
func ftpBehind(b []byte, c byte) []byte {
	i := bytes.IndexByte(b, c)
	if i < 0 {
		return nil
	}
	return b[i+1:]
}

// ftpNumbers reads decimal numbers separated by sep into v, up to a byte that is term, or any other if term is 0, and
// returns the length; 0 if there are not exactly len(v). Numbers are not bounded: what is too large overflows
// as in try_number.
func ftpNumbers(b []byte, v []uint32, sep, term byte) int {
	i := 0
	for n, c := range b {
		switch {
		case isDigit(c):
			v[i] = v[i]*10 + uint32(c-'0')
		case c == sep:
			if i++; i == len(v) {
				return 0
			}
		default:
			if (c == term || term == 0) && i == len(v)-1 {
				return n
			}
			return 0
		}
	}
	return 0
}

// ftpHostPort reads h1,h2,h3,h4,p1,p2 (RFC 959 section 5.3.2).
func ftpHostPort(b []byte, term byte) (packet.Addr, uint16, match) {
	var v [6]uint32
	if ftpNumbers(b, v[:], ',', term) == 0 {
		return packet.Addr{}, 0, matchPartial
	}
	return addr4(v[0]<<24 | v[1]<<16 | v[2]<<8 | v[3]), uint16(v[4]<<8 | v[5]), matchFound
}

// ftpDelimiter reports whether RFC 2428 section 2 allows c as the delimiter.
func ftpDelimiter(c byte) bool { return !isDigit(c) && c >= 33 && c <= 126 }

// ftpExtended reads the argument of EPRT: |1|address|port| or |2|address|port|, of the connection's own family.
func ftpExtended(b []byte, family uint8) (packet.Addr, uint16, match) {
	if len(b) <= 3 || !ftpDelimiter(b[0]) || b[2] != b[0] ||
		family == 4 && b[1] != '1' || family == 6 && b[1] != '2' {
		return packet.Addr{}, 0, matchPartial
	}
	delim, text := b[0], b[3:]
	var addr packet.Addr
	var n int
	if family == 4 {
		var v [4]uint32
		n = ftpNumbers(text, v[:], '.', delim)
		addr = addr4(v[0]<<24 | v[1]<<16 | v[2]<<8 | v[3])
	} else {
		addr, n = scanAddr6(text)
	}
	if n == 0 || n >= len(text) || text[n] != delim {
		return packet.Addr{}, 0, matchPartial
	}
	port, m := ftpPort(text[n+1:], delim)
	return addr, port, m
}

// ftpPort reads a port that ends with a delimiter (get_port; too large a number wraps).
func ftpPort(b []byte, delim byte) (uint16, match) {
	var port uint16
	for _, c := range b {
		switch {
		case c == delim:
			if port == 0 {
				return 0, matchPartial
			}
			return port, matchFound
		case !isDigit(c):
			return 0, matchPartial
		}
		port = port*10 + uint16(c-'0')
	}
	return 0, matchPartial
}
