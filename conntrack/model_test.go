package conntrack

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// model is the slow, obvious twin of Table: a map of connections, time in 64 bits, no hashing, no lower bounds, no
// sharing of memory. It judges TCP and SCTP with the same trackers, whose own twins are elsewhere.
type model struct {
	conns map[packet.Key]*modelConn
	set   *Settings
	why   Reason // of the last packet that was INVALID
}

// modelConn is one connection of the model.
type modelConn struct {
	key      packet.Key
	src      packet.Addr // sender of the first packet, with its port or ICMP role
	flipped  bool
	self     bool
	born     uint64
	deadline uint64
	status   uint32
	state    uint8
	mark     uint32
	tcp      tcpState
	sctp     sctpState
	gre      greState
	acct     bool
	packets  [2]uint64
	bytes    [2]uint64
}

func newModel(set *Settings) *model {
	return &model{conns: map[packet.Key]*modelConn{}, set: set}
}

// get returns the connection of a key unless its time is over.
func (m *model) get(k packet.Key, now uint64) *modelConn {
	c := m.conns[k]
	if c != nil && c.deadline <= now {
		delete(m.conns, k)
		return nil
	}
	return c
}

// track returns what Table.Track must say, and the new connection if there is one.
func (m *model) track(p *packet.Packet, now uint64) (want Conn, fresh *modelConn) {
	bad := func(why Reason) (Conn, *modelConn) { m.why = why; return Conn{State: StateInvalid}, nil }
	switch {
	case p.Problem != packet.ProblemNone:
		return bad(ReasonMalformed)
	case p.Flags&packet.Fragment != 0:
		return bad(ReasonFragment)
	case m.set.checksum == 1 && !p.VerifyChecksum():
		return bad(ReasonChecksum)
	case p.Flags&packet.NoTrack != 0:
		return Conn{State: StateUntracked}, nil
	}
	c := m.get(p.Key, now)
	flipped := p.Flags&packet.Flipped != 0
	if p.Flags&packet.ICMPError != 0 {
		if c == nil {
			return bad(ReasonNotRelated)
		}
		if c.self || flipped == c.flipped {
			return Conn{State: StateRelated, Dir: Reply}, nil
		}
		return Conn{State: StateRelated, Dir: Original}, nil
	}
	if c != nil {
		dir := Original
		if c.self || flipped != c.flipped {
			dir = Reply
		}
		state := StateEstablished
		if dir == Original && c.status&StatusSeenReply == 0 {
			state = StateNew
		}
		o := m.judge(c, dir, p, now)
		switch o.act {
		case actInvalid:
			c.state, c.status = o.state, c.status|o.status
			if left := c.deadline - now; o.timeout != 0 && left >= invalidShortens && left > uint64(o.timeout) {
				c.deadline = now + uint64(o.timeout)
			}
			return bad(o.why)
		case actReopen:
			delete(m.conns, p.Key)
			return m.begin(p, now)
		case actKill:
			delete(m.conns, p.Key)
			return Conn{State: state, Dir: dir}, nil
		}
		c.state, c.status = o.state, c.status|o.status
		if o.timeout != 0 {
			c.deadline = now + uint64(o.timeout)
			c.packets[dir]++
			c.bytes[dir] += uint64(p.End - p.L3)
		}
		if dir == Reply {
			c.status |= StatusSeenReply
		}
		return Conn{State: state, Dir: dir}, nil
	}
	return m.begin(p, now)
}

