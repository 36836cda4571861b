package conntrack

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// A random stream of segments between two ends that behave a little like TCP and a lot like trouble: handshakes, data,
// loss, reordering, repetition, wrong numbers, FIN and RST at any time, window scaling, SACK, simultaneous open, reuse of
// the ports, keep-alives, closed windows, illegal flags.
type tcpStream struct {
	rng  *rand.Rand
	end  [2]streamEnd
	past []twinSegment // what was sent, for repetition and reordering
}

// streamEnd is what one end believes.
type streamEnd struct {
	next    uint32 // next sequence number to send
	got     uint32 // what it has of the other end
	scale   int    // -1: does not scale
	sack    bool
	win     uint16
	stamped bool // sends timestamps
}

func newTCPStream(rng *rand.Rand) *tcpStream {
	s := &tcpStream{rng: rng}
	s.reset()
	return s
}

// reset begins new incarnations of both ends.
func (s *tcpStream) reset() {
	for i := range s.end {
		s.end[i] = streamEnd{next: s.number(), scale: s.rng.IntN(17) - 1, sack: s.rng.IntN(2) == 0, win: s.window(), stamped: s.rng.IntN(3) == 0}
		if s.rng.IntN(3) == 0 {
			s.end[i].scale = -1
		}
	}
}

// number returns a sequence number, often near a wrap.
func (s *tcpStream) number() uint32 {
	switch s.rng.IntN(4) {
	case 0:
		return uint32(s.rng.IntN(3000))
	case 1:
		return -uint32(s.rng.IntN(3000))
	case 2:
		return 1<<31 - 1500 + uint32(s.rng.IntN(3000))
	}
	return s.rng.Uint32()
}

func (s *tcpStream) window() uint16 {
	switch s.rng.IntN(6) {
	case 0:
		return 0
	case 1:
		return 1
	case 2:
		return uint16(s.rng.IntN(2000))
	}
	return uint16(s.rng.IntN(65536))
}

// offset returns a distance that one of the rules cares about.
func (s *tcpStream) offset() uint32 {
	near := [...]uint32{0, 1, 2, 3, 500, 1460, 65534, 65535, 65536, 65999, 66000, 66001, 66002, 1 << 20, 1<<31 - 1, 1 << 31, 1<<31 + 1}
	n := near[s.rng.IntN(len(near))]
	if s.rng.IntN(3) == 0 {
		n = s.rng.Uint32() >> s.rng.IntN(32)
	}
	if s.rng.IntN(2) == 0 {
		return -n
	}
	return n
}

// synOptions returns the options that an end puts into its SYN.
func (s *tcpStream) synOptions(d Dir) (out []byte) {
	e := &s.end[d]
	if s.rng.IntN(2) == 0 {
		out = append(out, packettest.MSS(1460)...)
	}
	if e.sack {
		out = append(out, packettest.SACKPermitted()...)
	}
	if e.scale >= 0 {
		out = append(out, 1)
		out = append(out, packettest.WindowScale(uint8(e.scale))...)
	}
	if e.stamped {
		out = append(out, packettest.Timestamps(1, 0)...)
	}
	return s.finish(out)
}

// finish pads a list of options, and sometimes spoils it.
func (s *tcpStream) finish(out []byte) []byte {
	if s.rng.IntN(30) == 0 {
		for range s.rng.IntN(12) {
			out = append(out, byte(s.rng.IntN(9)))
		}
	}
	if s.rng.IntN(60) == 0 && len(out) > 0 {
		out[s.rng.IntN(len(out))] = byte(s.rng.IntN(256))
	}
	for len(out)%4 != 0 {
		out = append(out, byte(s.rng.IntN(2)))
	}
	return out[:min(len(out), 40)]
}

// dataOptions returns the options of a segment that is no SYN.
func (s *tcpStream) dataOptions(d Dir) (out []byte) {
	e := &s.end[d]
	if e.stamped {
		out = append(append(out, 1, 1), packettest.Timestamps(s.rng.Uint32(), 1)...)
	}
	if s.rng.IntN(6) == 0 {
		edges := make([]uint32, 2*(1+s.rng.IntN(3)))
		for i := range edges {
			edges[i] = e.got + s.offset()>>s.rng.IntN(24)
		}
		out = append(append(out, 1, 1), packettest.SACK(edges...)...)
	}
	return s.finish(out)
}

