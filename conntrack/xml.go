package conntrack

import (
	"bytes"
	"encoding/xml"
	"strconv"

	"corewire/internal/packet"
)

// The XML form of `conntrack -o xml` (libnetfilter_conntrack, conntrack/snprintf_xml.c): a document is XMLHead, a line for
// each entry or event, XMLTail. Where the library names an SCTP state by TCP's table, this names it by SCTP's.
const (
	XMLHead = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>\n"
	XMLTail = "</conntrack>\n"
)

// AppendXML appends an entry as an XML element, without a newline, to b and returns it.
func (s *Style) AppendXML(b []byte, i *Info) []byte {
	b = append(b, "<flow>"...)
	return s.appendFlow(b, i, line{timeout: Visible, state: Visible, counts: Visible, mark: Visible, use: Visible})
}

// AppendEventXML appends an event as an XML element, without a newline, to b and returns it.
func (s *Style) AppendEventXML(b []byte, e *Event) []byte {
	b = append(b, `<flow type="`...)
	b = append(b, bytes.ToLower([]byte(e.Kind.String()))...)
	b = append(b, `">`...)
	return s.appendFlow(b, &e.Info, e.line())
}

// appendFlow appends what is within a flow element, and its end.
func (s *Style) appendFlow(b []byte, i *Info, l line) []byte {
	b = i.appendMeta(b, Original, l)
	b = i.appendMeta(b, Reply, l)
	b = append(b, `<meta direction="independent">`...)
	if name := i.StateName(); name != "" && l.state == Visible {
		b = appendElement(b, "state", name)
	}
	if l.timeout == Visible {
		b = appendCount(b, "timeout", uint64(i.Left/1000))
	}
	if l.mark == Visible || i.Mark != 0 {
		b = appendCount(b, "mark", uint64(i.Mark))
	}
	if s.Labels != nil && i.Labels != (Labels{}) {
		b = append(b, "<labels>"...)
		b = s.appendLabels(b, i, "", "label")
		b = append(b, "</labels>"...)
	}
	if i.Key.Zone != 0 {
		b = appendCount(b, "zone", uint64(i.Key.Zone))
	}
	if l.use == Visible {
		b = append(b, "<use>1</use>"...)
	}
	b = appendCount(b, "id", uint64(i.ID))
	if i.Status&StatusAssured != 0 {
		b = append(b, "<assured/>"...)
	}
	if i.Status&StatusSeenReply == 0 {
		b = append(b, "<unreplied/>"...)
	}
	if i.HasAge && l.counts == Visible {
		if s.Times == Visible {
			b = append(b, "<timestamp>"...)
			b = appendCount(b, "start", uint64(s.start(i).UnixNano()))
			if l.end == Visible {
				b = appendCount(b, "stop", uint64(s.Now.UnixNano()))
			}
			b = append(b, "</timestamp>"...)
		}
		b = appendCount(b, "deltatime", i.Age/1000)
	}
	b = append(b, "</meta>"...)
	if i.Helper != HelperNone && l.end == Hidden {
		b = appendElement(b, "helper", i.Helper.String())
	}
	return append(b, "</flow>"...)
}

// appendMeta appends one direction.
func (i *Info) appendMeta(b []byte, d Dir, l line) []byte {
	t := i.Tuple(d)
	b = append(b, `<meta direction="`...)
	if d == Original {
		b = append(b, "original"...)
	} else {
		b = append(b, "reply"...)
	}
	if i.Key.Family == 6 {
		b = append(b, `"><layer3 protonum="10" protoname="ipv6"><src>`...)
	} else {
		b = append(b, `"><layer3 protonum="2" protoname="ipv4"><src>`...)
	}
	b = t.Src.AppendTo(b)
	b = append(b, "</src><dst>"...)
	b = t.Dst.AppendTo(b)
	b = append(b, `</dst></layer3><layer4 protonum="`...)
	b = strconv.AppendUint(b, uint64(i.Key.Proto), 10)
	b = append(b, `" protoname="`...)
	b = append(b, ProtoName(i.Key.Proto)...)
	b = append(b, `">`...)
	switch i.Key.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoUDPLite, packet.ProtoSCTP:
		b = appendCount(b, "sport", uint64(t.SrcPort))
		b = appendCount(b, "dport", uint64(t.DstPort))
	case packet.ProtoDCCP:
		b = append(b, "<sport>0</sport><dport>0</dport>"...)
	case packet.ProtoGRE:
		b = append(b, "<srckey>0x"...)
		b = strconv.AppendUint(b, uint64(t.SrcPort), 16)
		b = append(b, "</srckey><dstkey>0x"...)
		b = strconv.AppendUint(b, uint64(t.DstPort), 16)
		b = append(b, "</dstkey>"...)
	}
	b = append(b, "</layer4>"...)
	if i.HasCounters && l.counts == Visible {
		b = append(b, "<counters>"...)
		b = appendCount(b, "packets", i.Packets[d])
		b = appendCount(b, "bytes", i.Bytes[d])
		b = append(b, "</counters>"...)
	}
	return append(b, "</meta>"...)
}

// appendCount appends an element that holds a number.
func appendCount(b []byte, name string, n uint64) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = strconv.AppendUint(b, n, 10)
	b = append(b, "</"...)
	b = append(b, name...)
	return append(b, '>')
}

// appendElement appends an element that holds text.
func appendElement(b []byte, name, text string) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	var escaped bytes.Buffer
	_ = xml.EscapeText(&escaped, []byte(text)) // a Buffer takes everything
	b = append(b, escaped.Bytes()...)
	b = append(b, "</"...)
	b = append(b, name...)
	return append(b, '>')
}
