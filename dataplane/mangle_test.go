package dataplane

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// newTables makes a rig with rules of any tables.
func newTables(t testing.TB, text string, change func(*Config)) *rig {
	t.Helper()
	return newRig(t, 1, "", func(c *Config) {
		f, err := rules.Parse("test.rules", []byte(text), rules.Both)
		if err != nil {
			t.Fatal(err)
		}
		if c.Ruleset, err = rules.Compile([]*rules.File{f}, rules.Options{Clock: true, Wall: true, Counts: true, Clamps: true}); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(c)
		}
	})
}

// cached returns how many packets were decided by a cached verdict.
func (r *rig) cached() uint64 {
	s := r.stats()
	return s.Total().Cached
}

// packets returns how many packets a rule, or a policy of both versions, has counted.
func (r *rig) packets(rule string) uint64 {
	r.t.Helper()
	rs, counters, err := r.e.RuleCounters(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	n := uint64(0)
	for id := range counters {
		if rs.RuleName(rules.RuleID(id)) == rule {
			n += counters[id].Packets
		}
	}
	return n
}

// A mark that rules give: the connection's is in the table, a packet that leaves it as it was is decided by the cached
// verdict from then on, and another mark, from a rule or from an operator, is seen by the next packet.
func TestConnMark(t *testing.T) {
	r := newTables(t, `*mangle
-A PREROUTING -m connmark --mark 0 -j MARK --set-mark 7
-A PREROUTING -m connmark ! --mark 0 -j CONNMARK --restore-mark
-A FORWARD -p udp --dport 53 -m tos --tos 8 -j MARK --set-mark 9
-A POSTROUTING -j CONNMARK --save-mark
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -m mark --mark 7 -j ACCEPT
-A FORWARD -m mark --mark 9 -j ACCEPT
-A FORWARD -m mark --mark 0x15 -j DROP
COMMIT
`, nil)
	a, b := pt.AP("10.0.0.1:5000"), pt.AP("10.0.0.2:53")
	mark := func() uint32 {
		t.Helper()
		l := r.listing()
		if len(l) != 1 {
			t.Fatalf("%d connections", len(l))
		}
		_, m, _ := strings.Cut(l[0], "mark=")
		m, _, _ = strings.Cut(m, " ")
		v := uint32(0)
		for _, c := range m {
			v = v*10 + uint32(c-'0')
		}
		return v
	}
	pass := func(port packet.Port, f []byte, want uint32, cached uint64) {
		t.Helper()
		before := r.cached()
		if got := r.send(port, f); got.Verdict != Accept {
			t.Fatalf("%+v by %s", got, r.e.Ruleset().RuleName(got.Rule))
		}
		if m := mark(); m != want {
			t.Fatalf("mark %d, want %d", m, want)
		}
		if n := r.cached() - before; n != cached {
			t.Fatalf("%d cached verdicts, want %d", n, cached)
		}
	}
	out, back := pt.NewUDP(a, b), pt.NewUDP(b, a)
	pass(packet.Inside, out, 7, 0) // 0 becomes 7
	pass(packet.Outside, back, 7, 0)
	pass(packet.Outside, back, 7, 1) // tos is asked of packets to port 53 only
	pass(packet.Outside, back, 7, 1)
	if n := r.packets("FORWARD 1"); n != 4 {
		t.Errorf("%d packets with mark 7", n)
	}
	pass(packet.Inside, pt.NewUDP(a, b, pt.TOS(8)), 9, 0)
	pass(packet.Outside, back, 9, 0) // what was cached was for 7
	pass(packet.Outside, back, 9, 1)
	if n := r.packets("FORWARD 2"); n != 3 {
		t.Errorf("%d packets with mark 9", n)
	}
	if n, err := r.e.SetMarks(context.Background(), nil, 0x15, 1<<32-1, func([]conntrack.Info) error { return nil }); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := r.send(packet.Outside, back); got.Verdict != Drop {
		t.Errorf("an operator's mark is not seen: %+v", got)
	}
	if got := r.send(packet.Outside, back); got.Verdict != Drop || mark() != 0x15 {
		t.Errorf("%+v", got)
	}
	r.balanced()
}

// A new connection that is dropped behind its mark leaves nothing; one that is accepted has it from the beginning.
func TestConnMarkFresh(t *testing.T) {
	r := newTables(t, `*mangle
-A PREROUTING -j CONNMARK --set-mark 5
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -p udp --dport 53 -m connmark --mark 5 -j ACCEPT
COMMIT
`, nil)
	if got := r.send(packet.Inside, pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:54"))); got.Verdict != Drop || len(r.listing()) != 0 {
		t.Errorf("%+v", got)
	}
	events := make(chan conntrack.Event, 8)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- r.e.Events(ctx, 0, func(e []conntrack.Event, _ uint64) error {
			for i := range e {
				events <- e[i]
			}
			return nil
		})
	}()
	for r.e.listeners.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	if got := r.send(packet.Inside, pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:53"))); got.Verdict != Accept || !strings.Contains(r.listing()[0], "mark=5 ") {
		t.Errorf("%+v", got)
	}
	if e := <-events; e.Kind != conntrack.EventNew || e.Info.Mark != 5 {
		t.Errorf("%+v", e)
	}
	if n, err := r.e.SetMarks(context.Background(), nil, 1, 1<<32-1, func([]conntrack.Info) error { return nil }); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	r.send(packet.Inside, pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:53")))
	for _, want := range []uint32{1, 5} {
		for {
			e := <-events
			if e.Kind != conntrack.EventUpdate || e.Changed&conntrack.ChangedMark == 0 {
				continue
			}
			if e.Info.Mark != want {
				t.Errorf("%+v, want mark %d", e, want)
			}
			break
		}
	}
	cancel()
	<-done
}

// A mark from the raw table is the packet's behind tracking; its verdict is neither cached nor taken from the cache.
func TestRawMark(t *testing.T) {
	r := newTables(t, `*raw
-A PREROUTING -m tos --tos 8 -j MARK --set-mark 3
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -m mark --mark 3 -j DROP
COMMIT
`, nil)
	a, b := pt.AP("10.0.0.1:5000"), pt.AP("10.0.0.2:53")
	for k, want := range []Verdict{Accept, Accept, Drop, Accept, Drop, Drop, Accept} {
		tos := uint8(0)
		if want == Drop {
			tos = 8
		}
		if got := r.send(packet.Inside, pt.NewUDP(a, b, pt.TOS(tos))); got.Verdict != want {
			t.Errorf("packet %d: %+v", k, got)
		}
	}
	if s := r.stats(); s.Total().Cached != 3 {
		t.Errorf("%d cached verdicts", s.Total().Cached)
	}
}

// What rules change is on the frame that leaves, every packet of the connection, checksums right; longer frames too.
func TestChanges(t *testing.T) {
	r := newTables(t, `*mangle
-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -j DSCP --set-dscp 46
-A POSTROUTING -j TTL --ttl-set 9
-A POSTROUTING -j HL --hl-dec 1
-A POSTROUTING -m dscp --dscp 46
COMMIT
`, func(c *Config) { c.MTU = 576 })
	for _, hosts := range [][2]string{{"10.0.0.1:5000", "10.0.0.2:80"}, {"[2001:db8::1]:5000", "[2001:db8::2]:80"}} {
		a, b := pt.AP(hosts[0]), pt.AP(hosts[1])
		mss, base := uint16(536), 54
		ttl := uint8(9)
		if a.Addr().Is6() {
			mss, base, ttl = 516, 74, 63
		}
		for k, x := range []struct {
			frame []byte
			n     int
		}{
			{pt.NewTCP(a, b, pt.SYN), base + 4},
			{pt.NewTCP(a, b, pt.SYN, pt.TCPOptions(pt.MSS(1460))), base + 4},
			{pt.NewTCP(a, b, pt.SYN, pt.TCPOptions(pt.NOP(1), pt.MSS(1460), pt.NOP(3))), base + 8},
			{pt.NewTCP(a, b, pt.SYN, pt.VLAN(5)), base + 8},
		} {
			if got := r.send(packet.Inside, x.frame); got.Verdict != Accept {
				t.Fatalf("%+v", got)
			}
			out := r.out(packet.Outside)
			p := packet.Packet{Frame: []byte(out[0])}
			packet.Parse(&p)
			if int(p.End) != x.n || p.TTL != ttl || p.TOS>>2 != 46 || p.Problem != packet.ProblemNone || !p.VerifyChecksum() {
				t.Errorf("%s %d: TTL %d TOS %d %v, ends at %d", a, k, p.TTL, p.TOS, p.Problem, p.End)
			}
			if p.Family == 4 {
				if h := p.Frame[p.L3:p.L4]; packet.Checksum(packet.SumBytes(0, h)) != 0 {
					t.Errorf("%s %d: header checksum", a, k)
				}
			}
			o := slices.Index(p.Frame[p.L4+20:p.End], 2)
			if v := binary.BigEndian.Uint16(p.Frame[int(p.L4)+20+o+2:]); v != mss {
				t.Errorf("%s %d: MSS %d, want %d", a, k, v, mss)
			}
		}
	}
	if n := r.packets("mangle POSTROUTING 3"); n != 8 {
		t.Errorf("the changed DSCP is seen %d times", n)
	}
	if s := r.stats(); s.Total().Cached != 0 {
		t.Errorf("%d cached verdicts", s.Total().Cached)
	}
	r.balanced()
}

// Every fragment of a datagram gets what its IP header is changed to, and leaves in the order in which it came.
func TestChangedFragments(t *testing.T) {
	r := newTables(t, "*mangle\n-A FORWARD -j TOS --set-tos 0x10\n-A FORWARD -j TTL --ttl-dec 1\n-A FORWARD -j HL --hl-inc 1\nCOMMIT\n", nil)
	for _, hosts := range [][2]string{{"10.0.0.1:5000", "10.0.0.2:53"}, {"[2001:db8::1]:5000", "[2001:db8::2]:53"}} {
		frame := pt.NewUDP(pt.AP(hosts[0]), pt.AP(hosts[1]), pt.PayloadLen(3000))
		pieces := pt.Fragments(frame, 77, 1200)
		slices.Reverse(pieces)
		for _, f := range pieces {
			r.inject(0, packet.Inside, f)
		}
		r.settle()
		out := r.out(packet.Outside)
		if len(out) != len(pieces) {
			t.Fatalf("%d fragments left, want %d", len(out), len(pieces))
		}
		for k := range out {
			p, q := packet.Packet{Frame: []byte(out[k])}, packet.Packet{Frame: pieces[k]}
			packet.Parse(&p)
			packet.Parse(&q)
			ttl := q.TTL - 1
			if p.Family == 6 {
				ttl = q.TTL + 1
			}
			if p.TOS != 0x10 || p.TTL != ttl || p.FragOff != q.FragOff || p.Problem != packet.ProblemNone || string(p.Frame[p.L4:]) != string(q.Frame[q.L4:]) {
				t.Errorf("fragment %d: %+v", k, p.TTL)
			}
			if h := p.Frame[p.L3:p.L4]; p.Family == 4 && packet.Checksum(packet.SumBytes(0, h)) != 0 {
				t.Errorf("fragment %d: header checksum", k)
			}
		}
	}
	r.balanced()
}

// What rules change of a segment that came as fragments is in those that leave, as if it had come whole; an option that is
// not there is not added.
func TestChangedSegments(t *testing.T) {
	const text = "*mangle\n-A FORWARD -p tcp --syn -j TCPMSS --set-mss 1000\n-A FORWARD -p tcp -j TCPOPTSTRIP --strip-options timestamp\n" +
		"-A POSTROUTING -p tcp -j ECN --ecn-tcp-remove -4\n-A POSTROUTING -j HL --hl-set 3 -6\nCOMMIT\n"
	whole, cut := newTables(t, text, nil), newTables(t, text, nil)
	for _, hosts := range [][2]string{{"10.0.0.1:5000", "10.0.0.2:53"}, {"[2001:db8::1]:5000", "[2001:db8::2]:53"}} {
		a, b := pt.AP(hosts[0]), pt.AP(hosts[1])
		options := pt.TCPOptions(pt.NOP(2), pt.Timestamps(1, 2), pt.MSS(1460))
		for _, frame := range [][]byte{
			pt.NewTCP(a, b, pt.SYN|pt.ECE|pt.CWR, options, pt.PayloadLen(60)),
			pt.NewTCP(a, b, pt.SYN|pt.ECE|pt.CWR, options, pt.PayloadLen(60), pt.VLAN(7)),
			pt.NewTCP(a, b, pt.SYN, pt.TCPOptions(pt.SACKPermitted())),
		} {
			whole.send(packet.Inside, frame)
			p := packet.Packet{Frame: []byte(whole.out(packet.Outside)[0])}
			packet.Parse(&p)
			want := p.Frame[p.L4:p.End]
			if len(want) < 40 { // what was cut stays as long as it is
				want = frame[p.L4:]
			}
			size := 16
			if p.Family == 6 {
				size = 24 // a first fragment that ends before the TCP header does is none
			}
			pieces := pt.Fragments(frame, 77, size)
			slices.Reverse(pieces)
			for _, f := range pieces {
				cut.inject(0, packet.Inside, f)
			}
			cut.settle()
			got := make([]byte, len(want))
			for _, f := range cut.out(packet.Outside) {
				q := packet.Packet{Frame: []byte(f)}
				packet.Parse(&q)
				copy(got[q.FragOff:], q.Frame[q.L4:q.End])
				if q.TTL != p.TTL {
					t.Errorf("TTL %d, want %d", q.TTL, p.TTL)
				}
			}
			if string(got) != string(want) {
				t.Errorf("%s: fragments hold\n%x, want\n%x", hosts[0], got, want)
			}
		}
	}
	cut.balanced()
}

// What few rules ask of a connection, and of the time of day.
func TestRareQuestions(t *testing.T) {
	settings, err := conntrack.DefaultSettings().With("nf_conntrack_acct", 1)
	if err != nil {
		t.Fatal(err)
	}
	wall := time.Date(2026, 5, 4, 23, 59, 58, 0, time.UTC)
	r := newTables(t, `*filter
-A FORWARD -m connbytes --connbytes 3 --connbytes-mode packets --connbytes-dir both
-A FORWARD -m connlabel --label 70 --set
-A FORWARD -m connlabel --label 70
-A FORWARD -m time --timestop 12:00
-A FORWARD -m quota --quota 60
COMMIT
`, func(c *Config) {
		c.Settings = settings
		c.Wall = func() time.Time { return wall }
		c.Clock = func() int64 { return 0 }
	})
	a, b := pt.AP("10.0.0.1:5000"), pt.AP("10.0.0.2:53")
	for _, at := range []conntrack.Tick{1000, 1999, 2000, 1 << 31, 1<<32 - 1, 5000} {
		r.now = at
		r.send(packet.Inside, pt.NewUDP(a, b))
	}
	for k, want := range []uint64{1, 6, 6, 1, 2} {
		name := "FORWARD " + string(rune('1'+k))
		if n := r.packets(name); n != want {
			t.Errorf("%s: %d packets, want %d", name, n, want)
		}
	}
}