// next returns the next segment.
func (s *tcpStream) next() twinSegment {
	r := s.rng
	d := Dir(r.IntN(2))
	e, peer := &s.end[d], &s.end[1-d]
	g := twinSegment{dir: d, flags: tcpACK, seq: e.next, ack: e.got, win: e.win}
	switch n := r.IntN(100); {
	case n < 14: // open
		g.flags = tcpSYN
		g.ack = 0
		g.options = s.synOptions(d)
		peer.got = g.seq + 1
		if r.IntN(5) > 0 {
			e.next++
		}
	case n < 24: // answer the open
		g.flags = tcpSYN | tcpACK
		g.options = s.synOptions(d)
		peer.got = g.seq + 1
		if r.IntN(5) > 0 {
			e.next++
		}
	case n < 50: // data
		g.flags |= tcpPSH * uint8(r.IntN(2))
		g.size = uint32(r.IntN(1400))
		g.options = s.dataOptions(d)
		e.next += g.size
		if r.IntN(4) > 0 {
			peer.got = e.next
		}
	case n < 62: // acknowledge
		g.options = s.dataOptions(d)
	case n < 66: // keep-alive
		g.seq--
		g.size = uint32(r.IntN(2))
	case n < 70: // close
		g.flags = tcpFIN | tcpACK
		if r.IntN(4) > 0 {
			e.next++
			peer.got = e.next
		}
	case n < 76: // abort
		g.flags = tcpRST | tcpACK*uint8(r.IntN(2))
		if r.IntN(4) == 0 {
			g.seq = 0
		}
		if r.IntN(4) == 0 {
			g.ack = 0
		}
		if r.IntN(3) == 0 {
			g.seq = peer.got
		}
		g.win = 0
	case n < 88: // again
		if len(s.past) > 0 {
			g = s.past[len(s.past)-1-r.IntN(min(len(s.past), 12))]
			if r.IntN(8) == 0 {
				g.dir = 1 - g.dir
			}
			return s.keep(g)
		}
	case n < 90: // both ends begin again
		if r.IntN(3) == 0 {
			s.reset()
		} else {
			e.next += s.offset()
		}
	case n < 91:
		g.flags = uint8(r.IntN(256))
		g.size = uint32(r.IntN(3))
	default:
		e.win = s.window()
		g.win = e.win
	}
	if r.IntN(9) == 0 {
		g.seq += s.offset()
	}
	if r.IntN(9) == 0 {
		g.ack += s.offset()
	}
	if r.IntN(20) == 0 {
		g.ack = s.end[1-d].next
	}
	if r.IntN(25) == 0 {
		g.win = s.window()
	}
	return s.keep(g)
}

// keep remembers a segment for repetition.
func (s *tcpStream) keep(g twinSegment) twinSegment {
	s.past = append(s.past, g)
	if len(s.past) > 64 {
		s.past = s.past[32:]
	}
	return g
}

var (
	streamClient = packettest.AP("192.0.2.1:40000")
	streamServer = packettest.AP("192.0.2.2:80")
)

// frame builds the frame of a segment.
func (g twinSegment) frame() []byte {
	src, dst := streamClient, streamServer
	if g.dir == Reply {
		src, dst = dst, src
	}
	return packettest.NewTCP(src, dst, g.flags, packettest.Seq(g.seq), packettest.Ack(g.ack), packettest.Window(g.win),
		packettest.TCPOptions(g.options), packettest.PayloadLen(int(g.size)))
}

// tcpDuel plays segments to tcp.go and to the twin, with the part of the table that they need.
type tcpDuel struct {
	set    *Settings
	live   bool
	fast   tcpState
	state  uint8
	status uint32
	flip   bool // the connection's original direction is the stream's reply direction
	slow   *twinConn
	seen   map[string]int // what happened, for the coverage check
	packet packet.Packet
}

func (d *tcpDuel) play(g twinSegment) error {
	d.packet = packet.Packet{Frame: g.frame()}
	packet.Parse(&d.packet)
	if d.packet.Problem != packet.ProblemNone {
		return fmt.Errorf("segment %+v does not parse: %v", g, d.packet.Problem)
	}
	for range 2 {
		again, err := d.once(g)
		if err != nil || !again {
			return err
		}
	}
	return fmt.Errorf("segment %+v reopens twice", g)
}

