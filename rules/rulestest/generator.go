package rulestest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"
)

// Side says who judges what is generated.
type Side uint8

const (
	Twin   Side = iota // the linear twin of package rules, with a made-up connection for each packet
	Kernel             // the running kernel's iptables
)

// Generator makes rule sets and packets. The zero value is of no use, see New. One goroutine uses it.
type Generator struct {
	*rand.Rand
	Side Side
	// Memory: with matches that remember addresses, whose answers hang on all packets before. They need a clock.
	Memory bool
	// Sets are such as rules name; nil: rules name none.
	Sets []Set
	// Now is the time of the run, of which rules of -m time are made that do not change within it.
	Now time.Time
	// Tag ends the names of what the kernel may keep for a moment longer than the rules: another rule set has another one.
	Tag string
	// Limits: with -m connlimit, which the kernel judges exactly only some jiffies apart.
	Limits bool
}

// New returns a generator for the twin. Two with the same numbers make the same.
func New(seed, stream uint64) Generator {
	return Generator{Rand: rand.New(rand.NewPCG(seed, stream))}
}

// Pick returns one of s.
func (g Generator) Pick(s ...string) string { return s[g.IntN(len(s))] }

// one says true once in n times.
func (g Generator) one(n int) bool { return g.IntN(n) == 0 }

// Not returns "! " now and then, else "".
func (g Generator) Not() string {
	if g.one(5) {
		return "! "
	}
	return ""
}

// Addr returns an address of the pool of an IP version, 4 or 6.
func (g Generator) Addr(version int) netip.Addr {
	if g.one(12) { // one of a type of its own
		list := []string{"127.0.0.1", "127.255.255.255", "224.0.0.5", "255.255.255.255", "0.0.0.0", "0.1.2.3", "240.0.0.1"}
		if version == 6 {
			list = []string{"::1", "ff02::1", "::", "fe80::1"}
		}
		return netip.MustParseAddr(list[g.IntN(len(list))])
	}
	if version == 4 {
		return netip.AddrFrom4([4]byte{10, byte(g.IntN(3)), byte(g.IntN(2) * 128), byte(g.IntN(3))})
	}
	b := netip.MustParseAddr("2001:db8::").As16()
	b[5], b[7], b[15] = byte(g.IntN(2)), byte(g.IntN(3)), byte(g.IntN(3))
	return netip.AddrFrom16(b)
}

// Prefix returns an address of the pool with a prefix length or a mask, as -s takes it.
func (g Generator) Prefix(version int) string {
	a := g.Addr(version)
	if version == 4 {
		if g.one(12) {
			return a.String() + "/255.0.255.0"
		}
		return fmt.Sprintf("%s/%d", a, []int{0, 8, 16, 17, 24, 31, 32}[g.IntN(7)])
	}
	if g.one(12) {
		return a.String() + "/ffff:ffff:0:ffff::"
	}
	return fmt.Sprintf("%s/%d", a, []int{0, 32, 48, 64, 127, 128}[g.IntN(6)])
}

// Port returns a port of the pool.
func (g Generator) Port() int { return []int{0, 1, 22, 53, 80, 443, 1024, 8080, 65535}[g.IntN(9)] }

// Ports returns a port or a range, as --dport takes it.
func (g Generator) Ports() string {
	a, b := g.Port(), g.Port()
	if g.one(2) {
		return fmt.Sprint(a)
	}
	return fmt.Sprintf("%d:%d", min(a, b), max(a, b))
}

// States returns one to three connection states.
func (g Generator) States() string {
	s := []string{"INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED"}
	g.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return strings.Join(s[:1+g.IntN(3)], ",")
}

// RuleSet writes a rule file for one IP version, 4 or 6: a table filter, for the kernel at times a table raw, and for the
// twin tables mangle and security.
func (g Generator) RuleSet(version int) string {
	var b strings.Builder
	every := g.Side == Kernel && g.one(6)
	if every || g.Side == Kernel && g.one(3) {
		g.table(&b, version, "raw", "PREROUTING")
	}
	if every || g.one(3) {
		g.table(&b, version, "mangle", "PREROUTING", "FORWARD", "POSTROUTING")
	}
	g.table(&b, version, "filter", "FORWARD")
	if every || g.one(9) {
		g.table(&b, version, "security", "FORWARD")
	}
	return b.String()
}

