package control

import (
	"encoding/json"
	"fmt"
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
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
	case FormatSave:
		b = i.AppendSave(b)
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
	case FormatSave:
		b = e.AppendSave(b)
	default:
		b = style.AppendEvent(s.appendStamp(b, at), e)
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

// Expectation is a connection that a helper expects, as a listing in JSON shows it, one object a line.
type Expectation struct {
	Family    string  `json:"family"`   // ipv4 or ipv6
	Proto     string  `json:"proto"`    // name as the kernel prints it
	ProtoNum  uint8   `json:"protonum"` // IP protocol number
	Timeout   uint32  `json:"timeout"`  // seconds until it is no longer expected
	Src       string  `json:"src"`      // "" where it may come from anywhere
	Dst       string  `json:"dst"`
	SrcPort   *uint16 `json:"sport,omitempty"` // GRE: the key; missing where it may be any
	DstPort   uint16  `json:"dport"`
	Zone      uint16  `json:"zone"`
	Helper    string  `json:"helper"`
	Class     uint8   `json:"class"`     // of the helper's classes of expectations
	Permanent bool    `json:"permanent"` // it stays when a connection has come
	Inactive  bool    `json:"inactive"`  // no connection matches it yet
	Master    Master  `json:"master"`    // the connection that expects
}

// ExpectationEvent is what happened to an Expectation.
type ExpectationEvent struct {
	Event string    `json:"event"` // NEW or DESTROY
	Time  time.Time `json:"time"`
	*Expectation
}

// NewExpectation makes the JSON form of an expectation.
func NewExpectation(x *conntrack.ExpectInfo) Expectation {
	address := func(a packet.Addr) string {
		if x.Family == 6 {
			return a.Netip6().String()
		}
		return a.Netip().String()
	}
	master := conntrack.Info{Key: x.Master, Flipped: x.MasterFlipped}
	m := master.Tuple(conntrack.Original)
	e := Expectation{
		Family: "ipv4", Proto: conntrack.ProtoName(x.Proto), ProtoNum: x.Proto, Timeout: x.Left / 1000, Dst: address(x.Dst), DstPort: x.DstPort,
		Zone: x.Zone, Helper: x.Helper.String(), Class: x.Class, Permanent: x.Flags&conntrack.ExpectPermanent != 0, Inactive: x.Flags&conntrack.ExpectInactive != 0,
		Master: Master{Proto: conntrack.ProtoName(x.Master.Proto), Src: m.Src.String(), Dst: m.Dst.String(), SrcPort: m.SrcPort, DstPort: m.DstPort},
	}
	if x.Family == 6 {
		e.Family = "ipv6"
	}
	if !x.AnySrc {
		e.Src = address(x.Src)
	}
	if !x.AnyPort {
		e.SrcPort = &x.SrcPort
	}
	return e
}

// appendExpectation appends an expectation's line with its newline.
func (s *selector) appendExpectation(b []byte, x *conntrack.ExpectInfo) []byte {
	switch s.format {
	case FormatJSON:
		b = s.appendJSON(b, NewExpectation(x))
	case FormatXML:
		b = x.AppendXML(b)
	default:
		b = x.AppendLine(b, s.style.Format)
	}
	return append(b, '\n')
}

// appendExpectEvent appends an event's line with its newline. at is when it happened.
func (s *selector) appendExpectEvent(b []byte, e *conntrack.ExpectEvent, at time.Time) []byte {
	switch s.format {
	case FormatJSON:
		x := NewExpectation(&e.Info)
		b = s.appendJSON(b, ExpectationEvent{Event: e.Kind.String(), Time: at, Expectation: &x})
	case FormatXML:
		b = e.AppendEventXML(b)
	default:
		b = e.AppendEvent(s.appendStamp(b, at), s.style.Format)
	}
	return append(b, '\n')
}

// appendStamp appends the time that an event's line begins with, if it is to.
func (s *selector) appendStamp(b []byte, at time.Time) []byte {
	if s.stamp == conntrack.Visible {
		b = fmt.Appendf(b, "[%d.%06d]\t", at.Unix(), at.Nanosecond()/1000)
	}
	return b
}