func (d *tcpDuel) once(g twinSegment) (again bool, err error) {
	var got outcome
	var want twinAnswer
	fresh := !d.live
	before := d.state
	if fresh {
		d.fast, d.state, d.status = tcpState{}, tcpNone, 0
		d.flip = g.dir == Reply
		g.dir = Original
		got = tcpNew(&d.fast, &d.packet, 0, d.set)
		d.slow, want = twinBegin(g, d.set)
	} else {
		if d.flip {
			g.dir = 1 - g.dir
		}
		if timeout := d.fast.plain(d.state, g.dir, d.status, &d.packet, d.set); timeout != 0 {
			got = outcome{state: d.state, timeout: timeout}
		} else {
			got = tcpPacket(&d.fast, d.state, g.dir, d.status, &d.packet, 0, d.set)
		}
		want = d.slow.judge(g, d.set)
	}
	act := [...]string{actAccept: "accept", actInvalid: "invalid", actReopen: "reopen", actKill: "kill"}[got.act]
	d.seen[fmt.Sprintf("%s %s %v %s", tcpStateNames[before], g.kind(), g.dir, act)]++
	d.seen[got.why.String()]++
	if act != want.act {
		return false, fmt.Errorf("%+v: %s (%v), want %s", g, act, got.why, want.act)
	}
	if (got.act == actInvalid) != (got.why != ReasonNone) && got.timeout != 0 {
		return false, fmt.Errorf("%+v: %s refreshes, but has the reason %v", g, act, got.why)
	}
	switch {
	case act == "reopen":
		d.live = false
		return true, nil
	case act == "invalid" && fresh:
		return false, nil
	}
	d.live = true
	d.state = got.state
	d.status |= got.status
	if act != "invalid" && g.dir == Reply {
		d.status |= StatusSeenReply
	}
	wantTimeout := uint32(0)
	if want.refresh || want.shorten {
		wantTimeout = max(want.timeout, 1)
	}
	if want.shorten {
		wantTimeout = want.timeout
	}
	if got.timeout != wantTimeout {
		return false, fmt.Errorf("%+v in %s: timeout %d, want %d", g, d.slow.state, got.timeout, wantTimeout)
	}
	if d.status&StatusAssured != 0 != d.slow.assured || d.status&StatusSeenReply != 0 != d.slow.seenReply {
		return false, fmt.Errorf("%+v: status %#x, want assured %v, seen reply %v", g, d.status, d.slow.assured, d.slow.seenReply)
	}
	if err := d.compare(); err != nil {
		return false, fmt.Errorf("%+v: %w", g, err)
	}
	if act == "kill" {
		d.live = false
	}
	return false, nil
}

// compare compares what both remember, where it can still matter.
func (d *tcpDuel) compare() error {
	s, w := &d.fast, d.slow
	if tcpStateNames[d.state] != w.state {
		return fmt.Errorf("state %s, want %s", tcpStateNames[d.state], w.state)
	}
	for dir := range Dir(2) {
		a, b := s.side[dir], w.side[dir]
		if !b.acked {
			a.maxAck, b.maxAck = 0, 0
		}
		code := 0
		if b.scaled {
			code = b.scale + 1
		}
		if a != (tcpSide{b.end, b.maxEnd, b.maxWin, b.maxAck}) || s.has(dir, tcpMaxAckKnown) != b.acked || s.has(dir, tcpSACK) != b.sack ||
			s.has(dir, tcpUnacked) != b.unacked || s.liberal(dir) != b.liberal || int(s.scaleCode(dir)) != code {
			return fmt.Errorf("side %v is %+v flags %#x scale %#x, want %+v", dir, a, s.flags, s.scale, b)
		}
	}
	kinds := [tcpClasses]string{"none", "syn", "synack", "fin", "ack", "rst"}
	if kinds[s.lastClass()] != w.lastKind || s.lastDir() != w.lastDir || s.lastSeq != w.lastSeq || s.lastEnd() != w.lastEnd || s.lastWin != w.lastWin || s.lastAck != w.lastAck {
		return fmt.Errorf("last segment is %+v (%s %v), want %+v", s, kinds[s.lastClass()], s.lastDir(), w)
	}
	if s.last&tcpClosing != 0 != (w.side[0].closer || w.side[1].closer) || int(s.retrans) != w.retrans || s.mode() == tcpModeSimultaneous != w.simultaneous {
		return fmt.Errorf("closing, retransmissions or mode are %+v, want %+v", s, w)
	}
	return nil
}

