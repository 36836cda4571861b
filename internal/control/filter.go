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
	"corewire/dataplane"
)

// Format is the form of a listing's lines.
type Format string

const (
	FormatList     Format = "list"     // as conntrack -L prints them
	FormatExtended Format = "extended" // as conntrack -L -o extended: the network protocol first
	FormatProc     Format = "proc"     // as /proc/net/nf_conntrack
	FormatJSON     Format = "json"     // one Connection, or ConnectionEvent, a line
	FormatXML      Format = "xml"      // as conntrack -L -o xml
	FormatSave     Format = "save"     // as conntrack -L -o save, for conntrack -R; connections only
)

// Filter chooses connections, or expected ones, for a listing, a change or a stream of events. The zero value lets all
// through. What is set must all hold. Of expectations only family, protocol, zone, source and destination are asked for.
type Filter struct {
	Format       Format   // "" is FormatList
	Show         []string // further fields: id, ktimestamp, labels; for events also timestamp
	Family       int      // 4 or 6
	Proto        string   // name or number
	Src          string   // original source: address or CIDR
	Dst          string   // original destination
	ReplySrc     string   // reply's source
	ReplyDst     string   // reply's destination
	SrcPort      int      // original source port, 1 to 65535
	DstPort      int      // original destination port
	ReplySrcPort int      // reply's source port
	ReplyDstPort int      // reply's destination port
	Type         string   // ICMP and ICMPv6: type of the request
	Code         string   // ICMP and ICMPv6: code of the request
	QueryID      string   // ICMP and ICMPv6: identifier
	SrcKey       string   // GRE: key of the original direction's source, decimal or with 0x
	DstKey       string   // GRE: key of the original direction's destination
	OrigTag      string   // SCTP: verification tag of the original direction
	ReplyTag     string   // SCTP: verification tag of the reply direction
	State        string   // protocol state, as the listing spells it
	Status       string   // ASSURED, UNREPLIED or SEEN_REPLY; several with commas must all hold
	Mark         string   // value or value/mask
	Zone         string   // number
	Labels       string   // names or numbers with commas, all of which it must have
	ID           string   // number that listings show with Show id
	Translated   bool     // only translated connections, of which there are none
	Events       string   // for events: NEW, UPDATES, DESTROY or ALL, several with commas; "" is ALL
	Buffer       int      // for events: bytes of those of one worker that may wait for the reader; 0 is the usual
}