// table writes a table with base chains and up to four user chains.
func (g Generator) table(b *strings.Builder, version int, name string, base ...string) {
	users := g.IntN(5)
	if g.Side == Kernel && g.one(8) {
		users = 12 // a long way down
	}
	fmt.Fprintf(b, "*%s\n", name)
	for _, c := range base {
		policy := g.Pick("ACCEPT", "DROP")
		if (g.Side == Kernel || name != "filter") && !g.one(3) {
			policy = "ACCEPT" // connections must come about
		}
		fmt.Fprintf(b, ":%s %s [0:0]\n", c, policy)
	}
	for i := range users {
		fmt.Fprintf(b, ":u%d - [0:0]\n", i)
	}
	length := 14
	if g.one(4) {
		length = 300
	}
	if g.Side == Kernel {
		length = 25
	}
	early := name == "raw"
	chain := func(chain string, first int) {
		for range g.IntN(length) {
			conditions := g.Conditions(version, early)
			for chain == "PREROUTING" && strings.Contains(conditions, " -o ") || chain == "POSTROUTING" && (strings.Contains(conditions, " -i ") || strings.Contains(conditions, "-m mac") || strings.Contains(conditions, "-m eui64") || strings.Contains(conditions, "--limit-iface-in")) || g.refused(name, conditions) {
				conditions = g.Conditions(version, early)
			}
			if g.Side == Kernel && !early && g.one(6) && strings.Contains(b.String(), "--helper tftp") {
				conditions = " -m helper " + g.Not() + "--helper " + g.Pick("tftp", "tftp", "tftp-69", `""`, "ftp")
			}
			if len(g.Sets) > 0 {
				if !g.one(3) {
					conditions = ""
				}
				for n := g.IntN(8); n < 6; n += 5 {
					conditions += g.setMatch(version)
				}
				if g.one(4) {
					fmt.Fprintf(b, "-A %s%s%s\n", chain, conditions, g.setTarget(version, name))
					continue
				}
			}
			if g.Side == Kernel && early && g.one(12) {
				fmt.Fprintf(b, "-A %s -p udp%s -j CT --helper tftp\n", chain, g.Pick("", " -s "+g.Prefix(version), " -m udp --dport "+g.Ports()))
				continue
			}
			if g.Side == Kernel && name == "mangle" && g.one(8) {
				conditions, target := g.rewriting(version)
				fmt.Fprintf(b, "-A %s%s%s\n", chain, conditions, target)
				continue
			}
			fmt.Fprintf(b, "-A %s%s%s\n", chain, conditions, g.target(version, name, first, users))
		}
	}
	for _, c := range base {
		if g.Side == Twin && name == "mangle" {
			for range g.IntN(3) {
				fmt.Fprintf(b, "-A %s%s\n", c, g.rewrite(version))
			}
		}
		chain(c, 0)
	}
	for i := range users {
		chain(fmt.Sprintf("u%d", i), i+1)
	}
	b.WriteString("COMMIT\n")
}

// rewriting returns conditions and a target that writes the packet and needs them.
func (g Generator) rewriting(version int) (conditions, target string) {
	hop := " -j TTL --ttl-" + g.Pick("set 9", "dec 3", "inc 200")
	if version == 6 {
		hop = " -j HL --hl-" + g.Pick("set 9", "dec 3", "inc 200")
	}
	switch g.IntN(6) {
	case 0:
		// To a SYN without the option one is added, and the frame grows by four bytes.
		return " -p tcp -m tcp --tcp-flags SYN,RST SYN" + g.Pick("", " -m tcpmss --mss 0:65535"), " -j TCPMSS --set-mss " + g.Pick("500", "1000", "1460")
	case 1:
		return " -p tcp -m tcp --sport " + g.Ports(), " -j TCPOPTSTRIP --strip-options " + g.Pick("2", "3,4", "8")
	case 2:
		if version == 4 {
			return " -p tcp -m tcp --dport " + g.Ports(), " -j ECN --ecn-tcp-remove"
		}
	case 3:
		if version == 4 {
			if g.one(3) {
				return " -s " + g.Prefix(version), " -j ECN --ecn-ip-ect " + g.Pick("0", "1", "2", "3")
			}
			return " -p tcp -m tcp --sport " + g.Ports(), " -j ECN" + g.Pick(" --ecn-tcp-cwr 1", " --ecn-tcp-cwr 0", " --ecn-tcp-ece 1", " --ecn-tcp-ece 0", " --ecn-tcp-ece 1 --ecn-tcp-cwr 1 --ecn-ip-ect 2")
		}
	}
	return " -s " + g.Prefix(version), hop
}

