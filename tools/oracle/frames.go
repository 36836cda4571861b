package main

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"corewire/internal/packet"
)

// compareFrames compares what left, byte for byte, and says what differs; "" if nothing. A bridge cuts off what pads a
// frame behind its datagram (br_validate_ipv4, net/bridge/br_netfilter_hooks.c); a wire lets it through.
func (r *trialResult) compareFrames(sent []byte, k *passage, d *decision) string {
	if len(k.out) == 0 {
		return ""
	}
	if slices.ContainsFunc(d.out, isFragment) || slices.ContainsFunc(k.out, isFragment) {
		return r.compareFragments(k.out, d.out)
	}
	if len(k.out) != 1 {
		return fmt.Sprintf("the kernel sent %d frames", len(k.out))
	}
	theirs := k.out[0]
	if len(d.out) != 1 {
		return fmt.Sprintf("corewire sent %d frames", len(d.out))
	}
	ours := d.out[0]
	if len(ours) < len(theirs) {
		return "frame: length"
	}
	rest := ours[len(theirs):]
	if !bytes.HasSuffix(sent, rest) {
		return "frame: what is behind the datagram"
	}
	if ours = ours[:len(theirs)]; !bytes.Equal(ours, theirs) {
		if why := r.explainFrame(sent, theirs, ours); why != "" {
			r.odd[why]++
			return ""
		}
		return "frame"
	}
	if !bytes.Equal(sent[:min(len(sent), len(theirs))], theirs) {
		r.changed++
	}
	return ""
}

func parsed(frame []byte) *packet.Packet {
	p := &packet.Packet{Frame: frame}
	packet.Parse(p)
	return p
}

func isFragment(frame []byte) bool {
	p := parsed(frame)
	return p.Class <= packet.ClassIPv6 && (p.Flags&packet.Fragment != 0 || p.FragHdr != 0)
}

// twiceFragmented says that an IPv6 packet has two fragment headers or more.
func twiceFragmented(frame []byte) bool {
	p := parsed(frame)
	if p.Family != 6 {
		return false
	}
	n := 0
	next, at := frame[p.L3+6], p.L3+40
	for at+8 <= p.End {
		size := extSize(next, frame[at:])
		if size == 0 {
			break
		}
		if next == packet.ProtoFragment {
			n++
		}
		next = frame[at]
		at += size
	}
	return n > 1
}

// extSize returns the length of an extension header of IPv6 of which two bytes are there; 0 of what is none.
func extSize(proto uint8, h []byte) uint32 {
	switch proto {
	case packet.ProtoFragment:
		return 8
	case packet.ProtoAH:
		return 4 * (uint32(h[1]) + 2)
	case packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoDestOpts:
		return 8 * (uint32(h[1]) + 1)
	}
	return 0
}

// compareFragments compares a datagram that the kernel put together, and cut again or not, with the fragments that left
// corewire as they came: what their headers say, and every byte that they carry.
func (r *trialResult) compareFragments(theirs, ours [][]byte) string {
	if slices.ContainsFunc(ours, twiceFragmented) {
		// The kernel puts together by the last fragment header and lets the others stay: what left cannot be gathered by
		// the one that a parse finds first.
		r.odd["two fragment headers"]++
		return ""
	}
	k, why := gather(theirs)
	if why != "" {
		return "the kernel's " + why
	}
	c, why := gather(ours)
	switch {
	case why != "":
		return "corewire's " + why
	case k.ttl != c.ttl || k.tos != c.tos:
		return "fragments: header"
	case !bytes.Equal(append(k.head, k.body...), append(c.head, c.body...)):
		return "fragments"
	}
	r.gathered++
	return ""
}

// datagram is what fragments are pieces of.
type datagram struct {
	ttl, tos uint8
	head     []byte // IPv6's headers that every fragment repeats, without the fragment header
	body     []byte // behind the IPv4 header, or IPv6's fragment header
}

// heads returns the extension headers before IPv6's fragment header, as if that were not there: Linux puts it behind more
// of them than it stood when it cuts a datagram anew (ip6_find_1stfragopt, net/ipv6/output_core.c).
func heads(p *packet.Packet) []byte {
	h := bytes.Clone(p.Frame[p.L3+40 : p.FragHdr])
	next := p.Frame[p.L3+6]
	for at := uint32(0); int(at)+8 <= len(h); {
		size := extSize(next, h[at:])
		if next = h[at]; next == packet.ProtoFragment {
			h[at] = p.Frame[p.FragHdr]
		}
		if next == packet.ProtoFragment || size == 0 {
			break
		}
		at += size
	}
	return h
}

