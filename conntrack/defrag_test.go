package conntrack

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// fragDuel plays fragments to the store and to its twin, and keeps the books of the frames.
type fragDuel struct {
	t     testing.TB
	store *Defrag
	twin  *twinDefrag
	now   int64
	owned map[uint64]bool // frames that the store has
	addr  uint64
	seen  map[string]int
}

// newFragDuel makes a store with room for so many fragments that nothing is evicted, which the twin does not know.
func newFragDuel(t testing.TB, room int) *fragDuel {
	return &fragDuel{t: t, store: NewDefrag(DefragConfig{Frames: room, Bytes4: 1 << 40, Bytes6: 1 << 40}), twin: &twinDefrag{turns: map[string]int{}},
		owned: map[uint64]bool{}, seen: map[string]int{}}
}

func addrs(f []packet.Frame) []uint64 {
	out := make([]uint64, 0, len(f))
	for _, f := range f {
		out = append(out, f.Addr)
	}
	return out
}

// take notes frames that the store gave back: each must be one that it had.
func (d *fragDuel) take(f []packet.Frame) {
	for _, a := range addrs(f) {
		if !d.owned[a] {
			d.t.Fatalf("frame %d given back twice, or never had", a)
		}
		delete(d.owned, a)
	}
	if d.store.Held() != len(d.owned) {
		d.t.Fatalf("Held %d, want %d", d.store.Held(), len(d.owned))
	}
}

// add plays a frame, unless it is no fragment at all.
func (d *fragDuel) add(frame []byte, in packet.Port) {
	d.t.Helper()
	p := packet.Packet{Frame: frame, In: in}
	packet.Parse(&p)
	if p.Flags&packet.Fragment == 0 && p.FragHdr == 0 {
		return
	}
	d.expire()
	d.addr++
	f := packet.Frame{Data: frame, Addr: d.addr}
	d.owned[d.addr] = true
	got := d.store.Add(&p, f, Tick(d.now))
	want := d.twin.add(f, in, d.now)
	if got != want.result {
		d.t.Fatalf("fragment %d (offset %d, %d bytes, last %v): %d (%v), want %d (%v)", d.addr, p.FragOff, p.End-p.L4, p.Is(packet.FragLast), got, d.store.Why(), want.result, want.why)
	}
	d.seen[[...]string{"held", "complete", "broken", "passed"}[got]]++
	switch got {
	case Passed:
		delete(d.owned, d.addr)
	case Broken:
		d.seen[d.store.Why().String()]++
		if d.store.Why() != want.why {
			d.t.Fatalf("fragment %d: %v, want %v", d.addr, d.store.Why(), want.why)
		}
	case Complete:
		if d.store.Origin() != want.origin {
			d.t.Fatalf("fragment %d: from %v, want %v", d.addr, d.store.Origin(), want.origin)
		}
		if !bytes.Equal(d.store.Datagram(), want.datagram) {
			d.t.Fatalf("fragment %d: datagram\n%x, want\n%x", d.addr, d.store.Datagram(), want.datagram)
		}
	}
	if !slices.Equal(addrs(d.store.Frames()), addrs(want.frames)) {
		d.t.Fatalf("fragment %d: gives back %v, want %v", d.addr, addrs(d.store.Frames()), addrs(want.frames))
	}
	d.take(d.store.Frames())
	d.expire()
}

// expire compares what is given up.
func (d *fragDuel) expire() {
	d.t.Helper()
	d.twin.now = d.now
	d.twin.expire()
	var got []packet.Frame
	out := make([]Late, 3)
	for {
		n := d.store.Expire(Tick(d.now), out)
		for _, l := range out[:n] {
			got = append(got, l.Frame)
		}
		if n < len(out) {
			break
		}
	}
	a, b := addrs(got), addrs(d.twin.abandoned)
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		d.t.Fatalf("at %d: gives up %v, want %v", d.now, a, b)
	}
	d.seen["given up"] += len(a)
	d.twin.abandoned = nil
	d.take(got)
}

