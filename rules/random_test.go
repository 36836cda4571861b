package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// generator makes rule sets and packets from the same small pools, so that they meet.
type generator struct{ *rand.Rand }

func (g generator) pick(s ...string) string { return s[g.IntN(len(s))] }

func (g generator) not() string {
	if g.IntN(5) == 0 {
		return "! "
	}
	return ""
}

// addr returns an address of a pool.
func (g generator) addr(fam Family) netip.Addr {
	if fam == IPv4 {
		return netip.AddrFrom4([4]byte{10, byte(g.IntN(3)), byte(g.IntN(2) * 128), byte(g.IntN(3))})
	}
	b := netip.MustParseAddr("2001:db8::").As16()
	b[5], b[7], b[15] = byte(g.IntN(2)), byte(g.IntN(3)), byte(g.IntN(3))
	return netip.AddrFrom16(b)
}

func (g generator) prefix(fam Family) string {
	a := g.addr(fam)
	if fam == IPv4 {
		if g.IntN(12) == 0 {
			return a.String() + "/255.0.255.0"
		}
		return fmt.Sprintf("%s/%d", a, []int{0, 8, 16, 17, 24, 31, 32}[g.IntN(7)])
	}
	if g.IntN(12) == 0 {
		return a.String() + "/ffff:ffff:0:ffff::"
	}
	return fmt.Sprintf("%s/%d", a, []int{0, 32, 48, 64, 127, 128}[g.IntN(6)])
}

func (g generator) port() int { return []int{0, 1, 22, 53, 80, 443, 1024, 8080, 65535}[g.IntN(9)] }

func (g generator) ports() string {
	a, b := g.port(), g.port()
	if g.IntN(2) == 0 {
		return fmt.Sprint(a)
	}
	return fmt.Sprintf("%d:%d", min(a, b), max(a, b))
}

func (g generator) states() string {
	s := []string{"INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED"}
	g.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return strings.Join(s[:1+g.IntN(3)], ",")
}

