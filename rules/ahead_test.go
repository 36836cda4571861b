package rules

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/rules/rulestest"
)

// TestPrepare: for bursts of any length, with packets that changed or changed places in between, in any state, MatchPrepared
// returns what Match does, after changes of rules too; and it has something to return for many.
func TestPrepare(t *testing.T) {
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
				m.ahead.vectors = hasVectors() && g.IntN(3) > 0
				n, s := burstOf(t, g, m, fam)
				packets, settled = packets+n, settled+s
			}
			verb := g.Pick(" -j DROP", " -j ACCEPT")
			chain, list, err := ParseRule("line", "filter", fam, line("FORWARD", verb))
			if err != nil {
				t.Fatal(err)
			}
			at := Place{Table: "filter", Chain: chain, Family: fam, Number: 1 + g.IntN(1+len(rs.Chains()[0].Rules))}
			if rs, _, err = rs.Insert(at, list[0]); err != nil {
				t.Fatal(err)
			}
			at.Number = 1 + g.IntN(len(rs.Chains()[0].Rules))
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
		if i < BurstSize && m.ahead.lanes[i].found != 0 && c.State == New {
			settled++
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
		var a [2]ahead
		list := 0
		for i := range BurstSize {
			if r.IntN(BurstSize) >= int(lanes) {
				continue
			}
			a[0].todo[list] = uint16(i)
			list++
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
			a[0].lanes[i] = lane{key: [2]uint64{uint64(src)<<32 | uint64(dst), restOf(sport, dport, x.proto|uint8(r.Uint32())&^x.protoMask, in)}, found: noEntry}
		}
		a[1] = a[0]
		a[1].vectors = hasVectors()
		for k := range a {
			a[k].lookup(g, g.trees[ch.first:ch.first+ch.n], list)
		}
		for _, i := range a[0].todo[:list] {
			l := &a[0].lanes[i]
			want := none
			for k := range g.narrow {
				x := g.box(k)
				addrs, rest := l.key[keyAddrs], l.key[keyRest]
				if x.isDead() || uint64(uint32(x.src.Lo)^uint32(addrs>>32))&x.srcMask.Lo != 0 || uint64(uint32(x.dst.Lo)^uint32(addrs))&x.dstMask.Lo != 0 || x.protoMask&(x.proto^uint8(rest>>32)) != 0 {
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
			for k := range a {
				got := none
				if f := a[k].lanes[i].found; f != noEntry {
					got = uint32(f >> rankShift)
				}
				if got != want {
					t.Fatalf("lane %d, key %x, way %d: rank %d, want %d", i, l.key, k, got, want)
				}
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
