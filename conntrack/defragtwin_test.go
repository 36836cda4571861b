package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// A second fragment store, slow and plain: a list of datagrams, each with a list of the runs that its fragments form,
// and fresh memory for everything.

type twinRun struct{ from, to int } // bytes

type twinPiece struct {
	frame packet.Frame
	off   int
	data  []byte
	head  []byte // everything before the payload, without an IPv6 fragment header; for IPv6 the next header is right
	ecn   byte
	df    bool
	in    packet.Port
	l3    int
}

type twinDatagram struct {
	key      string
	family   uint8
	deadline int64
	source   string
	turn     int

	pieces   []twinPiece
	runs     []twinRun // by position; the last one grows
	end      int
	ended    bool
	biggest  int
	biggestD int
}

type twinDefrag struct {
	now       int64 // ms
	list      []*twinDatagram
	turns     map[string]int // fragments by source, since the source has had datagrams here
	abandoned []packet.Frame
	any       bool // DefragConfig.AnyOrigin
}

// twinDefragAnswer is what became of a fragment.
type twinDefragAnswer struct {
	result   DefragResult
	why      DefragReason
	frames   []packet.Frame
	datagram []byte
	origin   packet.Port
}

func (t *twinDefrag) drop(d *twinDatagram) {
	t.list = slices.DeleteFunc(t.list, func(x *twinDatagram) bool { return x == d })
	used := false
	for _, x := range t.list {
		used = used || x.source == d.source
	}
	if !used {
		delete(t.turns, d.source)
	}
}

func (d *twinDatagram) framesOf() (out []packet.Frame) {
	for _, p := range d.pieces {
		out = append(out, p.frame)
	}
	return out
}

// expire gives up what is due.
func (t *twinDefrag) expire() {
	for _, d := range slices.Clone(t.list) {
		if t.now >= d.deadline {
			t.abandoned = append(t.abandoned, d.framesOf()...)
			t.drop(d)
		}
	}
}