// fragSoup writes fragments of a few datagrams: cut anyhow, repeated, overlapping, mixed, in any order.
type fragSoup struct {
	rng  *rand.Rand
	bag  [][]byte
	port []packet.Port

	base  uint32 // first identification
	plain bool   // one port, no tags: what Linux tells apart as we do
}

func (s *fragSoup) fill() {
	r := s.rng
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
	if r.IntN(3) == 0 {
		src = netip.MustParseAddr("192.0.2.2")
	}
	if r.IntN(2) == 0 {
		src, dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	}
	size := 1 + r.IntN(400)
	switch r.IntN(20) {
	case 0:
		size = r.IntN(9000)
	case 1:
		size = 65400 + r.IntN(400)
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(r.IntN(256))
	}
	id := s.base + uint32(r.IntN(3))
	tos := uint8(r.IntN(2) * 2)
	var options []packettest.Option
	if !s.plain && r.IntN(8) == 0 {
		options = append(options, packettest.VLAN(uint16(1+r.IntN(2))))
	}
	if src.Is4() && r.IntN(8) == 0 {
		options = append(options, packettest.IPv4Options([]byte{1, 1, 1, 1}))
	}
	if src.Is6() && r.IntN(6) == 0 {
		options = append(options, packettest.HopByHop([]byte{1, 4, 0, 0, 0, 0}))
	}
	if r.IntN(10) == 0 {
		options = append(options, packettest.Minimum())
	}
	if r.IntN(12) == 0 {
		tos = 0
	}
	df := r.IntN(4) == 0
	step := 8 * (1 + r.IntN(40))
	if size > 9000 {
		step = 8 * (100 + r.IntN(400))
		if s.plain {
			step = 8 * (100 + r.IntN(75)) // for real links
		}
	}
	for off := 0; off < size; off += step {
		from, to := off, min(off+step, size)
		switch r.IntN(40) {
		case 0:
			from = max(0, off-8*r.IntN(5))
		case 1:
			to = min(to+8*r.IntN(5), size)
		case 2:
			to = max(from, to-r.IntN(9))
		case 3:
			to = from
		}
		more := to < size
		if r.IntN(60) == 0 {
			more = !more
		}
		ecn := tos
		if r.IntN(40) == 0 {
			ecn = uint8(r.IntN(4))
		}
		frame := rawFragment(src, dst, id, from, more, ecn, df && r.IntN(4) > 0, body[from:to], options...)
		for range 1 + max(0, r.IntN(12)-10) {
			s.bag = append(s.bag, frame)
			in := packet.Port(max(0, r.IntN(30)-28))
			if s.plain {
				in = packet.Inside
			}
			s.port = append(s.port, in)
		}
		if r.IntN(30) == 0 { // one more that ends far beyond
			s.bag = append(s.bag, rawFragment(src, dst, id, 65528-8*r.IntN(3), r.IntN(2) == 0, ecn, false, body[:min(size, 1+r.IntN(200))], options...))
			s.port = append(s.port, packet.Inside)
		}
	}
}

// next takes a fragment out of the bag, usually in order.
func (s *fragSoup) next() ([]byte, packet.Port) {
	for len(s.bag) == 0 || len(s.bag) < 40 && s.rng.IntN(10) == 0 {
		s.fill()
	}
	i := 0
	switch s.rng.IntN(8) {
	case 0:
		i = s.rng.IntN(len(s.bag))
	case 1:
		i = len(s.bag) - 1
	}
	f, p := s.bag[i], s.port[i]
	s.bag, s.port = slices.Delete(s.bag, i, i+1), slices.Delete(s.port, i, i+1)
	return f, p
}

