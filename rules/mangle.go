package rules

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// Targets that change the packet write it where it is, with the checksums as Linux updates them. What rules behind ask
// sees the change. Their verdicts are not cached: each packet of the connection is to be changed.

// checksum4 returns the IPv4 header's checksum, to be changed with other words of the header.
func checksum4(p *packet.Packet) []byte { return p.Frame[p.L3+10 : p.L3+12] }

// update replaces old by new in what a checksum covers (RFC 1624 section 3).
func update(sum []byte, old, new uint16) {
	binary.BigEndian.PutUint16(sum, packet.UpdateChecksum(binary.BigEndian.Uint16(sum), old, new))
}

// setTOS changes the TOS or traffic class byte.
func setTOS(p *packet.Packet, v uint8) {
	if p.TOS == v {
		return
	}
	h := p.Frame[p.L3:]
	if p.Family == 6 {
		h[0], h[1] = h[0]&0xf0|v>>4, h[1]&0x0f|v<<4
		p.TOS = v
		return
	}
	// ipv4_change_dsfield in include/net/dsfield.h, whose carries differ from those of RFC 1624.
	sum := checksum4(p)
	check := uint32(binary.BigEndian.Uint16(sum)) + uint32(p.TOS)
	if (check+1)>>16 != 0 {
		check = (check + 1) & 0xffff
	}
	check -= uint32(v)
	check += check >> 16
	binary.BigEndian.PutUint16(sum, uint16(check))
	h[1] = v
	p.TOS = v
}

// setECT changes the ECN bits of an IPv4 header, with RFC 1624's carries.
func setECT(p *packet.Packet, v uint8) {
	if v = p.TOS&^3 | v; v != p.TOS {
		update(checksum4(p), uint16(p.TOS), uint16(v))
		p.Frame[p.L3+1], p.TOS = v, v
	}
}

// SetTOS gives a parsed packet, or a fragment of one, another TOS or traffic class.
func SetTOS(p *packet.Packet, v uint8) { setTOS(p, v) }

// SetTTL gives a parsed packet, or a fragment of one, another TTL or hop limit.
func SetTTL(p *packet.Packet, v uint8) {
	if p.TTL == v {
		return
	}
	if p.Family == 6 {
		p.Frame[p.L3+7] = v
	} else {
		update(checksum4(p), uint16(p.TTL)<<8, uint16(v)<<8)
		p.Frame[p.L3+8] = v
	}
	p.TTL = v
}

// setFlags changes the flags of mask in a TCP header to those of v; false when there is none.
func setFlags(p *packet.Packet, mask, want uint8) bool {
	if p.Proto != protoTCP {
		return true
	}
	if p.End-p.L4 < 20 {
		return false
	}
	h := p.Frame[p.L4:p.End]
	if v := h[13]&^mask | want; v != h[13] {
		update(h[16:18], uint16(h[12])<<8|uint16(h[13]), uint16(h[12])<<8|uint16(v))
		h[13], p.TCPFlags = v, v
	}
	return true
}

// tcpHeader returns a TCP header with its options, nil when it is not whole.
func tcpHeader(p *packet.Packet) []byte {
	h := p.Frame[p.L4:p.End]
	if len(h) < 20 {
		return nil
	}
	if n := int(h[12]>>4) * 4; n >= 20 && n <= len(h) {
		return h[:n]
	}
	return nil
}

// optionLength returns the length of the option at i as Linux steps over it.
func optionLength(h []byte, i int) int {
	if h[i] < 2 || i+1 < len(h) && h[i+1] == 0 || i+1 == len(h) {
		return 1
	}
	return int(h[i+1])
}

