package rules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/rules/rulestest"
)

// TestPrepare: for bursts of any length, with packets that changed or changed places in between, in any state, MatchPrepared
// returns what Match does, after changes of rules too, in every form; and it has something to return for many.
func TestPrepare(t *testing.T) {
	t.Logf("forms 0 to %d of 0 to %d: this processor has no others", fastest(), burstForm)
	packets, settled := 0, 0
	for seed := range uint64(60) {
		fam := []Family{IPv4, IPv4, IPv6}[seed%3]
		g := newGenerator(seed, 12)
		x := &changed{table: "filter", fam: fam, policy: g.Pick("ACCEPT", "DROP"), names: []string{"FORWARD", "u"}, lines: make(map[string][]string)}
		line := func(chain, verb string) string {
			for {
				l := "-A " + chain + g.Conditions(version(fam), false) + verb
				// Their answers depend on how often they are asked.
				if !strings.Contains(l, "-m limit") && !strings.Contains(l, "-m statistic") && !strings.Contains(l, "-m quota") {
					return l
				}
			}
		}
		for _, n := range x.names {
			for range g.IntN([]int{5, 60, 400}[seed/3%3]) {
				verb := g.Pick(" -j DROP", " -j ACCEPT", " -j ACCEPT", " -j REJECT", " -j LOG", "", " -j u")
				if n == "u" && verb == " -j u" {
					verb = " -j RETURN"
				}
				x.lines[n] = append(x.lines[n], line(n, verb))
			}
		}
		f, err := Parse("ahead", x.text(), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{InsideName: "eth0", OutsideName: "eth1", Clock: true, Wall: true, Counts: true, Logs: seed%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			m := rs.NewMatcher()
			for range 12 {
				m.ahead.form = form(g.IntN(int(fastest()) + 1))
				n, s := burstOf(t, g, m, fam)
				packets, settled = packets+n, settled+s
			}
			verb := g.Pick(" -j DROP", " -j ACCEPT")
			chain, list, err := ParseRule("line", "filter", fam, line("FORWARD", verb))
			if err != nil {
				t.Fatal(err)
			}
			at := Place{Table: "filter", Chain: chain, Family: fam, Number: 1 + g.IntN(1+rs.List(0).Len())}
			if rs, _, err = rs.Insert(at, list[0]); err != nil {
				t.Fatal(err)
			}
			at.Number = 1 + g.IntN(rs.List(0).Len())
			if rs, _, err = rs.Delete(at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if settled < packets/20 {
		t.Errorf("%d of %d packets were settled", settled, packets)
	}
}

// burstOf compares Match and MatchPrepared for one burst, and says how many packets were judged and how many of these were
// settled by Prepare.
func burstOf(t *testing.T, g generator, m *Matcher, fam Family) (n, settled int) {
	t.Helper()
	n = g.IntN(BurstSize + 9)
	pkts, list := make([]packet.Packet, n), make([]*Context, n)
	var flow rulestest.Flow
	for i := range pkts {
		if i == 0 || g.IntN(3) > 0 {
			flow = g.Flow(version(fam))
		}
		p, c := g.packet(flow)
		if g.IntN(2) == 0 {
			c.State = New
		}
		pkts[i], list[i] = *p, c
		if g.IntN(8) == 0 {
			pkts[i].Hint = 1
		}
	}
	m.Prepare(pkts)
	for i := range pkts {
		p, c := &pkts[i], list[i]
		other := g.IntN(n)
		switch g.IntN(16) {
		case 0:
			p.In = p.In.Other()
		case 1:
			p.SrcPort++
		case 2:
			p.DstPort--
		case 3:
			p.Src, p.Dst = p.Dst, p.Src
		case 4:
			p.Src.Hi ^= 1
		case 5:
			p.Flags &^= packet.PortsValid
		case 6:
			p.Flags |= packet.ICMPError
		case 7:
			p.Flags |= packet.LaterFragment
		case 8:
			*p = pkts[other]
		case 9:
			c.State = State(g.IntN(int(States)))
		case 10:
			if p.End > p.L4 {
				p.End -= uint32(g.IntN(int(p.End-p.L4) + 1)) // a short transport header has no ports
				p.Flags &^= packet.PortsValid
			}
		}
		b, d := *c, *c
		want := m.Match(p, &b)
		logged := fmt.Sprint(m.Logged())
		got := m.MatchPrepared(i, p, &d)
		if got != want || fmt.Sprint(m.Logged()) != logged {
			t.Fatalf("packet %d of %d, %+v: %+v, want %+v", i, n, *p, got, want)
		}
		if i < BurstSize && c.State == New {
			if l := m.ahead.lane[i]; l != noLane && m.ahead.found[l] != 0 {
				settled++
			}
		}
	}
	return n, settled
}

// FuzzLookup: for a burst of packets at the corners of rules lookup, with vectors and without, finds the entry that a look at all
// entries finds, after changes too.
func FuzzLookup(f *testing.F) {
	for i, n := range []uint16{1, 2, 9, 30, 100, 700, 3000} {
		f.Add(uint64(i), n, uint8(1+i*11))
	}
	f.Fuzz(func(t *testing.T, seed uint64, n uint16, lanes uint8) {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		pick := func(list ...string) string { return list[r.IntN(len(list))] }
		near := r.Uint32()
		addr := func() string {
			a := r.Uint32()
			if r.IntN(4) > 0 {
				a = near&^0xfff | a&0xfff
			}
			return fmt.Sprintf("%d.%d.%d.%d/%s", a>>24, a>>16&255, a>>8&255, a&255, pick("32", "32", "30", "24", "21", "12", "0", "255.0.255.0", "0.0.0.255", "127.255.255.254"))
		}
		port := func() string {
			lo := []int{0, 80, 1024, 65535, r.IntN(1 << 16)}[r.IntN(5)]
			return fmt.Sprintf("%d:%d", lo, min(lo+[]int{0, 0, 1, 500, 65535}[r.IntN(5)], 65535))
		}
		line := func() string {
			l := "-A FORWARD -s " + addr() + " -d " + addr() + pick("", "", "", " -i eth0", " ! -i eth0", " -o eth0", " -i none")
			if proto := pick("tcp", "udp", "47", ""); proto != "" {
				l += " -p " + proto
				if proto != "47" && r.IntN(4) > 0 {
					l += " -m " + proto + " --sport " + port() + " --dport " + port()
				}
			}
			return l + pick("", "", "", " -m state --state NEW", " -m state --state ESTABLISHED", " -m ttl --ttl 3") + pick(" -j ACCEPT", " -j DROP", " -j LOG", " -j REJECT")
		}
		text := []byte("*filter\n:FORWARD DROP [0:0]\n")
		for range n % 4000 {
			text = append(append(text, line()...), '\n')
		}
		file, err := Parse("lookup", append(text, "COMMIT\n"...), IPv4)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{file}, Options{InsideName: "eth0", OutsideName: "eth1"})
		if err != nil {
			t.Fatal(err)
		}
		for range r.IntN(4) {
			chain, list, err := ParseRule("line", "filter", IPv4, line())
			if err != nil {
				t.Fatal(err)
			}
			at := Place{Table: "filter", Chain: chain, Family: IPv4, Number: 1 + r.IntN(1+rs.Len())}
			if rs, _, err = rs.Insert(at, list[0]); err != nil {
				t.Fatal(err)
			}
			at.Number = 1 + r.IntN(rs.Len())
			if rs, _, err = rs.Delete(at); err != nil {
				t.Fatal(err)
			}
		}
		g := &rs.prog[filterPlace]
		ch := g.chains[0]
		var a [burstForm + 1]ahead
		used := 1 + int(lanes)%BurstSize
		for i := range used {
			var x wide
			if k := len(g.narrow); k > 0 {
				x = g.box(r.IntN(k))
			}
			src, dst := uint32(x.src.Lo)|r.Uint32()&^uint32(x.srcMask.Lo), uint32(x.dst.Lo)|r.Uint32()&^uint32(x.dstMask.Lo)
			sport, dport := x.sport+uint16(r.IntN(2))*x.sportSpan, x.dport+uint16(r.IntN(int(x.dportSpan)+1))
			switch r.IntN(8) {
			case 0:
				src ^= 1 << r.IntN(32)
			case 1:
				dst ^= 1 << r.IntN(32)
			case 2:
				sport--
			case 3:
				dport++
			}
			in := packet.Port(r.IntN(packet.Ports))
			a[0].key[keyAddrs][i], a[0].key[keyRest][i] = uint64(src)<<32|uint64(dst), restOf(sport, dport, x.proto|uint8(r.Uint32())&^x.protoMask, in)
			a[0].kind[i] = uint64(r.Uint32())<<32 | uint64(packet.Flags(r.Uint32())&askedFlags)
		}
		a[0].same = newAhead().same
		policy := uint64(rs.policyID(filterPlace)) | uint64(r.IntN(2))<<settledVerdict
		settled := make([][BurstSize]uint64, fastest()+1)
		for k := range settled {
			x := &a[k]
			x.key, x.kind, x.same, x.form = a[0].key, a[0].kind, a[0].same, form(k)
			x.lookup(g, g.trees[ch.first:ch.first+ch.n], used)
			y := *x
			y.finish(g, policy, used)
			settled[k] = y.found
			for i := range used {
				if settled[k][i] != settled[0][i] {
					t.Fatalf("lane %d of %d, key %x and %x, kind %x, form %d: settled as %x, want %x", i, used, x.key[0][i], x.key[1][i], x.kind[i], k, settled[k][i], settled[0][i])
				}
			}
		}
		for i := range used {
			want := none
			for k := range g.narrow {
				x := g.box(k)
				overlaid := slices.ContainsFunc(g.overlays, func(o overlay) bool { return slices.Contains(o.entries, uint32(k)) })
				addrs, rest := a[0].key[keyAddrs][i], a[0].key[keyRest][i]
				if x.ranked()&g.low() != g.low() && !overlaid || uint64(uint32(x.src.Lo)^uint32(addrs>>32))&x.srcMask.Lo != 0 || uint64(uint32(x.dst.Lo)^uint32(addrs))&x.dstMask.Lo != 0 || x.protoMask&(x.proto^uint8(rest>>32)) != 0 {
					continue
				}
				if p := uint16(rest >> 16); p < x.sport || p > x.sport+x.sportSpan {
					continue
				}
				if p := uint16(rest); p < x.dport || p > x.dport+x.dportSpan {
					continue
				}
				if x.allow>>allowBit(New, packet.Port(rest>>48))&1 != 0 {
					want = min(want, x.rule&^more)
				}
			}
			for k := range settled {
				got := none
				if f := a[k].found[i]; f != noEntry {
					got = uint32(f >> rankShift)
				}
				if got != want {
					t.Fatalf("lane %d of %d, key %x and %x, form %d: rank %d, want %d", i, used, a[0].key[0][i], a[0].key[1][i], k, got, want)
				}
			}
		}
	})
}

// FuzzFill: every form gives the same lanes to the same packets.
func FuzzFill(f *testing.F) {
	for n := range uint8(BurstSize + 1) {
		f.Add(uint64(n), n)
	}
	f.Fuzz(func(t *testing.T, seed uint64, n uint8) {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		pkts := make([]packet.Packet, n%(BurstSize+1))
		odd := 1 + r.IntN(20) // one in so many is left to Match
		for i := range pkts {
			p := &pkts[i]
			p.Key.Set(packet.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, packet.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, 1, 2, 3, 4)
			p.Src, p.Dst, p.Hash = packet.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, packet.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, r.Uint64()
			p.L3, p.L4, p.End, p.IPID, p.FragHdr = r.Uint32(), r.Uint32N(1000), 1000+r.Uint32N(60), r.Uint32(), r.Uint32()
			if r.IntN(2) == 0 {
				p.End = p.L4 + r.Uint32N(2*longestHeader)
			}
			p.SrcPort, p.DstPort, p.FragOff, p.VLAN = uint16(r.Uint32()), uint16(r.Uint32()), uint16(r.Uint32()), uint16(r.Uint32())
			p.Flags, p.Proto, p.Family, p.In = packet.Flags(r.Uint32())&^lostHeaders, uint8(r.Uint32()), 4, packet.Port(r.IntN(packet.Ports))
			p.ICMPType, p.ICMPCode, p.TCPFlags, p.TTL, p.TOS = uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32())
			p.Class, p.Problem = packet.Class(r.Uint32()), packet.Problem(r.Uint32())
			if r.IntN(odd) == 0 {
				switch r.IntN(3) {
				case 0:
					p.Hint = 1 << r.IntN(64)
				case 1:
					p.Family = []uint8{0, 6, 5, 12}[r.IntN(4)]
				case 2:
					p.Flags |= []packet.Flags{packet.BrokenChain, packet.LaterFragment}[r.IntN(2)]
				}
			}
		}
		var a [burstForm + 1]ahead
		for k := range int(fastest()) + 1 {
			x := &a[k]
			x.form = form(k)
			for i := range x.lane {
				x.lane[i] = uint8(r.Uint32()) // of the burst before
			}
			n := x.lanes(pkts)
			for i := range pkts {
				p, l := &pkts[i], x.lane[i]
				whole := p.Flags&lostHeaders == 0 && (p.Flags&packet.PortsValid != 0 || p.End-p.L4 >= longestHeader)
				if p.Hint != 0 || p.Family != 4 || !whole {
					if l != noLane {
						t.Fatalf("form %d, packet %d of %d has lane %d: %+v", k, i, len(pkts), l, p)
					}
					continue
				}
				if int(l) >= n {
					t.Fatalf("form %d, packet %d of %d has lane %d: %+v", k, i, len(pkts), l, p)
				}
				if x.key[keyAddrs][l] != addrsOf(p) || x.key[keyRest][l] != restOf(p.SrcPort, p.DstPort, p.Proto, p.In) || x.kind[l] != kindOf(p) {
					t.Fatalf("form %d, packet %d of %d, lane %d: key %x and %x, kind %x: %+v", k, i, len(pkts), l, x.key[0][l], x.key[1][l], x.kind[l], p)
				}
			}
			if x.lane != a[0].lane && len(pkts) > 0 {
				t.Fatalf("form %d: lanes %v, want %v", k, x.lane, a[0].lane)
			}
		}
	})
}

// TestPrepareAllocates nothing, and neither does what comes behind it.
func TestPrepareAllocates(t *testing.T) {
	set, text := classBench(t, "acl1_1k")
	m := compiled(t, text).NewMatcher()
	pkts := headers(set, BurstSize, 2)
	c := Context{State: New}
	if n := testing.AllocsPerRun(100, func() {
		m.Prepare(pkts)
		for i := range pkts {
			m.MatchPrepared(i, &pkts[i], &c)
		}
	}); n != 0 {
		t.Errorf("%v allocations a burst", n)
	}
}