// gather puts a datagram's fragments together, or takes it from its only frame, and says what is wrong with them.
func gather(frames [][]byte) (d datagram, why string) {
	for i, f := range frames {
		p := parsed(f)
		if p.Class > packet.ClassIPv6 {
			return d, "frame is no packet"
		}
		if i > 0 && (p.TTL != d.ttl || p.TOS != d.tos) {
			return d, "fragments have different headers"
		}
		d.ttl, d.tos = p.TTL, p.TOS
		begin := p.L3 + 40
		switch {
		case p.FragHdr != 0:
			begin = p.FragHdr + 8
			if p.FragOff == 0 {
				d.head = heads(p)
			}
		case p.Family == 4:
			begin = p.L3 + uint32(f[p.L3]&15)*4
			if packet.Checksum(packet.SumBytes(0, f[p.L3:begin])) != 0 {
				return d, "header checksum is wrong"
			}
		}
		body := f[begin:p.End]
		if n := int(p.FragOff) + len(body); n > len(d.body) {
			d.body = append(d.body, make([]byte, n-len(d.body))...)
		}
		copy(d.body[p.FragOff:], body)
	}
	return d, ""
}

// knownFrames are differences that stay between frames that left.
var knownFrames = []struct {
	name   string
	reason string
	match  func(sent, theirs, ours []byte) bool
}{
	{
		"odd segment size", "where the option's value stands at an odd offset TCPMSS changes the checksum as if it stood at an even one, and the receiver must drop " +
			"the segment (tcpmss_mangle_packet, net/netfilter/xt_TCPMSS.c; seen with 6.18)",
		func(sent, theirs, ours []byte) bool {
			p := parsed(ours)
			if p.Proto != packet.ProtoTCP || p.End-p.L4 < 20 {
				return false
			}
			t := bytes.Clone(theirs)
			at := p.L4 + 16
			copy(t[at:], ours[at:at+2])
			return bytes.Equal(t, ours) && oddMSS(parsed(sent).Transport()) && !parsed(theirs).VerifyChecksum()
		},
	},
}

// oddMSS says that the first MSS option of a segment, as Linux steps over options, stands at an odd offset.
func oddMSS(h []byte) bool {
	if len(h) < 20 {
		return false
	}
	end := min(int(h[12]>>4)*4, len(h))
	for i := 20; i+4 <= end; {
		switch {
		case h[i] == 2 && h[i+1] == 4:
			return i%2 == 1
		case h[i] < 2 || h[i+1] == 0:
			i++
		default:
			i += int(h[i+1])
		}
	}
	return false
}

// explainFrame returns the name of the row that explains a difference; "" if there is none.
func (r *trialResult) explainFrame(sent, theirs, ours []byte) string {
	for _, row := range knownFrames {
		if row.match(sent, theirs, ours) {
			return row.name
		}
	}
	return ""
}

// markOf finds in a line of the table the tuples, which come before the mark, and the mark.
var markOf = regexp.MustCompile(`(src=.*) mark=(\d+) `)

// compareMarks compares the connections' marks at the end.
func (j *judges) compareMarks(own *corewire, r *trialResult) error {
	kernel, err := j.kernel.table()
	if err != nil {
		return err
	}
	lines, err := own.table()
	if err != nil {
		return err
	}
	marks := func(lines []string) map[string]string {
		m := map[string]string{}
		for _, l := range lines {
			if f := markOf.FindStringSubmatch(l); f != nil {
				m[f[1]] = f[2]
			}
		}
		return m
	}
	k, c := marks(kernel), marks(lines)
	for _, mark := range k {
		if mark != "0" {
			r.marks++
		}
	}
	if maps.Equal(k, c) {
		return nil
	}
	detail := ""
	for _, key := range slices.Sorted(maps.Keys(k)) {
		if mark, there := c[key]; !there || mark != k[key] {
			detail += fmt.Sprintf("  %s: kernel's mark %s, corewire's %q\n", key, k[key], mark)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c)) {
		if _, there := k[key]; !there {
			detail += fmt.Sprintf("  %s: in corewire only\n", key)
		}
	}
	r.difference = &verdictDifference{Frame: r.pairs, What: "marks at the end", Detail: detail}
	return nil
}
