package rules

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// lister is a module or target that `iptables -L -v -n` prints otherwise than iptables-save.
type lister interface {
	// AppendList appends what iptables prints for it behind a rule's addresses, with a blank before it.
	AppendList(b []byte) []byte
}

// versionLister is a lister for which the IP version matters.
type versionLister interface {
	// appendListOf is AppendList for one IP version, or Both: then what differs is left out.
	appendListOf(b []byte, f Family) []byte
}

// AppendList appends what `iptables -L -v -n` prints of the rule behind its addresses: goto, matches, and the options of the
// target (the print functions of libxt_*.c, libipt_*.c and libip6t_*.c in iptables' extensions).
func (r *Rule) AppendList(b []byte, f Family) []byte {
	if r.Target.Verb == VerbGoto {
		b = append(b, "[goto] "...)
	}
	for _, m := range r.Matches {
		b = appendList(b, m, f)
	}
	t := &r.Target
	switch {
	case t.CT != nil && t.CT.target == "NOTRACK":
		b = append(b, " NOTRACK"...)
	case t.CT != nil:
		b = appendPlain(append(b, " CT"...), t.CT)
	case t.Verb == VerbReject:
		one := *r
		one.Family = f
		b = append(append(b, " reject-with "...), one.rejectName()...)
	case t.Verb == VerbLog:
		b = t.Log.AppendList(b)
	case t.Effect != nil:
		b = appendList(b, t.Effect, f)
	}
	return b
}

// appendXmark appends what a value and a mask do to a mark, by the names of iptables' options.
func appendXmark(b []byte, value, mask uint32) []byte {
	switch {
	case value == 0:
		return fmt.Appendf(b, " and 0x%x", ^mask)
	case value == mask:
		return fmt.Appendf(b, " or 0x%x", value)
	case mask == 0:
		return fmt.Appendf(b, " xor 0x%x", value)
	case mask == 1<<32-1:
		return fmt.Appendf(b, " set 0x%x", value)
	}
	return fmt.Appendf(b, " xset 0x%x/0x%x", value, mask)
}

// AppendList implements lister, as the AppendList of all targets below.
func (t *MarkTarget) AppendList(b []byte) []byte {
	return appendXmark(append(b, " MARK"...), t.Value, t.Mask)
}

func (t *ConnMarkTarget) AppendList(b []byte) []byte {
	b = append(b, " CONNMARK"...)
	verb, first, second, a, c := " save", "nfmask", "ctmask", t.NfMask, t.CtMask
	switch t.Mode {
	case ConnMarkSet:
		return appendXmark(b, t.Value, t.CtMask)
	case ConnMarkRestore:
		verb, first, second, a, c = " restore", "ctmask", "nfmask", t.CtMask, t.NfMask
	}
	b = append(b, verb...)
	switch {
	case a == c && a == 1<<32-1:
	case a == c:
		b = fmt.Appendf(b, " mask 0x%x", a)
	default:
		b = fmt.Appendf(b, " %s 0x%x %s ~0x%x", first, a, second, c)
	}
	return b
}

func (t *MSSTarget) AppendList(b []byte) []byte {
	if t.Clamp {
		return append(b, " TCPMSS clamp to PMTU"...)
	}
	return fmt.Appendf(b, " TCPMSS set %d", t.MSS)
}

func (t *TOSTarget) AppendList(b []byte) []byte {
	if t.target == "DSCP" {
		return fmt.Appendf(b, " DSCP set 0x%02x", t.Value>>2)
	}
	switch { // tos_tg_print in libxt_TOS.c
	case t.Value == 0:
		return fmt.Appendf(b, " TOS and 0x%02x", ^t.Mask)
	case t.Value == t.Mask:
		return fmt.Appendf(b, " TOS or 0x%02x", t.Value)
	case t.Mask == 0:
		return fmt.Appendf(b, " TOS xor 0x%02x", t.Value)
	}
	return fmt.Appendf(b, " TOS set 0x%02x/0x%02x", t.Value, t.Mask)
}

func (t *TTLTarget) AppendList(b []byte) []byte {
	return fmt.Appendf(b, " %s %s %d", t.target, map[TTLMode]string{TTLSet: "set to", TTLInc: "increment by", TTLDec: "decrement by"}[t.Mode], t.Value)
}