// refused says that the kernel does not take the conditions in every chain of the table mangle (hooks of xt_mac.c,
// checkentry of xt_addrtype.c), or that the port of a bridge is known there where an interface is not; or that they ask for
// interfaces beside a set that has some.
func (g Generator) refused(table, conditions string) bool {
	if g.Side != Kernel || table != "mangle" && !g.bridged() {
		return false
	}
	for _, s := range []string{" -i ", " -o ", "-m mac", "--limit-iface", "-m physdev", "-m eui64"} {
		if strings.Contains(conditions, s) {
			return true
		}
	}
	return false
}

// target returns a target, or "" for none. User chains from first on can be called.
func (g Generator) target(version int, table string, first, users int) string {
	n := 9
	if table != "raw" && g.one(6) {
		return g.effect(version, table)
	}
	if table == "mangle" {
		n = 12
	}
	if g.Side == Kernel {
		n = 14 // more rules that only count: more of them see the packet
	}
	switch g.IntN(n) {
	case 8:
		switch table {
		case "raw":
			if g.Side == Kernel && g.one(4) {
				return " -j CT --ctevents " + g.Pick("new,destroy", "mark") + g.Pick("", " --expevents new")
			}
			return " -j " + g.Pick("NOTRACK", "CT --notrack", "CT --notrack", "CT --zone 1", "CT --zone 2", "CT")
		case "filter":
			if g.Side == Kernel && g.one(2) {
				return " -j " + g.Pick("LOG --log-level 7 --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid", "LOG --log-macdecode",
					"NFLOG --nflog-prefix x --nflog-group 9 --nflog-threshold 3", "NFLOG --nflog-"+g.Pick("size", "range")+" 64",
					map[int]string{4: "REJECT --reject-with icmp-host-prohibited", 6: "REJECT --reject-with icmp6-adm-prohibited"}[version])
			}
			return " -j " + g.Pick("REJECT", "LOG --log-prefix x", "NFLOG")
		}
		return " -j " + g.Pick("LOG --log-prefix x", "NFLOG")
	case 0, 1:
		return " -j ACCEPT"
	case 2:
		return " -j DROP"
	case 3:
		return " -j RETURN"
	case 4, 5, 6:
		if first < users {
			return fmt.Sprintf(" %s u%d", g.Pick("-j", "-j", "-g"), first+g.IntN(users-first))
		}
	}
	return ""
}

// effect returns a target that changes something and lets the packet go on.
func (g Generator) effect(version int, table string) string {
	list := []string{
		"MARK --set-mark " + g.Pick("1", "2/3", "0"), "MARK --set-xmark " + g.Pick("1/1", "3", "2/0"), "MARK " + g.Pick("--or-mark 1", "--and-mark 2", "--xor-mark 3"),
		"CONNMARK " + g.Pick("--set-mark 1", "--set-mark 2/3", "--set-mark 0", "--and-mark 2", "--or-mark 1", "--xor-mark 3"), "CONNMARK --set-xmark " + g.Pick("1/1", "3 --left-shift-mark 1", "6 --right-shift-mark 1"),
		"CONNMARK --save-mark" + g.Pick("", " --mask 1", " --nfmask 3 --ctmask 2", " --left-shift-mark 1"),
		"CONNMARK --restore-mark" + g.Pick("", " --mask 1", " --nfmask 3 --ctmask 2", " --right-shift-mark 1"), g.hashMark(version),
	}
	if table == "mangle" {
		list = append(list, "DSCP "+g.Pick("--set-dscp 0", "--set-dscp 46", "--set-dscp-class EF", "--set-dscp-class CS1"),
			"TOS "+g.Pick("--set-tos 0x10", "--set-tos 4/12", "--set-tos Minimize-Delay", "--and-tos 0xf0", "--or-tos 3", "--xor-tos 0xff"))
	}
	return " -j " + g.Pick(list...)
}

