package ipset

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error is what is wrong with a command, in ipset's words where it has some. Line and Col count from 1, Col in bytes; Line
// is 0 for a command that stands in no file.
type Error struct {
	File string
	Line int
	Col  int
	Text string
	Hint string // how to put it right; may be empty
}

// Error returns one line: the place, what is wrong, and the hint in brackets.
func (e *Error) Error() string {
	s := e.Text
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	if e.Line == 0 {
		return s
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, s)
}

// clip makes s fit for a message: a file may hold a word of any length, and of any bytes.
func clip(s string) string {
	const most = 80
	end := ""
	if len(s) > most {
		s, end = s[:most], "…"
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		q := strconv.Quote(s)
		s = q[1 : len(q)-1]
	}
	return s + end
}

// token is a word of a command, with the column that it begins in.
type token struct {
	text   string
	col    int
	quoted bool
}

// line is a command being read.
type line struct {
	file  string
	n     int
	words []token
	end   token // behind the last word
	exist bool
	err   *Error
}

func (l *line) fail(w token, text, hint string) {
	if l.err == nil {
		l.err = &Error{File: l.file, Line: l.n, Col: w.col, Text: text, Hint: hint}
	}
}

// next takes the next word; want says what it is to be.
func (l *line) next(want string) token {
	if len(l.words) == 0 {
		l.fail(l.end, "Syntax error: missing "+want, "")
		return token{col: l.end.col}
	}
	w := l.words[0]
	l.words = l.words[1:]
	return w
}

// flag takes the option that ignores what exists already; it may stand anywhere.
func (l *line) flag(w token) bool {
	if w.quoted {
		return false
	}
	switch w.text {
	case "-exist", "-!", "--exist":
		l.exist = true
		return true
	case "-quiet", "-q", "--quiet":
		return true
	}
	return false
}

func (l *line) number(most uint64) uint64 {
	w := l.next("a number")
	v, err := strconv.ParseUint(w.text, 10, 64)
	if err != nil && strings.HasPrefix(w.text, "0x") {
		v, err = strconv.ParseUint(w.text[2:], 16, 64)
	}
	switch {
	case err != nil && w.text != "" && strings.Trim(w.text, "0123456789") == "" || err == nil && v > most:
		l.fail(w, fmt.Sprintf("Syntax error: '%s' is out of range 0-%d", clip(w.text), most), "")
	case err != nil:
		l.fail(w, "Syntax error: '"+clip(w.text)+"' is invalid as number", "")
	}
	return min(v, most)
}

func (l *line) hex(most uint64) uint64 {
	w := l.next("a number")
	v, err := strconv.ParseUint(w.text, 0, 64)
	if err != nil || v > most {
		l.fail(w, "Syntax error: '"+clip(w.text)+"' is invalid as number", "such as 0xff")
		return 0
	}
	return v
}

// split takes a line apart: words between blanks, "…" around what has blanks. It returns false for a quote without its
// end.
func (l *line) split(s string) bool {
	l.words = l.words[:0]
	i := 0
	for {
		for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r') {
			i++
		}
		if i == len(s) {
			break
		}
		begin := i
		if s[i] == '"' {
			end := strings.IndexByte(s[i+1:], '"')
			if end < 0 {
				l.end = token{col: len(s) + 1}
				l.fail(token{col: i + 1}, "Syntax error: missing quotation mark", "")
				return false
			}
			l.words = append(l.words, token{s[i+1 : i+1+end], begin + 1, true})
			i += end + 2
			continue
		}
		for i < len(s) && s[i] != ' ' && s[i] != '\t' && s[i] != '\r' {
			i++
		}
		l.words = append(l.words, token{s[begin:i], begin + 1, false})
	}
	l.end = token{col: len(s) + 1}
	return true
}

// name checks a set's name.
func (l *line) name(w token) string {
	switch {
	case w.text == "" && l.err == nil:
		l.fail(w, "Syntax error: missing setname", "")
	case len(w.text) > maxName:
		l.fail(w, fmt.Sprintf("Syntax error: setname '%s' is longer than %d characters", clip(w.text), maxName), "")
	case strings.ContainsAny(w.text, "\" \t\r\n\x00"):
		l.fail(w, "Syntax error: setname '"+clip(w.text)+"' has a blank or a quotation mark in it", "")
	}
	return w.text
}

// element is an element as a command writes it, which may stand for many.
type element struct {
	fields
	aTo, bTo address // ends of ranges; as a and b without
	aRange   bool    // a range or several addresses were given for a
	bRange   bool
	portTo   uint16
	withPort bool // the protocol has ports
	member   string
	ref      string // before or after
	before   int8   // 1 before ref, -1 after
}