func (t *ECNTarget) AppendList(b []byte) []byte { return append(b, " ECN TCP remove"...) }

// rejectName is the name of what the rule answers.
func (r *Rule) rejectName() string {
	f := r.Family
	if f == Both {
		f = IPv4
	}
	return r.Target.Reject.name(f)
}

// appendList appends a module, as it says itself, or as iptables-save prints it without dashes.
func appendList(b []byte, m Extension, f Family) []byte {
	switch l := m.(type) {
	case versionLister:
		return l.appendListOf(b, f)
	case lister:
		return l.AppendList(b)
	}
	return appendPlain(append(append(b, ' '), m.Name()...), m)
}

// appendPlain appends a module's options as iptables-save prints them, without dashes.
func appendPlain(b []byte, m Extension) []byte {
	return append(b, bytes.ReplaceAll(m.AppendSave(nil), []byte(" --"), []byte(" "))...)
}

// sign returns "!" for what is inverted.
func sign(not bool) string {
	if not {
		return "!"
	}
	return ""
}

// appendList appends " spt:!80" or " spts:1:20", and nothing for all ports.
func (r PortRange) appendList(b []byte, name string) []byte {
	if r.full() {
		return b
	}
	b = append(append(b, ' '), name...)
	if r.Lo != r.Hi {
		b = append(b, 's')
	}
	return r.append(append(append(b, ':'), sign(r.Not)...))
}

// appendListSpan appends " 5", " 1:5", or the same behind "!".
func appendListSpan(b []byte, not bool, lo, hi uint64) []byte {
	return appendSpan(append(append(b, ' '), sign(not)...), lo, hi)
}

// AppendList implements lister, as the AppendList of all modules below.
func (m *TCPMatch) AppendList(b []byte) []byte {
	b = m.Dst.appendList(m.Src.appendList(append(b, " tcp"...), "spt"), "dpt")
	if m.Option.Kind != 0 {
		b = fmt.Appendf(b, " option=%s%d", sign(m.Option.Not), m.Option.Kind)
	}
	if m.Flags.Mask != 0 || m.Flags.Want != 0 || m.Flags.Not {
		b = fmt.Appendf(b, " flags:%s0x%02X/0x%02X", sign(m.Flags.Not), m.Flags.Mask, m.Flags.Want)
	}
	return b
}

func (m *UDPMatch) AppendList(b []byte) []byte {
	return m.Dst.appendList(m.Src.appendList(append(b, " udp"...), "spt"), "dpt")
}

func (m *PortsMatch) AppendList(b []byte) []byte {
	b = append(append(b, ' '), m.module...)
	if m.srcSet {
		b = m.Src.appendList(b, "spt")
	}
	if m.dstSet {
		b = m.Dst.appendList(b, "dpt")
	}
	if m.Chunks != nil {
		b = m.Chunks.appendTypes(append(appendNot(b, m.Chunks.Not), ' '), "0x%04[1]X")
	}
	return m.DCCP.appendList(b)
}

func (m *ICMPMatch) AppendList(b []byte) []byte {
	if m.module == "icmp6" {
		b = append(b, " ipv6-icmp"...)
	} else {
		b = append(b, " icmp"...)
	}
	if m.Not {
		b = append(b, " !"...)
	}
	b = fmt.Appendf(b, "type %d", m.Type)
	switch {
	case m.MinCode == m.MaxCode:
		b = fmt.Appendf(b, " code %d", m.MinCode)
	case m.MinCode != 0 || m.MaxCode != 255:
		b = fmt.Appendf(b, " codes %d-%d", m.MinCode, m.MaxCode)
	}
	return b
}

func (m *MultiportMatch) AppendList(b []byte) []byte {
	b = append(append(b, " multiport "...), [...]string{"sports ", "dports ", "ports "}[m.Side]...)
	if m.Not {
		b = append(b, " !"...)
	}
	for k, r := range m.Ports {
		if k > 0 {
			b = append(b, ',')
		}
		b = r.append(b)
	}
	return b
}

func (m *ConntrackMatch) AppendList(b []byte) []byte { return appendPlain(b, m) }

