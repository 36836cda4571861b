package conntrack

import "corewire/internal/packet"

// Scanning of SIP messages (RFC 3261) with the rules of net/netfilter/nf_conntrack_sip.c, Linux 6.12: just so much of
// the grammar as is needed to find who registers where, and where media will be sent. sipcall.go says what is done with it,
// sdp.go reads session descriptions.
//
// A header stands at the beginning of a line, whose end may be CR, LF or both, and goes on in lines that begin with a
// blank. A list of values separated by commas is the same as several headers. Offsets are into the whole message.

// sipPort is what a URI without a port means (RFC 3261 section 19.1.2).
const sipPort = 5060

// sipShortest is the length of the shortest message that is looked at, in bytes: "SIP/2.0 200".
const sipShortest = 11

// sipHeader names a header that is read.
type sipHeader uint8

const (
	sipCSeq sipHeader = iota
	sipContact
	sipExpires
	sipContentLength
)

// sipHeaders are the headers' names, compact forms (0: none) and what their value is looked for behind (ct_sip_hdrs).
var sipHeaders = [...]struct {
	name    string
	compact byte
	behind  string
}{
	sipCSeq:          {"CSeq", 0, ""},
	sipContact:       {"Contact", 'm', "sip:"},
	sipExpires:       {"Expires", 0, ""},
	sipContentLength: {"Content-Length", 'l', ""},
}

// sipMessage is one message: all of a datagram, or its part of a segment.
type sipMessage struct {
	b      []byte
	family uint8 // of the connection: only addresses of the same are read
}

// span is a part of a message.
type span struct{ at, n int }

// fold returns where a header goes on behind the line break at i: the first byte of the continuation line that is not blank;
// -1 if the line does not go on (sip_follow_continuation).
func (m *sipMessage) fold(i, limit int) int {
	if i++; i >= limit {
		return -1
	}
	if m.b[i-1] == '\r' && m.b[i] == '\n' {
		if i++; i >= limit {
			return -1
		}
	}
	if !isBlank(m.b[i]) {
		return -1
	}
	for i < limit && isBlank(m.b[i]) {
		i++
	}
	return i
}

// skipBlank returns the first place from i on that is not blank, following one continuation; -1 at the end
// (sip_skip_whitespace).
func (m *sipMessage) skipBlank(i, limit int) int {
	for ; i < limit; i++ {
		if isBlank(m.b[i]) {
			continue
		}
		if isBreak(m.b[i]) {
			i = m.fold(i, limit)
		}
		break
	}
	if i >= limit {
		return -1
	}
	return i
}

// search finds text in a header's value from i on; -1 if it is not there before limit (ct_sip_header_search, which
// leaves the last possible place out and skips the first byte of a continuation).
func (m *sipMessage) search(i, limit int, text string) int {
	for limit -= len(text); i < limit; i++ {
		if isBreak(m.b[i]) {
			if i = m.fold(i, limit); i < 0 {
				return -1
			}
			continue
		}
		if foldPrefix(m.b[i:], text) {
			return i
		}
	}
	return -1
}

// header finds the first header of that name behind the first line break from i on, and its value. With matchPartial the
// value cannot be read, and value.at is where to look for the next header (ct_sip_get_header).
func (m *sipMessage) header(i int, h sipHeader) (value span, r match) {
	d := &sipHeaders[h]
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
		switch {
		case isBlank(b[i]): // a continuation
			continue
		case foldPrefix(b[i:], d.name):
			i += len(d.name)
		case d.compact != 0 && len(b)-i >= 2 && lower(b[i]) == d.compact && !isAlpha(b[i+1]):
			i++
		default:
			continue
		}
		if i = m.skipBlank(i, len(b)); i < 0 || b[i] != ':' || i+1 >= len(b) {
			break
		}
		if i = m.skipBlank(i+1, len(b)); i < 0 {
			break
		}
		return m.value(i, d.behind, h)
	}
	return span{}, matchNone
}

// value reads a header's value at i, behind the text that must precede it.
func (m *sipMessage) value(i int, behind string, h sipHeader) (span, match) {
	start := i
	if behind != "" {
		if i = m.search(i, len(m.b), behind); i < 0 {
			return span{at: start}, matchPartial
		}
		i += len(behind)
	}
	v := span{i, 0}
	if h == sipContact {
		v = m.uriHost(i)
	} else {
		v.n = digitsLen(m.b[i:])
	}
	if v.n == 0 {
		return span{at: start}, matchPartial
	}
	return v, matchFound
}