// query writes the filter as a URL's query; parseFilter reads it.
func (f Filter) query() url.Values {
	q := url.Values{}
	for _, p := range [...]struct{ name, value string }{
		{"format", string(f.Format)}, {"show", strings.Join(f.Show, ",")}, {"proto", f.Proto}, {"src", f.Src}, {"dst", f.Dst}, {"reply-src", f.ReplySrc},
		{"reply-dst", f.ReplyDst}, {"state", f.State}, {"status", f.Status}, {"mark", f.Mark}, {"zone", f.Zone}, {"labels", f.Labels}, {"events", f.Events},
		{"icmp-type", f.Type}, {"icmp-code", f.Code}, {"icmp-id", f.QueryID}, {"srckey", f.SrcKey}, {"dstkey", f.DstKey}, {"orig-vtag", f.OrigTag}, {"reply-vtag", f.ReplyTag},
		{"id", f.ID},
	} {
		if p.value != "" {
			q.Set(p.name, p.value)
		}
	}
	for _, p := range [...]struct {
		name  string
		value int
	}{{"family", f.Family}, {"sport", f.SrcPort}, {"dport", f.DstPort}, {"reply-port-src", f.ReplySrcPort}, {"reply-port-dst", f.ReplyDstPort}, {"buffer", f.Buffer}} {
		if p.value != 0 {
			q.Set(p.name, strconv.Itoa(p.value))
		}
	}
	if f.Translated {
		q.Set("translated", "1")
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
	room    int // events that may wait; 0: the usual
	changes changes
}

// changes are what an update does.
type changes struct {
	mark, mask uint32
	setMark    bool
	add, del   conntrack.Labels
	setLabels  bool
	change     conntrack.Change
	state      string // of change, until the protocol is known
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
	if name := s.changes.state; name != "" {
		c := &s.changes.change
		c.Proto = s.filter.Proto
		var ok bool
		if c.State, ok = conntrack.StateByName(c.Proto, name); !ok || s.filter.MatchProto != conntrack.Exactly {
			return nil, fmt.Errorf("set-state is %q: expected a state of the protocol, which must be tcp or sctp", name)
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
		if !slices.Contains([]Format{FormatList, FormatExtended, FormatProc, FormatJSON, FormatXML, FormatSave}, s.format) {
			return errors.New("expected list, extended, proc, json, xml or save")
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
			case "userspace": // which process was the cause: a wire has none to tell of
			default:
				return errors.New("expected id, timestamp, ktimestamp, labels or userspace")
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
	case "reply-port-src":
		f.ReplySrcPort, err = port(value)
	case "reply-port-dst":
		f.ReplyDstPort, err = port(value)
	case "icmp-type":
		f.Type, f.MatchType, err = exactly[uint8](value)
	case "icmp-code":
		f.Code, f.MatchCode, err = exactly[uint8](value)
	case "icmp-id":
		f.QueryID, f.MatchID, err = exactly[uint16](value)
	case "srckey":
		f.SrcKey, f.MatchSrcKey, err = exactly[uint16](value)
	case "dstkey":
		f.DstKey, f.MatchDstKey, err = exactly[uint16](value)
	case "orig-vtag":
		f.Tag[conntrack.Original], f.MatchTag[conntrack.Original], err = exactly[uint32](value)
	case "reply-vtag":
		f.Tag[conntrack.Reply], f.MatchTag[conntrack.Reply], err = exactly[uint32](value)
	case "id":
		f.Number, f.MatchNumber, err = exactly[uint32](value)
	case "translated":
		f.None = true
	case "buffer":
		n, e := strconv.Atoi(value)
		if e != nil || n < 1 {
			return errors.New("expected a number of bytes")
		}
		s.room = dataplane.EventRoom(n)
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
			case "OFFLOAD", "HW_OFFLOAD", "SRC_NAT", "DST_NAT": // nothing is
				f.None = true
			default:
				return errors.New("expected ASSURED, SEEN_REPLY, UNREPLIED, CONFIRMED, EXPECTED or FIXED_TIMEOUT")
			}
		}
	case "mark":
		f.Mark, f.MarkMask, err = mark(value)
	case "zone":
		f.Zone, f.MatchZone, err = exactly[uint16](value)
	case "labels":
		s.labels, err = loadLabels().parse(value)
	case "set-mark":
		s.changes.mark, s.changes.mask, err = mark(value)
		s.changes.setMark = true
	case "set-timeout":
		n, e := strconv.ParseUint(value, 10, 32)
		if e != nil || n == 0 || n > conntrack.MaxTimeout {
			return fmt.Errorf("expected seconds from 1 to %d", conntrack.MaxTimeout)
		}
		s.changes.change.Timeout = uint32(n) * 1000
	case "set-status":
		s.changes.change.Status, err = changeable(value)
	case "set-state":
		s.changes.state = value
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

// exactly reads a number that is compared, also if it is 0: decimal, or hexadecimal with 0x.
func exactly[T uint8 | uint16 | uint32](text string) (T, conntrack.Match, error) {
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil || n > uint64(^T(0)) {
		return 0, conntrack.Any, fmt.Errorf("expected a number from 0 to %d", ^T(0))
	}
	return T(n), conntrack.Exactly, nil
}

// changeable reads status bits that an update may set.
func changeable(text string) (set uint32, err error) {
	for word := range strings.SplitSeq(strings.ToUpper(text), ",") {
		switch word {
		case "ASSURED":
			set |= conntrack.StatusAssured
		case "SEEN_REPLY":
			set |= conntrack.StatusSeenReply
		case "FIXED_TIMEOUT":
			set |= conntrack.StatusFixedTimeout
		case "UNSET":
		default:
			return 0, errors.New("expected ASSURED, SEEN_REPLY, FIXED_TIMEOUT or UNSET (nothing else can be set, and nothing be taken back)")
		}
	}
	return set, nil
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
