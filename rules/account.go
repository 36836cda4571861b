package rules

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

// ByteMatch is -m connbytes: how much a connection has sent, the packet at hand included. It needs connections that are
// counted (nf_conntrack_acct).
type ByteMatch struct {
	Lo, Hi uint64
	Not    bool
	Mode   uint8 // 0 packets, 1 bytes, 2 bytes a packet (enum xt_connbytes_what)
	Dir    uint8 // 0 original, 1 reply, 2 both (enum xt_connbytes_direction)
}

var (
	byteModes = []string{"packets", "bytes", "avgpkt"}
	byteDirs  = []string{"original", "reply", "both"}
)

// Name returns "connbytes".
func (m *ByteMatch) Name() string { return "connbytes" }

// AppendSave implements Extension.
func (m *ByteMatch) AppendSave(b []byte) []byte {
	b = strconv.AppendUint(append(appendNot(b, m.Not), " --connbytes "...), m.Lo, 10)
	if m.Hi != 1<<64-1 && m.Hi != 0 {
		b = strconv.AppendUint(append(b, ':'), m.Hi, 10)
	}
	return fmt.Appendf(b, " --connbytes-mode %s --connbytes-dir %s", byteModes[m.Mode], byteDirs[m.Dir])
}

func (m *ByteMatch) compile(c *compiler) {
	c.rs.needs |= NeedCounts
	c.ask(pred{op: opBytes, a: keep(&c.cur.bytes, *m)})
}

var bytesModule = module{name: "connbytes", family: Both, make: func() Extension { return &ByteMatch{} }, options: []option{
	{"connbytes", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, _ := rp.span(a[0], 1<<64-1, "a number, or two that rise with a colon between")
		if _, _, isRange := strings.Cut(a[0].text, ":"); !isRange {
			hi = 1<<64 - 1 // so many or more
		}
		// Linux tells a range that is negated by its ends, which change places: negated or not, n:n is n (xt_connbytes.c).
		m.(*ByteMatch).Lo, m.(*ByteMatch).Hi, m.(*ByteMatch).Not = lo, hi, not && lo != hi
	}},
	{"connbytes-mode", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*ByteMatch).Mode = rp.oneOf(a[0], byteModes) }},
	{"connbytes-dir", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*ByteMatch).Dir = rp.oneOf(a[0], byteDirs) }},
}, finish: func(rp *ruleParser, l *loaded) {
	if l.seen != 1<<1|1<<2|1<<3 {
		rp.fail(l.col, "-m connbytes", "--connbytes, --connbytes-mode and --connbytes-dir after -m connbytes", "")
	}
}}

// test follows net/netfilter/xt_connbytes.c.
func (m *ByteMatch) test(c *Context) bool {
	if c.State == Invalid || c.State == Untracked || !c.Counted {
		return false
	}
	packets, bytes := c.Packets[0]+c.Packets[1], c.Bytes[0]+c.Bytes[1]
	if m.Dir < 2 {
		packets, bytes = c.Packets[m.Dir], c.Bytes[m.Dir]
	}
	v := packets
	switch {
	case m.Mode == 1:
		v = bytes
	case m.Mode == 2 && packets == 0:
		v = 0
	case m.Mode == 2:
		v = bytes / packets
	}
	if !m.Not {
		return v >= m.Lo && v <= m.Hi
	}
	return v < m.Lo || v > m.Hi
}

// QuotaMatch is -m quota: it matches until so many bytes have matched. The rest is the rule's own, shared by all workers.
type QuotaMatch struct {
	Bytes uint64
	Not   bool
}

// Name returns "quota".
func (m *QuotaMatch) Name() string { return "quota" }

// AppendSave implements Extension. The quota is printed, not what is left of it, as iptables-save does.
func (m *QuotaMatch) AppendSave(b []byte) []byte {
	return strconv.AppendUint(append(appendNot(b, m.Not), " --quota "...), m.Bytes, 10)
}

func (m *QuotaMatch) compile(c *compiler) {
	q := liveOf(c, m, func(g *program) ([]*quota, []RuleID) { return g.quotas, g.quotaRules })
	if q == nil {
		q = share(c, m, func() *quota {
			q := new(quota)
			q.left.Store(m.Bytes)
			return q
		})
	}
	c.ask(pred{op: opQuota, not: m.Not, a: keep(&c.cur.quotas, q)})
}

