package control

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"corewire/conntrack"
)

// Format is the form of a listing's lines.
type Format string

const (
	FormatList     Format = "list"     // as conntrack -L prints them
	FormatExtended Format = "extended" // as conntrack -L -o extended: the network protocol first
	FormatProc     Format = "proc"     // as /proc/net/nf_conntrack
	FormatJSON     Format = "json"     // one Connection, or ConnectionEvent, a line
	FormatXML      Format = "xml"      // as conntrack -L -o xml
)

// Filter chooses connections for a listing, a change or a stream of events. The zero value lets all through. What is set
// must all hold.
type Filter struct {
	Format   Format   // "" is FormatList
	Show     []string // further fields: id, ktimestamp, labels; for events also timestamp
	Family   int      // 4 or 6
	Proto    string   // name or number
	Src      string   // original source: address or CIDR
	Dst      string   // original destination
	ReplySrc string   // reply's source
	ReplyDst string   // reply's destination
	SrcPort  int      // original source port, 1 to 65535
	DstPort  int      // original destination port
	State    string   // protocol state, as the listing spells it
	Status   string   // ASSURED, UNREPLIED or SEEN_REPLY; several with commas must all hold
	Mark     string   // value or value/mask
	Zone     string   // number
	Labels   string   // names or numbers with commas, all of which it must have
	Events   string   // for events: NEW, UPDATES, DESTROY or ALL, several with commas; "" is ALL
}

// query writes the filter as a URL's query; parseFilter reads it.
func (f Filter) query() url.Values {
	q := url.Values{}
	for _, p := range [...]struct{ name, value string }{
		{"format", string(f.Format)}, {"show", strings.Join(f.Show, ",")}, {"proto", f.Proto}, {"src", f.Src}, {"dst", f.Dst}, {"reply-src", f.ReplySrc},
		{"reply-dst", f.ReplyDst}, {"state", f.State}, {"status", f.Status}, {"mark", f.Mark}, {"zone", f.Zone}, {"labels", f.Labels}, {"events", f.Events},
	} {
		if p.value != "" {
			q.Set(p.name, p.value)
		}
	}
	for _, p := range [...]struct {
		name  string
		value int
	}{{"family", f.Family}, {"sport", f.SrcPort}, {"dport", f.DstPort}} {
		if p.value != 0 {
			q.Set(p.name, strconv.Itoa(p.value))
		}
	}
	return q
}

// protocols are the names that conntrack -p takes, and their numbers (IANA protocol numbers).
var protocols = map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "udplite": 136}

// selector is a Filter in the form in which it is compared, and how lines are written.
type selector struct {
	format  Format
	style   conntrack.Style
	stamp   conntrack.Shown // events begin with the time
	filter  conntrack.Filter
	labels  conntrack.Labels
	events  [conntrack.EventKinds]bool
	changes changes
}

// changes are what an update does.
type changes struct {
	mark, mask uint32
	setMark    bool
	add, del   conntrack.Labels
	setLabels  bool
}

// admits tells whether an entry is selected. It is quick and changes nothing, so that workers may call it.
func (s *selector) admits(i *conntrack.Info) bool {
	return s.filter.Match(i) && i.Labels.Contains(s.labels)
}

// parseFilter reads a query. Errors name the parameter.
func parseFilter(q url.Values) (*selector, error) {
	s := &selector{format: FormatList, events: [conntrack.EventKinds]bool{true, true, true}}
	for name := range q {
		value := q.Get(name)
		if value == "" {
			continue
		}
		if err := s.parse(name, value); err != nil {
			return nil, fmt.Errorf("%s is %q: %w", name, value, err)
		}
	}
	switch s.format {
	case FormatExtended:
		s.style.Format = conntrack.FormatExtended
	case FormatProc:
		s.style.Format = conntrack.FormatProc
	}
	return s, nil
}

