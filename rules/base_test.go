package rules

import (
	"net/netip"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

func compileText(t *testing.T, text string, fam Family) *Ruleset {
	t.Helper()
	f, err := Parse("x", []byte(text), fam)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{InsideName: "eth0", OutsideName: "eth1", Clock: true, Wall: true, Counts: true})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func tcpPacket() *packet.Packet {
	p := &packet.Packet{Frame: packettest.NewTCP(netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("10.0.0.2:80"), packettest.SYN)}
	packet.Parse(p)
	return p
}

// One packet's way through all tables: names of what counts it.
func TestBaseChains(t *testing.T) {
	const tables = "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:u - [0:0]\n" +
		"-A PREROUTING -j u\n-A PREROUTING -j ACCEPT\n-A POSTROUTING -j u\n-A u ! -i inside\n-A u ! -o outside\n-A u -i +\n-A u -m physdev --physdev-out inside\n" +
		"-A u -m physdev --physdev-is-bridged\n-A u -m physdev --physdev-in inside\nCOMMIT\n" +
		"*security\n-A FORWARD -p udp -j DROP\nCOMMIT\n*filter\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n"
	rs := compileText(t, tables, IPv4)
	m := rs.NewMatcher()
	r := m.Match(tcpPacket(), &Context{State: New})
	if r.Verdict != Accept || rs.RuleName(r.Rule) != "FORWARD 1" || !r.Cacheable() || m.TraceResult(r.Trace) != r {
		t.Fatalf("%+v", r)
	}
	m.Count(r.Trace, 40)
	m.Count(r.Trace, 40)
	all := make([]Counter, rs.Counters())
	m.Counters(all)
	want := map[string]uint64{
		"mangle PREROUTING 1": 1, "mangle PREROUTING 2": 1, "mangle FORWARD policy": 1, "FORWARD 1": 1, "security FORWARD policy": 1, "mangle POSTROUTING 1": 1, "mangle POSTROUTING policy": 1,
		"mangle u 1": 1, // POSTROUTING knows no way in
		"mangle u 2": 1, // PREROUTING knows no way out
		"mangle u 3": 2,
		"mangle u 4": 1, // not asked in PREROUTING
		"mangle u 5": 1,
		"mangle u 6": 2,
	}
	n := map[string]Counter{}
	for id := range all {
		name := rs.RuleName(RuleID(id))
		n[name] = Counter{n[name].Packets + all[id].Packets, n[name].Bytes + all[id].Bytes}
	}
	for name, k := range n {
		if k.Packets != 2*want[name] || k.Bytes != 80*want[name] {
			t.Errorf("%s: %+v, want %d", name, k, 2*want[name])
		}
	}
	p := tcpPacket()
	if a := testing.AllocsPerRun(20, func() { m.Match(p, &Context{State: New}) }); a != 0 {
		t.Errorf("%v allocations", a)
	}
	if got := string(rs.AppendSave(nil, IPv4, nil)); !strings.HasPrefix(got, "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:u - [0:0]\n[0:0] -A PREROUTING -j u\n") ||
		!strings.HasSuffix(got, "*security\n:FORWARD ACCEPT [0:0]\n[0:0] -A FORWARD -p udp -j DROP\nCOMMIT\n") {
		t.Error(got)
	}
}

// Which rule of which table decides.
func TestBaseVerdicts(t *testing.T) {
	for _, x := range []struct{ text, decided string }{
		{"*mangle\n-A PREROUTING -j DROP\nCOMMIT\n", "mangle PREROUTING 1"},
		{"*mangle\n:FORWARD DROP [0:0]\nCOMMIT\n", "mangle FORWARD policy"},
		{"*mangle\n-A POSTROUTING -p tcp -j DROP\nCOMMIT\n*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n", "mangle POSTROUTING 1"},
		{"*filter\n:FORWARD DROP [0:0]\nCOMMIT\n*mangle\n-A POSTROUTING -p tcp -j ACCEPT\nCOMMIT\n", "FORWARD policy"},
		{"*security\n:FORWARD DROP [0:0]\nCOMMIT\n", "security FORWARD policy"},
		{"*mangle\n:INPUT DROP [0:0]\nCOMMIT\n", ""},
	} {
		rs := compileText(t, x.text, Both)
		r := rs.NewMatcher().Match(tcpPacket(), &Context{State: New})
		got := ""
		if r.Verdict == Drop {
			got = rs.RuleName(r.Rule)
		}
		if got != x.decided {
			t.Errorf("%s: dropped by %q, want %q", x.text, got, x.decided)
		}
		if _, e := rs.Explain(tcpPacket(), &Context{State: New}); e.Rule != r.Rule || e.Verdict != r.Verdict {
			t.Errorf("%s: explained as %+v", x.text, e)
		}
	}
}

func TestBaseRefused(t *testing.T) {
	for _, x := range []struct{ text, want string }{
		{"*mangle\n-A PREROUTING -o eth0\nCOMMIT\n", "no -o in PREROUTING"},
		{"*mangle\n-A POSTROUTING -i eth0\nCOMMIT\n", "no -i in POSTROUTING"},
		{"*mangle\n-A FORWARD -j REJECT\nCOMMIT\n", "it in table filter"},
		{"*filter\n-A FORWARD -j CHECKSUM --checksum-fill\nCOMMIT\n", "it in table mangle"},
		{"*mangle\n:u - [0:0]\n-A u -j u\nCOMMIT\n", "without a loop"},
		{"*mangle\n-A FORWARD -j nowhere\nCOMMIT\n", "a target or a chain"},
	} {
		f, err := Parse("x", []byte(x.text), IPv4)
		if err == nil {
			_, err = Compile([]*File{f}, Options{})
		}
		if err == nil || strings.Count(err.Error(), x.want) != 1 {
			t.Errorf("%s: %v", x.text, err)
		}
	}
}
