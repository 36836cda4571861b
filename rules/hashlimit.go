package rules

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"corewire/internal/packet"
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

var hashlimitModule = module{name: "hashlimit", family: Both, make: func() Match {
	return &HashlimitMatch{Burst: 5, GCInterval: 1000, SrcMask: -1, DstMask: -1}
}, options: []option{
	{"hashlimit-upto", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.hashlimitRate(m.(*HashlimitMatch), not, a[0]) }},
	{"hashlimit-above", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.hashlimitRate(m.(*HashlimitMatch), !not, a[0]) }},
	{"hashlimit", 1, 1, true, func(rp *ruleParser, m Match, not bool, a []token) { rp.hashlimitRate(m.(*HashlimitMatch), not, a[0]) }},
	{"hashlimit-burst", 2, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) { rp.hashlimitBurst(m.(*HashlimitMatch), a[0]) }},
	{"hashlimit-mode", 3, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
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
	{"hashlimit-srcmask", 4, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) { m.(*HashlimitMatch).SrcMask = rp.prefixLength(a[0]) }},
	{"hashlimit-dstmask", 5, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) { m.(*HashlimitMatch).DstMask = rp.prefixLength(a[0]) }},
	{"hashlimit-name", 6, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
		m.(*HashlimitMatch).Table = rp.memoryName(a[0], 254)
	}},
	{"hashlimit-htable-size", 7, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
		m.(*HashlimitMatch).Size = rp.number32(a[0], 0)
	}},
	{"hashlimit-htable-max", 8, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
		m.(*HashlimitMatch).Max = rp.number32(a[0], 0)
	}},
	{"hashlimit-htable-gcinterval", 9, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
		m.(*HashlimitMatch).GCInterval = rp.number32(a[0], 1)
	}},
	{"hashlimit-htable-expire", 10, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
		m.(*HashlimitMatch).Expire = rp.number32(a[0], 1)
	}},
	{"hashlimit-rate-match", 11, 0, false, func(_ *ruleParser, m Match, _ bool, _ []token) { m.(*HashlimitMatch).RateMatch = true }},
	{"hashlimit-rate-interval", 12, 1, false, func(rp *ruleParser, m Match, _ bool, a []token) {
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

// AppendSave implements Match.
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

// hashTable is the entries of one name, shared by all workers.
//
// An entry's state is one word that a compare-and-swap changes, and beside it when the entry expires. For packets the
// word is the time, in µs, at which the bucket would be full again (the generic cell rate algorithm, as in bucket): that says
// the same as Linux' credit and time of the last change. For bytes it is the time of the last change in ms and the credit,
// 32 bits each, and a word of its own counts how often the credit may still be filled up. For --hashlimit-rate-match it is the
// interval, see rate.
//
// # What differs from Linux
//
//   - Time: ours goes by milliseconds where Linux' goes by jiffies, of 4 ms with HZ 250.
//   - Linux rounds the credits of a µs down, by 3.4 in 10⁹, and gives so much more packets. Ours are exact: one packet in
//     300 million is judged differently.
//   - Linux' credit overflows when a low rate's entry is left alone for more than 37 hours, and shuts the rule; ours does not.
//     That credit's overflow in a large burst, however, which makes it smaller, is the same here.
//   - An entry that has expired goes with the next pass over the table. Both look at all entries once in GCInterval, but at
//     other times; ours at no more than 256,000 entries a second and table.
//   - Two packets of an address that two workers judge in the same 100 ns may both see the last filling up of the credit
//     of bytes in the other's hand, which then gives it back: the second is above the rate a moment early.
type hashTable struct {
	*store
	name string
	hashConfig
	cost  int64  // µs of a packet; credits of 16 bytes
	slack int64  // µs that the time of being full may be ahead
	rate  uint64 // of an interval's second, with RateMatch
	burst uint64 // of an interval, with RateMatch
}

// hashConfig is what makes two tables of one name equal.
type hashConfig struct {
	bytes, rateMatch bool
	mode             uint8
	v6               bool
	avg, times       uint64
	max              uint32
	gc, expire       uint32
	interval         uint32
	src, dst         packet.Addr // masks
}

// Words of an entry's state.
const (
	hashState  = iota
	hashRefill // bytes: fillings left; rate-match: the interval's count
	hashExpire // ms
	hashWords
)

// configOf returns what a rule wants of its table.
func (m *HashlimitMatch) configOf(v6 bool) hashConfig {
	c := hashConfig{bytes: m.Bytes, rateMatch: m.RateMatch, mode: m.Mode, v6: v6, avg: m.Avg, times: m.Burst, gc: m.GCInterval, expire: m.Expire, interval: m.Interval}
	size := min(m.Size, hashlimitMost)
	if size == 0 {
		size = hashlimitSize
	}
	c.max = min(m.Max, hashlimitMost)
	switch {
	case c.max == 0:
		c.max = 8 * size
	case c.max < size:
		c.max = size
	}
	c.src, c.dst = maskOf(m.SrcMask, v6), maskOf(m.DstMask, v6)
	return c
}

// maskOf returns a mask of so many bits, all for -1, where addresses of IPv4 are in the last four bytes.
func maskOf(length int16, v6 bool) packet.Addr {
	if length < 0 {
		length = 128
	} else if !v6 {
		length += 96
	}
	a := packet.Addr{}
	if length < 64 {
		a.Hi = ^uint64(0) << (64 - length)
	} else {
		a.Hi, a.Lo = ^uint64(0), ^uint64(0)<<(128-length)
	}
	return a
}

// newHashTable makes the table of a name.
func newHashTable(name string, c hashConfig) *hashTable {
	keys, words := 2, hashWords+1 // a cell of 64 bytes
	if c.v6 {
		keys, words = maxKeyWords, hashWords
	}
	t := &hashTable{name: name, hashConfig: c, store: newStore(int(c.max), keys, words)}
	switch {
	case c.rateMatch && c.bytes:
		t.rate = costToBytes(uint64(uint32(c.avg)))
		t.burst = t.rate
		if c.times != 0 {
			t.burst *= c.times
		}
	case c.rateMatch:
		t.rate = hashlimitScale / c.avg
		t.burst = c.times + t.rate
	case c.bytes:
		t.cost = int64(uint64(uint32(c.avg)) * creditsByteFull >> 32)
	default:
		t.cost = int64(c.avg)
		t.slack = int64(c.avg * c.times * creditsMicro / creditsMicro) // as far as 64 bits hold Linux' credits
	}
	return t
}

// take judges a packet: yes says that it is within the rate, short and full that xtables drops
// it, because it has no ports, or the table no room. now is in ns. peek says what take would, and changes nothing.
func (t *hashTable) take(p *packet.Packet, now int64, peek bool) outcome {
	var k storeKey
	if !t.key(p, &k) {
		return short
	}
	ms := now / 1e6
	if peek {
		h, _, _ := t.find(&k)
		if h.cell == 0 {
			return yes // as most first packets would be
		}
		return t.peek(h, p, now)
	}
	var first [hashWords]uint64
	first[hashExpire] = uint64(ms + int64(t.expire))
	switch {
	case t.rateMatch:
		first[hashState] = uint64(uint32(ms)) << 32
	case t.bytes:
		first[hashState] = uint64(uint32(ms))<<32 | creditsByteFull
		first[hashRefill] = t.times
	default:
		first[hashState] = uint64(now / 1e3)
	}
	h, fresh, ok := t.get(&k, first[:]...)
	if !ok {
		return full
	}
	if !fresh {
		if e := t.state(h, hashExpire); e.Load() != first[hashExpire] {
			e.Store(first[hashExpire])
		}
	}
	switch {
	case t.rateMatch:
		return t.countRate(h, p, ms)
	case t.bytes:
		return t.takeBytes(h, p, ms)
	}
	return t.takePacket(h, now/1e3)
}

// takePacket takes a packet's credit. now is in µs.
func (t *hashTable) takePacket(h held, now int64) outcome {
	w := t.state(h, hashState)
	for {
		full := w.Load()
		next, ok := t.packet(int64(full), now)
		if !ok {
			return no
		}
		if w.CompareAndSwap(full, uint64(next)) {
			return yes
		}
	}
}

// packet returns when the bucket would be full after a packet; false when there is no credit for it.
func (t *hashTable) packet(full, now int64) (int64, bool) {
	at := max(full, now)
	ahead := at - now
	if ahead > t.slack {
		at, ahead = now, 0 // the clock began again
	}
	return at + t.cost, ahead+t.cost <= t.slack
}

// takeBytes takes the credit of a packet's bytes (hashlimit_byte_cost). ms is the time.
func (t *hashTable) takeBytes(h held, p *packet.Packet, ms int64) outcome {
	w, left := t.state(h, hashState), t.state(h, hashRefill)
	cost := t.byteCost(p)
	spare := false // a filling up is in hand
	for {
		old := w.Load()
		credit := refilled(old, ms)
		used := false
		if credit < cost {
			if !spare {
				if n := left.Load(); n > 0 {
					if !left.CompareAndSwap(n, n-1) {
						continue
					}
					spare = true
				}
			}
			if spare {
				credit, used = creditsByteFull, true
			}
		}
		o := no
		if credit >= cost {
			credit -= cost
			o = yes
		}
		if w.CompareAndSwap(old, uint64(uint32(ms))<<32|credit) {
			if spare && !used {
				left.Add(1)
			}
			return o
		}
	}
}

func (t *hashTable) byteCost(p *packet.Packet) uint64 {
	return min((uint64(p.End-p.L3)>>hashlimitShift+1)*uint64(t.cost), creditsByteFull)
}

// refilled returns the credit of bytes at a time, of a word with the credit at another.
func refilled(word uint64, ms int64) uint64 {
	gone := uint64(uint32(ms) - uint32(word>>32))
	return min(word&math.MaxUint32+gone*creditsByteMS, creditsByteFull)
}

// Parts of the words of --hashlimit-rate-match. The first is when the interval began (ms, 32 bits), whether the one before
// was above the rate, and the number of the interval. The second is what has been counted, 48 bits, and above it the number
// of the interval that it was counted in: a count of another interval is none.
const (
	rateAbove  = 1 << 31
	rateNumber = 1<<16 - 1
	rateCount  = 1<<48 - 1
)

// countRate counts a packet, and begins the next interval when it is time to.
func (t *hashTable) countRate(h held, p *packet.Packet, ms int64) outcome {
	head, count := t.state(h, hashState), t.state(h, hashRefill)
	cost := uint64(1)
	if t.bytes {
		cost = uint64(p.End - p.L3)
	}
	for {
		w := head.Load()
		if next, due := t.roll(w, count.Load(), ms); due {
			head.CompareAndSwap(w, next)
			continue
		}
		old := count.Load()
		sum := cost
		if old>>48 == w&rateNumber {
			sum += old & rateCount
		}
		if !count.CompareAndSwap(old, w&rateNumber<<48|min(sum, rateCount)) {
			continue
		}
		return answer(w&rateAbove == 0 && sum <= t.burst)
	}
}

// roll returns the first word of the interval that follows, if the one of w is over (rateinfo_recalc).
func (t *hashTable) roll(w, count uint64, ms int64) (uint64, bool) {
	length := uint64(t.interval) * 1000
	gone := uint64(uint32(ms) - uint32(w>>32))
	if gone < length {
		return 0, false
	}
	next := uint64(uint32(ms))<<32 | (w+1)&rateNumber
	if count>>48 == w&rateNumber && count&rateCount*length > gone*t.rate {
		next |= rateAbove
	}
	return next, true
}

// peek is take without taking.
func (t *hashTable) peek(h held, p *packet.Packet, now int64) outcome {
	w, second, ms := t.state(h, hashState).Load(), t.state(h, hashRefill).Load(), now/1e6
	switch {
	case t.rateMatch:
		if next, due := t.roll(w, second, ms); due {
			w, second = next, 0
		}
		if second>>48 != w&rateNumber {
			second = 0
		}
		return answer(w&rateAbove == 0 && second&rateCount < t.burst)
	case t.bytes:
		return answer(refilled(w, ms) >= t.byteCost(p) || second > 0)
	}
	_, ok := t.packet(int64(w), now/1e3)
	return answer(ok)
}

// key writes what a packet is told apart by; false when it has no ports where they are asked for (hashlimit_init_dst).
func (t *hashTable) key(p *packet.Packet, k *storeKey) bool {
	var src, dst packet.Addr
	if t.mode&HashSrcIP != 0 {
		src = packet.Addr{Hi: p.Src.Hi & t.src.Hi, Lo: p.Src.Lo & t.src.Lo}
	}
	if t.mode&HashDstIP != 0 {
		dst = packet.Addr{Hi: p.Dst.Hi & t.dst.Hi, Lo: p.Dst.Lo & t.dst.Lo}
	}
	ports := uint64(0)
	if t.mode&(HashSrcPort|HashDstPort) != 0 {
		if at := portsOffset(p.Proto); at >= 0 {
			l4 := int(p.L4) + at
			if int(p.End)-l4 < 4 {
				return false
			}
			if t.mode&HashSrcPort != 0 {
				ports = uint64(binary.BigEndian.Uint16(p.Frame[l4:])) << 16
			}
			if t.mode&HashDstPort != 0 {
				ports |= uint64(binary.BigEndian.Uint16(p.Frame[l4+2:]))
			}
		}
	}
	if t.v6 {
		*k = storeKey{src.Hi, src.Lo, dst.Hi, dst.Lo, ports}
	} else {
		*k = storeKey{src.Lo<<32 | dst.Lo&math.MaxUint32, ports}
	}
	return true
}

// portsOffset returns where in the transport header Linux looks for two ports (proto_ports_offset,
// include/net/ip.h), or what stands in their place; -1 for protocols without.
func portsOffset(proto uint8) int {
	switch proto {
	case protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP, packet.ProtoESP:
		return 0
	case packet.ProtoAH:
		return 4
	}
	return -1
}

// sweep removes the entries that have expired, of those whose turn it is. ms is the time.
func (t *hashTable) sweep(ms int64) {
	first, n := t.sweepDue(ms, int64(t.gc))
	for i := range n {
		cell := first + i
		if used := t.used.Load(); cell > used {
			cell -= used
		}
		if h, ok := t.at(cell); ok && int64(t.state(h, hashExpire).Load()) <= ms {
			t.remove(h)
		}
	}
}
