package rulestest

import (
	"fmt"
	"strings"
)

// Effects writes a rule file for one IP version, 4 or 6, most of whose rules change the packet, its mark or its
// connection's, or count what is so changed. --clamp-mss-to-pmtu is among them.
func (g Generator) Effects(version int) string {
	var b strings.Builder
	chain := func(name string, n int) {
		for range n {
			rest := g.Change(version, name)
			if g.one(3) {
				rest = g.observed(version, name) + g.Pick("", "", "", "", " -j RETURN", " -j ACCEPT", " -m ttl --ttl-gt 240 -j DROP")
			}
			fmt.Fprintf(&b, "-A %s%s\n", name, rest)
		}
	}
	if g.one(3) {
		b.WriteString("*raw\n:PREROUTING ACCEPT [0:0]\n")
		for range 1 + g.IntN(3) {
			b.WriteString("-A PREROUTING" + g.Pick(" -j MARK --set-xmark "+g.mark(), g.growth("raw"), " -m ttl --ttl-gt 128 -j CT --notrack", " -p udp"))
			b.WriteByte('\n')
		}
		b.WriteString("COMMIT\n")
	}
	b.WriteString("*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n")
	for _, name := range []string{"PREROUTING", "FORWARD", "POSTROUTING"} {
		chain(name, g.IntN(9))
	}
	b.WriteString("COMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n")
	for range g.IntN(6) {
		b.WriteString("-A FORWARD" + g.observed(version, "FORWARD") + g.Pick("", "", "", " -j ACCEPT", " -j CONNMARK --set-xmark "+g.mark(), " -j MARK --set-xmark "+g.mark()))
		b.WriteByte('\n')
	}
	for bit := range 32 { // whose marks are seen
		if g.one(5) {
			fmt.Fprintf(&b, "-A FORWARD -m %s --mark %#x/%#x\n", g.Pick("mark", "connmark"), uint32(1)<<bit, uint32(1)<<bit)
		}
	}
	b.WriteString("COMMIT\n")
	text := b.String()
	if version == 6 {
		text = strings.NewReplacer("-m ttl --ttl", "-m hl --hl").Replace(text)
	}
	return text
}

// mark returns a value and often a mask, as --set-xmark takes it.
func (g Generator) mark() string {
	v := []uint32{0, 1, 2, 7, 0x80000000, 0xffffffff, 0x00ff00ff, g.Uint32()}
	s := fmt.Sprintf("%#x", v[g.IntN(len(v))])
	if g.one(2) {
		s += fmt.Sprintf("/%#x", v[g.IntN(len(v))])
	}
	return s
}

// observed returns conditions that what other rules change decides.
func (g Generator) observed(version int, chain string) string {
	list := []string{
		"", " -p tcp", " -p udp",
		" -m mark " + g.Not() + "--mark " + g.mark(),
		" -m connmark " + g.Not() + "--mark " + g.mark(),
		" -m ttl --ttl-" + g.Pick("lt", "gt", "eq") + g.Pick(" 1", " 64", " 255", " 0", " 128"),
		" -m dscp " + g.Not() + "--dscp " + g.Pick("0", "46", "10"),
		" -m tos " + g.Not() + "--tos " + g.Pick("0x10/0x10", "3/3", "0x80/0x80"),
		" -m length " + g.Not() + "--length " + g.Pick("0:40", "0:44", "45:60", "60", "64", "80:"),
		" -p tcp -m tcpmss " + g.Not() + "--mss " + g.Pick("0:536", "537:1220", "1221:"),
		" -p tcp -m tcp " + g.Not() + "--tcp-option " + g.Pick("2", "3", "8", "4"),
		" -m connlabel " + g.Not() + "--label " + g.Pick("0", "5", "63", "64", "127"),
	}
	if version == 4 {
		list = append(list, " -m ecn "+g.Not()+"--ecn-ip-ect "+g.Pick("0", "1", "2", "3"), " -p tcp -m ecn "+g.Not()+g.Pick("--ecn-tcp-cwr", "--ecn-tcp-ece"))
	}
	if chain != "POSTROUTING" {
		list = append(list, " -i "+g.Pick("inside", "outside"))
	}
	return g.Pick(list...)
}

// growth returns a TCPMSS rule's conditions and target. It may stand in any table; clamping needs to know the way out.
func (g Generator) growth(chain string) string {
	flags := g.Pick("SYN,RST SYN", "SYN,RST SYN", "SYN SYN", "SYN,ACK SYN", "SYN,RST,ACK SYN,ACK")
	if chain != "raw" && chain != "PREROUTING" && g.one(3) {
		return " -p tcp -m tcp --tcp-flags " + flags + " -j TCPMSS --clamp-mss-to-pmtu"
	}
	return " -p tcp -m tcp --tcp-flags " + flags + " -j TCPMSS --set-mss " + g.Pick("1", "255", "256", "500", "536", "1000", "1219", "1220", "1400", "1460", "8960", "65495", fmt.Sprint(1+g.IntN(2000)))
}