// TestDefragTwin: random fragments end alike in the store and in its twin, and no frame is lost.
func TestDefragTwin(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	seen := map[string]int{}
	for seed := range rounds {
		d := newFragDuel(t, 1<<11)
		d.store.config.AnyOrigin, d.twin.any = seed%2 == 1, seed%2 == 1
		d.seen = seen
		d.now = -20_000 // the tick wraps on the way
		s := &fragSoup{rng: rand.New(rand.NewPCG(uint64(seed), 6))}
		for range 600 {
			d.add(s.next())
			if s.rng.IntN(50) == 0 {
				d.now += int64(s.rng.IntN(20_000))
			}
		}
		d.now += 60_000
		d.expire()
		if d.store.Held() != 0 {
			t.Fatalf("seed %d: %d frames left", seed, d.store.Held())
		}
	}
	for _, way := range []string{"held", "complete", "passed", "duplicate", "overlap", "end", "empty", "too-long", "ecn", "given up"} {
		if seen[way] == 0 {
			t.Errorf("no fragment is %s", way)
		}
	}
	t.Log(seen)
}

// FuzzDefrag lets the fuzzer choose: 8 bytes make a fragment. The frames must add up, and the twin must agree.
func FuzzDefrag(f *testing.F) {
	f.Add([]byte("\x00\x00\x20\x01\x00\x00\x00\x00\x00\x04\x20\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x20\x01\x00\x00\x00\x00\x01\x04\x20\x00\x00\x00\x00\x00"))
	body := make([]byte, 4096)
	f.Fuzz(func(t *testing.T, in []byte) {
		in = in[:min(len(in), 8*128)]
		d := newFragDuel(t, 128)
		for ; len(in) >= 8; in = in[8:] {
			src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
			if in[0]&1 != 0 {
				src, dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
			}
			off := int(in[1])*8 | int(in[0]&0xe0)<<8
			size := int(in[2]) + int(in[6]&15)<<8
			d.add(rawFragment(src, dst, uint32(in[4]&3), off, in[3]&1 != 0, in[5]&3, in[5]&4 != 0, body[:size]), packet.Port(in[7]&1))
			d.now += int64(in[7]>>1) * 200
		}
	})
}

// TestDefragWhole: what was cut is put together to the same packet, with tags and extension headers, in every order.
func TestDefragWhole(t *testing.T) {
	c4, s4 := packettest.AP("10.0.0.1:4000"), packettest.AP("10.0.0.2:53")
	c6, s6 := packettest.AP("[2001:db8::1]:4000"), packettest.AP("[2001:db8::2]:53")
	for name, whole := range map[string][]byte{
		"ipv4":         packettest.NewUDP(c4, s4, packettest.PayloadLen(3000)),
		"ipv4 options": packettest.NewUDP(c4, s4, packettest.PayloadLen(3000), packettest.IPv4Options([]byte{0x94, 4, 0, 0})),
		"ipv4 qinq":    packettest.NewTCP(c4, s4, tcpACK, packettest.PayloadLen(5000), packettest.QinQ(7, 8)),
		"ipv6":         packettest.NewUDP(c6, s6, packettest.PayloadLen(3000)),
		"ipv6 hop":     packettest.NewUDP(c6, s6, packettest.PayloadLen(3000), packettest.HopByHop([]byte{1, 0})),
		"ipv6 dest":    packettest.NewUDP(c6, s6, packettest.PayloadLen(3000), packettest.DestinationOptions([]byte{1, 2, 0, 0}), packettest.VLAN(5)),
		"ipv4 longest": packettest.NewUDP(c4, s4, packettest.PayloadLen(65507)),
		"ipv6 longest": packettest.NewUDP(c6, s6, packettest.PayloadLen(65527)),
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			d := NewDefrag(DefragConfig{})
			for round := range 6 {
				pieces := packettest.Fragments(whole, uint32(round), 1480)
				order := rng.Perm(len(pieces))
				if round == 0 {
					slices.Sort(order)
				}
				for n, i := range order {
					p := packet.Packet{Frame: pieces[i]}
					packet.Parse(&p)
					got := d.Add(&p, packet.Frame{Data: pieces[i], Addr: uint64(i)}, 0)
					if n < len(order)-1 {
						if got != Held || len(d.Frames()) != 0 || d.Held() != n+1 {
							t.Fatalf("fragment %d: %v, %d frames back, %d held", i, got, len(d.Frames()), d.Held())
						}
						continue
					}
					if got != Complete || d.Held() != 0 {
						t.Fatalf("last fragment: %v (%v), %d held", got, d.Why(), d.Held())
					}
				}
				for n, f := range d.Frames() {
					if int(f.Addr) != order[n] {
						t.Errorf("frames come back in the order %v, want %v", addrs(d.Frames()), order)
					}
				}
				var a, b packet.Packet
				a.Frame, b.Frame = d.Datagram(), whole
				packet.Parse(&a)
				packet.Parse(&b)
				if a.Problem != packet.ProblemNone || !a.VerifyChecksum() || a.Key != b.Key || a.End != b.End || a.Proto != b.Proto {
					t.Fatalf("datagram parses as %+v", a)
				}
				if !bytes.Equal(a.Frame[a.L4:a.End], b.Frame[b.L4:b.End]) {
					t.Error("payload differs")
				}
			}
		})
	}
}