// parseElement reads an element of the set: what stands behind `add NAME`.
func (l *line) parseElement(s *Set, w token, testing bool) (e element) {
	t := &kindTable[s.kind]
	parts := make([]token, 0, 3)
	rest, col := w.text, w.col
	for {
		head, tail, more := strings.Cut(rest, ",")
		parts = append(parts, token{head, col, false})
		if !more || len(parts) > len(t.parts) {
			break
		}
		col += len(head) + 1
		rest = tail
	}
	if s.kind == ListSet {
		e.member = l.name(w)
		return e
	}
	if len(parts) != len(t.parts) && !(s.kind == BitmapIPMAC && len(parts) == 1) {
		var names []string
		for _, p := range t.parts {
			names = append(names, [...]string{"IP", "IP/CIDR", "PORT", "IFACE", "MAC", "MARK", "SET"}[p])
		}
		l.fail(w, "Syntax error: "+clip(w.text)+" is no element of "+t.name, "write "+strings.Join(names, ","))
		return e
	}
	second := false
	for i, p := range parts {
		if l.err != nil {
			return e
		}
		switch t.parts[i] {
		case partIP, partNet:
			a, to, several, cidr := &e.a, &e.aTo, &e.aRange, &e.cidr
			if second {
				a, to, several, cidr = &e.b, &e.bTo, &e.bRange, &e.cidr2
			}
			if t.parts[i] == partNet {
				*several = l.network(p, a, to, cidr, s.v6, t.zero)
			} else {
				l.addresses(p, a, to, several, s.v6)
				if *several && (s.kind == HashIPMAC || s.kind == BitmapIPMAC || second) && !testing {
					l.fail(p, "Syntax error: plain IP address must be supplied: "+clip(p.text), "")
				}
			}
			second = true
		case partPort:
			if s.kind == BitmapPort {
				l.ports(p, &e)
			} else {
				l.protoPort(p, &e, s.v6)
			}
		case partMAC:
			e.mac = l.mac(p)
		case partMark:
			v, err := strconv.ParseUint(p.text, 0, 32)
			if err != nil {
				l.fail(p, "Syntax error: '"+clip(p.text)+"' is invalid as mark", "such as 0x63")
			}
			e.mark = uint32(v) & s.spec.MarkMask
		case partIface:
			name := p.text
			if rest, ok := strings.CutPrefix(name, "physdev:"); ok {
				e.physdev, name = true, rest
			}
			if strings.ContainsAny(name, "\x00 \t\r\"") {
				l.fail(p, "Syntax error: '"+clip(name)+"' is no name of an interface", "")
			}
			if len(name) > 15 || name == "" { // IFNAMSIZ - 1
				l.fail(p, "Syntax error: interface name '"+clip(name)+"' is longer than 15 characters", "or it is missing")
			}
			e.iface = NameOf(name)
		}
	}
	return e
}

// address reads one IP address.
func (l *line) address(w token, v6 bool) address {
	a, err := netip.ParseAddr(w.text)
	if err != nil || a.Zone() != "" || a.Is4() == v6 {
		family := "IPv4"
		if v6 {
			family = "IPv6"
		}
		hint := "names are not resolved: write the " + family + " address"
		if err == nil {
			hint = "the set is for " + family
		}
		l.fail(w, "Syntax error: cannot parse "+clip(w.text)+": it is no "+family+" address", hint)
		return address{}
	}
	return addressFrom(a)
}

// addresses reads "A", and for IPv4 "A/CIDR" and "A-B".
func (l *line) addresses(w token, a, to *address, several *bool, v6 bool) {
	host := hostBits(v6)
	if from, end, ok := cutRange(w.text); ok {
		*a = l.address(token{text: from, col: w.col}, v6)
		*to = l.address(token{text: end, col: w.col + len(from) + 1}, v6)
		if to.less(*a) {
			*a, *to = *to, *a
		}
		if v6 {
			l.fail(w, "Syntax error: plain IP address must be supplied: "+clip(w.text), "")
		}
		if several != nil {
			*several = true
		}
		return
	}
	text, length, ok := strings.Cut(w.text, "/")
	*a = l.address(token{text: text, col: w.col}, v6)
	*to = *a
	if !ok {
		return
	}
	n, err := strconv.ParseUint(length, 10, 8)
	if err != nil || n > uint64(host) || n == 0 {
		l.wrongLength(token{length, w.col + len(text) + 1, false}, 1, host)
		return
	}
	if int(n) == host {
		return
	}
	if v6 {
		l.fail(w, "Syntax error: plain IP address must be supplied: "+clip(w.text), "")
		return
	}
	m := prefix(int(n), v6)
	*a = a.and(m)
	*to = address{0, a.lo | ^m.lo&math.MaxUint32}
	if several != nil {
		*several = true
	}
}

