package ipset

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// Entry is an element of a set with what it has, as it was at one moment.
type Entry struct {
	fields
	member string // of a list:set

	left           uint32 // seconds; 0: it stays
	packets, bytes uint64
	info           Info
	comment        string
	noMatch        bool
	loaded         bool
}

// from fills in what an element has beside its key.
func (s *Set) from(e *Entry, st uint64, w []uint64, now Tick) {
	e.noMatch, e.loaded, e.left, e.packets, e.bytes, e.info = st&stateNoMatch != 0, st&stateLoaded != 0, 0, 0, 0, s.info(w)
	switch {
	case st&stateStored != 0:
		e.left = uint32(st)
	case st&stateForever == 0:
		e.left = max(1, (uint32(st)-uint32(now))/1000)
	}
	if s.spec.Counters {
		e.packets, e.bytes = atomic.LoadUint64(&w[0]), atomic.LoadUint64(&w[1])
	}
}

// each calls visit with the elements that have not expired, until it returns false. It is called under the registry's
// lock; what frames add or delete meanwhile may be missing. visit may keep nothing of the entry.
func (s *Set) each(now Tick, visit func(*Entry) bool) {
	var e Entry
	switch {
	case s.kind == ListSet:
		for _, m := range *s.list.Load() {
			st := m.state.Load()
			if expired(st, now) {
				continue
			}
			e = Entry{member: m.handle.name, comment: m.note}
			s.from(&e, st, m.ext, now)
			e.loaded = m.loaded
			if !visit(&e) {
				return
			}
		}
	case s.bitmap != nil:
		for id := range s.bitmap.size {
			if s.bitmap.member[id>>6] == 0 || !s.bitmap.has(id) || s.bitmap.late(id, now) {
				continue
			}
			s.bitEntry(&e, id, now)
			if !visit(&e) {
				return
			}
		}
	default:
		t := s.table.Load()
		var k key
		for i := range t.mask + 1 {
			st := atomic.LoadUint64(t.state(i))
			if st&phaseMask != phaseLive || expired(st, now) || !t.read(i, st, &k) {
				continue
			}
			e = Entry{}
			s.decode(&k, &e.fields)
			s.from(&e, st, t.extra(i), now)
			if n, ok := s.notes[i]; ok && n.version == st&versionMask {
				e.comment = n.text
			}
			if !visit(&e) {
				return
			}
		}
	}
}

func (s *Set) bitEntry(e *Entry, id uint64, now Tick) {
	*e = Entry{}
	b := s.bitmap
	st := uint64(stateForever)
	if b.expiry != nil {
		st = atomic.LoadUint64(&b.expiry[id])
	}
	s.from(e, st, b.extra(s, id), now)
	e.loaded = b.loaded[id>>6]>>(id&63)&1 != 0
	v := id
	if s.kind == BitmapIP && s.spec.NetMask != 0 {
		v <<= 32 - s.spec.NetMask
	}
	v += s.spec.first
	if s.kind == BitmapPort {
		e.port = uint16(v)
	} else {
		e.a = address{0, v}
	}
	if b.mac != nil {
		e.mac = atomic.LoadUint64(&b.mac[id]) &^ macFilled
	}
	if b.noted[id>>6]>>(id&63)&1 != 0 {
		e.comment = s.notes[id].text
	}
}

// entry returns one element.
func (s *Set) entry(f *fields, now Tick) (e Entry, ok bool) {
	if s.bitmap != nil {
		id, ok := s.id(f)
		if !ok || !s.bitmap.has(id) || s.bitmap.late(id, now) {
			return e, false
		}
		s.bitEntry(&e, id, now)
		return e, true
	}
	var k key
	s.encode(f, &k)
	t := s.table.Load()
	i, st, ok := t.find(&k, t.hash(&k, s.secret))
	if !ok || expired(st, now) {
		return e, false
	}
	e.fields = *f
	s.from(&e, st, t.extra(i), now)
	if n, ok := s.notes[i]; ok && n.version == st&versionMask {
		e.comment = n.text
	}
	return e, true
}

// appendElement writes an element as ipset does.
func (s *Set) appendElement(b []byte, e *Entry) []byte {
	first := true
	for i, p := range kindTable[s.kind].parts {
		if i > 0 && !(p == partMAC && s.kind == BitmapIPMAC && e.mac == 0) {
			b = append(b, ',')
		}
		switch p {
		case partIP, partNet:
			a, n := e.a, e.cidr
			if !first {
				a, n = e.b, e.cidr2
			}
			first = false
			b = a.append(b, s.v6)
			if p == partNet && int(n) != hostBits(s.v6) {
				b = strconv.AppendUint(append(b, '/'), uint64(n), 10)
			}
		case partPort:
			if s.kind == BitmapPort {
				b = strconv.AppendUint(b, uint64(e.port), 10)
				break
			}
			b = append(append(b, protocolText(e.proto)...), ':')
			if e.proto == 1 && !s.v6 || e.proto == 58 && s.v6 {
				b = appendICMP(b, e.port, s.v6)
			} else {
				b = strconv.AppendUint(b, uint64(e.port), 10)
			}
		case partIface:
			if e.physdev {
				b = append(b, "physdev:"...)
			}
			b = append(b, Name(e.iface).text()...)
		case partMAC:
			if e.mac != 0 {
				var m [8]byte
				binary.BigEndian.PutUint64(m[:], e.mac)
				b = fmt.Appendf(b, "%02X:%02X:%02X:%02X:%02X:%02X", m[2], m[3], m[4], m[5], m[6], m[7])
			}
		case partMark:
			b = fmt.Appendf(b, "0x%08x", e.mark)
		case partSet:
			b = append(b, e.member...)
		}
	}
	return b
}