// next finds the next value in the list that the value before i belongs to (ct_sip_next_header).
func (m *sipMessage) next(i int, h sipHeader) (span, match) {
	if i = m.search(i, len(m.b), ","); i < 0 {
		return span{}, matchNone
	}
	behind := sipHeaders[h].behind
	if i = m.search(i, len(m.b), behind); i < 0 {
		return span{}, matchNone
	}
	return m.value(i+len(behind), "", h)
}

// sipWalk goes through all values of a header that can be read, whether in one list or in several headers
// (ct_sip_walk_headers). The zero value begins at the start of a message.
type sipWalk struct {
	at     int
	inList bool
}

// next returns the next value; false when there is none left.
func (w *sipWalk) next(m *sipMessage, h sipHeader) (span, bool) {
	at := w.at
	for w.inList {
		v, r := m.next(at, h)
		if r == matchFound {
			return v, true
		}
		if r == matchNone {
			w.inList = false
			break
		}
		at = v.at
	}
	for {
		v, r := m.header(at, h)
		switch r {
		case matchFound:
			w.inList = true
			return v, true
		case matchNone:
			return v, false
		}
		at = v.at
	}
}

// contact returns the next Contact's address and port. With matchPartial it is malformed (ct_sip_parse_header_uri).
func (w *sipWalk) contact(m *sipMessage) (addr packet.Addr, port uint16, v span, r match) {
	v, ok := w.next(m, sipContact)
	if !ok {
		return addr, 0, v, matchNone
	}
	addr, n := m.addr(v.at)
	if n == 0 {
		return addr, 0, v, matchPartial
	}
	port, p, ok := m.port(v.at + n)
	if !ok {
		return addr, 0, v, matchPartial
	}
	w.at = v.at + n + p
	return addr, port, v, matchFound
}

// uriHost returns the address and port of the URI at i, without the user before them; of length 0 if there is no
// numeric address of the connection's family (skp_epaddr_len).
func (m *sipMessage) uriHost(i int) span {
	at := i
	for j := i; j < len(m.b) && !isBreak(m.b[j]); j++ {
		if m.b[j] == '@' {
			at = j + 1
			break
		}
	}
	_, n := m.addr(at)
	if n == 0 {
		return span{at: at}
	}
	_, p, ok := m.port(at + n)
	if !ok {
		return span{at: at}
	}
	return span{at, n + p}
}

// addr reads the numeric address at i, an IPv6 one in brackets, and returns its length; 0 if there is none
// (sip_parse_addr).
func (m *sipMessage) addr(i int) (packet.Addr, int) {
	b := m.b[i:]
	if m.family == 4 {
		return scanAddr4(b)
	}
	if len(b) == 0 || b[0] != '[' {
		return packet.Addr{}, 0
	}
	a, n := scanAddr6(b[1:])
	if n == 0 || n+1 >= len(b) || b[n+1] != ']' {
		return packet.Addr{}, 0
	}
	return a, n + 2
}

// port reads the port at i, with its colon; where there is none it is sipPort. It fails for ports below 1024, which no
// expectation may be made for, and where the message ends (sip_parse_port).
func (m *sipMessage) port(i int) (port uint16, n int, ok bool) {
	b := m.b[i:]
	if len(b) == 0 {
		return 0, 0, false
	}
	if b[0] != ':' {
		return sipPort, 0, true
	}
	n = digitsLen(b[1:])
	if n == 0 || n > 5 || n+1 >= len(b) {
		return 0, 0, false
	}
	v, _ := scanNumber(b[1:])
	if v < 1024 || v > 65535 {
		return 0, 0, false
	}
	return uint16(v), n + 1, true
}

// number reads the number of a header, found by header, and whether there is one.
func (m *sipMessage) number(h sipHeader) (uint32, bool) {
	v, r := m.header(0, h)
	if r != matchFound {
		return 0, false
	}
	n, digits := scanNumber(m.b[v.at:])
	return n, digits > 0
}