// Conditions returns what stands between the chain and the target of a rule, with a blank before it. Early leaves out
// what a rule of the table raw cannot ask.
func (g Generator) Conditions(version int, early bool) string {
	if g.Side == Kernel { // such as ask one thing alone: then it is what decides
		switch n := g.IntN(23); {
		case n < 3:
			return g.extra(version)
		case n < 8:
			return g.rare(version, early)
		case n < 12:
			return g.odd(version, early)
		case n < 14 && !early:
			return g.connection(version)
		case n < 16 && !early && g.Limits:
			return g.connections()
		}
	}
	var b strings.Builder
	part := 1 // how much rarer than usual every condition is: rules with only one show which one decides
	if g.Side == Kernel && g.one(2) {
		part = 3
	}
	if g.one(3 * part) {
		b.WriteString(" " + g.Not() + "-s " + g.Prefix(version))
	}
	if g.one(3 * part) {
		b.WriteString(" " + g.Not() + "-d " + g.Prefix(version))
	}
	if g.one(6 * part) {
		b.WriteString(" " + g.Not() + "-i " + g.Pick("inside", "outside", "eth0", "eth+", "br0", "in+", "+"))
	}
	if g.one(8*part) && !early {
		b.WriteString(" " + g.Not() + "-o " + g.Pick("inside", "outside", "eth1", "eth+", "+"))
	}
	if version == 4 && g.one(20*part) {
		b.WriteString(" " + g.Not() + "-f")
	}
	switch s := g.extra(version); {
	case g.Side == Twin && g.one(12) && strings.HasPrefix(s, " -p "):
		b.WriteString(s)
	case !g.one(4):
		b.WriteString(g.transport(version))
	}
	if !early && g.one(3*part) {
		b.WriteString(g.connection(version))
	}
	if g.one(4) {
		b.WriteString(g.odd(version, early))
	}
	if g.Side == Twin && g.one(12) {
		if s := g.extra(version); !strings.Contains(s, " -p ") {
			b.WriteString(s)
		}
	}
	if g.one(12) {
		b.WriteString(` -m comment --comment "a \"b\" c"`)
	}
	return b.String()
}

