package rulestest

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// U32Blank stands for what -m u32 asks until there are packets to ask of: see Generator.U32.
const U32Blank = `"0=0"`

// rare returns a match that few rule sets have, for the kernel.
func (g Generator) rare(version int, early bool) string {
	not := g.Not()
	list := []string{
		" -m u32 " + not + "--u32 " + U32Blank, " -m u32 " + not + "--u32 " + U32Blank,
		" -m quota " + not + "--quota " + g.Pick("0", "100", "400", "1500", "9000"),
		g.time(),
		" -p sctp -m sctp " + not + "--chunk-types " + g.Pick("all ", "any ", "only ") + g.Pick("DATA", "INIT", "INIT,DATA:B", "SACK,ABORT", "ALL", "NONE", "DATA:bE,ERROR", "INIT,SACK"),
		" -p esp -m esp " + not + "--espspi " + g.Pick("0:4", "5", "3:4294967295", "0x100:0x200"),
		g.rate(version), g.rate(version), g.recent(version), g.recent(version),
	}
	if version == 4 {
		list = append(list, " -p ah -m ah "+not+"--ahspi "+g.Pick("0:4", "5", "3:4294967295"))
		list = append(list, " -m ttl "+not+"--ttl-eq "+g.Pick("64", "9"))
	} else {
		list = append(list, g.header(), g.header(), g.header(), g.header(), " -m hl "+not+"--hl-eq "+g.Pick("64", "9"))
	}
	list = append(list, " -m dscp "+not+"--dscp "+g.Pick("0", "0x2e", "8"), " -m addrtype "+not+"--dst-type "+g.Pick("UNICAST", "MULTICAST", "LOCAL"),
		" -m limit --limit 1/hour --limit-burst "+g.Pick("1", "3"), " -p tcp -m tcpmss "+not+"--mss "+g.Pick("1460", "0:1459", "1461:65535"))
	if !early {
		end := g.Pick("src", "dst")
		list = append(list,
			" -m conntrack "+not+"--ct"+g.Pick("orig", "repl")+end+" "+g.Prefix(version), " -m conntrack "+not+"--ct"+g.Pick("orig", "repl")+end+"port "+g.Ports(),
			" -m conntrack "+not+"--ctstatus "+g.Pick("ASSURED", "SEEN_REPLY", "NONE"), " -m conntrack "+not+"--ctexpire "+g.Pick("20:45", "200:500000", "0:45"),
			" -m connlabel "+not+"--label "+g.Pick("1", "64", "127")+g.Pick("", " --set"), " -m connlabel "+not+"--label "+g.Pick("1", "64"),
			" -m helper "+not+"--helper "+g.Pick("ftp", "tftp", "tftp-69", `""`), " -m connbytes "+not+"--connbytes "+g.bytes(), " -m connbytes "+not+"--connbytes "+g.bytes())
	}
	return g.Pick(list...)
}

// bytes returns what -m connbytes asks.
func (g Generator) bytes() string {
	mode := g.Pick("packets", "bytes", "avgpkt")
	n := g.Pick("1", "1:1", "2", "2:3", "0:4", "3:")
	if mode != "packets" {
		n = g.Pick("60", "0:100", "80:120", "100:", "300:900")
	}
	return n + " --connbytes-mode " + mode + " --connbytes-dir " + g.Pick("original", "reply", "both")
}

// masks are prefix lengths that keep some of the addresses of the pool apart.
func masks(version int) (whole, part string) {
	if version == 6 {
		return "128", "64"
	}
	return "32", "17"
}

// rate returns a match of hashlimit so slow that no further token comes while packets do. A table's properties hang on its
// name.
func (g Generator) rate(version int) string {
	whole, part := masks(version)
	const keep = " --hashlimit-htable-expire 600000 "
	table := g.Pick(
		"a%s --hashlimit-mode srcip --hashlimit-burst 2 --hashlimit-srcmask "+part+keep,
		"b%s --hashlimit-mode srcip,dstip,dstport --hashlimit-burst 1 --hashlimit-dstmask "+whole+keep,
		"c%s --hashlimit-mode srcport --hashlimit-burst 3 --hashlimit-htable-size 64 --hashlimit-htable-max 4096 --hashlimit-htable-gcinterval 60000"+keep,
		"d%s --hashlimit-burst 9"+keep,
		"e%s --hashlimit-mode dstip,srcport --hashlimit-burst 1 --hashlimit-dstmask "+part+keep,
	)
	return " -m hashlimit " + g.Pick("--hashlimit-upto", "--hashlimit-above", "! --hashlimit-upto", "! --hashlimit-above") + " 1/hour --hashlimit-name " + fmt.Sprintf(table, g.Tag)
}

