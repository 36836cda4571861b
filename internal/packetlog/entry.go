package packetlog

import (
	"strconv"
	"time"

	"corewire/internal/packet"
)

// MaxPrefix is the longest prefix that a rule can have, in bytes (NFLOG's; xt_NFLOG.h).
const MaxPrefix = 63

// Invalid is the target of packets that connection tracking found INVALID (nf_conntrack_log_invalid).
const Invalid = "INVALID"

// Entry is one packet that passed a LOG or NFLOG rule, or was INVALID, as it was then.
type Entry struct {
	Number uint64    // counts the log's entries from 1
	Time   time.Time // when its worker judged it
	Target string    // LOG, NFLOG or INVALID
	Prefix string    // of the rule
	Level  uint8     // LOG: syslog severity, 0 to 7 (RFC 5424 section 6.2.1)
	Group  uint16    // NFLOG
	Rule   string    // the rule's place, such as "FORWARD 3"; "" of an INVALID packet, and so the next
	Line   string    // the rule's file and line
	State  string    // of its connection: NEW, ESTABLISHED, …; "" in table raw
	In     string    // interface that it came from
	Out    string    // the other one
	Port   packet.Port
	Mark   uint32 // of the packet
	Length int    // bytes of the frame on the wire, with the Ethernet header
	L3     int    // offset of the IP header in Frame
	End    int    // offset one past the IP datagram; may be more than len(Frame)
	Frame  []byte // the frame's beginning, as much as was kept

	// What the rule wants in the line.
	Sequence, TCPOptions, IPOptions, MACDecode bool
}

// AppendLine appends the entry in the kernel's form, without priority and newline, to b and returns it. What a line cannot
// show of a prefix (control characters) is written as \x and two digits.
func (e *Entry) AppendLine(b []byte) []byte {
	for i := range len(e.Prefix) {
		if c := e.Prefix[i]; c < ' ' || c == 0x7f {
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		} else {
			b = append(b, c)
		}
	}
	l := line{b: b, e: e, data: e.datagram()}
	l.text("IN=", e.In, " OUT=", e.Out, " ")
	l.mac()
	if len(l.data) > 0 && l.data[0]>>4 == 6 {
		l.ipv6(0, true)
	} else {
		l.ipv4(0)
	}
	return l.b
}

// datagram returns what was kept of the IP datagram.
func (e *Entry) datagram() []byte {
	from := min(max(e.L3, 0), len(e.Frame))
	return e.Frame[from:max(from, min(e.End, len(e.Frame)))]
}

// JSON is the form of an entry for programs.
type JSON struct {
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	Target string    `json:"target"` // LOG or NFLOG
	Prefix string    `json:"prefix"`
	Level  uint8     `json:"level"`
	Group  uint16    `json:"group"`
	Rule   string    `json:"rule"`
	Line   string    `json:"place"` // file and line of the rule
	State  string    `json:"state,omitempty"`
	In     string    `json:"in"`
	Out    string    `json:"out"`
	Mark   uint32    `json:"mark"`
	Length int       `json:"length"` // of the frame on the wire
	Text   string    `json:"line"`   // the kernel's line
	Frame  []byte    `json:"frame"`  // base64
}

// JSON returns the entry's form for programs.
func (e *Entry) JSON() JSON {
	return JSON{e.Number, e.Time, e.Target, e.Prefix, e.Level, e.Group, e.Rule, e.Line, e.State, e.In, e.Out, e.Mark, e.Length, string(e.AppendLine(nil)), e.Frame}
}

// comment is what a capture says of the packet.
func (e *Entry) comment() string {
	s := e.Rule
	if e.Line != "" {
		s += " (" + e.Line + ")"
	}
	if e.Target == "NFLOG" {
		s += " group " + strconv.Itoa(int(e.Group))
	}
	if e.State != "" {
		s += " " + e.State
	}
	if e.Prefix != "" {
		s += ": " + e.Prefix
	}
	return s
}