// transport returns -p with what a protocol's module asks.
func (g Generator) transport(version int) string {
	var b strings.Builder
	icmp, module := "icmp", "-m icmp "
	types := []string{"echo-request", "echo-reply", "3", "3/1", "any", "11", "13"}
	opt := "--icmp-type "
	if version == 6 {
		icmp, module, opt = "ipv6-icmp", "-m icmp6 ", "--icmpv6-type "
		types = []string{"echo-request", "echo-reply", "1", "1/4", "135", "packet-too-big"}
	}
	switch g.IntN(7) {
	case 0:
		b.WriteString(" -p tcp -m tcp")
		if g.one(2) {
			b.WriteString(" " + g.Not() + "--sport " + g.Ports())
		}
		if g.one(2) {
			b.WriteString(" " + g.Not() + "--dport " + g.Ports())
		}
		if g.one(4) {
			b.WriteString(" " + g.Not() + "--syn")
		} else if g.one(4) {
			b.WriteString(" " + g.Not() + "--tcp-flags SYN,ACK,PSH " + g.Pick("SYN", "ACK", "NONE", "SYN,ACK"))
		}
		if g.one(5) {
			b.WriteString(" " + g.Not() + "--tcp-option " + g.Pick("2", "3", "4", "8"))
		}
		if g.one(6) {
			b.WriteString(" -m tcpmss " + g.Not() + "--mss " + g.Pick("1460", "0:1459", "1461:65535", "0:65535"))
		}
	case 1:
		b.WriteString(" -p udp -m udp")
		if g.one(2) {
			b.WriteString(" " + g.Not() + "--sport " + g.Ports())
		}
		if g.one(2) {
			b.WriteString(" " + g.Not() + "--dport " + g.Ports())
		}
	case 2:
		b.WriteString(" -p " + icmp + " " + module + g.Not() + opt + types[g.IntN(len(types))])
	case 3:
		b.WriteString(" -p " + g.Pick("tcp", "udp", "sctp", "udplite", "dccp") + " -m multiport " + g.Not() + g.Pick("--sports ", "--dports ", "--ports "))
		for i := range 1 + g.IntN(3) {
			if i > 0 {
				b.WriteByte(',')
			}
			if p, q := g.Port(), g.Port(); p < q {
				fmt.Fprintf(&b, "%d:%d", p, q)
			} else {
				fmt.Fprint(&b, p)
			}
		}
	case 4:
		if g.Side == Twin && g.one(3) {
			if version == 6 && g.one(2) {
				b.WriteString(" -p mh -m mh " + g.Not() + "--mh-type " + g.Pick("0", "1:3", "5"))
			} else {
				b.WriteString(" -p esp -m esp " + g.Not() + "--espspi " + g.Pick("0", "0:255", "1:65535"))
			}
			break
		}
		b.WriteString(" " + g.Not() + "-p " + g.Pick("tcp", "udp", "47", "sctp", "dccp", "udplite", "esp", "ah", icmp))
	case 5:
		b.WriteString(" -p sctp -m sctp " + g.Not() + g.Pick("--dport ", "--sport ") + g.Ports())
		if g.Side == Twin && g.one(2) {
			b.WriteString(" " + g.Not() + "--chunk-types " + g.Pick("all ", "any ", "only ") + g.Pick("DATA", "INIT,DATA:B", "SACK,ABORT", "ALL", "NONE", "DATA:bE,ERROR"))
		}
	case 6:
		if g.one(2) {
			b.WriteString(" -p tcp -m ecn " + g.Not() + g.Pick("--ecn-tcp-cwr", "--ecn-tcp-ece"))
		} else {
			b.WriteString(" -p dccp -m dccp " + g.Not() + g.Pick("--dport ", "--sport ") + g.Ports())
		}
	}
	return b.String()
}

// connection returns -m state or -m conntrack.
func (g Generator) connection(version int) string {
	if g.one(2) {
		return " -m state " + g.Not() + "--state " + g.States()
	}
	var b strings.Builder
	b.WriteString(" -m conntrack")
	n, rare := 0, 4
	if g.Side == Kernel {
		rare = 8
	}
	some := func(s string) {
		if g.one(rare) {
			b.WriteString(" " + s)
			n++
		}
	}
	if g.one(2) {
		b.WriteString(" " + g.Not() + "--ctstate " + g.States())
		n++
	}
	some(g.Not() + "--ctproto " + g.Pick("tcp", "udp", "1", "58"))
	for _, o := range []string{"orig", "repl"} {
		for _, e := range []string{"src", "dst"} {
			if g.one(2) {
				some(g.Not() + "--ct" + o + e + " " + g.Prefix(version))
			} else {
				some(g.Not() + "--ct" + o + e + "port " + g.Ports())
			}
		}
	}
	some(g.Not() + "--ctstatus " + g.Pick("ASSURED", "SEEN_REPLY,CONFIRMED", "CONFIRMED", "NONE", "EXPECTED"))
	expire := g.Pick("10", "5:100", "0:20")
	if g.Side == Kernel {
		// No timeout that a connection of a few packets can have is near a bound: the two sides count down apart.
		expire = g.Pick("20:45", "5:20", "200:500000", "0:45")
	}
	some(g.Not() + "--ctexpire " + expire)
	some("--ctdir " + g.Pick("ORIGINAL", "REPLY"))
	if n == 0 {
		b.WriteString(" --ctdir REPLY")
	}
	return b.String()
}