func appendICMP(b []byte, port uint16, v6 bool) []byte {
	for _, n := range icmpNames(v6) {
		if n.typ == uint8(port>>8) && n.code == uint8(port) {
			return append(b, n.name...)
		}
	}
	return fmt.Appendf(b, "%d/%d", port>>8, port&255)
}

// appendExtras writes what an element has behind it, as ipset does.
func (s *Set) appendExtras(b []byte, e *Entry) []byte {
	if s.spec.HasTimeout {
		b = strconv.AppendUint(append(b, " timeout "...), uint64(e.left), 10)
	}
	if e.noMatch {
		b = append(b, " nomatch"...)
	}
	if e.wildcard {
		b = append(b, " wildcard"...)
	}
	if s.spec.Counters {
		b = fmt.Appendf(b, " packets %d bytes %d", e.packets, e.bytes)
	}
	if e.comment != "" {
		b = append(append(append(b, ` comment "`...), e.comment...), '"')
	}
	if s.spec.SkbInfo {
		if i := &e.info; i.Mark|i.Mask != 0 {
			b = fmt.Appendf(b, " skbmark 0x%x", i.Mark)
			if i.Mask != ^uint32(0) {
				b = fmt.Appendf(b, "/0x%x", i.Mask)
			}
		}
		if e.info.Priority != 0 {
			b = fmt.Appendf(b, " skbprio %x:%x", e.info.Priority>>16, e.info.Priority&0xffff)
		}
		if e.info.Queue != 0 {
			b = fmt.Appendf(b, " skbqueue %d", e.info.Queue)
		}
	}
	return b
}

// AppendSave appends one set as `ipset save NAME` prints it, or all of them for the empty name; with sorted, elements in
// their order, as -s does. Unlike ipset 7.17 it does not forget forceadd. The error is *Error.
func (r *Registry) AppendSave(b []byte, name string, sorted bool, now Tick) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.named(name)
	if err != nil {
		return b, err
	}
	for _, h := range all {
		s := h.set.Load()
		b = append(append(append(b, "create "...), h.name...), ' ')
		b = append(s.spec.append(append(b, s.kind.String()...)), '\n')
		if sorted {
			for _, m := range s.members(true, now) {
				b = append(append(append(append(append(b, "add "...), h.name...), ' '), m...), '\n')
			}
			continue
		}
		s.each(now, func(e *Entry) bool {
			b = append(append(append(b, "add "...), h.name...), ' ')
			b = append(s.appendExtras(s.appendElement(b, e), e), '\n')
			return true
		})
	}
	return b, nil
}

// named returns the sets of that name, or all.
func (r *Registry) named(name string) ([]*Handle, error) {
	if name == "" {
		return r.inOrder(), nil
	}
	l := &line{}
	h := r.find(l, token{text: name})
	if l.err != nil {
		return nil, l.err
	}
	return []*Handle{h}, nil
}

// members writes all elements.
func (s *Set) members(sorted bool, now Tick) []string {
	type row struct {
		e    Entry
		text string
	}
	var out []string
	var rows []*row
	s.each(now, func(e *Entry) bool {
		text := string(s.appendExtras(s.appendElement(nil, e), e))
		if sorted && s.kind != ListSet {
			rows = append(rows, &row{*e, text})
		} else {
			out = append(out, text)
		}
		return true
	})
	if rows != nil {
		slices.SortFunc(rows, func(x, y *row) int {
			a, b := &x.e, &y.e
			switch {
			case a.a != b.a:
				return order(a.a.less(b.a))
			case a.cidr != b.cidr:
				return int(a.cidr) - int(b.cidr)
			case a.proto != b.proto:
				return int(a.proto) - int(b.proto)
			case a.port != b.port:
				return int(a.port) - int(b.port)
			case a.b != b.b:
				return order(a.b.less(b.b))
			case a.mac != b.mac:
				return order(a.mac < b.mac)
			case a.mark != b.mark:
				return order(a.mark < b.mark)
			}
			return strings.Compare(x.text, y.text)
		})
	}
	for _, r := range rows {
		out = append(out, r.text)
	}
	return out
}

func order(less bool) int {
	if less {
		return -1
	}
	return 1
}

// Listing is a set for a listing.
type Listing struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Revision   int      `json:"revision"` // of the kernel's type that it behaves like
	Header     string   `json:"header"`   // the options of `create`
	Size       int64    `json:"size"`     // bytes
	References int      `json:"references"`
	Entries    int      `json:"entries"`
	GivenUp    uint64   `json:"given_up"` // additions and deletions by rules for which there was no room, or no time
	Members    []string `json:"members,omitempty"`
}

// List returns one set, or all of them for the empty name, with their elements or without. The error is *Error.
func (r *Registry) List(name string, members, sorted bool, now Tick) ([]Listing, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.named(name)
	if err != nil {
		return nil, err
	}
	out := []Listing{}
	for _, h := range all {
		s := h.set.Load()
		x := Listing{Name: h.name, Type: s.kind.String(), Revision: kindTable[s.kind].revision, Size: s.size(), References: h.refs, GivenUp: s.given.Load()}
		if s.kind == ListSet {
			x.Size = perSet + memberBytes*int64(len(*s.list.Load()))
		}
		if text := s.spec.append(nil); len(text) > 0 {
			x.Header = string(text[1:])
		}
		if members {
			x.Members = s.members(sorted, now)
			x.Entries = len(x.Members)
		} else {
			s.each(now, func(*Entry) bool { x.Entries++; return true })
		}
		out = append(out, x)
	}
	return out, nil
}