// begin makes a connection of its first packet.
func (m *model) begin(p *packet.Packet, now uint64) (Conn, *modelConn) {
	c := &modelConn{key: p.Key, flipped: p.Flags&packet.Flipped != 0, born: now, src: p.Src}
	query := p.Key.Proto == packet.ProtoICMP || p.Key.Proto == packet.ProtoICMPv6
	if query && c.flipped {
		m.why = ReasonNotNew
		return Conn{State: StateInvalid}, nil
	}
	c.self = p.Src == p.Dst && p.SrcPort == p.DstPort && !query
	o := outcome{}
	switch p.Proto {
	case packet.ProtoTCP:
		o = tcpNew(&c.tcp, p, Tick(now), m.set)
	case packet.ProtoSCTP:
		o = sctpNew(&c.sctp, p, Tick(now), m.set)
	case packet.ProtoGRE:
		o = greNew(&c.gre, p, Tick(now), m.set)
	case packet.ProtoUDP, packet.ProtoUDPLite:
		o.timeout = m.set.udp
	case packet.ProtoICMP:
		o.timeout = m.set.icmp
	case packet.ProtoICMPv6:
		o.timeout = m.set.icmpv6
	default:
		o.timeout = m.set.generic
	}
	switch o.act {
	case actInvalid:
		m.why = o.why
		return Conn{State: StateInvalid}, nil
	case actKill:
		return Conn{State: StateNew}, nil
	}
	c.state, c.status = o.state, o.status
	c.deadline = now + uint64(o.timeout)
	c.acct = m.set.acct == 1
	c.packets[Original] = 1
	c.bytes[Original] = uint64(p.End - p.L3)
	return Conn{State: StateNew, Fresh: true}, c
}

// judge is the tracker of a known connection.
func (m *model) judge(c *modelConn, dir Dir, p *packet.Packet, now uint64) outcome {
	replied := c.status&StatusSeenReply != 0
	o := outcome{state: c.state}
	switch p.Proto {
	case packet.ProtoTCP:
		return tcpPacket(&c.tcp, c.state, dir, c.status, p, Tick(now), m.set)
	case packet.ProtoSCTP:
		return sctpPacket(&c.sctp, c.state, dir, c.status, p, Tick(now), m.set)
	case packet.ProtoGRE:
		return grePacket(&c.gre, c.state, dir, c.status, p, Tick(now), m.set)
	case packet.ProtoUDP:
		o.timeout = m.set.udp
		if replied && now > c.born+2000 {
			o.timeout, o.status = m.set.udpStream, StatusAssured
		}
	case packet.ProtoUDPLite:
		o.timeout = m.set.udp
		if replied {
			o.timeout, o.status = m.set.udpStream, StatusAssured
		}
	case packet.ProtoICMP:
		o.timeout = m.set.icmp
	case packet.ProtoICMPv6:
		o.timeout = m.set.icmpv6
	default:
		o.timeout = m.set.generic
	}
	return o
}

// line describes a connection in the model's own words.
func (c *modelConn) line(now uint64) string {
	s := fmt.Sprintf("%v flipped=%v state=%d status=%#x mark=%d left=%d", c.key, c.flipped, c.state, c.status|StatusConfirmed, c.mark, c.deadline-now)
	if c.acct {
		s += fmt.Sprint(c.packets, c.bytes)
	}
	return s
}

// lines is the model's listing, sorted.
func (m *model) lines(now uint64) []string {
	var out []string
	for _, c := range m.conns {
		if c.deadline > now {
			out = append(out, c.line(now))
		}
	}
	sort.Strings(out)
	return out
}

