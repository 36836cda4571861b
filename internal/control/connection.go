package control

import (
	"encoding/json"
	"fmt"
	"time"

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
	ID       uint32    `json:"id"`
	Labels   []string  `json:"labels,omitempty"`
	Age      *uint64   `json:"age_seconds,omitempty"` // with nf_conntrack_timestamp
	Helper   string    `json:"helper,omitempty"`
	Master   *Master   `json:"master,omitempty"` // the connection that expected this one
}

// Master is the original direction of the connection that expected another.
type Master struct {
	Proto   string `json:"proto"`
	Src     string `json:"src"`
	Dst     string `json:"dst"`
	SrcPort uint16 `json:"sport"`
	DstPort uint16 `json:"dport"`
}

// ConnectionEvent is what happened to a Connection.
type ConnectionEvent struct {
	Event string    `json:"event"` // NEW, UPDATE or DESTROY
	Time  time.Time `json:"time"`
	*Connection
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

// NewConnection makes the JSON form of an entry. Labels are shown if they have names.
func NewConnection(i *conntrack.Info, names *conntrack.LabelNames) Connection {
	c := Connection{
		Family: "ipv4", Proto: conntrack.ProtoName(i.Key.Proto), ProtoNum: i.Key.Proto, Timeout: i.Left / 1000, State: i.StateName(),
		Original: direction(i, conntrack.Original), Reply: direction(i, conntrack.Reply),
		Replied: i.Status&conntrack.StatusSeenReply != 0, Assured: i.Status&conntrack.StatusAssured != 0,
		Mark: i.Mark, Zone: i.Zone(), ID: i.ID, Helper: i.Helper.String(),
	}
	if names != nil {
		for n, name := range names {
			if name != "" && i.Labels.Has(n) {
				c.Labels = append(c.Labels, name)
			}
		}
	}
	if i.Key.Family == 6 {
		c.Family = "ipv6"
	}
	if m, ok := i.MasterTuple(); ok {
		c.Master = &Master{Proto: conntrack.ProtoName(i.Master.Proto), Src: m.Src.String(), Dst: m.Dst.String(), SrcPort: m.SrcPort, DstPort: m.DstPort}
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

// appendLine appends an entry's line with its newline.
func (s *selector) appendLine(b []byte, i *conntrack.Info) []byte {
	switch s.format {
	case FormatJSON:
		b = s.appendJSON(b, NewConnection(i, s.style.Labels))
	case FormatXML:
		b = s.style.AppendXML(b, i)
	default:
		b = s.style.AppendLine(b, i)
	}
	return append(b, '\n')
}

// appendEvent appends an event's line with its newline. at is when it happened.
func (s *selector) appendEvent(b []byte, e *conntrack.Event, at time.Time) []byte {
	style := s.style
	style.Now = at
	switch s.format {
	case FormatJSON:
		c := NewConnection(&e.Info, s.style.Labels)
		b = s.appendJSON(b, ConnectionEvent{Event: e.Kind.String(), Time: at, Connection: &c})
	case FormatXML:
		b = style.AppendEventXML(b, e)
	default:
		if s.stamp == conntrack.Visible {
			b = fmt.Appendf(b, "[%d.%06d]\t", at.Unix(), at.Nanosecond()/1000)
		}
		b = style.AppendEvent(b, e)
	}
	return append(b, '\n')
}

func (s *selector) appendJSON(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil { // strings and numbers only
		panic("control: " + err.Error())
	}
	return append(b, text...)
}