// randomSettings turns every switch and mixes the order of the timeouts.
func randomSettings(rng *rand.Rand) *Settings {
	s := *DefaultSettings()
	if rng.IntN(2) == 0 {
		return &s
	}
	s.tcpLoose = uint32(min(rng.IntN(4), 1))
	s.tcpBeLiberal = uint32(rng.IntN(4) / 3)
	s.tcpIgnoreInvalidRST = uint32(rng.IntN(4) / 3)
	s.tcpMaxRetrans = uint32(rng.IntN(6))
	for i := range s.tcp {
		if rng.IntN(2) == 0 {
			s.tcp[i] = uint32(rng.IntN(500_000))
		}
	}
	return &s
}

// TestTCPTwin: random streams are judged and remembered alike by tcp.go and by the twin.
func TestTCPTwin(t *testing.T) {
	streams := 3000
	if testing.Short() {
		streams = 300
	}
	seen := map[string]int{}
	segments := 0
	for seed := range streams {
		rng := rand.New(rand.NewPCG(uint64(seed), 3))
		s := newTCPStream(rng)
		d := &tcpDuel{set: randomSettings(rng), seen: seen}
		for i := range 150 {
			segments++
			if err := d.play(s.next()); err != nil {
				t.Fatalf("stream %d, segment %d: %v", seed, i, err)
			}
		}
	}
	// The streams are worth something only while they go everywhere.
	for why := ReasonTCPState; why <= ReasonTCPRst; why++ {
		if seen[why.String()] == 0 {
			t.Errorf("no stream ends in %q", why)
		}
	}
	for why := ReasonTCPFlags; why <= ReasonTCPOvershot; why++ {
		if seen[why.String()] == 0 {
			t.Errorf("no stream ends in %q", why)
		}
	}
	ways := 0
	for dir := range Dir(2) {
		for _, kind := range []string{"syn", "synack", "fin", "ack", "rst"} {
			for _, state := range tcpStateNames[1:] {
				found := false
				for _, act := range []string{"accept", "invalid", "reopen", "kill"} {
					found = found || seen[fmt.Sprintf("%s %s %v %s", state, kind, dir, act)] != 0
				}
				if found {
					ways++
				} else {
					t.Errorf("no stream has a %s in %s, direction %v", kind, state, dir)
				}
			}
		}
	}
	t.Logf("%d segments, %d ways", segments, ways)
}

// FuzzTCPTwin lets the fuzzer write the streams: 20 bytes make a segment, the first byte of all the settings.
func FuzzTCPTwin(f *testing.F) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 4))
		s := newTCPStream(rng)
		in := []byte{byte(seed)}
		for range 30 {
			g := s.next()
			in = append(in, byte(g.dir), g.flags)
			in = binary.BigEndian.AppendUint32(in, g.seq)
			in = binary.BigEndian.AppendUint32(in, g.ack)
			in = binary.BigEndian.AppendUint16(in, g.win)
			in = append(in, byte(g.size), byte(len(g.options)/4))
			in = append(in, g.options...)
		}
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		d := &tcpDuel{set: randomSettings(rand.New(rand.NewPCG(uint64(in[0]), 5))), seen: map[string]int{}}
		in = in[1:]
		for len(in) >= 14 {
			g := twinSegment{dir: Dir(in[0] & 1), flags: in[1], seq: binary.BigEndian.Uint32(in[2:]), ack: binary.BigEndian.Uint32(in[6:]),
				win: binary.BigEndian.Uint16(in[10:]), size: uint32(in[12])}
			n := min(int(in[13])%11*4, (len(in)-14)&^3)
			g.options = in[14 : 14+n : 14+n]
			in = in[14+n:]
			if err := d.play(g); err != nil {
				t.Fatal(err)
			}
		}
	})
}
