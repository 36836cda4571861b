package rules

import (
	"net/netip"
	"strings"
	"testing"

	"corewire/internal/ipset"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// TestSets compiles rules with sets and follows packets through them: what a rule adds is seen by the next packet, what
// an operator changes too, and verdicts are kept only where nothing but an order changes them.
func TestSets(t *testing.T) {
	reg := ipset.New(ipset.Options{})
	err := reg.Restore("sets", []byte(`create good hash:ip
add good 10.0.0.1
create counted hash:net counters
add counted 10.0.0.0/8
create knock hash:ip timeout 30
create marks hash:ip skbinfo
add marks 10.0.0.9 skbmark 0x5/0xf
create ports bitmap:port range 0-100
add ports 53
create via hash:net,iface
add via 0.0.0.0/0,eth7
create both list:set
add both good
`), false, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := `*mangle
:FORWARD ACCEPT [0:0]
-A FORWARD -j SET --map-set marks src --map-mark
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m set --match-set good src -j ACCEPT
-A FORWARD -p udp -m set --match-set ports dst -m set ! --match-set knock src -j SET --add-set knock src --exist --timeout 60
-A FORWARD -m set --match-set knock src -m set --match-set via dst,src -j ACCEPT
-A FORWARD -m mark --mark 0x5 -m set --match-set counted src --return-nomatch ! --update-counters --packets-lt 5 -j ACCEPT
-A FORWARD -m mark --mark 0x5 -m set --match-set counted src ! --update-subcounters ! --packets-eq 5 --bytes-gt 3 -j ACCEPT
-A FORWARD -p tcp -j SET --del-set knock src
-A FORWARD -m set --match-set both src,dst -j ACCEPT
COMMIT
`
	f, err := Parse("r", []byte(text), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{Sets: reg, InsideName: "eth7", Clock: true})
	if err != nil {
		t.Fatal(err)
	}
	// What is printed is what was read.
	printed := string(rs.AppendSave(nil, IPv4, nil))
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "-A") && !strings.Contains(printed, line) {
			t.Errorf("%s is not in\n%s", line, printed)
		}
	}
	m := rs.NewMatcher()
	c := &Context{}
	send := func(src string, tcp bool, in packet.Port) Result {
		a, b := netip.AddrPortFrom(netip.MustParseAddr(src), 99), packettest.AP("10.7.7.7:53")
		p := packet.Packet{In: in, Frame: packettest.NewUDP(a, b)}
		if tcp {
			p.Frame = packettest.NewTCP(a, b, 2)
		}
		packet.Parse(&p)
		c.Mark = 0
		c.State = New
		r := m.Match(&p, c)
		m.Count(r.Trace, 28)
		return r
	}
	check := func(what string, r Result, v Verdict, cacheable bool) {
		t.Helper()
		if r.Verdict != v || r.Cacheable() != cacheable {
			t.Errorf("%s: %v by %s, cacheable %v", what, r.Verdict, rs.RuleName(r.Rule), r.Cacheable())
		}
	}
	check("member", send("10.0.0.1", false, packet.Outside), Accept, false) // table mangle looks into a set for each packet
	check("first knock", send("10.0.0.2", false, packet.Inside), Accept, false)
	check("other side", send("10.0.0.2", false, packet.Outside), Drop, false)
	c.Now = 61e9
	check("marked", send("10.0.0.9", true, packet.Outside), Accept, false)
	list, _ := reg.List("counted", true, true, 0)
	if list[0].Members[0] != "10.0.0.0/8 packets 1 bytes 40" {
		t.Errorf("counted has %v", list[0].Members)
	}
	send("10.0.0.2", true, packet.Inside)
	if _, err := reg.Do([]string{"add", "good", "10.0.0.2"}, false, 0); err != nil {
		t.Fatal(err)
	}
	check("added by hand", send("10.0.0.2", true, packet.Outside), Accept, false)

	// Without anything that changes sets, verdicts about plain ones are kept.
	g, err := Parse("r", []byte("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m set --match-set good src -j ACCEPT\n-A FORWARD -m set --match-set knock src -j ACCEPT\nCOMMIT\n"), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if rs, err = Compile([]*File{g}, Options{Sets: reg}); err != nil {
		t.Fatal(err)
	}
	m = rs.NewMatcher()
	check("plain set", send("10.0.0.1", false, packet.Outside), Accept, true)
	check("behind a set with timeouts", send("10.0.0.3", false, packet.Outside), Drop, false)
	if all, moved := rs.Sets(); len(all) != 2 || len(moved) != 0 {
		t.Errorf("%d sets, %d moved", len(all), len(moved))
	}
}

// TestSetErrors tests what is said of rules about sets.
func TestSetErrors(t *testing.T) {
	reg := ipset.New(ipset.Options{})
	if err := reg.Restore("s", []byte("create blocked hash:ip\ncreate six hash:ip,port family inet6\n"), false, 0); err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[string]string{
		"-m set --match-set bloked src -j DROP":                  `r:3:31: expected a set that exists, found "bloked" (did you mean blocked?)`,
		"-m set --match-set blocked from -j DROP":                `r:3:39: expected src or dst for each dimension of the set, found "from" (such as src,dst)`,
		"-m set --return-nomatch -j DROP":                        "--match-set after -m set",
		"-m set --match-set blocked src,src,src,src,src,src,src": "at most 6 directions",
		"-j SET --map-set blocked src --map-mark":                "it in table mangle",
		"-j SET --exist": "--add-set, --del-set or --map-set after -j SET",
		"-j SET --del-set blocked src --timeout 3":        "with --add-set only",
		"-j SET --add-set nope src":                       "a set that exists",
		"-m set --match-set blocked src ! --packets-lt 3": "no ! before --packets-lt",
	} {
		f, err := Parse("r", []byte("*filter\n:FORWARD DROP [0:0]\n-A FORWARD "+rule+"\nCOMMIT\n"), IPv4)
		if err == nil {
			_, err = Compile([]*File{f}, Options{Sets: reg})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rule, err)
		}
	}
	f, err := Parse("r", []byte("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m set --match-set six src\nCOMMIT\n"), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{Sets: reg})
	if err != nil || len(rs.Warnings()) != 1 {
		t.Errorf("%v %v", err, rs.Warnings())
	}
}