// wrongLength tells of a prefix length that is no number, or out of range.
func (l *line) wrongLength(w token, least, most int) {
	text := fmt.Sprintf("Syntax error: '%s' is out of range 0-%d", clip(w.text), most)
	if n, err := strconv.Atoi(w.text); err == nil && n >= 0 && n < least {
		text = "The value of the CIDR parameter of the IP address is invalid"
	}
	l.fail(w, text, fmt.Sprintf("from %d to %d", least, most))
}

// network reads "A", "A/CIDR", and for IPv4 "A-B", for which it returns true.
func (l *line) network(w token, a, to *address, cidr *uint8, v6, zero bool) bool {
	host := hostBits(v6)
	*cidr = uint8(host)
	if _, _, ok := cutRange(w.text); ok {
		l.addresses(w, a, to, nil, v6)
		if l.err == nil && a.lo == 0 && to.lo == math.MaxUint32 {
			l.fail(w, "Invalid range, covers the whole address space", "")
		}
		return true
	}
	text, length, ok := strings.Cut(w.text, "/")
	*a = l.address(token{text: text, col: w.col}, v6)
	if ok {
		n, err := strconv.ParseUint(length, 10, 8)
		least := uint64(1)
		if zero {
			least = 0
		}
		if err != nil || n > uint64(host) || n < least {
			l.wrongLength(token{length, w.col + len(text) + 1, false}, int(least), host)
			return false
		}
		*cidr = uint8(n)
	}
	*a = a.and(prefix(int(*cidr), v6))
	*to = *a
	return false
}

// cutRange finds the dash of a range.
func cutRange(s string) (from, to string, ok bool) {
	i := strings.IndexByte(s, '-')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// ports reads "PORT" or "FROM-TO" of bitmap:port; a protocol before it counts for nothing.
func (l *line) ports(w token, e *element) {
	text, col := w.text, w.col
	if proto, rest, ok := strings.Cut(text, ":"); ok {
		if _, ok := protocolNumber(proto); !ok {
			l.fail(w, "Syntax error: cannot parse '"+clip(proto)+"' as a protocol", "")
			return
		}
		text, col = rest, col+len(proto)+1
	}
	l.portRange(token{text: text, col: col}, e)
}

func (l *line) portRange(w token, e *element) {
	from, to, ok := cutRange(w.text)
	e.port = l.port(token{text: from, col: w.col})
	e.portTo = e.port
	if ok {
		e.portTo = l.port(token{text: to, col: w.col + len(from) + 1})
		if e.portTo < e.port {
			e.port, e.portTo = e.portTo, e.port
		}
	}
}

func (l *line) port(w token) uint16 {
	v, err := strconv.ParseUint(w.text, 10, 16)
	if err != nil {
		l.fail(w, "Syntax error: cannot parse '"+clip(w.text)+"' as a port", "write its number, from 0 to 65535")
	}
	return uint16(v)
}

// protoPort reads "[PROTO:]PORT", "[PROTO:]FROM-TO" and the forms of ICMP.
func (l *line) protoPort(w token, e *element, v6 bool) {
	text, col := w.text, w.col
	e.proto = 6
	if proto, rest, ok := strings.Cut(text, ":"); ok {
		n, known := protocolNumber(proto)
		if !known {
			l.fail(w, "Syntax error: cannot parse '"+clip(proto)+"' as a protocol", "a name as /etc/protocols has it, or a number")
			return
		}
		if n == 0 {
			l.fail(w, "Invalid protocol specified", "")
			return
		}
		e.proto, text, col = n, rest, col+len(proto)+1
	}
	p := token{text: text, col: col}
	switch e.proto {
	case 6, 17, 132, 136:
		e.withPort = true
		l.portRange(p, e)
	case 1, 58:
		if v6 != (e.proto == 58) {
			name, family := "ICMP", "inet"
			if e.proto == 58 {
				name, family = "ICMPv6", "inet6"
			}
			l.fail(w, "Syntax error: Protocol "+name+" can be used with family "+family+" only", "")
			return
		}
		e.port = l.icmp(p, v6)
		e.portTo = e.port
	default:
		if text != "0" {
			l.fail(p, "Syntax error: Protocol "+protocolText(e.proto)+" can be used with pseudo port value 0 only.", "")
		}
	}
}

// icmp reads a type and code, by name or as TYPE/CODE.
func (l *line) icmp(w token, v6 bool) uint16 {
	for _, n := range icmpNames(v6) {
		if strings.EqualFold(n.name, w.text) {
			return uint16(n.typ)<<8 | uint16(n.code)
		}
	}
	t, c, ok := strings.Cut(w.text, "/")
	typ, err := strconv.ParseUint(t, 10, 8)
	code, err2 := strconv.ParseUint(c, 10, 8)
	if !ok || err != nil || err2 != nil {
		name := "ICMP"
		if v6 {
			name = "ICMPv6"
		}
		l.fail(w, "Cannot parse "+clip(w.text)+" as an "+name+" type/code.", "such as echo-request or 8/0")
	}
	return uint16(typ)<<8 | uint16(code)
}

// mac reads a MAC address.
func (l *line) mac(w token) (v uint64) {
	parts := strings.Split(clip(w.text), ":")
	if len(parts) != 6 {
		parts = strings.Split(clip(w.text), "-")
	}
	ok := len(parts) == 6
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 16, 8)
		ok = ok && err == nil && len(p) <= 2
		v = v<<8 | n
	}
	switch {
	case !ok:
		l.fail(w, "Syntax error: cannot parse "+clip(w.text)+" as ethernet address", "such as 02:00:00:00:00:01")
		return 0
	case v == 0:
		l.fail(w, "Null-valued element, cannot be stored in a hash type of set", "")
	}
	return v
}

