package rules

import (
	"encoding/binary"
	"fmt"
	"strings"

	"corewire/internal/packet"
)

// PortsMatch is -m sctp and -m dccp. It needs a whole 12-byte header, as TCPMatch needs its.
type PortsMatch struct {
	Src, Dst       PortRange
	Chunks         *ChunkMatch // of sctp; nil: not asked
	DCCP           DCCPMatch   // of dccp
	srcSet, dstSet bool
	module         string
}

// How the chunks of a packet are to be among those named.
const (
	chunkAll  = iota // all of those named are in the packet
	chunkAny         // one at least
	chunkOnly        // no others
)

var chunkModes = []string{"all", "any", "only"}

// ChunkMatch is --chunk-types (net/netfilter/xt_sctp.c).
type ChunkMatch struct {
	Mode  uint8
	Not   bool
	Types [8]uint32   // bits by type
	Flags []ChunkFlag // at most 4 (XT_NUM_SCTP_FLAGS)
}

// ChunkFlag is what the flags of a type of chunk must be.
type ChunkFlag struct{ Type, Mask, Want uint8 }

// chunkTypes are the names of chunks (RFC 9260, 3758, 4820, 5061, 6525, 8260) in the order of printing, which is that of
// their numbers; flags are the letters of the flag byte's bits, the highest first.
var chunkTypes = []struct {
	name  string
	num   uint8
	flags string
}{
	{"DATA", 0, "----IUBE"}, {"INIT", 1, ""}, {"INIT_ACK", 2, ""}, {"SACK", 3, ""}, {"HEARTBEAT", 4, ""}, {"HEARTBEAT_ACK", 5, ""}, {"ABORT", 6, "-------T"},
	{"SHUTDOWN", 7, ""}, {"SHUTDOWN_ACK", 8, ""}, {"ERROR", 9, ""}, {"COOKIE_ECHO", 10, ""}, {"COOKIE_ACK", 11, ""}, {"ECN_ECNE", 12, ""}, {"ECN_CWR", 13, ""},
	{"SHUTDOWN_COMPLETE", 14, "-------T"}, {"I_DATA", 64, "----IUBE"}, {"ASCONF_ACK", 128, ""}, {"RE_CONFIG", 130, ""}, {"PAD", 132, ""},
	{"FORWARD_TSN", 192, ""}, {"ASCONF", 193, ""}, {"I_FORWARD_TSN", 194, ""},
}

func portsModule(name string, proto uint8) module {
	src := func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*PortsMatch).srcSet = true
		rp.ports(&m.(*PortsMatch).Src, not, a[0])
	}
	dst := func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*PortsMatch).dstSet = true
		rp.ports(&m.(*PortsMatch).Dst, not, a[0])
	}
	m := module{name: name, family: Both, protos: []uint8{proto}, make: func() Extension { return &PortsMatch{Src: anyPort, Dst: anyPort, module: name} }, options: []option{
		{"source-port", 1, 1, true, src},
		{"sport", 1, 1, true, src},
		{"destination-port", 2, 1, true, dst},
		{"dport", 2, 1, true, dst},
	}}
	if name == "dccp" {
		m.options = append(m.options, dccpOptions...)
	} else {
		m.options = append(m.options, option{"chunk-types", 3, 2, true, func(rp *ruleParser, m Extension, not bool, a []token) {
			x := &ChunkMatch{Not: not, Mode: rp.oneOf(token{text: strings.ToLower(a[0].text), col: a[0].col}, chunkModes)}
			m.(*PortsMatch).Chunks = x
			x.parse(rp, a[1])
		}})
	}
	return m
}

// parse reads a list of types, each perhaps with flags: a capital letter for one that must be set, a small one for one that
// must not.
func (x *ChunkMatch) parse(rp *ruleParser, a token) {
	switch strings.ToUpper(a.text) {
	case "ALL":
		for k := range x.Types {
			x.Types[k] = 1<<32 - 1
		}
		return
	case "NONE":
		return
	}
	col := a.col
	for s := range strings.SplitSeq(a.text, ",") {
		name, flags, _ := strings.Cut(s, ":")
		var names []string
		known := false
		for _, t := range chunkTypes {
			names = append(names, t.name)
			if !strings.EqualFold(t.name, name) {
				continue
			}
			known = true
			x.Types[t.num>>5] |= 1 << (t.num & 31)
			if flags == "" {
				continue
			}
			f := ChunkFlag{Type: t.num}
			for i := range len(flags) {
				at := strings.IndexByte(t.flags, flags[i]&^0x20)
				if at < 0 || flags[i]&^0x20 == '-'&^0x20 {
					rp.fail(col, s, "flags of "+t.name+join(": ", strings.Trim(t.flags, "-")), "")
					return
				}
				bit := uint8(0x80) >> at
				f.Mask |= bit
				if flags[i] < 'a' {
					f.Want |= bit
				}
			}
			if len(x.Flags) == 4 {
				rp.fail(col, s, "flags for at most 4 types", "")
				return
			}
			x.Flags = append(x.Flags, f)
		}
		if !known {
			rp.fail(col, name, "a type of SCTP chunk, ALL or NONE", rp.didYouMean(strings.ToUpper(name), names))
			return
		}
		col += len(s) + 1
	}
}

