package rules

import (
	"testing"

	"corewire/internal/ipset"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// TestJudgeRandom: a connection whose first packet the rules accept is never refused; where rules ask nothing that a table
// does not keep, the answer is the verdict itself.
func TestJudgeRandom(t *testing.T) {
	opt := Options{InsideName: "eth0", OutsideName: "eth1", Wall: true, Counts: true, Clock: true}
	var refused, admitted, vague, exact int
	for seed := range uint64(160) {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(seed, 77)
		f, err := Parse("random", []byte(g.RuleSet(version(fam))), fam)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, opt)
		if err != nil {
			t.Fatal(err)
		}
		kept := true
		for i := range rs.prog {
			for _, q := range rs.prog[i].preds {
				kept = kept && rs.prog[i].kept(&q) && (q.op != opSet || !rs.prog[i].sets[q.a].handle.Expires())
			}
		}
		j, m := rs.NewJudge(), rs.NewMatcher()
		for range 200 {
			p, c := g.packet(g.Flow(version(fam)))
			if c.State != New && c.State != Related || p.Flags&(packet.ICMPError|packet.Fragment) != 0 || int(p.End)-int(p.L4) < max(20, wholeLength(p.Proto)) {
				continue
			}
			if p.Proto == protoTCP {
				p.TCPFlags, p.Frame[p.L4+13] = 2, 2
			}
			c.Dir, c.Mark = Original, 0
			first := packet.Packet{Key: p.Key, Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Proto: p.Proto, Family: p.Family,
				Class: p.Class, In: p.In, Flags: p.Flags, ICMPType: p.ICMPType, ICMPCode: p.ICMPCode, TCPFlags: p.TCPFlags}
			known := *c
			known.Expires = 0
			got := j.Judge(&first, &known)

			want := Accept
			early := *c
			early.State = Invalid
			if rs.HasRaw() {
				e := m.Raw(p, &early)
				want, c.Mark = e.Verdict, e.Mark
			}
			if want == Accept {
				want = m.Match(p, c).Verdict
			}
			switch {
			case got == Refused && want == Accept:
				t.Fatalf("seed %d: a connection that is accepted is refused", seed)
			case got == Refused:
				refused++
			case want == Drop && kept && keyed(p.Proto):
				t.Fatalf("seed %d: a connection that is dropped is admitted", seed)
			case want == Drop:
				vague++
			default:
				admitted++
			}
			if kept {
				exact++
			}
		}
	}
	t.Logf("%d refused, %d admitted, %d admitted that were dropped; %d by rules that ask only what is kept", refused, admitted, vague, exact)
	if refused < 100 || admitted < 100 || exact < 100 {
		t.Error("the test proves little")
	}
}

