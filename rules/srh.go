package rules

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"corewire/internal/packet"
)

// Numbers that -m srh compares, and how.
const (
	srhLength   = iota // of the header, in units of eight bytes without the first
	srhSegments        // segments left
	srhLast            // the last entry
	srhNumbers
)

const (
	srhEqual = iota
	srhGreater
	srhLess
	srhCompares
)

// Segments of a routing header, as -m srh names them.
const (
	srhPrevious = iota
	srhNext
	srhFinal // --srh-lsid: the last of the way, which stands first in the header
	srhSegmentNames
)

var (
	srhNumberNames  = [srhNumbers]string{"hdr-len", "segs-left", "last-entry"}
	srhCompareNames = [srhCompares]string{"eq", "gt", "lt"}
	srhSegmentName  = [srhSegmentNames]string{"psid", "nsid", "lsid"}
)

// SegmentMatch is -m srh: the segment routing header (RFC 8754), which is a routing header of type 4. It compares each number
// with one value, in up to three ways: as with iptables, of several options for a number the last gives the value for all.
type SegmentMatch struct {
	Next           uint8 // header
	HasNext        bool
	NextNot        bool
	Value          [srhNumbers]uint8
	Compare        [srhNumbers][srhCompares]bool
	CompareNot     [srhNumbers][srhCompares]bool
	Tag            uint16
	HasTag, TagNot bool
	Segment        [srhSegmentNames]AddrMatch
	HasSegment     [srhSegmentNames]bool
}

var srhModule = module{name: "srh", family: IPv6, make: func() Extension { return &SegmentMatch{} }, options: srhOptions()}

func srhOptions() []option {
	list := []option{
		{"srh-next-hdr", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			x := m.(*SegmentMatch)
			x.Next, x.HasNext, x.NextNot = uint8(rp.number(a[0], 255)), true, not
		}},
		{"srh-tag", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			x := m.(*SegmentMatch)
			x.Tag, x.HasTag, x.TagNot = uint16(rp.number(a[0], 65535)), true, not
		}},
	}
	for n, name := range srhNumberNames {
		for k, compare := range srhCompareNames {
			list = append(list, option{"srh-" + name + "-" + compare, uint8(len(list) + 1), 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
				x := m.(*SegmentMatch)
				x.Value[n], x.Compare[n][k], x.CompareNot[n][k] = uint8(rp.number(a[0], 255)), true, not
			}})
		}
	}
	for n, name := range srhSegmentName {
		list = append(list, option{"srh-" + name, uint8(len(list) + 1), 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			x := m.(*SegmentMatch)
			v, f, ok := rp.hostMask(a[0])
			if ok && f != IPv6 {
				rp.fail(a[0].col, a[0].text, "an IPv6 address, with or without /length", "")
			}
			v.Not = not
			x.Segment[n], x.HasSegment[n] = v, true
		}})
	}
	return list
}

// Name returns "srh".
func (m *SegmentMatch) Name() string { return "srh" }

// AppendSave implements Extension.
func (m *SegmentMatch) AppendSave(b []byte) []byte {
	number := func(not bool, name string, v uint64) {
		b = append(append(appendNot(b, not), " --srh-"...), name...)
		b = strconv.AppendUint(append(b, ' '), v, 10)
	}
	if m.HasNext {
		number(m.NextNot, "next-hdr", uint64(m.Next))
	}
	for n, name := range srhNumberNames {
		for k, compare := range srhCompareNames {
			if m.Compare[n][k] {
				number(m.CompareNot[n][k], name+"-"+compare, uint64(m.Value[n]))
			}
		}
	}
	if m.HasTag {
		number(m.TagNot, "tag", uint64(m.Tag))
	}
	for n, name := range srhSegmentName {
		if m.HasSegment[n] {
			b = append(append(append(appendNot(b, m.Segment[n].Not), " --srh-"...), name...), ' ')
			b = appendAddr(b, m.Segment[n], true)
		}
	}
	return b
}

func (m *SegmentMatch) compile(c *compiler) {
	c.ask(pred{op: opSegments, a: keep(&c.cur.segments, *m)})
}

// test follows srh1_mt6 of net/ipv6/netfilter/ip6t_srh.c. A header that is cut off does not match. The tag is compared as the
// kernel compares it on a little-endian machine, its two bytes the other way round.
func (m *SegmentMatch) test(p *packet.Packet) outcome {
	at, o := findHeader(p, headerRouting)
	if o != yes {
		return no
	}
	h := p.Frame[at:p.End]
	if len(h) < 8 || len(h) < (int(h[1])+1)*8 || h[2] != 4 || h[3] > h[4] {
		return no
	}
	if m.HasNext && (h[0] == m.Next) == m.NextNot {
		return no
	}
	for n, v := range [srhNumbers]uint8{h[1], h[3], h[4]} {
		w := m.Value[n]
		for k, ok := range [srhCompares]bool{v == w, v > w, v < w} {
			if m.Compare[n][k] && ok == m.CompareNot[n][k] {
				return no
			}
		}
	}
	if m.HasTag && (binary.LittleEndian.Uint16(h[6:]) == m.Tag) == m.TagNot {
		return no
	}
	left, last := int(h[3]), int(h[4])
	for n, place := range [srhSegmentNames]int{left + 1, left - 1, 0} {
		if !m.HasSegment[n] {
			continue
		}
		if n == srhPrevious && left == last || place < 0 || len(h) < 8+16*place+16 {
			return no
		}
		s := h[8+16*place:]
		x := prefix{m.Segment[n].Addr, m.Segment[n].Mask}
		if x.has(packet.Addr{Hi: binary.BigEndian.Uint64(s), Lo: binary.BigEndian.Uint64(s[8:])}) == m.Segment[n].Not {
			return no
		}
	}
	return yes
}

// AppendList implements lister.
func (m *SegmentMatch) AppendList(b []byte) []byte {
	b = append(b, " srh"...)
	if m.HasNext {
		b = fmt.Appendf(b, " next-hdr:%s%d", sign(m.NextNot), m.Next)
	}
	for n, name := range srhNumberNames {
		for k, compare := range srhCompareNames {
			if m.Compare[n][k] {
				b = fmt.Appendf(b, " %s-%s:%s%d", name, compare, sign(m.CompareNot[n][k]), m.Value[n])
			}
		}
	}
	if m.HasTag {
		b = fmt.Appendf(b, " tag:%s%d", sign(m.TagNot), m.Tag)
	}
	for n, name := range srhSegmentName {
		if m.HasSegment[n] {
			b = appendAddr(fmt.Appendf(b, " %s %s ", name, sign(m.Segment[n].Not)), m.Segment[n], true)
		}
	}
	return b
}