// setMSS is tcpmss_mangle_packet of net/netfilter/xt_TCPMSS.c: false drops the packet.
func (w *walk) setMSS(p *packet.Packet, mss uint16) bool {
	h := tcpHeader(p)
	if h == nil {
		return false
	}
	for i := 20; i <= len(h)-4; i += optionLength(h, i) {
		if h[i] == 2 && h[i+1] == 4 {
			if old := binary.BigEndian.Uint16(h[i+2:]); old > mss {
				binary.BigEndian.PutUint16(h[i+2:], mss)
				if i&1 != 0 { // Linux forgets this, and sends a segment that its receiver must drop
					old, mss = bits.ReverseBytes16(old), bits.ReverseBytes16(mss)
				}
				update(h[16:18], old, mss)
			}
			return true
		}
	}
	n := int(p.End - p.L4)
	grown := int(p.End) + 4
	if n > len(h) || len(h) >= 60 || grown > cap(p.Frame) {
		return true
	}
	// No option: it is added, with what the other side must assume without (RFC 9293 section 3.7.1, RFC 8200 section 8.3).
	fallback := uint16(536)
	if p.Family == 6 {
		fallback = 1220
	}
	mss = min(mss, fallback)
	if grown > len(p.Frame) {
		p.Frame = p.Frame[:grown]
	}
	p.End += 4
	h = p.Frame[p.L4:p.End]
	copy(h[24:], h[20:n])
	sum := h[16:18]
	update(sum, uint16(n), uint16(n+4))
	h[20], h[21] = 2, 4
	binary.BigEndian.PutUint16(h[22:], mss)
	update(sum, 0, 2<<8|4)
	update(sum, 0, mss)
	word := binary.BigEndian.Uint16(h[12:])
	h[12] += 1 << 4
	update(sum, word, word+1<<12)
	ip := p.Frame[p.L3:]
	if p.Family == 6 {
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+4)
	} else {
		total := binary.BigEndian.Uint16(ip[2:])
		binary.BigEndian.PutUint16(ip[2:], total+4)
		update(checksum4(p), total, total+4)
	}
	w.direct()
	w.bytes += 4
	return true
}

// strip is tcpoptstrip_mangle_packet of net/netfilter/xt_TCPOPTSTRIP.c: options become NOPs; false drops the packet.
func strip(p *packet.Packet, kinds *[8]uint32) bool {
	if p.End-p.L4 < 20 {
		return false
	}
	h := tcpHeader(p)
	if h == nil {
		return false
	}
	sum := h[16:18]
	for i := 20; i < len(h)-1; {
		n := optionLength(h, i)
		if i+n > len(h) {
			break
		}
		if kind := h[i]; kinds[kind>>5]>>(kind&31)&1 != 0 {
			for j := i; j < i+n; j++ {
				old := uint16(h[j])
				update(sum, old<<(8*(1-j&1)), 1<<(8*(1-j&1)))
				h[j] = 1
			}
		}
		i += n
	}
	return true
}

// TOSTarget is -j TOS and -j DSCP: the byte becomes byte &^ Mask ^ Value (net/netfilter/xt_DSCP.c).
type TOSTarget struct {
	Value, Mask uint8
	target      string
}

// Name returns "TOS" or "DSCP".
func (t *TOSTarget) Name() string { return t.target }

// AppendSave implements Extension.
func (t *TOSTarget) AppendSave(b []byte) []byte {
	if t.target == "DSCP" {
		return fmt.Appendf(b, " --set-dscp 0x%02x", t.Value>>2)
	}
	return fmt.Appendf(b, " --set-tos 0x%02x/0x%02x", t.Value, t.Mask)
}

func (t *TOSTarget) compile(*compiler) effect {
	return effect{kind: effectTOS, value: uint32(t.Value), mask: uint32(t.Mask)}
}

var tosTarget = module{name: "TOS", family: Both, make: func() Extension { return &TOSTarget{target: "TOS"} }, options: []option{
	{"set-tos", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		t := m.(*TOSTarget)
		for _, n := range tosNames {
			if strings.EqualFold(n.name, a[0].text) {
				t.Value, t.Mask = n.value, 0x3f
				return
			}
		}
		v, k, _ := rp.masked(a[0], 255)
		t.Value, t.Mask = uint8(v), uint8(k)
	}},
	{"and-tos", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*TOSTarget).Mask = ^uint8(rp.number(a[0], 255))
	}},
	{"or-tos", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		v := uint8(rp.number(a[0], 255))
		m.(*TOSTarget).Value, m.(*TOSTarget).Mask = v, v
	}},
	{"xor-tos", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*TOSTarget).Value = uint8(rp.number(a[0], 255))
	}},
}, finish: onlyMangle("set-tos")}

var dscpTarget = module{name: "DSCP", family: Both, make: func() Extension { return &TOSTarget{target: "DSCP", Mask: 0xfc} }, options: []option{
	{"set-dscp", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*TOSTarget).Value = uint8(rp.number(a[0], 63)) << 2
	}},
	{"set-dscp-class", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		v, ok := dscpClasses[strings.ToUpper(a[0].text)]
		if !ok {
			rp.fail(a[0].col, a[0].text, "a DSCP class: BE, EF, CS0 to CS7, AF11 to AF43", "")
		}
		m.(*TOSTarget).Value = v << 2
	}},
}, finish: onlyMangle("set-dscp")}

// onlyMangle checks a target that needs an option and stands in table mangle only.
func onlyMangle(name string) func(*ruleParser, *loaded) {
	return func(rp *ruleParser, l *loaded) {
		if l.seen == 0 {
			rp.fail(l.col, "-j "+l.mod.name, "--"+name+" after -j "+l.mod.name, "")
		}
		if rp.p.table.Name != "mangle" {
			rp.fail(l.col, "-j "+l.mod.name, "it in table mangle", "")
		}
	}
}