// TestJudge: what depends on the unknown is followed both ways.
func TestJudge(t *testing.T) {
	sets := ipset.New(ipset.Options{})
	if err := sets.Restore("t", []byte("create block hash:ip\nadd block 10.0.0.1\ncreate late hash:ip timeout 9 counters\nadd late 10.0.0.1\ncreate macs hash:mac\nadd macs 02:00:00:00:00:01\ncreate hits hash:ip counters\nadd hits 10.0.0.1 packets 7\ncreate marks hash:ip skbinfo\nadd marks 10.0.0.1 skbmark 5\n"), false, 0); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		rules string
		want  Answer
	}{
		{"-A FORWARD -p tcp --dport 80 -j ACCEPT", Admitted},
		{"-A FORWARD -p tcp --dport 81 -j ACCEPT", Refused},
		{"-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", Refused},
		{"-A FORWARD -m conntrack --ctstate NEW -j DROP\n-A FORWARD -j ACCEPT", Refused},
		{"-A FORWARD -p tcp ! --syn -j DROP\n-A FORWARD -j ACCEPT", Admitted},
		{"-A FORWARD -m limit --limit 1/hour --limit-burst 1 -j ACCEPT", Admitted},
		{"-A FORWARD -m length --length 9000:9001 -j ACCEPT", Admitted},
		{"-A FORWARD -m length --length 9000:9001 -j DROP\n-A FORWARD -p tcp -j ACCEPT", Admitted},
		{"-A FORWARD -m length --length 9000:9001 -p udp -j ACCEPT", Refused},
		{":a - [0:0]\n-A FORWARD -m ttl --ttl-eq 1 -j a\n-A a -j DROP\n-A FORWARD -p tcp -j ACCEPT", Admitted},
		{":a - [0:0]\n-A FORWARD -m ttl --ttl-eq 1 -j a\n-A a -p tcp -j ACCEPT", Admitted},
		{":a - [0:0]\n-A FORWARD -m ttl --ttl-eq 1 -g a\n-A FORWARD -j DROP\n-A a -p udp -j ACCEPT", Refused},
		{":a - [0:0]\n-A FORWARD -j a\n-A FORWARD -j DROP\n-A a -m ttl --ttl-eq 1 -j RETURN\n-A a -j ACCEPT", Admitted},
		{":a - [0:0]\n-A FORWARD -j a\n-A FORWARD -j ACCEPT\n-A a -m ttl --ttl-eq 1 -j RETURN\n-A a -j DROP", Admitted},
		{"COMMIT\n*mangle\n-A FORWARD -j MARK --set-mark 7\nCOMMIT\n*raw\nCOMMIT\n*security\n-A FORWARD -m mark --mark 7 -j DROP", Refused},
		{"-A FORWARD -j ACCEPT\nCOMMIT\n*mangle\n-A FORWARD -j MARK --set-mark 7\n-A FORWARD -m ttl --ttl-eq 1 -j MARK --set-mark 8\n-A POSTROUTING -m mark --mark 7 -j DROP", Admitted},
		{"-A FORWARD -j ACCEPT\nCOMMIT\n*raw\n-A PREROUTING -p tcp -j DROP", Refused},
		{"-A FORWARD -m set --match-set block src -j DROP\n-A FORWARD -j ACCEPT", Refused},
		{"-A FORWARD -m set --match-set block dst -j DROP\n-A FORWARD -j ACCEPT", Admitted},
		{"-A FORWARD -m set ! --match-set block src -j ACCEPT", Refused},
		{"-A FORWARD -m set --match-set late src -j DROP\n-A FORWARD -j ACCEPT", Refused},
		{"-A FORWARD -m set ! --match-set late src -j ACCEPT", Refused},
		{"-A FORWARD -m set --match-set late src -j ACCEPT", Admitted},
		{"-A FORWARD -m set ! --match-set late dst -j DROP\n-A FORWARD -j ACCEPT", Admitted}, // it may have been there
		{"-A FORWARD -m set --match-set late dst -j ACCEPT", Admitted},
		{"-A FORWARD -m set --match-set late dst -m set --match-set block dst -j ACCEPT", Refused},
		{"-A FORWARD -m set --match-set hits src -j DROP\n-A FORWARD -j ACCEPT", Refused},
		{"-A FORWARD -m set --match-set hits dst -j ACCEPT", Refused},
		{"-A FORWARD -m set --match-set hits src --packets-gt 3 -j DROP\n-A FORWARD -j ACCEPT", Admitted},
		{"-A FORWARD -m set --match-set macs src -j ACCEPT", Admitted},
		{"-A FORWARD -m set --match-set block src -j DROP\n-A FORWARD -j SET --del-set block src\n-A FORWARD -j ACCEPT", Admitted},
		{"-A FORWARD -m mark --mark 5 -j ACCEPT\nCOMMIT\n*mangle\n-A FORWARD -j SET --map-set marks src --map-mark", Admitted},
	} {
		f, err := Parse("t", []byte("*filter\n:FORWARD DROP [0:0]\n"+tc.rules+"\nCOMMIT\n"), Both)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true, Sets: sets})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // asking changes nothing
			p := packet.Packet{Family: 4, Proto: protoTCP, Src: packet.AddrFrom(packettest.IP("10.0.0.1")), Dst: packet.AddrFrom(packettest.IP("10.0.0.2")), SrcPort: 1, DstPort: 80, Flags: packet.PortsValid, TCPFlags: 2}
			if got := rs.NewJudge().Judge(&p, &Context{State: New}); got != tc.want {
				t.Errorf("%s: %v, want %v", tc.rules, got, tc.want)
			}
		}
	}
}