// parse reads one parameter.
func (s *selector) parse(name, value string) (err error) {
	f := &s.filter
	switch name {
	case "format":
		s.format = Format(value)
		if !slices.Contains([]Format{FormatList, FormatExtended, FormatProc, FormatJSON, FormatXML}, s.format) {
			return errors.New("expected list, extended, proc, json or xml")
		}
	case "show":
		for word := range strings.SplitSeq(value, ",") {
			switch word {
			case "id":
				s.style.ID = conntrack.Visible
			case "ktimestamp":
				s.style.Times = conntrack.Visible
			case "timestamp":
				s.stamp = conntrack.Visible
			case "labels":
				s.style.Labels = &loadLabels().names
			default:
				return errors.New("expected id, timestamp, ktimestamp or labels")
			}
		}
	case "events":
		s.events = [conntrack.EventKinds]bool{}
		for word := range strings.SplitSeq(strings.ToUpper(value), ",") {
			switch word {
			case "NEW":
				s.events[conntrack.EventNew] = true
			case "UPDATES", "UPDATE":
				s.events[conntrack.EventUpdate] = true
			case "DESTROY":
				s.events[conntrack.EventDestroy] = true
			case "ALL":
				s.events = [conntrack.EventKinds]bool{true, true, true}
			default:
				return errors.New("expected NEW, UPDATES, DESTROY or ALL")
			}
		}
	case "family":
		switch value {
		case "4", "ipv4":
			f.Family = 4
		case "6", "ipv6":
			f.Family = 6
		default:
			return errors.New("expected ipv4 or ipv6")
		}
	case "proto":
		f.MatchProto = conntrack.Exactly
		if n, ok := protocols[strings.ToLower(value)]; ok {
			f.Proto = n
		} else if n, e := strconv.ParseUint(value, 10, 8); e == nil {
			f.Proto = uint8(n)
		} else {
			return errors.New("expected a protocol's name or its number, 0 to 255")
		}
	case "src":
		f.Src, err = prefix(value)
	case "dst":
		f.Dst, err = prefix(value)
	case "reply-src":
		f.ReplySrc, err = prefix(value)
	case "reply-dst":
		f.ReplyDst, err = prefix(value)
	case "sport":
		f.SrcPort, err = port(value)
	case "dport":
		f.DstPort, err = port(value)
	case "state":
		f.State = strings.ToUpper(value)
	case "status":
		for word := range strings.SplitSeq(strings.ToUpper(value), ",") {
			switch word {
			case "ASSURED":
				f.Status |= conntrack.StatusAssured
			case "SEEN_REPLY":
				f.Status |= conntrack.StatusSeenReply
			case "UNREPLIED", "UNSET":
				f.NoStatus |= conntrack.StatusSeenReply
			case "CONFIRMED":
				f.Status |= conntrack.StatusConfirmed
			case "EXPECTED":
				f.Status |= conntrack.StatusExpected
			case "FIXED_TIMEOUT":
				f.Status |= conntrack.StatusFixedTimeout
			default:
				return errors.New("expected ASSURED, SEEN_REPLY, UNREPLIED, CONFIRMED, EXPECTED or FIXED_TIMEOUT")
			}
		}
	case "mark":
		f.Mark, f.MarkMask, err = mark(value)
	case "zone":
		n, e := strconv.ParseUint(value, 0, 16)
		if e != nil {
			return errors.New("expected a zone from 0 to 65535")
		}
		f.Zone, f.MatchZone = uint16(n), conntrack.Exactly
	case "labels":
		s.labels, err = loadLabels().parse(value)
	case "set-mark":
		s.changes.mark, s.changes.mask, err = mark(value)
		s.changes.setMark = true
	case "label-add":
		s.changes.add, err = loadLabels().parse(value)
		s.changes.setLabels = true
	case "label-del":
		s.changes.setLabels = true
		if value == "all" {
			s.changes.del = conntrack.Labels{^uint64(0), ^uint64(0)}
		} else {
			s.changes.del, err = loadLabels().parse(value)
		}
	default:
		return errors.New("there is no such parameter")
	}
	return err
}

func prefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, errors.New("expected an address, or one with a prefix length, such as 192.0.2.0/24")
	}
	return p.Masked(), nil
}

func port(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("expected a port from 1 to 65535")
	}
	return uint16(n), nil
}

func mark(text string) (value, mask uint32, err error) {
	v, m, masked := strings.Cut(text, "/")
	n, err := strconv.ParseUint(v, 0, 32)
	k := uint64(1<<32 - 1)
	if err == nil && masked {
		k, err = strconv.ParseUint(m, 0, 32)
	}
	if err != nil {
		return 0, 0, errors.New("expected a mark or mark/mask, such as 0x10/0xff")
	}
	return uint32(n), uint32(k), nil
}