// TTLMode is what a TTL or HL target does.
type TTLMode uint8

const (
	TTLSet TTLMode = iota
	TTLInc         // to 255 at most
	TTLDec         // to 0 at least
)

// TTLTarget is -j TTL and -j HL (net/netfilter/xt_HL.c). A packet whose TTL becomes 0 is sent on, as by a bridge.
type TTLTarget struct {
	Mode   TTLMode
	Value  uint8
	target string
}

// Name returns "TTL" or "HL".
func (t *TTLTarget) Name() string { return t.target }

// AppendSave implements Extension.
func (t *TTLTarget) AppendSave(b []byte) []byte {
	return fmt.Appendf(b, " --%s-%s %d", strings.ToLower(t.target), [...]string{"set", "inc", "dec"}[t.Mode], t.Value)
}

func (t *TTLTarget) compile(*compiler) effect {
	return effect{kind: effectTTL, value: uint32(t.Value), shift: uint8(t.Mode)}
}

func ttlTarget(name string, f Family) module {
	m := module{name: name, family: f, make: func() Extension { return &TTLTarget{target: name} }, finish: onlyMangle(strings.ToLower(name) + "-set")}
	for k, o := range []string{"-set", "-inc", "-dec"} {
		mode := TTLMode(k)
		m.options = append(m.options, option{strings.ToLower(name) + o, 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			v := rp.number(a[0], 255)
			if mode != TTLSet && v == 0 {
				rp.fail(a[0].col, a[0].text, "a number from 1 to 255", "")
			}
			m.(*TTLTarget).Mode, m.(*TTLTarget).Value = mode, uint8(v)
		}})
	}
	return m
}

// ECNTarget is -j ECN: the ECN bits of the IPv4 header and flags of the TCP header (net/ipv4/netfilter/ipt_ECN.c).
type ECNTarget struct {
	SetECT, SetECE, SetCWR bool
	ECT                    uint8 // 0 to 3
	ECE, CWR               bool
}

// Name returns "ECN".
func (t *ECNTarget) Name() string { return "ECN" }

// AppendSave implements Extension.
func (t *ECNTarget) AppendSave(b []byte) []byte {
	if t.SetECE && t.SetCWR && !t.ECE && !t.CWR && !t.SetECT {
		return append(b, " --ecn-tcp-remove"...)
	}
	flag := func(set, v bool, opt string) {
		if set {
			b = append(append(b, opt...), "01"[map[bool]int{true: 1}[v]])
		}
	}
	flag(t.SetECE, t.ECE, " --ecn-tcp-ece ")
	flag(t.SetCWR, t.CWR, " --ecn-tcp-cwr ")
	if t.SetECT {
		b = fmt.Appendf(b, " --ecn-ip-ect %d", t.ECT)
	}
	return b
}

func (t *ECNTarget) compile(c *compiler) effect {
	e := effect{kind: effectECN}
	if t.SetECE || t.SetCWR {
		c.rs.needs |= WritesSegments
	}
	bits := func(set, v bool, bit uint32) {
		if set {
			e.mask |= bit
			if v {
				e.value |= bit
			}
		}
	}
	bits(t.SetECE, t.ECE, tcpECE)
	bits(t.SetCWR, t.CWR, tcpCWR)
	if t.SetECT {
		e.from, e.shift = 3, t.ECT
	}
	return e
}

var ecnTarget = module{name: "ECN", family: IPv4, make: func() Extension { return &ECNTarget{} }, options: []option{
	{"ecn-tcp-remove", 1, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) {
		m.(*ECNTarget).SetECE, m.(*ECNTarget).SetCWR = true, true
	}},
	{"ecn-tcp-cwr", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*ECNTarget).SetCWR, m.(*ECNTarget).CWR = true, rp.number(a[0], 1) == 1
	}},
	{"ecn-tcp-ece", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*ECNTarget).SetECE, m.(*ECNTarget).ECE = true, rp.number(a[0], 1) == 1
	}},
	{"ecn-ip-ect", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*ECNTarget).SetECT, m.(*ECNTarget).ECT = true, uint8(rp.number(a[0], 3))
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	onlyMangle("ecn-tcp-remove")(rp, l)
	if l.seen&(1<<1) != 0 && l.seen&(1<<2|1<<3) != 0 {
		rp.fail(l.col, "--ecn-tcp-remove", "--ecn-tcp-remove or --ecn-tcp-cwr and --ecn-tcp-ece", "")
	}
	if l.seen&(1<<1|1<<2|1<<3) != 0 {
		rp.onlyTCP(l)
	}
}}

