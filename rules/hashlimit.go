package rules

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// HashlimitMatch is -m hashlimit: a rate for each source, destination, port, or several of them together.
//
// What it says of the table holds for the table of that name, which all rules of one IP version that name it share, and is
// that of the first of them (htable_create in net/netfilter/xt_hashlimit.c); Above is each rule's own.
type HashlimitMatch struct {
	Table     string // its name
	Above     bool   // match what is above the rate
	Bytes     bool   // the rate is one of bytes
	RateMatch bool   // --hashlimit-rate-match: by the rate of whole intervals, not by a bucket of tokens
	Mode      uint8  // Hash… bits: what packets are told apart by; none: all packets together
	Avg       uint64 // the period of one packet in µs, or of bytes: 2³²-1 over the rate in steps of 16 bytes, plus one
	Burst     uint64 // packets; of bytes: how often the second's worth of credit is filled up once more

	Size       uint32 // buckets; 0: by memory. Here it only sets the default of Max
	Max        uint32 // most entries; 0: eight times Size
	GCInterval uint32 // ms between two passes that remove entries
	Expire     uint32 // ms without a packet after which an entry is removed
	Interval   uint32 // seconds, with RateMatch

	SrcMask, DstMask int16 // prefix lengths; -1: the whole address

	unit uint32 // seconds of the rate's unit
	pos  Pos
}

// Bits of HashlimitMatch.Mode, and their order in it, as in include/uapi/linux/netfilter/xt_hashlimit.h.
const (
	HashDstIP uint8 = 1 << iota
	HashDstPort
	HashSrcIP
	HashSrcPort
)

const (
	hashlimitScale = 1000000 // XT_HASHLIMIT_SCALE_v2: periods are in µs
	hashlimitShift = 4       // XT_HASHLIMIT_BYTE_SHIFT: bytes count in steps of 16
	hashlimitMost  = 1 << 20 // HASHLIMIT_MAX_SIZE, of buckets and of entries
	hashlimitBurst = 1000000 // most packets of a burst (XT_HASHLIMIT_BURST_MAX, extensions/libxt_hashlimit.c)

	// hashlimitSize is the number of buckets that Linux gives a table on a machine with more than 1 GiB of memory.
	hashlimitSize = 8192

	// A credit of Linux' with HZ 250: so many a µs (HZ × CREDITS_PER_JIFFY / XT_HASHLIMIT_SCALE_v2, rounded down), and
	// in the mode of bytes so many a ms. With HZ 1000 and 100 the products are the same.
	creditsMicro    = 250 << 39 / hashlimitScale
	creditsByteMS   = 250 << 24 / 1000
	creditsByteFull = 250 << 24
)

var hashlimitModes = []struct {
	name string
	bit  uint8
}{{"srcip", HashSrcIP}, {"srcport", HashSrcPort}, {"dstip", HashDstIP}, {"dstport", HashDstPort}}