var quotaModule = module{name: "quota", family: Both, make: func() Extension { return &QuotaMatch{} }, options: []option{
	{"quota", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*QuotaMatch).Bytes, m.(*QuotaMatch).Not = rp.number(a[0], 1<<64-1), not
	}},
}, finish: needOption("quota")}

// quota is what a rule has left.
type quota struct{ left atomic.Uint64 }

// has says whether so many bytes are left.
func (q *quota) has(n uint64) bool { return q.left.Load() >= n }

// take takes bytes; when there are not so many, none are left from then on (net/netfilter/xt_quota.c).
func (q *quota) take(n uint64) bool {
	for {
		v := q.left.Load()
		if v == 0 && n > 0 {
			return false
		}
		rest := uint64(0)
		if v >= n {
			rest = v - n
		}
		if q.left.CompareAndSwap(v, rest) {
			return v >= n
		}
	}
}

// HelperMatch is -m helper: packets of connections that another one announced, by the helper that reads that one.
type HelperMatch struct {
	Helper string // "" for any
	Not    bool
}

// Name returns "helper".
func (m *HelperMatch) Name() string { return "helper" }

// AppendSave implements Extension.
func (m *HelperMatch) AppendSave(b []byte) []byte {
	return appendQuoted(append(appendNot(b, m.Not), " --helper "...), m.Helper)
}

func (m *HelperMatch) compile(c *compiler) {
	c.rs.needs |= NeedHelper
	c.ask(pred{op: opHelper, a: keep(&c.cur.helpers, *m)})
}

var helperModule = module{name: "helper", family: Both, make: func() Extension { return &HelperMatch{} }, options: []option{
	{"helper", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		if len(a[0].text) > 29 { // struct xt_helper_info
			rp.fail(a[0].col, a[0].text, "a helper's name of at most 29 bytes", "")
		}
		m.(*HelperMatch).Helper, m.(*HelperMatch).Not = a[0].text, not
	}},
}, finish: needOption("helper")}

// test follows net/netfilter/xt_helper.c: the helper is that of the connection which announced this one, and a name that
// begins with the helper's is enough (ftp-2121).
func (m *HelperMatch) test(c *Context) bool {
	if c.State == Invalid || c.State == Untracked || c.Helper == "" {
		return m.Not
	}
	return (m.Helper == "" || strings.HasPrefix(m.Helper, c.Helper)) != m.Not
}

// LabelMatch is -m connlabel: a label of the connection, which it may set. Labels are numbers here: there is no
// connlabel.conf.
type LabelMatch struct {
	Label uint8 // to 127
	Set   bool  // set the label where it is not, which then matches
	Not   bool
}

// Name returns "connlabel".
func (m *LabelMatch) Name() string { return "connlabel" }

// AppendSave implements Extension.
func (m *LabelMatch) AppendSave(b []byte) []byte {
	b = fmt.Appendf(appendNot(b, m.Not), " --label \"%d\"", m.Label)
	if m.Set {
		b = append(b, " --set"...)
	}
	return b
}

func (m *LabelMatch) compile(c *compiler) {
	c.rs.needs |= NeedLabels
	q := pred{op: opLabel, not: m.Not, lo: uint16(m.Label)}
	if m.Set {
		q.hi = 1
		c.rs.needs |= WritesLabels
	}
	c.ask(q)
}

var labelModule = module{name: "connlabel", family: Both, make: func() Extension { return &LabelMatch{} }, options: []option{
	{"label", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		v, err := parseNumber(a[0].text, 127)
		if err != nil {
			rp.fail(a[0].col, a[0].text, "a label from 0 to 127", "names are not looked up: there is no connlabel.conf here")
		}
		m.(*LabelMatch).Label, m.(*LabelMatch).Not = uint8(v), not
	}},
	{"set", 2, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*LabelMatch).Set = true }},
}, finish: needOption("label")}

// label follows net/netfilter/xt_connlabel.c.
func label(q *pred, c *Context) outcome {
	if c.State == Invalid || c.State == Untracked {
		return answer(q.not)
	}
	word, bit := &c.Labels[q.lo>>6], uint64(1)<<(q.lo&63)
	if *word&bit == 0 {
		if q.hi == 0 {
			return answer(q.not)
		}
		*word |= bit
	}
	return answer(!q.not)
}