// Change returns the conditions and the target of a rule of the table mangle that changes the packet or a mark.
func (g Generator) Change(version int, chain string) string {
	some := ""
	if g.one(2) {
		some = g.observed(version, chain)
	}
	tcp := " -p tcp" + g.Pick("", "", " -m tcp --tcp-flags SYN,RST SYN", " -m tcp --tcp-flags ACK ACK")
	shift := func() string {
		if g.one(2) {
			return ""
		}
		return g.Pick(" --left-shift-mark ", " --right-shift-mark ") + g.Pick("0", "1", "4", "16", "31")
	}
	masks := func() string {
		return g.Pick("", "", fmt.Sprintf(" --nfmask %#x --ctmask %#x", g.Uint32(), g.Uint32()), fmt.Sprintf(" --mask %#x", g.Uint32()), " --nfmask 0xff --ctmask 0xff00", " --ctmask 0xffff")
	}
	hops := " -j TTL --ttl-"
	if version == 6 {
		hops = " -j HL --hl-"
	}
	switch g.IntN(11) {
	case 10:
		return some + " -j " + g.hashMark(version)
	case 0, 1:
		return g.growth(chain)
	case 2:
		return some + hops + g.Pick("set ", "inc ", "dec ") + g.Pick("1", "7", "64", "128", "255")
	case 3:
		return some + " -j DSCP " + g.Pick("--set-dscp "+fmt.Sprint(g.IntN(64)), "--set-dscp-class "+g.Pick("EF", "CS0", "AF11", "CS7"))
	case 4:
		return some + " -j TOS " + g.Pick(fmt.Sprintf("--set-tos %#x/%#x", g.IntN(256), g.IntN(256)), fmt.Sprintf("--set-tos %#x", g.IntN(256)), fmt.Sprintf("--xor-tos %#x", g.IntN(256)),
			fmt.Sprintf("--or-tos %#x", g.IntN(256)), fmt.Sprintf("--and-tos %#x", g.IntN(256)), "--set-tos Minimize-Delay")
	case 5:
		if version == 4 {
			return tcp + " -j ECN --ecn-tcp-remove"
		}
		fallthrough
	case 6:
		kinds := g.Pick("mss", "wscale", "sack-permitted", "timestamp", "sack-permitted,timestamp", "mss,wscale,sack,md5", "5,9,30,254")
		return tcp + " -j TCPOPTSTRIP --strip-options " + kinds
	case 7:
		return some + " -j MARK " + g.Pick("--set-xmark "+g.mark(), "--set-mark "+g.mark(), fmt.Sprintf("--or-mark %#x", g.Uint32()), fmt.Sprintf("--and-mark %#x", g.Uint32()), fmt.Sprintf("--xor-mark %#x", g.Uint32()))
	case 8:
		return some + " -j CONNMARK " + g.Pick("--set-xmark "+g.mark()+shift(), "--set-mark "+g.mark()+shift(), fmt.Sprintf("--or-mark %#x", g.Uint32()), fmt.Sprintf("--and-mark %#x", g.Uint32()),
			"--save-mark"+masks()+shift(), "--save-mark"+masks()+shift(), "--restore-mark"+masks()+shift(), "--restore-mark"+masks()+shift())
	}
	if g.one(2) {
		return some + " -m connlabel --label " + g.Pick("0", "5", "63", "64", "127") + " --set"
	}
	return " -p udp -j CHECKSUM --checksum-fill"
}

// rewrite returns the conditions and the target of a rule of the table mangle that changes more of the packet than its TOS.
func (g Generator) rewrite(version int) string {
	some := ""
	if g.one(3) {
		some = " " + g.Not() + "-s " + g.Prefix(version)
	}
	hops := " -j TTL --ttl-"
	if version == 6 {
		hops = " -j HL --hl-"
	}
	switch g.IntN(5) {
	case 0:
		return some + hops + g.Pick("set 64", "inc 9", "dec 200")
	case 1:
		if version == 4 {
			return some + " -p tcp -j ECN --ecn-tcp-remove"
		}
		fallthrough
	case 2:
		return some + " -p tcp -j TCPOPTSTRIP --strip-options " + g.Pick("mss", "sack-permitted,timestamp", "2,3,4,8")
	}
	return some + " -p tcp -m tcp --tcp-flags SYN SYN -j TCPMSS --set-mss " + g.Pick("536", "1459", "1460", "65495")
}