var hashlimitModule = module{name: "hashlimit", family: Both, make: func() Extension {
	return &HashlimitMatch{Burst: 5, GCInterval: 1000, SrcMask: -1, DstMask: -1}
}, options: []option{
	{"hashlimit-upto", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.hashlimitRate(m.(*HashlimitMatch), not, a[0])
	}},
	{"hashlimit-above", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.hashlimitRate(m.(*HashlimitMatch), !not, a[0])
	}},
	{"hashlimit", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.hashlimitRate(m.(*HashlimitMatch), not, a[0])
	}},
	{"hashlimit-burst", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { rp.hashlimitBurst(m.(*HashlimitMatch), a[0]) }},
	{"hashlimit-mode", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		for _, word := range strings.FieldsFunc(a[0].text, func(r rune) bool { return r == ',' || r == '|' }) {
			known := false
			for _, x := range hashlimitModes {
				if x.name == word {
					m.(*HashlimitMatch).Mode |= x.bit
					known = true
				}
			}
			if !known {
				rp.fail(a[0].col, word, "srcip, srcport, dstip or dstport, or several with commas", "")
				return
			}
		}
	}},
	{"hashlimit-srcmask", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).SrcMask = rp.prefixLength(a[0])
	}},
	{"hashlimit-dstmask", 5, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).DstMask = rp.prefixLength(a[0])
	}},
	{"hashlimit-name", 6, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).Table = rp.memoryName(a[0], 254)
	}},
	{"hashlimit-htable-size", 7, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).Size = rp.number32(a[0], 0)
	}},
	{"hashlimit-htable-max", 8, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).Max = rp.number32(a[0], 0)
	}},
	{"hashlimit-htable-gcinterval", 9, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).GCInterval = rp.number32(a[0], 1)
	}},
	{"hashlimit-htable-expire", 10, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).Expire = rp.number32(a[0], 1)
	}},
	{"hashlimit-rate-match", 11, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*HashlimitMatch).RateMatch = true }},
	{"hashlimit-rate-interval", 12, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*HashlimitMatch).Interval = rp.number32(a[0], 1)
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*HashlimitMatch)
	m.pos = rp.p.pos(l.col)
	has := func(id int) bool { return l.seen&(1<<id) != 0 }
	if !has(1) || !has(6) {
		rp.fail(l.col, "-m hashlimit", "--hashlimit-upto or --hashlimit-above, and --hashlimit-name", "")
		return
	}
	if !has(10) {
		m.Expire = m.unit * 1000
	}
	switch {
	case !m.Bytes:
		if m.Burst > hashlimitBurst {
			rp.fail(l.col, "", fmt.Sprintf("a --hashlimit-burst of at most %d packets", hashlimitBurst), "")
			return
		}
	case !has(2):
		m.Burst = 0
	default:
		rate := costToBytes(m.Avg)
		burst := uint32(m.Burst)
		if m.Burst < rate {
			rp.fail(l.col, "", fmt.Sprintf("a --hashlimit-burst of at least %db", rate), "a burst of bytes is at least a second's worth")
			return
		}
		b := uint32(uint64(burst) / rate)
		if m.Burst%rate != 0 {
			b++
		}
		m.Burst = uint64(b)
		if !has(10) {
			m.Expire = hashlimitExpireBurst
		}
	}
	if m.RateMatch {
		if !m.Bytes {
			m.Avg /= uint64(m.unit)
		}
		if m.Interval == 0 {
			m.Interval = m.unit
			if m.Bytes {
				m.Interval = 1
			}
		}
	}
	// What Linux refuses (hashlimit_mt_check_common).
	credits := m.Avg * creditsMicro
	switch {
	case m.RateMatch && (m.Avg == 0 || m.Avg > math.MaxUint32):
		rp.fail(l.col, "", "a rate that --hashlimit-rate-match can count", "")
	case !m.RateMatch && !m.Bytes && (m.Burst == 0 || m.Avg*m.Burst*creditsMicro < credits):
		rp.fail(l.col, "", "a smaller --hashlimit-burst for so low a rate", "Linux cannot count the credits of this one")
	}
}}

// Expiry of entries in the mode of bytes without and with a burst, if none is given (XT_HASHLIMIT_BYTE_EXPIRE and _BURST), in
// s and ms.
const (
	hashlimitExpireBytes = 15
	hashlimitExpireBurst = 60000
)

// costToBytes returns the bytes a second of which bytesToCost made a cost.
func costToBytes(cost uint64) uint64 {
	if cost == 0 {
		return (math.MaxUint32 - 1) << hashlimitShift
	}
	return (math.MaxUint32/cost - 1) << hashlimitShift
}

// bytesToCost returns what 16 bytes cost at a rate; 0 if it is too high.
func bytesToCost(bytes uint64) uint64 {
	r := uint64(uint32(bytes>>hashlimitShift)) + 1
	return math.MaxUint32 / r
}

// byteUnits are the units of bytes that hashlimit reads and prints.
var byteUnits = []struct {
	name string
	size uint64
}{{"m", 1 << 20}, {"k", 1 << 10}, {"", 1}}

