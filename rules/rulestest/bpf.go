package rulestest

import (
	"fmt"
	"strings"
)

// BPF returns a program of classic BPF as -m bpf takes it, that the kernel finds sound: one of those that rule files have, or
// one at random.
func (g Generator) BPF(version int) string {
	proto, l4 := "48 0 0 9", uint32(20)
	if version == 6 {
		proto, l4 = "48 0 0 6", 40
	}
	if g.one(2) {
		want := g.Pick("6", "17", "1", "58", "33")
		return g.Pick(
			fmt.Sprintf("4,%s,21 0 1 %s,6 0 0 65535,6 0 0 0", proto, want),
			fmt.Sprintf("4,%s,21 1 0 %s,6 0 0 1,6 0 0 0", proto, want),
			fmt.Sprintf("6,%s,21 0 3 %s,40 0 0 %d,37 1 0 1023,6 0 0 1,6 0 0 0", proto, want, l4+uint32(2*g.IntN(2))),
			// By the length of IPv4's header.
			"8,48 0 0 9,21 0 5 17,177 0 0 0,72 0 0 2,53 1 0 53,6 0 0 0,6 0 0 1,6 0 0 0",
			// Protocol, type, mark; the Ethernet header; the length.
			fmt.Sprintf("3,40 0 0 %d,84 0 0 %d,22 0 0 0", uint32(0xfffff000)+[]uint32{0, 4, 20}[g.IntN(3)], 1+g.IntN(3)),
			fmt.Sprintf("3,48 0 0 %d,84 0 0 1,22 0 0 0", uint32(0xffe00000)+uint32(g.IntN(30))),
			fmt.Sprintf("3,%d 0 0 %d,84 0 0 1,22 0 0 0", []int{32, 40, 48}[g.IntN(3)], uint32(0xfff00000)+uint32(g.IntN(30))),
			fmt.Sprintf("4,128 0 0 0,%d 0 1 %d,6 0 0 1,6 0 0 0", []int{37, 53}[g.IntN(2)], l4+8+uint32(g.IntN(60))),
		)
	}
	n := 3 + g.IntN(12)
	var b strings.Builder
	stored := 0
	fmt.Fprintf(&b, "%d", n+1)
	for i := range n {
		left := n - i // instructions behind it, with the return
		switch g.IntN(9) {
		case 0, 1: // loads, also from behind the datagram
			fmt.Fprintf(&b, ",%d 0 0 %d", []int{32, 40, 48}[g.IntN(3)], g.IntN(45)+g.IntN(2)*g.IntN(60))
		case 2:
			fmt.Fprintf(&b, ",%d 0 0 %d", []int{64, 72, 80}[g.IntN(3)], g.IntN(20))
		case 3:
			b.WriteString("," + g.Pick("177 0 0 0", "177 0 0 12", "129 0 0 0", "1 0 0 9", "7 0 0 0", "135 0 0 0", "132 0 0 0", fmt.Sprintf("0 0 0 %d", g.Uint32())))
		case 4: // arithmetic with a number
			op := []int{0, 16, 32, 48, 64, 80, 96, 112, 144, 160}[g.IntN(10)]
			fmt.Fprintf(&b, ",%d 0 0 %d", 4|op, 1+g.IntN(31))
		case 5: // and with X, which may be 0
			op := []int{0, 16, 32, 48, 64, 80, 96, 112, 144, 160}[g.IntN(10)]
			fmt.Fprintf(&b, ",%d 0 0 0", 12|op)
		case 6:
			if stored == 0 {
				fmt.Fprintf(&b, ",%d 0 0 3", 2+g.IntN(2))
				if i == 0 {
					stored = 1 // no jump leads around it
				}
				break
			}
			fmt.Fprintf(&b, ",%d 0 0 3", 96+g.IntN(2))
		case 7:
			fmt.Fprintf(&b, ",5 0 0 %d", g.IntN(min(left, 3)))
		case 8:
			fmt.Fprintf(&b, ",%d %d %d %d", []int{21, 29, 37, 45, 53, 61, 69, 77}[g.IntN(8)], g.IntN(min(left, 4)), g.IntN(min(left, 4)), g.IntN(70))
		}
	}
	b.WriteString("," + g.Pick("22 0 0 0", "22 0 0 0", "6 0 0 1", "6 0 0 0"))
	return b.String()
}