// recent returns a match of recent whose times are long past what packets take.
func (g Generator) recent(version int) string {
	do := g.Pick("--set", "--set", "--remove", "--rcheck", "--rcheck --hitcount 3", "--update --hitcount 2", "--update --seconds 600", "--rcheck --seconds 600 --hitcount 2", "--update --seconds 900 --reap",
		"--rcheck --rttl", "--update --rttl --hitcount 5")
	mask := "255.255.128.0"
	if version == 6 {
		mask = "ffff:ffff:ffff:ffff::"
	}
	return " -m recent " + g.Not() + do + g.Pick(" --name q"+g.Tag+" --mask "+mask, " --name p"+g.Tag, " --name p"+g.Tag) + g.Pick("", " --rdest", " --rsource")
}

// connections returns a match of connlimit, asked of packets that may begin a connection.
func (g Generator) connections() string {
	return g.Pick(" -p tcp -m tcp --tcp-flags SYN,ACK,RST,FIN SYN", " -p udp -m conntrack --ctstate NEW", " -m conntrack --ctstate NEW") + " -m connlimit " +
		g.Pick("--connlimit-above ", "--connlimit-upto ", "! --connlimit-upto ") + g.Pick("0", "1", "2", "5") + g.Pick("", " --connlimit-mask 0", " --connlimit-mask 16", " --connlimit-mask 31") + g.Pick("", " --connlimit-saddr", " --connlimit-daddr")
}

// header returns a match about extension headers of IPv6.
func (g Generator) header() string {
	not := g.Not()
	switch g.IntN(7) {
	case 0:
		return " -m ah " + g.Pick(not+"--ahspi "+g.Pick("0:4", "5", "3:4294967295"), not+"--ahlen "+g.Pick("12", "16", "24"), "--ahlen 24", "--ahres", "--ahres", "--ahspi 0:9 "+not+"--ahlen 24 --ahres")
	case 1:
		id := g.Uint32() | 1<<16 // such as no other rule asks for
		return " -m frag " + g.Pick(not+"--fragid "+g.Pick(fmt.Sprintf("%d:%d", id-4, id), fmt.Sprint(id), fmt.Sprintf("%d:4294967295", id)), "--fragres", "--fragfirst", "--fragmore", "--fraglast", "--fraglast",
			fmt.Sprintf("--fragid %d:%d ", id-9, id)+not+"--fraglen 8")
	case 2, 3:
		return " -m ipv6header " + not + "--header " + g.Pick("prot", "hop,prot", "route,prot", "hop,route,prot", "dst,prot", "ah,prot", "ah", "esp", "none", "frag,prot", "hop,dst,esp", "hop", "dst,route", "prot") + g.Pick("", " --soft")
	case 4, 5:
		m := g.Pick("hbh", "dst")
		return " -m " + m + g.Pick("", fmt.Sprintf(" %s--%s-len %s", not, m, g.Pick("8", "16")), fmt.Sprintf(" --%s-opts %s", m, g.Pick("5:2", "1:4", "5", "5:2,1", "1:4,0,0", "0,0,5:2", "201:3,5")))
	}
	return " -p 135 -m mh " + not + "--mh-type " + g.Pick("bu", "ba:be", "0:3", "coti")
}