func unitOf(c byte) uint64 {
	switch c {
	case 'm':
		return 1 << 20
	case 'k':
		return 1 << 10
	}
	return 1
}

// hashlimitRate reads "n", "n/unit" or "nb/s", "nkb/s", "nmb/s".
func (rp *ruleParser) hashlimitRate(m *HashlimitMatch, above bool, a token) {
	m.Above = above
	if at := strings.Index(a.text, "b/s"); at > 0 {
		digits := strings.TrimRight(a.text[:at], "km")
		n, err := strconv.ParseUint(digits, 10, 40)
		bytes := n * unitOf(a.text[at-1])
		if err != nil || len(a.text[:at])-len(digits) > 1 || at+3 != len(a.text) || bytes < 1<<hashlimitShift || bytes >= 1<<35 {
			rp.fail(a.col, a.text, "a rate such as 512kb/s, from 16b/s to 32767mb/s", "")
			return
		}
		m.Bytes, m.Avg, m.unit = true, bytesToCost(bytes), hashlimitExpireBytes
		return
	}
	number, unit, has := strings.Cut(a.text, "/")
	m.unit = 1
	if has {
		u := strings.ToLower(unit)
		switch {
		case u != "" && strings.HasPrefix("second", u):
		case u != "" && strings.HasPrefix("minute", u):
			m.unit = 60
		case u != "" && strings.HasPrefix("hour", u):
			m.unit = 3600
		case u != "" && strings.HasPrefix("day", u):
			m.unit = 86400
		default:
			rp.fail(a.col+len(number)+1, unit, "second, minute, hour or day, or b/s behind a number of bytes", "")
			return
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n == 0 || hashlimitScale*uint64(m.unit)/n == 0 {
		rp.fail(a.col, a.text, "a rate up to 1000000/second", "")
		return
	}
	m.Avg = hashlimitScale * uint64(m.unit) / n
}

// hashlimitBurst reads a number, or a number with k or m and b.
func (rp *ruleParser) hashlimitBurst(m *HashlimitMatch, a token) {
	digits := a.text
	for i := range digits {
		if digits[i] < '0' || digits[i] > '9' {
			digits = digits[:i]
			break
		}
	}
	rest := a.text[len(digits):]
	v, err := strconv.ParseUint(digits, 10, 32)
	ok := err == nil && v != 0
	switch rest {
	case "":
		ok = ok && v <= hashlimitBurst
	case "b", "k", "kb", "m", "mb":
		v *= unitOf(rest[0])
	default:
		ok = false
	}
	if !ok {
		rp.fail(a.col, a.text, fmt.Sprintf("a burst from 1 to %d packets, or bytes such as 400kb", hashlimitBurst), "")
		return
	}
	m.Burst = v
}

// number32 reads a number of 32 bits from low on.
func (rp *ruleParser) number32(a token, low uint32) uint32 {
	v, err := parseNumber(a.text, math.MaxUint32)
	if err != nil || uint32(v) < low {
		rp.fail(a.col, a.text, fmt.Sprintf("a number from %d to %d", low, uint32(math.MaxUint32)), "")
	}
	return uint32(v)
}

// prefixLength reads a length of a prefix. One above 32 makes the rule one for IPv6.
func (rp *ruleParser) prefixLength(a token) int16 {
	v, err := parseNumber(a.text, 128)
	if err != nil {
		rp.fail(a.col, a.text, "a prefix length", "")
		return -1
	}
	if v > 32 {
		rp.restrict(IPv6, a.col, "a prefix length of "+a.text)
	}
	return int16(v)
}

// memoryName reads the name of a table or list, which Linux makes a file of (xt_check_proc_name in
// net/netfilter/x_tables.c).
func (rp *ruleParser) memoryName(a token, most int) string {
	if a.text == "" || len(a.text) > most || a.text == "." || a.text == ".." || strings.ContainsAny(a.text, "/ \t\n\"\\") {
		rp.fail(a.col, a.text, fmt.Sprintf("a name of 1 to %d bytes that a file could have, without spaces and quotes", most), "")
		return ""
	}
	return a.text
}

// forFamily leaves masks out that are the whole address anyhow, as iptables prints them.
func (m *HashlimitMatch) forFamily(f Family) {
	for _, x := range []*int16{&m.SrcMask, &m.DstMask} {
		if f == IPv4 && *x == 32 || f == IPv6 && *x == 128 {
			*x = -1
		}
	}
}

// Name returns "hashlimit".
func (m *HashlimitMatch) Name() string { return "hashlimit" }

// AppendSave implements Extension.
func (m *HashlimitMatch) AppendSave(b []byte) []byte {
	if m.Above {
		b = append(b, " --hashlimit-above "...)
	} else {
		b = append(b, " --hashlimit-upto "...)
	}
	expire := uint32(hashlimitExpireBytes * 1000)
	if m.Bytes {
		r := costToBytes(m.Avg)
		u := byteUnits[2]
		for _, x := range byteUnits[:2] {
			if r >= x.size && bytesToCost(r&^(x.size-1)) == m.Avg {
				u = x
				break
			}
		}
		b = fmt.Appendf(b, "%d%sb/s", r/u.size, u.name)
		if m.Burst != 0 {
			expire = hashlimitExpireBurst
			n := r * m.Burst
			u = byteUnits[2]
			for _, x := range byteUnits[:2] {
				// Linux' tools round down to the unit, also where that is another burst, or one that they refuse to read.
				if n >= x.size && (n/x.size*x.size+r-1)/r == m.Burst && n/x.size*x.size >= r {
					u = x
					break
				}
			}
			b = fmt.Appendf(b, " --hashlimit-burst %d%sb", n/u.size, u.name)
		}
	} else {
		n, unit := perUnit(m.Avg, hashlimitScale)
		b = fmt.Appendf(b, "%d/%s --hashlimit-burst %d", n, limitUnits[unit].name, m.Burst)
		expire = uint32(limitUnits[unit].period/limitScale) * 1000
	}
	if m.Mode != 0 {
		b = append(b, " --hashlimit-mode "...)
		for _, x := range hashlimitModes {
			if m.Mode&x.bit != 0 {
				b = append(append(b, x.name...), ',')
			}
		}
		b = b[:len(b)-1]
	}
	b = append(append(b, " --hashlimit-name "...), m.Table...)
	for _, x := range []struct {
		name        string
		value, none uint32
	}{{"size", m.Size, 0}, {"max", m.Max, 0}, {"gcinterval", m.GCInterval, 1000}, {"expire", m.Expire, expire}} {
		if x.value != x.none {
			b = fmt.Appendf(b, " --hashlimit-htable-%s %d", x.name, x.value)
		}
	}
	if m.SrcMask >= 0 {
		b = fmt.Appendf(b, " --hashlimit-srcmask %d", m.SrcMask)
	}
	if m.DstMask >= 0 {
		b = fmt.Appendf(b, " --hashlimit-dstmask %d", m.DstMask)
	}
	if m.RateMatch {
		b = append(b, " --hashlimit-rate-match"...)
		if m.Interval != 1 {
			b = fmt.Appendf(b, " --hashlimit-rate-interval %d", m.Interval)
		}
	}
	return b
}

func (m *HashlimitMatch) compile(c *compiler) {
	c.rs.needs |= NeedNow
	c.ask(pred{op: opHashlimit, not: m.Above, a: uint32(len(c.cur.hashes))})
	c.cur.hashes = append(c.cur.hashes, c.table(m))
}

// perUnit returns the number and the index of the unit (in limitUnits) that iptables prints for a period, which is in the
// scale-th part of a second: the largest unit but day that gives a whole number.
func perUnit(period, scale uint64) (uint64, int) {
	size := func(u int) uint64 { return limitUnits[u].period / limitScale * scale }
	u := 1
	for ; u < len(limitUnits); u++ {
		if period > size(u) || size(u)/period < size(u)%period {
			break
		}
	}
	return size(u-1) / period, u - 1
}