// extra returns a match about headers that few protocols have, or a program.
func (g Generator) extra(version int) string {
	not := g.Not()
	list := []string{
		` -m bpf --bytecode "` + g.BPF(version) + `"`, ` -m bpf --bytecode "` + g.BPF(version) + `"`,
		" -p dccp -m dccp " + not + "--dccp-types " + g.Pick("REQUEST", "DATA,ACK", "INVALID", "RESPONSE,RESET,SYNC", "CLOSE,closereq,DATAACK,SYNCACK"),
		" -p dccp -m dccp --dccp-option " + g.Pick("1", "2", "38", "44") + g.Pick("", " --dccp-types REQUEST,ACK", " --dport "+g.Ports()),
		" -p ipcomp -m ipcomp " + g.Pick("", not+"--ipcompspi "+g.Pick("0", "5", "3:9", "1:65535", "65536:70000")+g.Pick("", " --compres")),
		fmt.Sprintf(" -m cluster --cluster-total-nodes %d %s--cluster-local-node 1 --cluster-hash-seed %d", 1+g.IntN(4), not, g.Uint32()),
		" -m cluster --cluster-total-nodes 4 " + not + "--cluster-local-nodemask " + g.Pick("6", "0xf", "9") + " --cluster-hash-seed 0xdeadbeef",
	}
	if version == 6 {
		list = append(list, " -m eui64")
		if g.Side == Twin {
			list = append(list, g.routing(), g.routing(), g.segments(), g.segments())
		} else {
			list = append(list, " -m rt "+g.Pick("", not+"--rt-type "+g.Pick("0", "4", "2", "300")))
		}
	}
	return g.Pick(list...)
}

// routing returns a match about a routing header.
func (g Generator) routing() string {
	hops := g.Addr(6).String() + g.Pick("", ","+g.Addr(6).String())
	return " -m rt " + g.Pick("--rt-type 0 --rt-0-addrs "+hops+g.Pick("", " --rt-0-not-strict", " --rt-segsleft 1", " --rt-0-res"),
		g.Not()+"--rt-type "+g.Pick("0", "4", "300"), g.Not()+"--rt-len "+g.Pick("8", "24", "40"), g.Not()+"--rt-segsleft "+g.Pick("0", "1:9"), "")
}

// segments returns -m srh.
func (g Generator) segments() string {
	not := g.Not()
	return " -m srh" + g.Pick("", " "+not+"--srh-next-hdr "+g.Pick("6", "17", "58"), " "+not+"--srh-tag "+g.Pick("0", "1", "258", "513"), " "+not+"--srh-hdr-len-"+g.Pick("eq 2", "gt 1", "lt 4"),
		" "+not+"--srh-segs-left-"+g.Pick("eq 1", "gt 0", "lt 1"), " "+not+"--srh-last-entry-"+g.Pick("eq 1", "gt 0", "lt 1"), " "+not+"--srh-psid "+g.host(), " "+not+"--srh-nsid "+g.host(),
		" "+not+"--srh-lsid "+g.host(), " --srh-segs-left-gt 0 ! --srh-last-entry-lt 1")
}

// host returns an address of IPv6 with the length of a prefix.
func (g Generator) host() string {
	return g.Addr(6).String() + g.Pick("", "/0", "/32", "/48", "/64", "/127")
}