// param finds the parameter of that name (with "=") in the value of a header from i on, not beyond the next comma, and
// returns where its own value begins; -1 if there is none.
func (m *sipMessage) param(i int, name string) int {
	limit := m.search(i, len(m.b), ",")
	if limit < 0 {
		limit = len(m.b)
	}
	if i = m.search(i, limit, name); i < 0 {
		return -1
	}
	return i + len(name)
}

// expires reads the parameter "expires=" from i on (ct_sip_parse_numerical_param): matchNone if there is none,
// matchPartial if it is no number.
func (m *sipMessage) expires(i int) (uint32, match) {
	if i = m.param(i, "expires="); i < 0 {
		return 0, matchNone
	}
	v, n := scanNumber(m.b[i:])
	if n == 0 {
		return 0, matchPartial
	}
	return v, matchFound
}

// transport reports whether the parameter "transport=" from i on is missing or names the connection's own protocol
// (ct_sip_parse_transport).
func (m *sipMessage) transport(i int, proto uint8) bool {
	if i = m.param(i, "transport="); i < 0 {
		return true
	}
	switch b := m.b[i:]; {
	case foldPrefix(b, "TCP"):
		return proto == packet.ProtoTCP
	case foldPrefix(b, "UDP"):
		return proto == packet.ProtoUDP
	}
	return false
}

// sipMethod is a request's method, or that of the request which a response answers.
type sipMethod uint8

const (
	sipOther sipMethod = iota
	sipInvite
	sipUpdate
	sipAck
	sipPrack
	sipBye
	sipRegister
)

// sipMethods are the methods' names (sip_handlers).
var sipMethods = [...]string{sipInvite: "INVITE", sipUpdate: "UPDATE", sipAck: "ACK", sipPrack: "PRACK", sipBye: "BYE", sipRegister: "REGISTER"}

// method returns the method whose name stands at i.
func (m *sipMessage) method(i int) sipMethod {
	if i > len(m.b) {
		return sipOther
	}
	for k := sipInvite; k <= sipRegister; k++ {
		if foldPrefix(m.b[i:], sipMethods[k]) {
			return k
		}
	}
	return sipOther
}

// sipStart is what a message's first line and CSeq say.
type sipStart struct {
	method sipMethod // sipOther: of no interest
	code   uint32    // of a response; 0 in a request
	cseq   uint32
}

// start reads the first line and the CSeq header. matchPartial means that the message is malformed and is dropped
// (process_sip_request, process_sip_response).
func (m *sipMessage) start() (s sipStart, r match) {
	const version = "SIP/2.0 "
	if !foldPrefix(m.b, version) {
		s.method = m.method(0)
		n := len(sipMethods[s.method])
		if s.method == sipOther || len(m.b) < n+2 || m.b[n] != ' ' || !isAlpha(m.b[n+1]) {
			return sipStart{}, matchNone
		}
		v, ok := m.number(sipCSeq)
		if !ok {
			return sipStart{}, matchPartial
		}
		s.cseq = v
		return s, matchFound
	}
	if len(m.b) < sipShortest {
		return sipStart{}, matchNone
	}
	s.code, _ = scanNumber(m.b[len(version):])
	if s.code == 0 {
		return sipStart{}, matchPartial
	}
	v, r := m.header(0, sipCSeq)
	if r != matchFound {
		return sipStart{}, matchPartial
	}
	cseq, n := scanNumber(m.b[v.at:])
	if n == 0 {
		return sipStart{}, matchPartial
	}
	s.cseq = cseq
	// Of the methods whose responses mean nothing here, ACK and BYE, none is the beginning of another.
	if s.method = m.method(v.at + v.n + 1); s.method == sipAck || s.method == sipBye {
		s.method = sipOther
	}
	return s, matchFound
}

// sipNext returns the length of the message at the start of a TCP payload, its body included; 0 if the payload does not
// hold one whole message (sip_help_tcp).
func sipNext(b []byte, family uint8) int {
	m := sipMessage{b: b, family: family}
	v, r := m.header(0, sipContentLength)
	if r != matchFound {
		return 0
	}
	body, n := scanNumber(b[v.at:])
	if n == 0 || int64(body) > int64(len(b)) {
		return 0
	}
	for i := v.at + n; i+4 <= len(b); i++ {
		if b[i] == '\r' && b[i+1] == '\n' && b[i+2] == '\r' && b[i+3] == '\n' {
			if end := i + 4 + int(body); end <= len(b) {
				return end
			}
			return 0
		}
	}
	return 0
}