// Name returns "sctp" or "dccp".
func (m *PortsMatch) Name() string { return m.module }

// AppendSave implements Extension.
func (m *PortsMatch) AppendSave(b []byte) []byte {
	// Unlike tcp and udp, these print what was given even if it is every port.
	if m.srcSet {
		b = m.Src.append(append(appendNot(b, m.Src.Not), " --sport "...))
	}
	if m.dstSet {
		b = m.Dst.append(append(appendNot(b, m.Dst.Not), " --dport "...))
	}
	if m.Chunks != nil {
		b = m.Chunks.appendSave(b)
	}
	return m.DCCP.appendSave(b)
}

func (m *PortsMatch) compile(c *compiler) {
	c.ask(pred{op: opHeader, lo: 12})
	c.askPort(opSport, m.Src)
	c.askPort(opDport, m.Dst)
	if m.Chunks != nil {
		c.ask(pred{op: opChunks, a: keep(&c.cur.chunks, *m.Chunks)})
	}
	m.DCCP.compile(c)
}

func (x *ChunkMatch) appendSave(b []byte) []byte {
	return x.appendTypes(append(appendNot(b, x.Not), " --chunk-types "...), "%[2]s")
}

// appendTypes appends mode and types; format prints a type of its number and its name.
func (x *ChunkMatch) appendTypes(b []byte, format string) []byte {
	b = append(append(b, chunkModes[x.Mode]...), ' ')
	every, none := true, true
	for _, w := range x.Types {
		every, none = every && w == 1<<32-1, none && w == 0
	}
	switch {
	case every:
		return append(b, "ALL"...)
	case none:
		return append(b, "NONE"...)
	}
	for _, t := range chunkTypes {
		if !x.has(t.num) {
			continue
		}
		b = fmt.Appendf(b, format, t.num, t.name)
		for _, f := range x.Flags {
			if f.Type != t.num {
				continue
			}
			b = append(b, ':')
			for k := range 8 {
				bit := uint8(0x80) >> k
				switch {
				case f.Mask&bit == 0:
				case f.Want&bit != 0:
					b = append(b, t.flags[k])
				default:
					b = append(b, t.flags[k]|0x20)
				}
			}
			break
		}
		b = append(b, ',')
	}
	return b[:len(b)-1]
}

func (x *ChunkMatch) has(t uint8) bool { return x.Types[t>>5]>>(t&31)&1 != 0 }

// flagged says whether a chunk's flags are as asked; of several for a type the first counts.
func (x *ChunkMatch) flagged(t, flags uint8) bool {
	for k := range x.Flags {
		if f := &x.Flags[k]; f.Type == t {
			return flags&f.Mask == f.Want
		}
	}
	return true
}

// test follows match_packet of net/netfilter/xt_sctp.c. A chunk that is cut off, or says it is empty, drops the packet; to a
// negated question that says yes before.
func (x *ChunkMatch) test(p *packet.Packet) outcome {
	left := x.Types
	hit := x.Mode == chunkOnly
	at := int(p.L4) + 12
	broken := short
	if x.Not {
		broken = doomed
	}
walk:
	for first := true; first || at < int(p.End); first = false {
		if at+4 > int(p.End) {
			return broken
		}
		c := p.Frame[at:]
		length := int(binary.BigEndian.Uint16(c[2:]))
		if length == 0 {
			return broken
		}
		at += (length + 3) &^ 3
		ok := x.has(c[0]) && x.flagged(c[0], c[1])
		switch {
		case x.Mode == chunkAny && ok:
			hit = true
			break walk
		case x.Mode == chunkAll && ok:
			left[c[0]>>5] &^= 1 << (c[0] & 31)
		case x.Mode == chunkOnly && !ok:
			hit = false
			break walk
		}
	}
	if x.Mode == chunkAll {
		hit = left == [8]uint32{}
	}
	return answer(hit != x.Not)
}