// parseExtras reads the options behind an element.
func (l *line) parseExtras(s *Set, e *element) extras {
	x := extras{timeout: s.spec.Timeout, packets: unset, bytes: unset}
	c := &s.spec
	for len(l.words) > 0 && l.err == nil {
		w := l.next("")
		if l.flag(w) {
			continue
		}
		needs := func(ok bool, what, support string) {
			if !ok {
				l.fail(w, what+" cannot be used: set was created without "+support+" support", "")
			}
		}
		switch w.text {
		case "timeout":
			x.timeout = uint32(l.number(maxTimeout))
			needs(c.HasTimeout, "Timeout", "timeout")
		case "packets":
			x.packets = l.number(math.MaxUint64)
			needs(c.Counters, "Packet/byte counters", "counter")
		case "bytes":
			x.bytes = l.number(math.MaxUint64)
			needs(c.Counters, "Packet/byte counters", "counter")
		case "comment":
			v := l.next("a comment")
			needs(c.Comment, "Comment", "comment")
			x.comment = v.text
			if len(v.text) > maxComment {
				l.fail(v, fmt.Sprintf("Comment is longer than the maximum allowed %d characters", maxComment), "")
			}
			if strings.ContainsAny(v.text, "\"\n\x00") {
				l.fail(v, "Syntax error: a comment cannot have a quotation mark in it", "")
			}
		case "skbmark":
			v := l.next("a mark")
			needs(c.SkbInfo, "Skbinfo mapping", "skbinfo")
			m, mask, has := strings.Cut(v.text, "/")
			a, err := strconv.ParseUint(m, 0, 32)
			b, err2 := uint64(math.MaxUint32), error(nil)
			if has {
				b, err2 = strconv.ParseUint(mask, 0, 32)
			}
			if err != nil || err2 != nil {
				l.fail(v, "Syntax error: Invalid skbmark format, it should be:  MARK/MASK or MARK (see manpage)", "such as 0x10/0xff")
			}
			x.info.Mark, x.info.Mask = uint32(a), uint32(b)
		case "skbprio":
			v := l.next("a class")
			needs(c.SkbInfo, "Skbinfo mapping", "skbinfo")
			major, minor, ok := strings.Cut(v.text, ":")
			a, err := strconv.ParseUint(major, 16, 16)
			b, err2 := strconv.ParseUint(minor, 16, 16)
			if !ok || err != nil || err2 != nil {
				l.fail(v, "Syntax error: Invalid skbprio format, it should be:  MAJOR:MINOR (see manpage)", "")
			}
			x.info.Priority = uint32(a)<<16 | uint32(b)
		case "skbqueue":
			needs(c.SkbInfo, "Skbinfo mapping", "skbinfo")
			x.info.Queue = uint16(l.number(math.MaxUint16))
		case "nomatch":
			x.noMatch = true
			if !kindTable[s.kind].noMatch {
				l.fail(w, "Unknown argument: `nomatch'", "of kinds with networks only")
			}
		case "wildcard":
			e.wildcard = true
			if s.kind != HashNetIface {
				l.fail(w, "Unknown argument: `wildcard'", "of hash:net,iface only")
			}
		case "before", "after":
			v := l.next("a set's name")
			if s.kind != ListSet {
				l.fail(w, "Unknown argument: `"+w.text+"'", "of list:set only")
			}
			e.ref, e.before = l.name(v), 1
			if w.text == "after" {
				e.before = -1
			}
		default:
			l.fail(w, "Unknown argument: `"+clip(w.text)+"'", "")
		}
	}
	return x
}