// absent returns a match about what no packet of a wire has, as a base chain of the table mangle or filter may have it.
func (g Generator) absent(version int, table, chain string) string {
	list := []string{" -m policy --dir out --pol " + g.Pick("none", "ipsec", "ipsec --strict --reqid 5 --next --proto esp")}
	if chain == "PREROUTING" {
		list = []string{" -m policy --dir in --pol " + g.Pick("none", "ipsec"), " -m socket" + g.Pick("", " --transparent", " --nowildcard")}
	}
	if chain == "POSTROUTING" {
		list = append(list, " -m owner "+g.Not()+g.Pick("--uid-owner 0", "--gid-owner 0-9", "--socket-exists", "--uid-owner 5 ! --socket-exists", "--uid-owner 7 ! --gid-owner 8"),
			" -m owner ! --uid-owner 1 ! --gid-owner 2", " -m cgroup "+g.Not()+"--cgroup "+g.Pick("0", "5"))
	}
	if chain == "FORWARD" {
		list = append(list, " -m policy --dir in --pol "+g.Pick("none", "ipsec"))
	}
	if version == 4 && chain != "PREROUTING" {
		list = append(list, " -m realm "+g.Not()+"--realm "+g.Pick("0", "5", "0/15", "0x10/0xf0"))
	}
	return g.Pick(list...)
}

// Rare writes a rule file for one IP version, 4 or 6, whose rules ask for what few rule files ask, each for one thing alone.
func (g Generator) Rare(version int) string {
	var b strings.Builder
	chain := func(table, name string) {
		for range 4 + g.IntN(12) {
			conditions := g.extra(version)
			switch {
			case version == 6 && g.one(4):
				conditions = g.routing()
			case version == 6 && g.one(2):
				conditions = g.segments()
			case g.one(3):
				conditions = g.absent(version, table, name)
			case g.one(4):
				conditions = " -j " + g.hashMark(version)
			}
			if name == "POSTROUTING" && strings.Contains(conditions, "eui64") {
				conditions = g.absent(version, table, name)
			}
			if !strings.Contains(conditions, " -j ") {
				conditions += g.Pick("", "", "", "", "", "", " -j ACCEPT", " -j DROP")
			}
			fmt.Fprintf(&b, "-A %s%s\n", name, conditions)
		}
		for bit := range 32 { // the marks are seen
			if g.one(6) {
				fmt.Fprintf(&b, "-A %s -m mark --mark %#x/%#x\n", name, uint32(1)<<bit, uint32(1)<<bit)
			}
		}
	}
	b.WriteString("*mangle\n")
	for _, name := range []string{"PREROUTING", "FORWARD", "POSTROUTING"} {
		chain("mangle", name)
	}
	b.WriteString("COMMIT\n*filter\n")
	chain("filter", "FORWARD")
	return b.String() + "COMMIT\n"
}

// hashMark returns -j HMARK.
func (g Generator) hashMark(version int) string {
	prefix := func() string {
		if version == 6 {
			return g.Pick("0", "32", "64", "128")
		}
		return g.Pick("0", "8", "24", "32")
	}
	return "HMARK " + g.Pick(
		"--hmark-tuple "+g.Pick("src", "dst", "src,dst", "src,dst,sport,dport", "src,dst,sport,dport,proto", "ct,src,dst,sport,dport,proto", "ct,src,sport", "src,dst,spi", "proto", "ct"),
		"--hmark-src-prefix "+prefix()+" --hmark-dst-prefix "+prefix(), "--hmark-src-prefix "+prefix()+" --hmark-tuple ct,dport",
		"--hmark-tuple src,dst --hmark-sport-mask 0xff00 --hmark-dport-mask 0xf --hmark-sport 0x10 --hmark-dport 1", "--hmark-tuple src --hmark-spi-mask 0xffff0000 --hmark-spi 5",
		"--hmark-tuple dst --hmark-proto-mask 0xf",
	) + " --hmark-mod " + g.Pick("2", "3", "4", "1000", "4294967295") + " --hmark-rnd " + g.Pick("0", "1", fmt.Sprintf("%#x", g.Uint32())) + g.Pick("", " --hmark-offset "+g.Pick("0", "1", "100"))
}
