package rules

import (
	"strings"
	"testing"

	"corewire/internal/packet"
)

// FuzzParse: no text makes the parser or the compiler fail in another way than by an error with places, and what it
// accepts prints back to something that it accepts and prints the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"*filter\n:FORWARD DROP [1:2]\n:u - [0:0]\n[3:4] -A FORWARD ! -s 10.0.0.0/8 -p tcp -m tcp --dport 80:90 ! --syn -m comment --comment \"a \\\"b\" -j u\n-A u -g u2\nCOMMIT\n",
		"*filter\n-A FORWARD -p icmp --icmp-type echo -j ACCEPT -c 1,2\n-4 -I FORWARD 1 -m conntrack --ctstate NEW,DNAT --ctexpire 1:\nCOMMIT\n*nat\n-A x\nCOMMIT",
		"*filter\n-A FORWARD -s 1.2.3.4,5/8,::1 -d 1.1.1.1/255.0.255.0 -p udp -m multiport --ports 1,2:3,ssh\n# c\n:a -\n-N b\n-P FORWARD DROP\nCOMMIT",
		"*filter\n:a - [0:0]\n:b - [0:0]\n-A a -j b\n-A b -j a\n-A FORWARD --protocol=tcp --tcp-f SYN,ACK SYN --tcp-option 4 -j a\nCOMMIT",
		"*filter\n-A FORWARD -p tcp -m tcpmss ! --mss 1:1460 -m vlan ! --vlan-id 7:9 --vlan-pcp 5 -m string ! --hex-string \"|0d 0a|x\" --algo bm --from 3 --icase -j ACCEPT\nCOMMIT\n",
		"*filter\n-A FORWARD -m limit --limit 3/min --limit-burst 9 -m statistic --mode nth --every 3 --packet 1 -j LOG --log-prefix \"a b\" --log-level info\n" +
			"-A FORWARD -p tcp -m ecn --ecn-tcp-cwr -m tos --tos 1/3 -m dscp --dscp-class AF11 -j REJECT --reject-with tcp-rst\n" +
			"-A FORWARD -m iprange --src-range 1.1.1.1-2.2.2.2 -m addrtype --dst-type LOCAL -m mac --mac-source 0:1:2:3:4:5 -m mark --mark 1/2 -j NFLOG --nflog-group 3\n" +
			"-A FORWARD -m length --length 3: -m physdev --physdev-in e+ -m pkttype --pkt-type mcast -m statistic --mode random --probability .3 -j REJECT\nCOMMIT\n",
		"*filter\n-A FORWARD -m hashlimit --hashlimit-above 3/min --hashlimit-burst 9 --hashlimit-mode srcip,dstport --hashlimit-name a --hashlimit-srcmask 24 -j DROP\n" +
			"-A FORWARD -m hashlimit --hashlimit 512kb/s --hashlimit-burst 3mb --hashlimit-name b --hashlimit-htable-max 9 --hashlimit-htable-expire 7\n" +
			"-A FORWARD -m hashlimit --hashlimit-upto 9/hour --hashlimit-name c --hashlimit-rate-match --hashlimit-rate-interval 4\n" +
			"-A FORWARD -m recent ! --update --seconds 60 --reap --hitcount 4 --rttl --name L --mask 255.255.255.0 --rdest -m recent --set\n" +
			"-A FORWARD -p tcp --syn -m connlimit ! --connlimit-upto 3 --connlimit-mask 24 --connlimit-daddr -j REJECT\nCOMMIT\n",
	} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, text string, fam uint8) {
		family := Family(fam)
		file, err := Parse("f", []byte(text), family)
		if err != nil {
			for _, e := range err.(*Errors).List {
				if e.Expected == "" || e.Pos.Line < 1 && family&^Both == 0 && family != 0 {
					t.Fatalf("error without place or expectation: %v", e)
				}
			}
			return
		}
		rs, err := Compile([]*File{file}, Options{InsideName: "eth0", Clock: true, Wall: true, Counts: true})
		if err != nil {
			return
		}
		rs.NewMatcher()
		for _, r := range rs.Rules() {
			line := string(r.Rule.AppendSave(nil, r.Chain))
			if strings.ContainsAny(line, "\n\x00") {
				continue
			}
			g := Family(r.Family)
			var b strings.Builder
			b.WriteString("*filter\n")
			if r.Chain != "FORWARD" {
				b.WriteString(":" + r.Chain + " - [0:0]\n")
			}
			if c := r.Rule.Target.Chain; c != "" && c != r.Chain {
				b.WriteString(":" + c + " - [0:0]\n")
			}
			b.WriteString(line + "\nCOMMIT\n")
			again, err := Parse("again", []byte(b.String()), g)
			if err != nil {
				t.Fatalf("%q prints as %q: %v", r.Rule.Text, line, err)
			}
			var x *Rule
			for _, c := range again.Tables[0].Chains {
				if len(c.Rules) > 0 {
					x = c.Rules[0]
				}
			}
			if got := string(x.AppendSave(nil, r.Chain)); got != line {
				t.Fatalf("%q prints as %q, then as %q", r.Rule.Text, line, got)
			}
		}
	})
}

// FuzzMatch: the compiled form judges any frame as the linear one does.
func FuzzMatch(f *testing.F) {
	for seed := range uint64(20) {
		g := newGenerator(seed, 2)
		g.Memory = true
		fam := []Family{IPv4, IPv6}[seed%2]
		p, c := g.packet(g.Flow(version(fam)))
		f.Add(g.RuleSet(version(fam)), p.Frame, uint8(c.State)|uint8(c.Dir)<<4|uint8(p.In)<<5)
	}
	f.Fuzz(func(t *testing.T, text string, frame []byte, bits uint8) {
		p := packet.Packet{Frame: frame, In: packet.Port(bits >> 5 & 1)}
		packet.Parse(&p)
		if p.Family == 0 || p.Problem.Header() || p.Flags&packet.Fragment != 0 {
			return
		}
		c := Context{State: State(bits & 7), Dir: Dir(bits >> 4 & 1), Status: uint32(bits >> 6), Expires: uint32(len(text))}
		if c.State >= States || p.Problem != packet.ProblemNone || icmpQuery(p.Proto) && p.Flags&packet.ICMPError == 0 {
			c.State = Invalid
		}
		fam := Family(IPv4)
		if p.Family == 6 {
			fam = IPv6
		}
		file, err := Parse("f", []byte(text), Both)
		if err != nil {
			return
		}
		opt := Options{InsideName: "eth0", OutsideName: "eth1", Wall: true, Counts: true, Clock: true}
		rs, err := Compile([]*File{file}, opt)
		if err != nil {
			return
		}
		for _, l := range rs.memory.lists { // the twin's lists are plain
			if l.times != 32 || l.mask != allOnes {
				return
			}
		}
		for _, x := range rs.memory.tables {
			for _, y := range rs.memory.tables {
				if x.name == y.name && x.v6 == y.v6 && len(rs.warnings) > 0 {
					return // rules of one table that say different things of it
				}
			}
		}
		compare(t, rs.NewMatcher(), newLinear([]*File{file}, fam, opt), &p, &c)
	})
}