// listing is the table's, in the model's words.
func listing(t *Table, now Tick) []string {
	var out []string
	buf := make([]Info, 7)
	for cursor := uint64(0); ; {
		n, next := t.Dump(cursor, buf, now)
		for _, i := range buf[:n] {
			s := fmt.Sprintf("%v flipped=%v state=%d status=%#x mark=%d left=%d", i.Key, i.Flipped, i.State, i.Status, i.Mark, i.Left)
			if i.HasCounters {
				s += fmt.Sprint(i.Packets, i.Bytes)
			}
			out = append(out, s)
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	sort.Strings(out)
	return out
}

// check verifies the table's own bookkeeping.
func (t *Table) check() error {
	seen := map[uint32]int{}
	for b := range t.index.count() {
		x := &t.index.arena.items[b]
		for i, ref := range x.ref {
			tag := x.tag(i)
			if (tag == 0) != (ref == 0) {
				return fmt.Errorf("bucket %d slot %d: tag %d with reference %d", b, i, tag, ref)
			}
			if ref == 0 {
				continue
			}
			seen[ref]++
			h := t.hashOf(&t.hot.items[ref].key)
			if tag != tagOf(h) || uint64(b) != t.index.first(h) && uint64(b) != t.index.second(h) {
				return fmt.Errorf("entry %d is in the wrong bucket %d", ref, b)
			}
		}
	}
	for b := t.index.count(); b < len(t.index.arena.items) && b < t.index.count()*2; b++ {
		if x := t.index.arena.items[b]; x != (bucket{}) {
			return fmt.Errorf("bucket %d beyond the end is not empty", b)
		}
	}
	used := 0
	for w := range (t.slots.top + 63) / 64 {
		m := t.slots.word(w)
		for i := range uint32(64) {
			if m>>i&1 == 0 {
				continue
			}
			used++
			ref := w*64 + i
			if seen[ref] != 1 {
				return fmt.Errorf("entry %d is in %d buckets", ref, seen[ref])
			}
			e := &t.hot.items[ref]
			if int32(t.due.items[ref]-e.deadline) > 0 {
				return fmt.Errorf("entry %d: the sweep's bound %d is after the deadline %d", ref, t.due.items[ref], e.deadline)
			}
			if uint32(e.status)&(StatusConfirmed|StatusDying) != StatusConfirmed {
				return fmt.Errorf("entry %d: status %#x", ref, e.status)
			}
		}
	}
	if used != t.live || len(seen) != t.live {
		return fmt.Errorf("%d entries, %d indices in use, %d references", t.live, used, len(seen))
	}
	if t.stats.Insert-t.stats.Delete != uint64(t.live) {
		return fmt.Errorf("%d inserted, %d deleted, %d there", t.stats.Insert, t.stats.Delete, t.live)
	}
	return nil
}

// contest plays the same operations to a Table and the model. next returns the choices; a run ends when it has no more.
type contest struct {
	t      testing.TB
	tab    *Table
	model  *model
	clock  uint64 // starts so that ticks wrap during the run
	next   func(n int) int
	frames [][]byte
	step   int
}

// contestFrames is the universe of a contest: a few connections of every kind, so that operations meet.
var contestFrames = sync.OnceValue(buildContestFrames)

func buildContestFrames() [][]byte {
	var out [][]byte
	ends := []netip.AddrPort{packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:2000"), packettest.AP("10.0.0.2:1000"), packettest.AP("[2001:db8::1]:1000"), packettest.AP("[2001:db8::2]:53")}
	for _, a := range ends {
		for _, b := range ends {
			if a.Addr().Is4() != b.Addr().Is4() {
				continue
			}
			u := packettest.NewUDP(a, b, packettest.PayloadLen(3))
			out = append(out, u, u, packettest.NewUDPLite(a, b, packettest.PayloadLen(3)), packettest.NewIP(a.Addr(), b.Addr(), 89))
			out = append(out, packettest.NewUDP(a, b, packettest.PayloadLen(3), packettest.BadChecksum()), u[:len(u)-2])
			for _, flags := range []uint8{packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST, packet.SYN | packet.FIN} {
				out = append(out, packettest.NewTCP(a, b, flags, packettest.Seq(100), packettest.Ack(100), packettest.Window(1000)))
			}
			out = append(out, packettest.NewGRE(a.Addr(), b.Addr(), 0x0800))
			id := a.Port() ^ b.Port()
			if a.Addr().Is4() {
				out = append(out, packettest.NewICMP(a.Addr(), b.Addr(), 8, 0, id, 1), packettest.NewICMP(a.Addr(), b.Addr(), 0, 0, id, 1), packettest.NewICMP(a.Addr(), b.Addr(), 13, 0, id, 1))
				out = append(out, packettest.NewICMPError(b.Addr(), a.Addr(), 3, 3, 0, u, 28))
			} else {
				out = append(out, packettest.NewICMP(a.Addr(), b.Addr(), 128, 0, id, 1), packettest.NewICMP(a.Addr(), b.Addr(), 129, 0, id, 1), packettest.NewICMPMessage(a.Addr(), b.Addr(), 135, 0, 0, packettest.PayloadLen(16)))
				out = append(out, packettest.NewICMPError(b.Addr(), a.Addr(), 1, 3, 0, u, 48))
			}
		}
	}
	return out
}

// run plays steps until next is exhausted (it then returns a negative number).
func (d *contest) run() {
	d.frames = contestFrames()
	for ; ; d.step++ {
		op := d.next(64)
		if op < 0 {
			break
		}
		now := Tick(d.clock)
		switch {
		case op < 48:
			d.packet(d.frames[max(0, d.next(len(d.frames)))], now)
		case op < 54:
			d.clock += uint64(max(0, d.next(3000)))
		case op < 56:
			d.clock += uint64(max(0, d.next(200_000)))
		case op < 60:
			d.tab.Expire(now, max(0, d.next(5)))
		case op < 61 && d.next(40) == 0:
			d.tab.Flush()
			clear(d.model.conns)
		case op < 61:
			d.delete(uint8(max(0, d.next(256))))
		case op < 62:
			d.settings(max(0, d.next(4)))
		case op < 63:
			d.tab.SetBuckets(max(0, d.next(300)))
		default:
			d.compare()
		}
	}
	d.compare()
	// When the sweep has passed, the counts are exact.
	d.clock += 2 * sweepInterval
	d.tab.Expire(Tick(d.clock), 1<<20)
	d.clock += 2 * sweepInterval
	d.tab.Expire(Tick(d.clock), 1<<20)
	if n := len(d.model.lines(d.clock)); n != d.tab.Len() {
		d.t.Fatalf("after the sweep %d entries, want %d", d.tab.Len(), n)
	}
	d.compare()
}

// packet plays one frame, accepted or dropped by imaginary rules.
func (d *contest) packet(frame []byte, now Tick) {
	ps := make([]packet.Packet, 1)
	p := &ps[0]
	p.Frame = frame
	packet.Parse(p)
	if zone := d.next(8); zone == 1 {
		p.Key.Zone = 7
	}
	d.tab.Hash(ps)
	d.tab.Touch(ps)
	want, fresh := d.model.track(p, d.clock)
	before := d.tab.stats
	c := d.tab.Track(p, now)
	d.learnVictim(before, now)
	if c.Full() {
		// The packet begins a connection, or would if its tracker did not object.
		if fresh == nil && want.State != StateInvalid || d.tab.cap.Max() > d.tab.Len() {
			d.t.Fatalf("step %d: full with %d of %d, want %+v", d.step, d.tab.Len(), d.tab.cap.Max(), want)
		}
		for _, m := range d.model.conns {
			if m.deadline > d.clock && m.status&StatusAssured == 0 && d.tab.index.count() <= evictionRange {
				d.t.Fatalf("step %d: full, though %v could go", d.step, m.key)
			}
		}
		return
	}
	got := c
	got.Ref = 0
	if got != want || got.State == StateInvalid && d.tab.Why() != d.model.why {
		d.t.Fatalf("step %d: %v: got %+v (%v), want %+v (%v)", d.step, p.Key, got, d.tab.Why(), want, d.model.why)
	}
	if fresh == nil {
		return
	}
	if d.next(4) == 0 {
		d.tab.Discard(&c)
		return
	}
	if mark := d.next(3); mark > 0 {
		d.tab.SetMark(&c, uint32(mark))
		fresh.mark = uint32(mark)
	}
	switch o := d.tab.Confirm(&c, now); o {
	case Confirmed:
		d.model.conns[p.Key] = fresh
	default:
		d.t.Fatalf("step %d: confirm: %v", d.step, o)
	}
	if d.tab.Len() > d.tab.cap.Max() {
		d.t.Fatalf("step %d: %d entries of at most %d", d.step, d.tab.Len(), d.tab.cap.Max())
	}
}

// learnVictim removes from the model what early drop took, which must not be ASSURED.
func (d *contest) learnVictim(before Counters, now Tick) {
	if d.tab.stats.EarlyDrop == before.EarlyDrop {
		return
	}
	there := map[packet.Key]bool{}
	buf := make([]Info, 1024)
	n, next := d.tab.Dump(0, buf, now)
	if next != 0 {
		d.t.Fatal("listing too long for this test")
	}
	for _, i := range buf[:n] {
		there[i.Key] = true
	}
	gone := 0
	for k, c := range d.model.conns {
		if c.deadline > d.clock && !there[k] {
			if c.status&StatusAssured != 0 {
				d.t.Fatalf("step %d: early drop took %v, which is ASSURED", d.step, k)
			}
			delete(d.model.conns, k)
			gone++
		}
	}
	if gone != 1 {
		d.t.Fatalf("step %d: early drop took %d entries", d.step, gone)
	}
}

// delete removes the connections whose last address byte and protocol fit.
func (d *contest) delete(what uint8) {
	fits := func(k packet.Key) bool { return uint8(k.A.Lo)^k.Proto^uint8(k.BPort) == what }
	for cursor := uint64(0); ; {
		_, cursor = d.tab.Delete(cursor, 5, func(i *Info) bool { return fits(i.Key) }, Tick(d.clock))
		if cursor == 0 {
			break
		}
	}
	for k := range d.model.conns {
		if fits(k) {
			delete(d.model.conns, k)
		}
	}
}

// settings changes one.
func (d *contest) settings(which int) {
	names := []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream", "nf_conntrack_acct", "nf_conntrack_tcp_timeout_established"}
	s, err := d.tab.set.With(names[which], uint32(max(0, d.next(2))))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.tab.SetSettings(s); err != nil {
		d.t.Fatal(err)
	}
	d.model.set = s
}

// compare compares the two listings and checks the table's bookkeeping.
func (d *contest) compare() {
	if err := d.tab.check(); err != nil {
		d.t.Fatalf("step %d: %v", d.step, err)
	}
	got, want := listing(d.tab, Tick(d.clock)), d.model.lines(d.clock)
	if !slices.Equal(got, want) {
		d.t.Fatalf("step %d: table\n%s\nmodel\n%s", d.step, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// newContest makes both sides with room for limit entries.
func newContest(t testing.TB, limit int, seed uint64) *contest {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 99))
	c := Config{Capacity: NewCapacity(limit, 1), Reserve: 1024}
	for i := range c.Secret {
		c.Secret[i] = r.Uint64()
	}
	g := newRig(t, c)
	return &contest{t: t, tab: g.tab, model: newModel(g.tab.set), clock: 1<<32 - 300_000}
}

func TestTableAgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		limit := 1000
		if seed%2 == 1 {
			limit = 30
		}
		d := newContest(t, limit, seed)
		r := rand.New(rand.NewPCG(seed, 7))
		left := 40_000
		d.next = func(n int) int {
			if left--; left < 0 {
				return -1
			}
			return r.IntN(n)
		}
		d.run()
	}
}

func FuzzTable(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newContest(t, 20, 1)
		d.next = func(n int) int {
			if len(b) < 2 {
				return -1
			}
			v := int(binary.LittleEndian.Uint16(b))
			b = b[2:]
			return v * n >> 16
		}
		d.run()
	})
}