// pieceOf is a fragment of datagram id with payload from off to end.
func pieceOf(id uint32, off, end int, more bool) []byte {
	return rawFragment(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9"), id, off, more, 0, false, make([]byte, end-off))
}

func piece6Of(id uint32, off, end int, more bool) []byte {
	return rawFragment(netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::9"), id, off, more, 0, false, make([]byte, end-off))
}

// TestDefragScripts holds the rules of ip_frag_queue, nf_ct_frag6_queue and inet_frag_queue_insert one by one.
func TestDefragScripts(t *testing.T) {
	type step struct {
		frame []byte
		wait  Tick // before
		want  DefragResult
		why   DefragReason
		back  int // frames given back at once
	}
	held := func(f []byte) step { return step{frame: f, want: Held} }
	broken := func(f []byte, why DefragReason, back int) step {
		return step{frame: f, want: Broken, why: why, back: back}
	}
	done := func(f []byte, back int) step { return step{frame: f, want: Complete, back: back} }
	for name, steps := range map[string][]step{
		"duplicates are dropped alone": {
			held(pieceOf(1, 0, 16, true)), broken(pieceOf(1, 0, 16, true), DefragDuplicate, 1), done(pieceOf(1, 16, 24, false), 2)},
		"a part of a run is a duplicate": {
			held(pieceOf(1, 0, 16, true)), held(pieceOf(1, 16, 32, true)), broken(pieceOf(1, 8, 24, true), DefragDuplicate, 1)},
		"a part of two runs is an overlap": {
			held(pieceOf(1, 16, 32, true)), held(pieceOf(1, 0, 16, true)), broken(pieceOf(1, 8, 24, true), DefragOverlap, 3),
			held(pieceOf(1, 0, 16, true))},
		"overlap at the tail": {held(pieceOf(1, 0, 16, true)), broken(pieceOf(1, 8, 24, true), DefragOverlap, 2)},
		"ipv4: a last fragment before the end destroys": {
			held(pieceOf(1, 0, 32, true)), broken(pieceOf(1, 16, 24, false), DefragEnd, 2)},
		"ipv4: two ends destroy": {
			held(pieceOf(1, 16, 24, false)), broken(pieceOf(1, 24, 32, false), DefragEnd, 2)},
		"ipv4: beyond the end destroys": {
			held(pieceOf(1, 16, 24, false)), broken(pieceOf(1, 24, 32, true), DefragEnd, 2)},
		"ipv4: odd length is cut": {
			held(pieceOf(1, 0, 15, true)), done(pieceOf(1, 8, 16, false), 2)},
		"ipv4: empty destroys": {
			held(pieceOf(1, 0, 16, true)), broken(pieceOf(1, 16, 20, true), DefragEmpty, 2)},
		"ipv4: too long when complete": {
			held(pieceOf(1, 0, 60000, true)), broken(pieceOf(1, 60000, 65528, false), DefragTooLong, 2)},
		"ipv6: a last fragment before the end is dropped alone": {
			held(piece6Of(1, 0, 32, true)), broken(piece6Of(1, 16, 24, false), DefragEnd, 1), done(piece6Of(1, 32, 33, false), 2)},
		"ipv6: odd length is passed on and ends the datagram": {
			held(piece6Of(1, 0, 32, true)), {frame: piece6Of(1, 32, 39, true), want: Passed}, held(piece6Of(1, 32, 40, false))},
		"ipv6: beyond 65535 is dropped alone": {
			held(piece6Of(1, 0, 32, true)), broken(piece6Of(1, 65528, 65536, false), DefragTooLong, 1), done(piece6Of(1, 32, 33, false), 2)},
		"ipv6: overlap destroys": {
			held(piece6Of(1, 0, 32, true)), broken(piece6Of(1, 24, 40, false), DefragOverlap, 2)},
		"ipv4 waits 30 s": {
			held(pieceOf(1, 0, 16, true)), {frame: pieceOf(1, 16, 24, true), wait: 29_999, want: Held},
			{frame: pieceOf(1, 24, 32, false), wait: 1, want: Held}},
		"ipv6 waits 60 s": {
			held(piece6Of(1, 0, 16, true)), {frame: piece6Of(1, 16, 24, true), wait: 59_999, want: Held},
			{frame: piece6Of(1, 24, 32, false), wait: 1, want: Held}},
		"identifications are kept apart": {
			held(pieceOf(1, 0, 16, true)), held(pieceOf(2, 16, 24, false)), done(pieceOf(1, 16, 24, false), 2)},
		"fragments with and without ecn": {
			held(pieceOf(1, 0, 16, true)),
			broken(rawFragment(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9"), 1, 16, false, 2, false, make([]byte, 8)), DefragECN, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDefrag(DefragConfig{Secret: [packet.HasherSecret]uint64{1}})
			now := Tick(0xffffff00)
			for i, s := range steps {
				now += s.wait
				p := packet.Packet{Frame: s.frame}
				packet.Parse(&p)
				if p.Flags&packet.Fragment == 0 && p.FragHdr == 0 {
					t.Fatalf("step %d is no fragment: %v", i, p.Problem)
				}
				if got := d.Add(&p, packet.Frame{Data: s.frame}, now); got != s.want || got == Broken && d.Why() != s.why || len(d.Frames()) != s.back {
					t.Fatalf("step %d: %v (%v), %d frames; want %v (%v), %d frames", i, got, d.Why(), len(d.Frames()), s.want, s.why, s.back)
				}
			}
		})
	}
}

// TestDefragDistance: a datagram starts anew when more than 64 other fragments of its sender came in between.
func TestDefragDistance(t *testing.T) {
	d := newFragDuel(t, 1<<11)
	d.add(pieceOf(1, 0, 16, true), packet.Inside)
	for i := range uint32(63) {
		d.add(pieceOf(100+i, 0, 16, true), packet.Inside)
	}
	d.add(pieceOf(1, 16, 32, true), packet.Inside) // the 64th: still the same datagram
	for i := range uint32(64) {
		d.add(pieceOf(200+i, 0, 16, true), packet.Inside)
	}
	d.add(pieceOf(1, 32, 40, false), packet.Inside)
	if n := d.store.Counters().Restarted; n != 1 {
		t.Errorf("%d datagrams restarted, want 1", n)
	}
}

// TestDefragBounds: at the bound of frames the oldest datagram makes room, at the bound of bytes fragments are refused;
// either way every frame comes back.
func TestDefragBounds(t *testing.T) {
	d := NewDefrag(DefragConfig{Frames: 16})
	for i := range uint32(100) {
		f := pieceOf(i, 0, 16, true)
		if i%3 == 0 {
			f = piece6Of(i, 0, 16, true)
		}
		p := packet.Packet{Frame: f}
		packet.Parse(&p)
		if got := d.Add(&p, packet.Frame{Data: f, Addr: uint64(i)}, Tick(i)); got != Held {
			t.Fatalf("fragment %d: %v (%v)", i, got, d.Why())
		}
		var out [32]Late
		n := d.Expire(Tick(i), out[:])
		if i >= 16 && (n != 1 || out[0].Frame.Addr != uint64(i-16) || out[0].Why != DefragEvicted) {
			t.Fatalf("fragment %d: %v made room", i, out[:n])
		}
		if d.Held() > 16 {
			t.Fatalf("%d held", d.Held())
		}
	}
	// Without Expire it refuses before it holds more than twice as many.
	refused := 0
	for i := range uint32(100) {
		f := pieceOf(1000+i, 0, 16, true)
		p := packet.Packet{Frame: f}
		packet.Parse(&p)
		if d.Add(&p, packet.Frame{Data: f}, 200) == Broken {
			refused++
		}
	}
	if refused == 0 || d.Held() > 32 {
		t.Errorf("%d refused, %d held", refused, d.Held())
	}

	d = NewDefrag(DefragConfig{Bytes4: 10 * (2048 + fragQueueCost)})
	for i := range uint32(20) {
		f := pieceOf(i, 0, 16, true)
		p := packet.Packet{Frame: f}
		packet.Parse(&p)
		got := d.Add(&p, packet.Frame{Data: f}, 0)
		if i <= 10 && got != Held || i > 10 && (got != Broken || d.Why() != DefragMemory || len(d.Frames()) != 1) {
			t.Fatalf("fragment %d: %v (%v)", i, got, d.Why())
		}
	}
	var out [64]Late
	if n := d.Expire(30_000, out[:]); n != 11 || d.Held() != 0 || d.memory != [2]int{} || out[0].Why != DefragTimeout {
		t.Errorf("%d frames, %d held, %d bytes, %v", n, d.Held(), d.memory, out[0].Why)
	}
}

// TestDefragTooMany: a datagram of too many fragments goes at once.
func TestDefragTooMany(t *testing.T) {
	d := newFragDuel(t, 1<<11)
	for i := range MaxFragments + 1 {
		d.add(pieceOf(1, 8*i, 8*i+8, true), packet.Inside)
	}
	if d.seen["too-many"] != 1 || d.store.Held() != 0 {
		t.Errorf("%v, %d held", d.seen, d.store.Held())
	}
}

// TestDefragAllocations: no fragment allocates.
func TestDefragAllocations(t *testing.T) {
	d := NewDefrag(DefragConfig{})
	whole := packettest.NewUDP(packettest.AP("10.0.0.1:4000"), packettest.AP("10.0.0.2:53"), packettest.PayloadLen(3000))
	pieces := packettest.Fragments(whole, 0, 1480)
	var p packet.Packet
	id := uint16(0)
	var out [8]Late
	if n := testing.AllocsPerRun(1000, func() {
		id++
		for i, b := range pieces {
			if i == 2 && id%3 == 0 {
				break // never complete
			}
			binary.BigEndian.PutUint16(b[18:], id)
			setTwinChecksum(b[14:34])
			p.Frame = b
			packet.Parse(&p)
			if d.Add(&p, packet.Frame{Data: b}, Tick(id)*100) == Broken {
				t.Fatal(d.Why())
			}
		}
		d.Expire(Tick(id)*100, out[:])
	}); n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
}