// onlyTCP checks that the rule has -p tcp.
func (rp *ruleParser) onlyTCP(l *loaded) {
	if rp.rule.Proto.Num != protoTCP || rp.rule.Proto.Not {
		rp.fail(l.col, "-j "+l.mod.name, "-p tcp with -j "+l.mod.name, "")
	}
}

// MSSTarget is -j TCPMSS: the maximum segment size that a TCP header announces is made no larger than MSS, or with Clamp
// than what the lesser of the two ports' MTUs has room for (net/netfilter/xt_TCPMSS.c; Linux takes the routes' MTUs to
// both ends, which nobody here knows).
type MSSTarget struct {
	MSS   uint16
	Clamp bool
}

// Name returns "TCPMSS".
func (t *MSSTarget) Name() string { return "TCPMSS" }

// AppendSave implements Extension.
func (t *MSSTarget) AppendSave(b []byte) []byte {
	if t.Clamp {
		return append(b, " --clamp-mss-to-pmtu"...)
	}
	return strconv.AppendUint(append(b, " --set-mss "...), uint64(t.MSS), 10)
}

func (t *MSSTarget) compile(c *compiler) effect {
	c.rs.needs |= WritesSegments
	if t.Clamp {
		return effect{kind: effectClamp}
	}
	return effect{kind: effectMSS, value: uint32(t.MSS)}
}

var mssTarget = module{name: "TCPMSS", family: Both, make: func() Extension { return &MSSTarget{} }, options: []option{
	{"set-mss", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*MSSTarget).MSS = uint16(rp.number(a[0], 65515)) // what an IPv4 datagram has room for, without options
	}},
	{"clamp-mss-to-pmtu", 1, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*MSSTarget).Clamp = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	if l.seen == 0 {
		rp.fail(l.col, "-j TCPMSS", "--set-mss or --clamp-mss-to-pmtu after -j TCPMSS", "")
	}
	if l.m.(*MSSTarget).Clamp && rp.chain == "PREROUTING" {
		rp.fail(l.col, "--clamp-mss-to-pmtu", "it in FORWARD or POSTROUTING", "PREROUTING comes before the way out is known")
	}
	rp.onlyTCP(l)
}}

// StripTarget is -j TCPOPTSTRIP: bits of the TCP options that become NOPs, by kind.
type StripTarget struct{ Kinds [8]uint32 }

// stripNames are the names of --strip-options, by kind (RFC 9293, 7323, 2018, 2385).
var stripNames = map[string]uint8{"mss": 2, "wscale": 3, "sack-permitted": 4, "sack": 5, "timestamp": 8, "md5": 19}

// Name returns "TCPOPTSTRIP".
func (t *StripTarget) Name() string { return "TCPOPTSTRIP" }

// AppendSave implements Extension.
func (t *StripTarget) AppendSave(b []byte) []byte {
	opt := " --strip-options "
	for k := range 256 {
		if t.Kinds[k>>5]>>(k&31)&1 != 0 {
			b = strconv.AppendInt(append(b, opt...), int64(k), 10)
			opt = ","
		}
	}
	return b
}

func (t *StripTarget) compile(c *compiler) effect {
	c.rs.needs |= WritesSegments
	if k := slices.Index(c.cur.strips, t.Kinds); k >= 0 {
		return effect{kind: effectStrip, value: uint32(k)}
	}
	c.cur.strips = append(c.cur.strips, t.Kinds)
	return effect{kind: effectStrip, value: uint32(len(c.cur.strips) - 1)}
}

var stripTarget = module{name: "TCPOPTSTRIP", family: Both, make: func() Extension { return &StripTarget{} }, options: []option{
	{"strip-options", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		col := a[0].col
		for s := range strings.SplitSeq(a[0].text, ",") {
			kind, known := stripNames[s]
			if !known {
				v, err := parseNumber(s, 255)
				if err != nil || v < 2 {
					rp.fail(col, s, "a TCP option's number from 2 to 255, or its name", "")
					return
				}
				kind = uint8(v)
			}
			if m.(*StripTarget).Kinds[kind>>5]>>(kind&31)&1 != 0 {
				rp.fail(col, s, "each option once", "")
				return
			}
			m.(*StripTarget).Kinds[kind>>5] |= 1 << (kind & 31)
			col += len(s) + 1
		}
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	l.seen = 1 // it may stand without options, and does nothing then
	onlyMangle("strip-options")(rp, l)
	rp.onlyTCP(l)
}}