// time returns a match that is either true or false for the rest of the day, though not what the same numbers make on
// another day.
func (g Generator) time() string {
	now := g.Now
	if now.IsZero() {
		now = time.Date(2026, 3, 4, 11, 0, 0, 0, time.UTC)
	}
	hour := func(d int) string { return now.Add(time.Duration(d) * time.Hour).Format("15:04") }
	days := func(format string, d ...int) string {
		var list []string
		for _, d := range d {
			list = append(list, now.AddDate(0, 0, d).Format(format))
		}
		return strings.Join(list, ",")
	}
	const month = "2"
	return " -m time " + g.Pick(
		"--timestart "+hour(-5)+" --timestop "+hour(5), "--timestart "+hour(5)+" --timestop "+hour(10),
		"--timestart 23:59:59 --timestop 23:59:58 --contiguous", "--timestart 23:59:59 --timestop 23:59:58 --contiguous --weekdays "+days("Mon", 3, 4), "--timestart 23:59:59 --timestop 23:59:58 --contiguous --weekdays "+days("Mon", -2, -1, 0, 1),
		"--datestart 1971-02-03 --datestop 2037-12-31T23:59:59", "--datestop 2037-06", "--datestop 2037", "--datestart 2037", "--datestop 1999-12", "--datestart 2001-01-01T01:02:03 --kerneltz", "--datestart 2037-06 --kerneltz",
		"--weekdays "+days("Mon", -1, 0, 1), "--weekdays "+days("Mon", 3, 4), "! --weekdays "+days("Mon", -1, 0, 1), "! --weekdays "+days("Mon", 3, 4),
		"--monthdays "+days(month, -1, 0, 1), "--monthdays "+days(month, 6, 9), "! --monthdays "+days(month, -1, 0, 1), "! --monthdays "+days(month, 6, 9))
}

// U32 returns what -m u32 may ask, such that an IP datagram answers it, or not by little: words at any place, shifted,
// masked, and places that are read from the datagram, of which one may be behind its end.
func (g Generator) U32(d []byte) string {
	var b strings.Builder
	for i := range 1 + g.IntN(3) {
		if i > 0 {
			b.WriteString(g.Pick("&&", " && "))
		}
		base, value := uint32(0), uint32(0)
		read := func(at uint32) {
			value = 0
			if n := uint64(base) + uint64(at); n+4 <= uint64(len(d)) {
				value = binary.BigEndian.Uint32(d[n:])
			}
		}
		at := uint32(g.IntN(max(min(len(d)-3, 48), 1)))
		if g.one(25) {
			at = uint32(len(d) - 4 + g.IntN(3))
		}
		if g.one(4) { // the transport header
			at = 0
		}
		read(at)
		fmt.Fprintf(&b, g.Pick("%d", "%#x"), at)
		if at == 0 && len(d) > 24 && d[0]>>4 == 4 && g.one(2) {
			base = (value >> 22 & 0x3c)
			at = uint32(g.IntN(6))
			read(at)
			fmt.Fprintf(&b, ">>22&0x3C@%d", at)
		}
		for range g.IntN(4) {
			switch n := uint32(g.IntN(32)); g.IntN(4) {
			case 0:
				value >>= n
				fmt.Fprintf(&b, ">>%d", n)
			case 1:
				value <<= n
				fmt.Fprintf(&b, " << %#x", n)
			case 2:
				mask := []uint32{0xff, 0xffff, 0xff00ff, 0xf0000000, 0x3c, 7}[g.IntN(6)]
				value &= mask
				fmt.Fprintf(&b, "&%#x", mask)
			case 3:
				if value > 64 && !g.one(3) {
					value = value & 31
					b.WriteString("&0x1f")
				}
				base += value
				at = uint32(g.IntN(20))
				read(at)
				fmt.Fprintf(&b, "@%d", at)
			}
		}
		b.WriteString(g.Pick("=", " = "))
		switch g.IntN(6) {
		case 0:
			fmt.Fprintf(&b, "%#x:%#x", value-min(value, uint32(g.IntN(9))), value+min(^value, uint32(g.IntN(9))))
		case 1:
			fmt.Fprintf(&b, "7,%d:%#x", value, uint32(1<<32-1))
		case 2:
			fmt.Fprintf(&b, "0:%d, %d", value, 1<<31)
		case 3:
			fmt.Fprintf(&b, "%d", value+uint32(g.IntN(2)))
		default:
			fmt.Fprintf(&b, "%#x", value)
		}
	}
	return `"` + b.String() + `"`
}