func (m *CommentMatch) AppendList(b []byte) []byte { return fmt.Appendf(b, " /* %s */", m.Text) }

func (m *IPRangeMatch) AppendList(b []byte) []byte {
	for k, r := range []AddrRange{m.Src, m.Dst} {
		if !r.Set {
			continue
		}
		b = append(b, [...]string{" source IP range", " destination IP range"}[k]...)
		b = appendNot(b, r.Not)
		b = fmt.Appendf(b, " %s-%s", r.Lo.Netip(), r.Hi.Netip())
	}
	return b
}

func (m *LengthMatch) AppendList(b []byte) []byte {
	return appendListSpan(append(b, " length"...), m.Not, uint64(m.Lo), uint64(m.Hi))
}

func (m *MSSMatch) AppendList(b []byte) []byte {
	return appendListSpan(append(b, " tcpmss match"...), m.Not, uint64(m.Lo), uint64(m.Hi))
}

func (m *MarkMatch) AppendList(b []byte) []byte {
	b = append(append(append(b, ' '), m.module...), " match"...)
	if m.module == "connmark" { // libxt_connmark.c prints a blank more
		b = append(append(b, ' '), sign(m.Not)...)
	} else {
		b = appendNot(b, m.Not)
	}
	b = fmt.Appendf(b, " 0x%x", m.Value)
	if m.Mask != 1<<32-1 {
		b = fmt.Appendf(b, "/0x%x", m.Mask)
	}
	return b
}

