package control

import (
	"encoding/json"

	"corewire/conntrack"
)

// Connection is a tracked connection as a listing in JSON shows it, one object a line.
type Connection struct {
	Family   string    `json:"family"`   // ipv4 or ipv6
	Proto    string    `json:"proto"`    // name as the kernel prints it
	ProtoNum uint8     `json:"protonum"` // IP protocol number
	Timeout  uint32    `json:"timeout"`  // seconds until it expires
	State    string    `json:"state,omitempty"`
	Original Direction `json:"original"`
	Reply    Direction `json:"reply"`
	Replied  bool      `json:"replied"` // packets were seen in both directions
	Assured  bool      `json:"assured"` // never evicted for room
	Mark     uint32    `json:"mark"`
	Zone     uint16    `json:"zone"`
	Age      *uint64   `json:"age_seconds,omitempty"` // with nf_conntrack_timestamp
}

// Direction is one direction of a Connection.
type Direction struct {
	Src     string  `json:"src"`
	Dst     string  `json:"dst"`
	SrcPort uint16  `json:"sport,omitempty"` // GRE: the key
	DstPort uint16  `json:"dport,omitempty"`
	Type    *uint8  `json:"type,omitempty"` // ICMP and ICMPv6
	Code    *uint8  `json:"code,omitempty"`
	ID      *uint16 `json:"id,omitempty"`
	Packets *uint64 `json:"packets,omitempty"` // with nf_conntrack_acct
	Bytes   *uint64 `json:"bytes,omitempty"`   // of IP datagrams
}

// NewConnection makes the JSON form of an entry.
func NewConnection(i *conntrack.Info) Connection {
	c := Connection{
		Family: "ipv4", Proto: conntrack.ProtoName(i.Key.Proto), ProtoNum: i.Key.Proto, Timeout: i.Left / 1000, State: i.StateName(),
		Original: direction(i, conntrack.Original), Reply: direction(i, conntrack.Reply),
		Replied: i.Status&conntrack.StatusSeenReply != 0, Assured: i.Status&conntrack.StatusAssured != 0,
		Mark: i.Mark, Zone: i.Zone(),
	}
	if i.Key.Family == 6 {
		c.Family = "ipv6"
	}
	if i.HasAge {
		age := i.Age / 1000
		c.Age = &age
	}
	return c
}

func direction(i *conntrack.Info, d conntrack.Dir) Direction {
	t := i.Tuple(d)
	out := Direction{Src: t.Src.String(), Dst: t.Dst.String(), SrcPort: t.SrcPort, DstPort: t.DstPort}
	if _, _, _, query := i.Key.Query(); query {
		out.Type, out.Code, out.ID = &t.Type, &t.Code, &t.ID
	}
	if i.HasCounters {
		packets, bytes := i.Packets[d], i.Bytes[d]
		out.Packets, out.Bytes = &packets, &bytes
	}
	return out
}

// admits tells whether the listing shows an entry.
func (s *selector) admits(i *conntrack.Info) bool {
	if s.family != 0 && s.family != i.Key.Family || !s.anyProto && s.proto != i.Key.Proto ||
		i.Status&s.status != s.status || i.Status&s.unset != 0 || i.Mark&s.mask != s.mark&s.mask ||
		s.state != "" && s.state != i.StateName() {
		return false
	}
	if !s.src.IsValid() && !s.dst.IsValid() && s.sport == 0 && s.dport == 0 {
		return true
	}
	t := i.Tuple(conntrack.Original)
	return (!s.src.IsValid() || s.src.Contains(t.Src.Unmap())) && (!s.dst.IsValid() || s.dst.Contains(t.Dst.Unmap())) &&
		(s.sport == 0 || s.sport == t.SrcPort) && (s.dport == 0 || s.dport == t.DstPort)
}

// appendLine appends an entry's line with its newline.
func (s *selector) appendLine(b []byte, i *conntrack.Info) []byte {
	switch s.format {
	case FormatJSON:
		text, err := json.Marshal(NewConnection(i))
		if err != nil { // strings and numbers only
			panic("control: " + err.Error())
		}
		b = append(b, text...)
	case FormatProc:
		b = i.AppendLine(b, conntrack.FormatProc)
	case FormatExtended:
		b = i.AppendLine(b, conntrack.FormatExtended)
	default:
		b = i.AppendLine(b, conntrack.FormatConntrack)
	}
	return append(b, '\n')
}