// odd returns one of the less frequent matches.
func (g Generator) odd(version int, early bool) string {
	lo, hi := g.Addr(version), g.Addr(version)
	if hi.Less(lo) {
		lo, hi = hi, lo
	}
	ttl := " -m ttl " + g.Pick("--ttl-eq 64", "! --ttl-eq 9", "--ttl-lt 100", "--ttl-gt 200")
	if version == 6 {
		if g.one(8) {
			if g.Side == Twin && g.one(2) {
				return g.Pick(" -m ipv6header "+g.Not()+"--header "+g.Pick("prot", "hop,prot", "route,prot", "hop,route,prot", "hop --soft", "route,hop --soft", "esp"),
					" -m hbh"+g.Pick("", " --hbh-len 8", " ! --hbh-len 8", " --hbh-opts 1:4", " --hbh-opts 1", " --hbh-opts 5:2,1"), " -m dst --dst-len 8", " -m frag --fragmore", " -m ah --ahspi 0:9")
			}
			return " -m rt " + g.Pick("--rt-type 0", "--rt-type 0 --rt-0-res", "! --rt-type 0", "--rt-segsleft 1", "--rt-len 24", "! --rt-len 8 ! --rt-segsleft 0:1")
		}
		ttl = strings.ReplaceAll(ttl, "ttl", "hl")
	}
	list := []string{
		fmt.Sprintf(" -m iprange %s--src-range %s-%s", g.Not(), lo, hi),
		fmt.Sprintf(" -m iprange %s--dst-range %s-%s", g.Not(), lo, hi),
		" -m addrtype " + g.Not() + "--src-type " + g.Pick("UNICAST", "LOCAL,MULTICAST") + " " + g.Not() + "--dst-type " + g.Pick("UNICAST", "MULTICAST"),
		" -m addrtype " + g.Not() + g.Pick("--src-type ", "--dst-type ") + g.Pick("UNICAST", "MULTICAST", "LOCAL", "UNSPEC", "LOCAL,UNICAST", "UNICAST,MULTICAST", "ANYCAST", map[int]string{4: "BROADCAST", 6: "UNICAST,LOCAL,ANYCAST"}[version]) + g.Pick("", "", " --limit-iface-in"),
		" -m length " + g.Not() + "--length " + g.Pick("40:90", "60", "0:79"),
		ttl,
		" -m tos " + g.Not() + "--tos " + g.Pick("0x10/0x10", "0x2", "8/0xf"),
		" -m dscp " + g.Not() + "--dscp-class " + g.Pick("EF", "AF11", "CS0"),
		" -m ecn " + g.Not() + "--ecn-ip-ect " + g.Pick("0", "1", "2"),
		" -m mark " + g.Not() + "--mark " + g.Pick("0", "1/1", "2"),
		" -m mac " + g.Not() + "--mac-source " + g.Pick("02:00:00:00:00:01", "02:00:00:00:00:02"),
		" -m pkttype " + g.Not() + "--pkt-type " + g.Pick("unicast", "multicast", "broadcast"),
		" -m string " + g.Not() + "--hex-string " + g.Pick(`"|0a01|"`, `"|00|"`, `"|2001|"`) + " --algo " + g.Pick("bm", "kmp --icase", "bm --from 14 --to 20"),
		" -m physdev " + g.Not() + "--physdev-in " + g.Pick("inside", "eth1", "br0"),
	}
	if !early {
		list = append(list, " -m connmark "+g.Not()+"--mark "+g.Pick("0", "1/1", "2"),
			" -m statistic --mode nth "+g.Not()+"--every 2 --packet "+g.Pick("0", "1")+" -m conntrack --ctstate "+g.States())
	}
	if g.Side == Kernel {
		// Of a rate so low no further token comes while packets do.
		list = append(list, " -m limit --limit 1/hour --limit-burst "+g.Pick("1", "3", "9"), " -m limit --limit 2/hour",
			" -m physdev "+g.Not()+"--physdev-is-in", " -m physdev "+g.Not()+"--physdev-in "+g.Pick("outside", "in+", "+"),
			" -m string "+g.Not()+"--string "+g.Pick("abc", `"!"`)+" --algo "+g.Pick("bm", "kmp")+g.Pick("", " --to 60", " --from 30 --icase"),
			" -m addrtype "+g.Not()+g.Pick("--src-type ", "--dst-type ")+g.Pick("UNICAST", "LOCAL")+" --limit-iface-in")
		if !early {
			list = append(list, " -m physdev "+g.Not()+g.Pick("--physdev-is-out", "--physdev-is-bridged"), " -m physdev "+g.Not()+g.Pick("--physdev-out outside", "--physdev-out out+", "--physdev-is-bridged"))
		}
		if version == 6 {
			list = append(list, " -m rt --rt-type 0 --rt-0-res")
		}
	}
	if g.Side == Twin {
		list = append(list, " -m u32 "+g.Not()+"--u32 "+g.Pick(`"6&0xff=6,17"`, `"0>>22&0x3c@0>>16=0:1024"`, `"0>>22&0x3c@12>>26&0x3c@0=1:0xffffffff"`, `"12=0x0a000000:0x0a01ffff&&2&0xffff=40:60"`, `"40=1"`))
		if !early {
			list = append(list, " -m helper "+g.Not()+"--helper "+g.Pick("ftp", "ftp-2121", "sip", `""`),
				" -m connlabel "+g.Not()+"--label "+g.Pick("1", "1 --set", "64", "64 --set"))
		}
		if g.Memory {
			list = append(list, g.memory(), g.memory(),
				" -m time "+g.Pick("--timestart 06:00 --timestop 12:00", "--timestart 20:00 --timestop 06:00 --contiguous --weekdays Mon,Thu", "--timestart 20:00 --timestop 06:00 --weekdays Mon,Thu",
					"! --monthdays 1,31", "--datestart 2026-03-01 --datestop 2026-09-01T12"),
				" -m quota "+g.Not()+"--quota "+g.Pick("0", "100", "1500"))
		}
		if g.Memory && !early {
			list = append(list, " -m connbytes "+g.Not()+"--connbytes "+g.Pick("10", "5:1000", "60:100")+" --connbytes-mode "+g.Pick("packets", "bytes", "avgpkt")+" --connbytes-dir "+g.Pick("original", "reply", "both"))
			list = append(list, " -m connlimit "+g.Pick("--connlimit-above 0", "--connlimit-upto 1", "! --connlimit-upto 0 --connlimit-daddr", "--connlimit-above 3 --connlimit-mask 9"))
		}
		list = append(list, " -m vlan "+g.Not()+"--vlan-id "+g.Pick("0", "1", "1:2"),
			" -m vlan "+g.Not()+"--vlan-id "+g.Pick("0", "1:")+" "+g.Not()+"--vlan-pcp "+g.Pick("0", "1", "2:"))
	}
	return g.Pick(list...)
}

// memory returns a match that remembers addresses. A table's properties hang on its name.
func (g Generator) memory() string {
	if g.one(2) {
		table := g.Pick(
			"h0 --hashlimit-mode srcip --hashlimit-burst 2 --hashlimit-htable-expire 60000 %s 10/min",
			"h1 --hashlimit-mode srcip,dstip,dstport --hashlimit-srcmask 24 --hashlimit-burst 3 %s 1/sec",
			"h2 --hashlimit-mode srcport,dstport %s 900b/s",
			"h3 --hashlimit-burst 9kb --hashlimit-mode dstip %s 300b/s",
			"h4 --hashlimit-burst 4 --hashlimit-rate-match --hashlimit-mode dstip %s 12/min",
		)
		return " -m hashlimit --hashlimit-name " + fmt.Sprintf(table, g.Pick("--hashlimit-upto", "--hashlimit-above", "! --hashlimit-upto"))
	}
	do := g.Pick("--set", "--set", "--remove", "--rcheck", "--update --hitcount 2", "--rcheck --seconds 2 --hitcount 3", "--update --seconds 1 --reap", "--rcheck --rttl")
	return " -m recent " + g.Not() + do + " --name " + g.Pick("r0", "r1") + g.Pick("", " --rdest")
}