// ruleSet writes a rule file for one family.
func (g generator) ruleSet(fam Family) string {
	var b strings.Builder
	users := g.IntN(5)
	fmt.Fprintf(&b, "*filter\n:FORWARD %s [0:0]\n", g.pick("ACCEPT", "DROP"))
	for i := range users {
		fmt.Fprintf(&b, ":u%d - [0:0]\n", i)
	}
	length := 14
	if g.IntN(4) == 0 {
		length = 300
	}
	chain := func(name string, first int) {
		for range g.IntN(length) {
			fmt.Fprintf(&b, "-A %s%s", name, g.conditions(fam))
			switch g.IntN(9) {
			case 8:
				b.WriteString(" -j " + g.pick("REJECT", "LOG --log-prefix x", "NFLOG"))
			case 0, 1:
				b.WriteString(" -j ACCEPT")
			case 2:
				b.WriteString(" -j DROP")
			case 3:
				b.WriteString(" -j RETURN")
			case 4, 5, 6:
				if first < users {
					fmt.Fprintf(&b, " %s u%d", g.pick("-j", "-j", "-g"), first+g.IntN(users-first))
				}
			}
			b.WriteByte('\n')
		}
	}
	chain("FORWARD", 0)
	for i := range users {
		chain(fmt.Sprintf("u%d", i), i+1)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func (g generator) conditions(fam Family) string {
	var b strings.Builder
	if g.IntN(3) == 0 {
		b.WriteString(" " + g.not() + "-s " + g.prefix(fam))
	}
	if g.IntN(3) == 0 {
		b.WriteString(" " + g.not() + "-d " + g.prefix(fam))
	}
	if g.IntN(6) == 0 {
		b.WriteString(" " + g.not() + "-i " + g.pick("inside", "outside", "eth0", "eth+", "br0", "in+", "+"))
	}
	if g.IntN(8) == 0 {
		b.WriteString(" " + g.not() + "-o " + g.pick("inside", "outside", "eth1", "eth+", "+"))
	}
	if fam == IPv4 && g.IntN(20) == 0 {
		b.WriteString(" " + g.not() + "-f")
	}
	icmp, module := "icmp", "-m icmp "
	types := []string{"echo-request", "echo-reply", "3", "3/1", "any", "11", "13"}
	opt := "--icmp-type "
	if fam == IPv6 {
		icmp, module, opt = "ipv6-icmp", "-m icmp6 ", "--icmpv6-type "
		types = []string{"echo-request", "echo-reply", "1", "1/4", "135", "packet-too-big"}
	}
	switch g.IntN(9) {
	case 0:
		b.WriteString(" -p tcp -m tcp")
		if g.IntN(2) == 0 {
			b.WriteString(" " + g.not() + "--sport " + g.ports())
		}
		if g.IntN(2) == 0 {
			b.WriteString(" " + g.not() + "--dport " + g.ports())
		}
		if g.IntN(4) == 0 {
			b.WriteString(" " + g.not() + "--syn")
		} else if g.IntN(4) == 0 {
			b.WriteString(" " + g.not() + "--tcp-flags SYN,ACK,PSH " + g.pick("SYN", "ACK", "NONE", "SYN,ACK"))
		}
		if g.IntN(5) == 0 {
			b.WriteString(" " + g.not() + "--tcp-option " + g.pick("2", "3", "4", "8"))
		}
		if g.IntN(6) == 0 {
			b.WriteString(" -m tcpmss " + g.not() + "--mss " + g.pick("1460", "0:1459", "1461:", ":"))
		}
	case 1:
		b.WriteString(" -p udp -m udp")
		if g.IntN(2) == 0 {
			b.WriteString(" " + g.not() + "--sport " + g.ports())
		}
		if g.IntN(2) == 0 {
			b.WriteString(" " + g.not() + "--dport " + g.ports())
		}
	case 2:
		b.WriteString(" -p " + icmp + " " + module + g.not() + opt + types[g.IntN(len(types))])
	case 5:
		b.WriteString(" -p sctp -m sctp " + g.not() + "--dport " + g.ports())
	case 6:
		b.WriteString(" -p tcp -m ecn " + g.not() + g.pick("--ecn-tcp-cwr", "--ecn-tcp-ece"))
	case 3:
		b.WriteString(" -p " + g.pick("tcp", "udp", "sctp", "udplite", "dccp") + " -m multiport " + g.not() + g.pick("--sports ", "--dports ", "--ports "))
		for i := range 1 + g.IntN(3) {
			if i > 0 {
				b.WriteByte(',')
			}
			if p, q := g.port(), g.port(); p < q {
				fmt.Fprintf(&b, "%d:%d", p, q)
			} else {
				fmt.Fprint(&b, p)
			}
		}
	case 4:
		b.WriteString(" " + g.not() + "-p " + g.pick("tcp", "udp", "47", "sctp", icmp))
	}
	switch g.IntN(6) {
	case 0:
		b.WriteString(" -m state " + g.not() + "--state " + g.states())
	case 1:
		b.WriteString(" -m conntrack")
		n := 0
		some := func(s string) {
			if g.IntN(4) == 0 {
				b.WriteString(" " + s)
				n++
			}
		}
		if g.IntN(2) == 0 {
			b.WriteString(" " + g.not() + "--ctstate " + g.states())
			n++
		}
		some(g.not() + "--ctproto " + g.pick("tcp", "udp", "1", "58"))
		for _, o := range []string{"orig", "repl"} {
			for _, e := range []string{"src", "dst"} {
				if g.IntN(2) == 0 {
					some(g.not() + "--ct" + o + e + " " + g.prefix(fam))
				} else {
					some(g.not() + "--ct" + o + e + "port " + g.ports())
				}
			}
		}
		some(g.not() + "--ctstatus " + g.pick("ASSURED", "SEEN_REPLY,CONFIRMED", "NONE", "EXPECTED"))
		some(g.not() + "--ctexpire " + g.pick("10", "5:100", "0:20"))
		some("--ctdir " + g.pick("ORIGINAL", "REPLY"))
		if n == 0 {
			b.WriteString(" --ctdir REPLY")
		}
	}
	if g.IntN(4) == 0 {
		b.WriteString(g.odd(fam))
	}
	if g.IntN(12) == 0 {
		b.WriteString(` -m comment --comment "a \"b\" c"`)
	}
	return b.String()
}

// odd returns one of the less frequent matches.
func (g generator) odd(fam Family) string {
	lo, hi := g.addr(fam), g.addr(fam)
	if hi.Less(lo) {
		lo, hi = hi, lo
	}
	ttl := " -m ttl " + g.pick("--ttl-eq 64", "! --ttl-eq 9", "--ttl-lt 100", "--ttl-gt 200")
	if fam == IPv6 && g.IntN(8) == 0 {
		return " -m rt " + g.pick("--rt-type 0", "--rt-type 0 --rt-0-res", "! --rt-type 0", "--rt-segsleft 1", "--rt-len 24", "! --rt-len 8 ! --rt-segsleft 0:1")
	}
	if fam == IPv6 {
		ttl = strings.ReplaceAll(ttl, "ttl", "hl")
	}
	return g.pick(
		fmt.Sprintf(" -m iprange %s--src-range %s-%s", g.not(), lo, hi),
		fmt.Sprintf(" -m iprange %s--dst-range %s-%s", g.not(), lo, hi),
		" -m addrtype "+g.not()+"--src-type "+g.pick("UNICAST", "LOCAL,MULTICAST")+" "+g.not()+"--dst-type "+g.pick("UNICAST", "MULTICAST"),
		" -m length "+g.not()+"--length 40:90",
		ttl,
		" -m tos "+g.not()+"--tos "+g.pick("0x10/0x10", "0x2", "8/0xf"),
		" -m dscp "+g.not()+"--dscp-class "+g.pick("EF", "AF11", "CS0"),
		" -m ecn "+g.not()+"--ecn-ip-ect "+g.pick("0", "1", "2"),
		" -m mark "+g.not()+"--mark "+g.pick("0", "1/1", "2"),
		" -m connmark "+g.not()+"--mark "+g.pick("0", "1/1", "2"),
		" -m mac "+g.not()+"--mac-source "+g.pick("02:00:00:00:00:01", "02:00:00:00:00:02"),
		" -m pkttype "+g.not()+"--pkt-type "+g.pick("unicast", "multicast", "broadcast"),
		" -m vlan "+g.not()+"--vlan-id "+g.pick("0", "1", "1:2"),
		" -m string "+g.not()+"--hex-string "+g.pick(`"|0a01|"`, `"|00|"`, `"|2001|"`)+" --algo "+g.pick("bm", "kmp --icase", "bm --from 14 --to 20"),
		" -m vlan "+g.not()+"--vlan-id "+g.pick("0", "1:")+" "+g.not()+"--vlan-pcp "+g.pick("0", "1", "2:"),
		" -m physdev "+g.not()+"--physdev-in "+g.pick("inside", "eth1", "br0"),
		" -m statistic --mode nth "+g.not()+"--every 2 --packet "+g.pick("0", "1")+" -m conntrack --ctstate "+g.states(),
	)
}

// flow is what the packets of one connection and direction have in common.
type flow struct {
	src, dst  netip.AddrPort
	proto     int
	typ, code uint8
	in        packet.Port
	ctx       Context
}

func (g generator) flow(fam Family) flow {
	f := flow{
		src:   netip.AddrPortFrom(g.addr(fam), uint16(g.port())),
		dst:   netip.AddrPortFrom(g.addr(fam), uint16(g.port())),
		proto: []int{6, 6, 6, 17, 17, 1, 132, 136, 33, 47}[g.IntN(10)],
		in:    packet.Port(g.IntN(2)),
		ctx:   Context{State: State(g.IntN(int(States))), Dir: Dir(g.IntN(2))},
	}
	if f.proto == 1 {
		f.typ, f.code = []uint8{8, 0, 13, 3, 11}[g.IntN(5)], uint8(g.IntN(2))
		if fam == IPv6 {
			f.typ = []uint8{128, 129, 1, 2, 135}[g.IntN(5)]
		}
		switch f.typ { // what a tracker can say of these
		case 8, 13, 128:
			f.ctx.Dir = Original
		case 0, 129:
			f.ctx.Dir = Reply
		case 135:
			f.ctx.State = Untracked
		}
	}
	return f
}

// packet makes one packet of the flow; what a flow does not fix is at random.
func (g generator) packet(f flow) (*packet.Packet, *Context) {
	var b []byte
	opts := []packettest.Option{packettest.TTL(uint8(1 + g.IntN(255))), packettest.TOS(uint8(g.IntN(256))), packettest.PayloadLen(g.IntN(100))}
	if g.IntN(4) == 0 {
		opts = append(opts, packettest.VLAN(uint16(g.IntN(3))))
	}
	src, dst := f.src.Addr(), f.dst.Addr()
	if src.Is6() && g.IntN(6) == 0 {
		if g.IntN(2) == 0 {
			opts = append(opts, packettest.HopByHop(nil))
		}
		opts = append(opts, packettest.Routing(byte(g.IntN(2)), []byte{0, 0, 0, byte(g.IntN(2)), 0}[g.IntN(2):]))
	}
	switch {
	case g.IntN(15) == 0 && (f.ctx.State == Invalid || f.ctx.State == Untracked):
		proto := f.proto
		if proto == 1 && src.Is6() {
			proto = 58
		}
		b = packettest.NewIP(src, dst, uint8(proto), packettest.PayloadLen(g.IntN(24)))
	case f.proto == 6:
		if g.IntN(3) == 0 {
			opts = append(opts, packettest.TCPOptions(packettest.MSS(1460), packettest.SACKPermitted(), packettest.NOP(g.IntN(3))))
		}
		if g.IntN(3) == 0 {
			opts = append(opts, packettest.TCPOptions(packettest.Timestamps(1, 2), []byte{byte(g.IntN(5)), byte(g.IntN(5))}))
		}
		b = packettest.NewTCP(f.src, f.dst, uint8(g.IntN(256)), opts...)
	case f.proto == 17:
		b = packettest.NewUDP(f.src, f.dst, opts...)
	case f.proto == 136:
		b = packettest.NewUDPLite(f.src, f.dst, opts...)
	case f.proto == 132:
		b = packettest.NewSCTP(f.src, f.dst, 1, nil, opts...)
	case f.proto == 33:
		b = packettest.NewDCCP(netip.AddrPortFrom(src, uint16(g.port())), f.dst, 0, opts...)
	case f.proto == 1:
		switch f.typ {
		case 3, 11, 1, 2:
			quoted := packettest.NewTCP(f.dst, f.src, packettest.ACK)
			b = packettest.NewICMPError(g.addr(famOf(src)), dst, f.typ, f.code, 0, quoted, 0)
		default:
			b = packettest.NewICMP(src, dst, f.typ, f.code, 7, uint16(g.IntN(9)), opts...)
		}
	default:
		b = packettest.NewGRE(src, dst, 0x800, opts...)
	}
	if b[12] == 0x81 {
		b[14] |= byte(g.IntN(4)) << 5
	}
	p := &packet.Packet{Frame: b, In: f.in}
	packet.Parse(p)
	c := f.ctx
	c.Status, c.Expires, c.Mark, c.ConnMark = uint32(g.IntN(16)), uint32(g.IntN(120)), uint32(g.IntN(4)), uint32(g.IntN(4))
	return p, &c
}

func famOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// compare judges a packet by both and fails when they differ in anything.
func compare(t *testing.T, m *Matcher, l *linear, p *packet.Packet, c *Context) Result {
	t.Helper()
	before := make([]Counter, m.rs.Counters())
	m.Counters(before)
	r := m.Match(p, c)
	m.Count(r.Trace, int(p.End)-int(p.L3))
	after := make([]Counter, m.rs.Counters())
	m.Counters(after)
	v, policy, tiny := l.judge(p, c)
	want := make([]uint64, m.rs.Counters())
	index := make(map[*Rule]int)
	for i := range m.rs.rules {
		index[m.rs.rules[i].Rule] = i
	}
	last := -1
	for _, x := range l.path {
		last = index[x]
		want[last]++
	}
	switch {
	case policy:
		last = int(m.rs.PolicyID(l.fam))
		want[last]++
	case tiny:
		last = len(m.rs.rules) + idShort
		want[last]++
	}
	if len(m.rs.prog[0].counters)+len(m.rs.prog[1].counters) == 0 { // a turn is not taken by Explain
		steps, x := m.rs.Explain(p, c)
		if x.Verdict != v || int(x.Rule) != last {
			t.Fatalf("explained as %v by %s, want %v by %s", x.Verdict, m.rs.RuleName(x.Rule), v, m.rs.RuleName(RuleID(last)))
		}
		n := 0
		for _, s := range steps {
			if s.Matched != (s.Why == "") || s.Matched && s.Rule != RuleID(index[l.path[n]]) {
				t.Fatalf("step %+v", s)
			}
			if s.Matched {
				n++
			}
		}
	}
	if r.Verdict != v || int(r.Rule) != last {
		t.Fatalf("verdict %v by %s, want %v by %s", r.Verdict, m.rs.RuleName(r.Rule), v, m.rs.RuleName(RuleID(last)))
	}
	for i := range want {
		if got := after[i].Packets - before[i].Packets; got != want[i] || after[i].Bytes-before[i].Bytes != want[i]*uint64(int(p.End)-int(p.L3)) {
			t.Fatalf("counter of %s: %d packets, want %d", m.rs.RuleName(RuleID(i)), got, want[i])
		}
	}
	if r.Trace != 0 {
		if s := m.TraceResult(r.Trace); s.Verdict != v || int(s.Rule) != last || !TraceValid(r.Trace, p.In, c.State) || m.TraceState(r.Trace) != c.State {
			t.Fatalf("trace %#x gives %+v", r.Trace, s)
		}
	}
	return r
}

// TestRandom compares the compiled form with the linear one: verdict, deciding rule, every counter; and that packets of
// one connection and direction take the same path where that was promised.
func TestRandom(t *testing.T) {
	sets, packets := 250, 60
	if testing.Short() {
		sets = 50
	}
	opt := Options{InsideName: "eth0", OutsideName: "eth1"}
	cached := 0
	for seed := range sets {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := generator{rand.New(rand.NewPCG(uint64(seed), 1))}
		text := g.ruleSet(fam)
		f, err := Parse("random", []byte(text), fam)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		rs, err := Compile([]*File{f}, opt)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		m, l := rs.NewMatcher(), newLinear([]*File{f}, fam, opt)
		if seed%5 == 0 {
			m.nodes = m.nodes[:0:min(2, cap(m.nodes))] // almost no room for paths
		}
		for range packets {
			fl := g.flow(fam)
			p, c := g.packet(fl)
			ok := t.Run("", func(t *testing.T) {
				r := compare(t, m, l, p, c)
				if !r.Cacheable {
					return
				}
				cached++
				for range 4 {
					p, c := g.packet(fl)
					if s := compare(t, m, l, p, c); s.Rule != r.Rule || s.Trace != r.Trace {
						t.Fatalf("a packet of the same connection took another path: %s, %s", rs.RuleName(r.Rule), rs.RuleName(s.Rule))
					}
				}
			})
			if !ok {
				t.Fatalf("seed %d, packet %+v %+v\n%s", seed, *p, *c, text)
			}
		}
	}
	if cached == 0 {
		t.Error("nothing was cacheable")
	}
	t.Logf("%d of %d packets cacheable", cached, sets*packets)
}