func (t *twinDefrag) add(f packet.Frame, in packet.Port, now int64) twinDefragAnswer {
	t.now = now
	t.expire()
	b := f.Data

	// Take the frame apart, knowing only what Ethernet, IPv4 and IPv6 look like.
	l3 := 12
	vlan := 0
	for n := 0; binary.BigEndian.Uint16(b[l3:]) == 0x8100 || binary.BigEndian.Uint16(b[l3:]) == 0x88a8; n++ {
		if n == 0 {
			vlan = int(binary.BigEndian.Uint16(b[l3+2:])) & 0xfff
		}
		l3 += 4
	}
	l3 += 2
	ip := b[l3:]
	var p twinPiece
	var key, source string
	var more bool
	p.frame, p.in, p.l3 = f, in, l3
	if t.any {
		in, vlan = 0, 0
	}
	family := ip[0] >> 4
	ttl := int64(30_000)
	if family == 4 {
		hl := int(ip[0]&15) * 4
		total := int(binary.BigEndian.Uint16(ip[2:]))
		word := int(binary.BigEndian.Uint16(ip[6:]))
		p.off, more, p.df = word&0x1fff*8, word&0x2000 != 0, word&0x4000 != 0
		p.data = ip[hl:total]
		p.head = b[:l3+hl]
		p.ecn = ip[1] & 3
		source = string(ip[12:16])
		key = fmt.Sprintf("4 %v %d %x %x %d", in, vlan, ip[12:20], ip[4:6], ip[9])
	} else {
		ttl = 60_000
		total := 40 + int(binary.BigEndian.Uint16(ip[4:]))
		before, at, kind := 6, 40, ip[6]
		for kind != 44 {
			before, kind, at = at, ip[at], at+8*(1+int(ip[at+1]))
		}
		word := int(binary.BigEndian.Uint16(ip[at+2:]))
		p.off, more = word&^7, word&1 != 0
		p.data = ip[at+8 : total]
		p.head = slices.Clone(b[:l3+at])
		p.head[l3+before] = ip[at]
		p.ecn = ip[1] >> 4 & 3
		key = fmt.Sprintf("6 %v %d %x %x", in, vlan, ip[8:40], ip[at+4:at+8])
	}

	var d *twinDatagram
	for _, x := range t.list {
		if x.key == key {
			d = x
		}
	}
	if family == 6 {
		if p.off == 0 && len(p.data) < 8 { // the tests' fragments are UDP
			return twinDefragAnswer{result: Passed}
		}
		if end := p.off + len(p.data); d == nil && more && end > 65535 && end%8 != 0 {
			return twinDefragAnswer{result: Broken, why: DefragTooLong, frames: []packet.Frame{f}}
		}
	}
	if d == nil {
		d = &twinDatagram{key: key, family: family, deadline: now + ttl, source: source}
		t.list = append(t.list, d)
	}
	alone := func(why DefragReason) twinDefragAnswer {
		return twinDefragAnswer{result: Broken, why: why, frames: []packet.Frame{f}}
	}
	all := func(why DefragReason) twinDefragAnswer {
		t.drop(d)
		return twinDefragAnswer{result: Broken, why: why, frames: append(d.framesOf(), f)}
	}

	if family == 4 {
		t.turns[source]++
		gap := t.turns[source] - d.turn
		d.turn = t.turns[source]
		if gap > 64 && len(d.pieces) > 0 {
			t.abandoned = append(t.abandoned, d.framesOf()...)
			*d = twinDatagram{key: key, family: 4, deadline: now + ttl, source: source, turn: d.turn, biggest: d.biggest, biggestD: d.biggestD}
		}
		if more {
			p.data = p.data[:len(p.data)&^7]
		}
	} else {
		if p.off+len(p.data) > 65535 {
			return alone(DefragTooLong)
		}
		if more && (p.off+len(p.data))%8 != 0 {
			t.abandoned = append(t.abandoned, d.framesOf()...)
			t.drop(d)
			return twinDefragAnswer{result: Passed}
		}
	}
	end := p.off + len(p.data)
	wrong := false
	if more {
		wrong = d.ended && end > d.end
	} else {
		wrong = end < d.end || d.ended && end != d.end
	}
	if wrong {
		if family == 4 {
			return all(DefragEnd)
		}
		return alone(DefragEnd)
	}
	if end > d.end {
		d.end = end
	}
	if !more {
		d.ended = true
	}
	if len(p.data) == 0 {
		if family == 4 {
			return all(DefragEmpty)
		}
		return alone(DefragEmpty)
	}

	// Where does it fit?
	for _, r := range d.runs {
		if p.off >= r.from && end <= r.to {
			return alone(DefragDuplicate)
		}
		if p.off < r.to && end > r.from {
			return all(DefragOverlap)
		}
	}
	if n := len(d.runs); n > 0 && d.runs[n-1].to == p.off {
		d.runs[n-1].to = end
	} else {
		d.runs = append(d.runs, twinRun{p.off, end})
		slices.SortFunc(d.runs, func(a, b twinRun) int { return a.from - b.from })
	}
	if len(d.pieces) == MaxFragments {
		return all(DefragTooMany)
	}
	d.pieces = append(d.pieces, p)
	if family == 4 {
		size := len(p.data) + int(ip[0]&15)*4
		d.biggest = max(d.biggest, size)
		if p.df {
			d.biggestD = max(d.biggestD, size)
		}
	}

	// All there?
	have := 0
	var first *twinPiece
	for i := range d.pieces {
		have += len(d.pieces[i].data)
		if d.pieces[i].off == 0 {
			first = &d.pieces[i]
		}
	}
	if !d.ended || first == nil || have != d.end {
		return twinDefragAnswer{result: Held}
	}
	t.drop(d)
	spoilt := func(why DefragReason) twinDefragAnswer {
		return twinDefragAnswer{result: Broken, why: why, frames: d.framesOf()}
	}
	capable, notCapable, congested := false, false, false
	for _, p := range d.pieces {
		switch p.ecn {
		case 0:
			notCapable = true
		case 3:
			congested = true
		default:
			capable = true
		}
	}
	if notCapable && (capable || congested) {
		return spoilt(DefragECN)
	}
	out := append(slices.Clone(first.head), make([]byte, d.end)...)
	for _, p := range d.pieces {
		copy(out[len(first.head)+p.off:], p.data)
	}
	l3 = first.l3
	ip = out[l3:]
	if family == 4 {
		if len(ip) > 65535 {
			return spoilt(DefragTooLong)
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[6:], 0)
		if d.biggestD == d.biggest {
			binary.BigEndian.PutUint16(ip[6:], 0x4000)
		}
		if congested && capable {
			ip[1] |= 3
		}
		setTwinChecksum(ip[:len(first.head)-l3])
	} else {
		if len(ip)-40 > 65535 {
			return spoilt(DefragTooLong)
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		if congested && capable {
			ip[1] |= 0x30
		}
	}
	return twinDefragAnswer{result: Complete, frames: d.framesOf(), datagram: out, origin: first.in}
}

// setTwinChecksum sets the checksum of an IPv4 header.
func setTwinChecksum(h []byte) {
	sum := uint32(0)
	binary.BigEndian.PutUint16(h[10:], 0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
}

// rawFragment builds a fragment of anything: its place and the more flag are the caller's, correct or not.
func rawFragment(src, dst netip.Addr, id uint32, off int, more bool, tos uint8, df bool, payload []byte, options ...packettest.Option) []byte {
	options = append(options, packettest.TOS(tos), packettest.Payload(payload))
	if src.Is6() {
		return packettest.NewIP(src, dst, 17, append(options, packettest.FragmentHeader(uint16(off), more, id))...)
	}
	b := packettest.NewIP(src, dst, 17, append(options, packettest.ID(uint16(id)))...)
	word := uint16(off / 8)
	if more {
		word |= 0x2000
	}
	if df {
		word |= 0x4000
	}
	l3 := 14
	for binary.BigEndian.Uint16(b[l3-2:]) != 0x0800 {
		l3 += 4
	}
	binary.BigEndian.PutUint16(b[l3+6:], word)
	setTwinChecksum(b[l3 : l3+int(b[l3]&15)*4])
	return b
}
