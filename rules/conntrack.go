package rules

import (
	"net/netip"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// ConntrackMatch is -m conntrack and -m state. A packet without a connection (INVALID, UNTRACKED) matches when its
// state does, whatever the other options say, and never without --ctstate (net/netfilter/xt_conntrack.c).
type ConntrackMatch struct {
	module string

	States    uint8 // bits 1<<State
	NAT       uint8 // bit 0 SNAT, bit 1 DNAT: no connection of a transparent wire has them
	HasState  bool
	StatesNot bool

	Proto    uint8
	HasProto bool
	ProtoNot bool

	OrigSrc, OrigDst, ReplSrc, ReplDst                 AddrMatch
	OrigSrcPort, OrigDstPort, ReplSrcPort, ReplDstPort PortRange
	portSet                                            uint8 // bit k: the k-th port range is given

	Status    uint32 // Status… bits; 0 with HasStatus: NONE
	HasStatus bool
	StatusNot bool

	ExpireLo, ExpireHi uint32 // seconds
	HasExpire          bool
	ExpireNot          bool

	Dir    Dir
	HasDir bool
}

// Name returns "conntrack" or "state".
func (m *ConntrackMatch) Name() string { return m.module }

// ctStateOrder is the order in which iptables-save prints states.
var ctStateOrder = []State{Invalid, New, Related, Established, Untracked}

// ctStatusNames are the names of --ctstatus, in the order of printing.
var ctStatusNames = []struct {
	name string
	bits uint32
}{{"EXPECTED", StatusExpected}, {"SEEN_REPLY", StatusSeenReply}, {"ASSURED", StatusAssured}, {"CONFIRMED", StatusConfirmed}}

// AppendSave implements Extension.
func (m *ConntrackMatch) AppendSave(b []byte) []byte {
	if m.HasState {
		b = appendNot(b, m.StatesNot)
		if m.module == "state" {
			b = append(b, " --state "...)
		} else {
			b = append(b, " --ctstate "...)
		}
		sep := false
		word := func(s string) {
			if sep {
				b = append(b, ',')
			}
			sep = true
			b = append(b, s...)
		}
		for _, s := range ctStateOrder {
			if m.States&(1<<s) != 0 {
				word(s.String())
			}
		}
		if m.NAT&1 != 0 {
			word("SNAT")
		}
		if m.NAT&2 != 0 {
			word("DNAT")
		}
	}
	if m.HasProto {
		b = append(appendNot(b, m.ProtoNot), " --ctproto "...)
		b = strconv.AppendUint(b, uint64(m.Proto), 10)
	}
	addr := func(a AddrMatch, opt string) {
		if a.Pos.Line != 0 {
			b = append(appendNot(b, a.Not), opt...)
			b = appendAddr(b, a, false)
		}
	}
	addr(m.OrigSrc, " --ctorigsrc ")
	addr(m.OrigDst, " --ctorigdst ")
	addr(m.ReplSrc, " --ctreplsrc ")
	addr(m.ReplDst, " --ctrepldst ")
	port := func(r PortRange, k int, opt string) {
		if m.portSet&(1<<k) != 0 {
			b = append(appendNot(b, r.Not), opt...)
			b = r.append(b)
		}
	}
	port(m.OrigSrcPort, 0, " --ctorigsrcport ")
	port(m.OrigDstPort, 1, " --ctorigdstport ")
	port(m.ReplSrcPort, 2, " --ctreplsrcport ")
	port(m.ReplDstPort, 3, " --ctrepldstport ")
	if m.HasStatus {
		b = append(appendNot(b, m.StatusNot), " --ctstatus "...)
		sep := false
		for _, s := range ctStatusNames {
			if m.Status&s.bits != 0 {
				if sep {
					b = append(b, ',')
				}
				sep = true
				b = append(b, s.name...)
			}
		}
		if !sep {
			b = append(b, "NONE"...)
		}
	}
	if m.HasExpire {
		b = append(appendNot(b, m.ExpireNot), " --ctexpire "...)
		b = strconv.AppendUint(b, uint64(m.ExpireLo), 10)
		if m.ExpireLo != m.ExpireHi {
			b = append(b, ':')
			b = strconv.AppendUint(b, uint64(m.ExpireHi), 10)
		}
	}
	if m.HasDir {
		b = append(b, [...]string{" --ctdir ORIGINAL", " --ctdir REPLY"}[m.Dir]...)
	}
	return b
}

// compile implements Extension. A packet without a connection matches when the state does, and never without --ctstate: what is
// asked behind the state is asked of packets with a connection only.
func (m *ConntrackMatch) compile(c *compiler) {
	var list []pred
	if m.HasDir {
		list = append(list, pred{op: opDir, lo: uint16(m.Dir)})
		c.rs.needs |= NeedDir
	}
	for k, a := range []AddrMatch{m.OrigSrc, m.OrigDst, m.ReplSrc, m.ReplDst} {
		if a.Pos.Line != 0 {
			list = append(list, pred{op: opCtAddr, not: a.Not, lo: uint16(k), a: c.addr(a)})
			c.rs.needs |= NeedDir
		}
	}
	if m.HasProto {
		list = append(list, pred{op: opCtProto, not: m.ProtoNot, lo: uint16(m.Proto)})
	}
	for k, r := range []PortRange{m.OrigSrcPort, m.OrigDstPort, m.ReplSrcPort, m.ReplDstPort} {
		if m.portSet&(1<<k) != 0 {
			list = append(list, pred{op: opCtPort, not: r.Not, lo: r.Lo, hi: r.Hi, a: uint32(k)})
			c.rs.needs |= NeedDir
		}
	}
	if m.HasStatus {
		list = append(list, pred{op: opCtStatus, not: m.StatusNot, a: m.Status})
		c.rs.needs |= NeedStatus
	}
	if m.HasExpire {
		list = append(list, pred{op: opCtExpire, not: m.ExpireNot, a: m.ExpireLo, b: m.ExpireHi})
		c.rs.needs |= NeedExpires
	}
	if !m.HasState {
		c.ask(pred{op: opTracked})
		for _, q := range list {
			c.ask(q)
		}
		return
	}
	c.ask(pred{op: opState, not: m.StatesNot, lo: uint16(m.States)})
	for _, q := range list {
		q.n = 1 // holds for packets without a connection
		c.ask(q)
	}
}

// appendAddr prints an address with its mask: as a prefix when it is one. The length of a single address is printed
// only when always is set (-s and -d print it, --ctorigsrc does not).
func appendAddr(b []byte, a AddrMatch, always bool) []byte {
	v4 := a.Mask.Hi == ^uint64(0) && a.Mask.Lo>>32 == 1<<32-1 && a.Addr.Hi == 0 && a.Addr.Lo>>32 == 0xffff
	ip := a.Addr.Netip()
	b = ip.AppendTo(b)
	n, bits, prefix := maskLen(a.Mask), 128, true
	if v4 {
		n, bits = n-96, 32
	}
	want := prefixMask(n, bits)
	if v4 {
		want.Hi = ^uint64(0)
	}
	prefix = want == a.Mask
	if prefix && n == bits && !always {
		return b
	}
	b = append(b, '/')
	if prefix {
		return strconv.AppendInt(b, int64(n), 10)
	}
	if v4 {
		return netip.AddrFrom4([4]byte{byte(a.Mask.Lo >> 24), byte(a.Mask.Lo >> 16), byte(a.Mask.Lo >> 8), byte(a.Mask.Lo)}).AppendTo(b)
	}
	return a.Mask.Netip().AppendTo(b)
}

// maskLen returns the number of leading ones.
func maskLen(m packet.Addr) int {
	n := 0
	for n < 64 && m.Hi&(1<<(63-n)) != 0 {
		n++
	}
	if n < 64 {
		return n
	}
	for n < 128 && m.Lo&(1<<(127-n)) != 0 {
		n++
	}
	return n
}

func (rp *ruleParser) ctState(m *ConntrackMatch, not bool, a token) {
	m.HasState, m.StatesNot = true, not
	col := a.col
	for _, w := range strings.Split(a.text, ",") {
		found := false
		for s, name := range stateNames {
			if strings.EqualFold(w, name) {
				m.States |= 1 << s
				found = true
			}
		}
		if !found && m.module == "conntrack" && strings.EqualFold(w, "SNAT") {
			m.NAT |= 1
			found = true
		}
		if !found && m.module == "conntrack" && strings.EqualFold(w, "DNAT") {
			m.NAT |= 2
			found = true
		}
		if !found {
			rp.fail(col, w, "connection states: INVALID, NEW, ESTABLISHED, RELATED or UNTRACKED", rp.didYouMean(strings.ToUpper(w), stateNames[:]))
			return
		}
		col += len(w) + 1
	}
}

func (rp *ruleParser) ctProto(m *ConntrackMatch, not bool, a token) {
	m.HasProto, m.ProtoNot = true, not
	if v, err := parseNumber(a.text, 255); err == nil {
		m.Proto = uint8(v)
	} else if v, ok := lookupProtocol(strings.ToLower(a.text)); ok {
		m.Proto = v
	} else {
		rp.fail(a.col, a.text, "a protocol's name or number up to 255", rp.didYouMean(strings.ToLower(a.text), protocolNames()))
		return
	}
	if m.Proto == 0 && not {
		rp.fail(a.col, a.text, "a protocol after ! --ctproto", "")
	}
}

func (rp *ruleParser) ctAddr(dst *AddrMatch, not bool, a token) {
	v, f, ok := rp.address(a)
	if !ok {
		return
	}
	rp.restrict(f, a.col, a.text)
	v.Not = not
	if hi, lo := ^v.Mask.Hi, ^v.Mask.Lo; hi&(hi+1)|lo&(lo+1) != 0 || hi != 0 && lo+1 != 0 {
		rp.p.warn(rp.p.pos(a.col), "the mask of "+a.text+" is no prefix: iptables takes the whole address here")
		v.Mask = packet.Addr{Hi: 1<<64 - 1, Lo: 1<<64 - 1}
	}
	// Here iptables keeps, and prints, the address as it was given.
	host, _, _ := strings.Cut(a.text, "/")
	if ip, err := netip.ParseAddr(host); err == nil {
		v.Addr = packet.AddrFrom(ip)
	}
	*dst = v
}

func (rp *ruleParser) ctPort(m *ConntrackMatch, k int, not bool, a token) {
	rp.ports([]*PortRange{&m.OrigSrcPort, &m.OrigDstPort, &m.ReplSrcPort, &m.ReplDstPort}[k], not, a)
	m.portSet |= 1 << k
}

func (rp *ruleParser) ctStatus(m *ConntrackMatch, not bool, a token) {
	m.HasStatus, m.StatusNot = true, not
	col := a.col
	for _, w := range strings.Split(a.text, ",") {
		found := strings.EqualFold(w, "NONE")
		for _, s := range ctStatusNames {
			if strings.EqualFold(w, s.name) {
				m.Status |= s.bits
				found = true
			}
		}
		if !found {
			rp.fail(col, w, "connection status: NONE, EXPECTED, SEEN_REPLY, ASSURED or CONFIRMED", rp.didYouMean(strings.ToUpper(w), []string{"NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"}))
			return
		}
		col += len(w) + 1
	}
}

func (rp *ruleParser) ctExpire(m *ConntrackMatch, not bool, a token) {
	m.HasExpire, m.ExpireNot = true, not
	lo, hi, isRange := strings.Cut(a.text, ":")
	l, err := parseNumber(lo, 1<<32-1)
	h := l
	if lo == "" && isRange {
		l, err = 0, nil
	}
	if isRange && err == nil {
		h = 1<<32 - 1
		if hi != "" {
			h, err = parseNumber(hi, 1<<32-1)
		}
	}
	if err != nil || l > h {
		rp.fail(a.col, a.text, "seconds, or a range of seconds low:high", "")
		return
	}
	m.ExpireLo, m.ExpireHi = uint32(l), uint32(h)
}

func (rp *ruleParser) ctDir(m *ConntrackMatch, a token) {
	m.HasDir = true
	switch strings.ToUpper(a.text) {
	case "ORIGINAL":
		m.Dir = Original
	case "REPLY":
		m.Dir = Reply
	default:
		rp.fail(a.col, a.text, "ORIGINAL or REPLY", rp.didYouMean(strings.ToUpper(a.text), []string{"ORIGINAL", "REPLY"}))
	}
}
