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
	FormatJSON     Format = "json"     // one Connection a line
)

// Filter chooses connections for a listing. The zero value lets all through. What is set must all hold.
type Filter struct {
	Format  Format // "" is FormatList
	Family  int    // 4 or 6
	Proto   string // name or number
	Src     string // original source: address or CIDR
	Dst     string // original destination
	SrcPort int    // original source port, 1 to 65535
	DstPort int    // original destination port
	State   string // protocol state, as the listing spells it
	Status  string // ASSURED, UNREPLIED or SEEN_REPLY; several with commas must all hold
	Mark    string // value or value/mask
}

// query writes the filter as a URL's query; parseFilter reads it.
func (f Filter) query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" {
			q.Set(name, value)
		}
	}
	set("format", string(f.Format))
	set("family", strconv.Itoa(f.Family))
	set("src", f.Src)
	set("dst", f.Dst)
	set("sport", strconv.Itoa(f.SrcPort))
	set("dport", strconv.Itoa(f.DstPort))
	set("state", f.State)
	set("status", f.Status)
	if f.Mark != "" {
		q.Set("mark", f.Mark)
	}
	if f.Proto != "" {
		q.Set("proto", f.Proto)
	}
	return q
}

// protocols are the names that conntrack -p takes, and their numbers (IANA protocol numbers).
var protocols = map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "udplite": 136}

// selector is a Filter in the form in which it is compared.
type selector struct {
	format   Format
	family   uint8
	proto    uint8
	anyProto bool
	src, dst netip.Prefix
	sport    uint16
	dport    uint16
	state    string
	status   uint32 // bits that must be set
	unset    uint32 // bits that must be clear
	mark     uint32
	mask     uint32
}

// parseFilter reads a query. Errors name the parameter.
func parseFilter(q url.Values) (*selector, error) {
	s := &selector{format: FormatList, anyProto: true}
	for name := range q {
		value := q.Get(name)
		if value == "" {
			continue
		}
		var err error
		switch name {
		case "format":
			s.format = Format(value)
			if !slices.Contains([]Format{FormatList, FormatExtended, FormatProc, FormatJSON}, s.format) {
				err = errors.New("expected list, extended, proc or json")
			}
		case "family":
			switch value {
			case "4", "ipv4":
				s.family = 4
			case "6", "ipv6":
				s.family = 6
			default:
				err = errors.New("expected ipv4 or ipv6")
			}
		case "proto":
			s.anyProto = false
			if n, ok := protocols[strings.ToLower(value)]; ok {
				s.proto = n
			} else if n, e := strconv.ParseUint(value, 10, 8); e == nil {
				s.proto = uint8(n)
			} else {
				err = errors.New("expected a protocol's name or its number, 0 to 255")
			}
		case "src":
			s.src, err = prefix(value)
		case "dst":
			s.dst, err = prefix(value)
		case "sport":
			s.sport, err = port(value)
		case "dport":
			s.dport, err = port(value)
		case "state":
			s.state = strings.ToUpper(value)
		case "status":
			for word := range strings.SplitSeq(strings.ToUpper(value), ",") {
				switch word {
				case "ASSURED":
					s.status |= conntrack.StatusAssured
				case "SEEN_REPLY":
					s.status |= conntrack.StatusSeenReply
				case "UNREPLIED":
					s.unset |= conntrack.StatusSeenReply
				case "CONFIRMED":
					s.status |= conntrack.StatusConfirmed
				case "EXPECTED":
					s.status |= conntrack.StatusExpected
				default:
					err = errors.New("expected ASSURED, SEEN_REPLY, UNREPLIED, CONFIRMED or EXPECTED")
				}
			}
		case "mark":
			s.mark, s.mask, err = mark(value)
		default:
			err = errors.New("there is no such parameter")
		}
		if err != nil {
			return nil, fmt.Errorf("%s is %q: %w", name, value, err)
		}
	}
	return s, nil
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