func (m *MACMatch) AppendList(b []byte) []byte {
	a := m.Addr
	return fmt.Appendf(appendNot(append(b, " MAC"...), m.Not), " %02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}

func (m *TTLMatch) AppendList(b []byte) []byte {
	name := "TTL"
	if m.module == "hl" {
		name = "HL"
	}
	is := map[Compare]string{Equal: "==", NotEqual: "!=", Less: "<", Greater: ">"}[m.Compare]
	return fmt.Appendf(b, " %s match %s %s %d", name, name, is, m.Value)
}

func (m *TOSMatch) AppendList(b []byte) []byte {
	if m.module == "dscp" {
		return fmt.Appendf(b, " DSCP match %s0x%02x", sign(m.Not), m.Value>>2)
	}
	return fmt.Appendf(b, " tos match%s0x%02x/0x%02x", sign(m.Not), m.Value, m.Mask)
}

func (m *ECNMatch) AppendList(b []byte) []byte {
	b = append(b, " ECN match"...)
	if m.ECE {
		b = append(append(b, ' '), sign(m.NotECE)+"ECE"...)
	}
	if m.CWR {
		b = append(append(b, ' '), sign(m.NotCWR)+"CWR"...)
	}
	if m.ECT {
		b = fmt.Appendf(b, " %sECT=%d", sign(m.NotECT), m.Codepoint)
	}
	return b
}

func (m *PhysdevMatch) AppendList(b []byte) []byte {
	return m.AppendSave(append(b, " PHYSDEV match"...))
}

func (m *AddrTypeMatch) AppendList(b []byte) []byte {
	b = append(b, " ADDRTYPE match"...)
	if m.srcAsked {
		b = m.Src.append(append(append(b, " src-type "...), sign(m.SrcNot)...))
	}
	if m.dstAsked {
		b = m.Dst.append(append(append(b, " dst-type "...), sign(m.DstNot)...))
	}
	if m.LimitIn {
		b = append(b, " limit-in"...)
	}
	if m.LimitOut {
		b = append(b, " limit-out"...)
	}
	return b
}

func (m *LimitMatch) AppendList(b []byte) []byte {
	rate, _, _ := bytes.Cut(m.AppendSave(nil)[len(" --limit "):], []byte(" "))
	return strconv.AppendUint(append(append(append(b, " limit: avg "...), rate...), " burst "...), uint64(m.Burst), 10)
}

func (m *StatisticMatch) AppendList(b []byte) []byte {
	b = append(b, " statistic mode "...)
	if m.Random {
		return fmt.Appendf(appendNot(append(b, "random"...), m.Not), " probability %.11f", float64(m.Probability)/(1<<31))
	}
	b = fmt.Appendf(appendNot(append(b, "nth"...), m.Not), " every %d", m.Every)
	if m.Packet != 0 {
		b = fmt.Appendf(b, " packet %d", m.Packet)
	}
	return b
}

func (m *StringMatch) AppendList(b []byte) []byte {
	text := bytes.TrimPrefix(m.AppendSave(nil), []byte(" !"))
	text = bytes.TrimPrefix(bytes.TrimPrefix(text, []byte(" --hex-string")), []byte(" --string"))
	text = text[:bytes.LastIndex(text, []byte(" --algo "))]
	b = append(append(append(b, " STRING match "...), sign(m.Not)...), text...)
	b = append(append(b, " ALGO name "...), m.Algo...)
	if m.From != 0 {
		b = fmt.Appendf(b, " FROM %d", m.From)
	}
	if m.To != 65535 {
		b = fmt.Appendf(b, " TO %d", m.To)
	}
	if m.IgnCase {
		b = append(b, " ICASE"...)
	}
	return b
}

func (m *PacketTypeMatch) AppendList(b []byte) []byte {
	is := " = "
	if m.Not {
		is = " != "
	}
	return append(append(append(b, " PKTTYPE"...), is...), packetTypeNames[m.Type]...)
}

func (m *RoutingMatch) AppendList(b []byte) []byte {
	b = append(b, " rt"...)
	if m.HasType {
		b = fmt.Appendf(b, " type:%s%d", sign(m.TypeNot), m.Type)
	}
	switch {
	case m.SegsLo != m.SegsHi && (m.SegsLo != 0 || m.SegsHi != 1<<32-1 || m.SegsNot):
		b = fmt.Appendf(b, " segslefts:%s%d:%d", sign(m.SegsNot), m.SegsLo, m.SegsHi)
	case m.SegsLo == m.SegsHi:
		b = fmt.Appendf(b, " segsleft:%s%d", sign(m.SegsNot), m.SegsLo)
	}
	if m.HasLen {
		b = fmt.Appendf(b, " length:%s%d", sign(m.LenNot), m.Len)
	}
	if m.Reserved {
		b = append(b, " reserved"...)
	}
	if m.Addrs != nil {
		b = m.appendHops(append(b, " 0-addrs"...))
	}
	if m.Loose {
		b = append(b, " 0-not-strict"...)
	}
	return b
}

// appendListOf implements versionLister.
func (m *RecentMatch) appendListOf(b []byte, f Family) []byte {
	b = append(appendNot(b, m.Not), " recent: "...)
	b = append(b, [...]string{RecentSet: "SET", RecentCheck: "CHECK", RecentUpdate: "UPDATE", RecentRemove: "REMOVE"}[m.Do]...)
	if m.Seconds != 0 {
		b = fmt.Appendf(b, " seconds: %d", m.Seconds)
	}
	if m.Reap {
		b = append(b, " reap"...)
	}
	if m.Hits != 0 {
		b = fmt.Appendf(b, " hit_count: %d", m.Hits)
	}
	if m.TTL {
		b = append(b, " TTL-Match"...)
	}
	side := "source"
	if m.Dst {
		side = "dest"
	}
	b = fmt.Appendf(b, " name: %s side: %s", m.List, side)
	if mask := m.maskText(f); mask != "" {
		b = append(append(b, " mask: "...), mask...)
	}
	return b
}

// appendListOf implements versionLister.
func (m *ConnlimitMatch) appendListOf(b []byte, f Family) []byte {
	b = append(b, " #conn "...)
	if m.Dst {
		b = append(b, "dst"...)
	} else {
		b = append(b, "src"...)
	}
	bits := m.Mask
	if bits < 0 && f != Both {
		bits = map[Family]int16{IPv4: 32, IPv6: 128}[f]
	}
	if bits >= 0 {
		b = fmt.Appendf(b, "/%d", bits)
	}
	if m.Above {
		return fmt.Appendf(b, " > %d", m.Limit)
	}
	return fmt.Appendf(b, " <= %d", m.Limit)
}

// AppendList implements lister: the options as iptables-save has them, without the table's name. Only modes have commas.
func (m *HashlimitMatch) AppendList(b []byte) []byte {
	one := *m
	one.Table = ""
	text := bytes.Replace(one.AppendSave(nil), []byte(" --hashlimit-name "), nil, 1)
	text = bytes.Replace(text, []byte(" --hashlimit-upto"), []byte(" limit: up to"), 1)
	text = bytes.Replace(text, []byte(" --hashlimit-above"), []byte(" limit: above"), 1)
	text = bytes.ReplaceAll(text, []byte(" --hashlimit-"), []byte(" "))
	return append(b, bytes.ReplaceAll(text, []byte(","), []byte("-"))...)
}

// AppendList implements lister, as the AppendList of all modules below.
func (m *ByteMatch) AppendList(b []byte) []byte {
	text := bytes.Replace(m.AppendSave(nil), []byte(" --connbytes-mode"), []byte(" connbytes mode"), 1)
	text = bytes.Replace(text, []byte(" --connbytes-dir"), []byte(" connbytes direction"), 1)
	return append(b, bytes.Replace(text, []byte(" --"), []byte(" "), 1)...)
}

func (m *LabelMatch) AppendList(b []byte) []byte {
	b = fmt.Appendf(appendNot(append(b, " connlabel"...), m.Not), " %d", m.Label)
	if m.Set {
		b = append(b, " set"...)
	}
	return b
}

func (m *HelperMatch) AppendList(b []byte) []byte {
	return fmt.Appendf(appendNot(append(b, " helper match"...), m.Not), " \"%s\"", m.Helper)
}

// AppendList implements lister; libxt_quota.c does not print "!".
func (m *QuotaMatch) AppendList(b []byte) []byte { return fmt.Appendf(b, " quota: %d bytes", m.Bytes) }

func (m *U32Match) AppendList(b []byte) []byte {
	one := *m
	one.Not = false
	return append(appendNot(append(b, " u32"...), m.Not), one.AppendSave(nil)[len(" --u32"):]...)
}

func (m *TimeMatch) AppendList(b []byte) []byte {
	b = append(b, " TIME"...)
	if m.Start != 0 || m.Stop != secondsPerDay-1 {
		for _, x := range []struct {
			word string
			v    uint32
		}{{"from", m.Start}, {"to", m.Stop}} {
			b = fmt.Appendf(b, " %s %02d:%02d:%02d", x.word, x.v/3600, x.v/60%60, x.v%60)
		}
	}
	on := func(from int, bits uint32, text func(int) string) {
		sep := " on "
		for k := from; k < 32; k++ {
			if bits>>k&1 != 0 {
				b = append(append(b, sep...), text(k)...)
				sep = ","
			}
		}
	}
	if m.Weekdays != allWeekdays {
		on(1, uint32(m.Weekdays), func(k int) string { return weekdayNames[k] })
	}
	if m.Monthdays != allMonthdays {
		on(1, m.Monthdays, func(k int) string {
			return strconv.Itoa(k) + [10]string{"th", "st", "nd", "rd", "th", "th", "th", "th", "th", "th"}[k%10]
		})
	}
	for _, x := range []struct {
		word    string
		v, none uint32
	}{{"starting from", m.From, 0}, {"until date", m.To, lastSecond}} {
		if x.v != x.none {
			b = fmt.Appendf(b, " %s %s", x.word, time.Unix(int64(x.v), 0).UTC().Format(time.DateTime))
		}
	}
	if !m.KernelTZ {
		b = append(b, " UTC"...)
	}
	if m.Contiguous {
		b = append(b, " contiguous"...)
	}
	return b
}

// appendNumbers appends "spi:5" or "spis:!5:9", and nothing for all numbers.
func appendNumbers(b []byte, name string, not bool, lo, hi uint32) []byte {
	if lo == 0 && hi == 1<<32-1 && !not {
		return b
	}
	b = append(b, name...)
	if lo != hi {
		b = append(b, 's')
	}
	return appendSpan(append(append(b, ':'), sign(not)...), uint64(lo), uint64(hi))
}

func (m *SPIMatch) AppendList(b []byte) []byte {
	b = appendNumbers(append(append(append(b, ' '), m.module...), ' '), "spi", m.Not, m.Lo, m.Hi)
	if m.HasLen { // libip6t_ah.c prints no blank
		b = fmt.Appendf(b, "length:%s%d", sign(m.LenNot), m.Len)
	}
	if m.Zero {
		b = append(b, " reserved"...)
	}
	return b
}

func (m *FragMatch) AppendList(b []byte) []byte {
	b = appendNumbers(append(b, " frag "...), "id", m.Not, m.Lo, m.Hi)
	if m.HasLen {
		b = fmt.Appendf(b, " length:%s%d", sign(m.LenNot), m.Len)
	}
	for _, x := range []struct {
		on   bool
		text string
	}{{m.Zero, " reserved"}, {m.First, " first"}, {m.More, " more"}, {m.Last, " last"}} {
		if x.on {
			b = append(b, x.text...)
		}
	}
	return b
}

func (m *HeadersMatch) AppendList(b []byte) []byte {
	b = fmt.Appendf(b, " ipv6header flags:%s0x%02X", sign(m.Not), m.Headers)
	if m.Soft {
		b = append(b, " soft"...)
	}
	return b
}

func (m *OptionsMatch) AppendList(b []byte) []byte {
	b = append(append(b, ' '), m.module...)
	if m.HasLen {
		b = fmt.Appendf(b, " length:%s%d", sign(m.LenNot), m.Len)
	}
	if len(m.Options) > 0 {
		text := (&OptionsMatch{Options: m.Options, module: m.module}).AppendSave(nil)
		b = append(append(b, " opts"...), text[bytes.LastIndexByte(text, ' '):]...)
	}
	return b
}

func (m *MobilityMatch) AppendList(b []byte) []byte {
	return appendListSpan(append(b, " mh"...), m.Not, uint64(m.Lo), uint64(m.Hi))
}

func (m *SetMatch) AppendList(b []byte) []byte { return appendPlain(b, m) }

func (t *SetTarget) AppendList(b []byte) []byte { return appendPlain(b, t) }

func (t *StripTarget) AppendList(b []byte) []byte { // libxt_TCPOPTSTRIP.c prints two blanks more
	return append(append(b, "   TCPOPTSTRIP options"...), t.AppendSave(nil)[len(" --strip-options"):]...)
}

// AppendList implements lister.
func (t *LogTarget) AppendList(b []byte) []byte {
	if t.target == "NFLOG" {
		return appendPlain(b, t)
	}
	flags := 0
	for k, on := range []bool{t.Sequence, t.TCP, t.IP, t.UID, false, t.MAC} { // XT_LOG_… in xt_LOG.h, NF_LOG_… in nf_log.h
		if on {
			flags |= 1 << k
		}
	}
	b = fmt.Appendf(b, " LOG flags %d level %d", flags, t.Level)
	if t.Prefix != "" {
		b = fmt.Appendf(b, " prefix \"%s\"", t.Prefix)
	}
	return b
}

// whyLogged is why a rule with LOG or NFLOG forbids to cache verdicts.
const whyLogged = "every packet is logged"

// Volatile says why verdicts of packets that come to the rule are not cached on their connection: what it asks that may be
// answered otherwise for the next packet of the same connection, state and port, or what it does for each packet. Empty: it
// forbids nothing, or no packet comes to its chain. A packet that fails an earlier condition of the rule is not asked, and its
// verdict may be cached.
func (rs *Ruleset) Volatile(id RuleID) (why []string) {
	add := func(s string) {
		if s != "" && !slices.Contains(why, s) {
			why = append(why, s)
		}
	}
	info := rs.info(id)
	for f := range rs.prog {
		g := &rs.prog[f]
		index, ok := g.names[info.Chain]
		if !ok || baseTable[f/2].table != info.Table {
			continue
		}
		rank, ok := g.rankOfRule(g.chains[index], id)
		if !ok {
			continue
		}
		r := g.deed(rank)
		first := r.pred
		if r.flags&early != 0 {
			first += uint32(r.all)
		}
		for _, q := range g.preds[first : first+uint32(r.rest)] {
			if g.volatile(&q, protoTCP) {
				add(opNames[q.op])
			}
		}
		if r.verb == VerbEffect {
			add(g.effects[r.arg].kind.forbids(protoTCP))
		}
	}
	if info.Rule.Target.Verb == VerbLog && rs.opt.Logs {
		add(whyLogged)
	}
	return why
}
