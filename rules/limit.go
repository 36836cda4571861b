package rules

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
)

// LimitMatch is -m limit: a token bucket of Burst tokens, one of which is added every Period. It is the rule's own and
// shared by all workers.
type LimitMatch struct {
	Period uint64 // ten-thousandths of a second, as iptables keeps it (XT_LIMIT_SCALE)
	Burst  uint32
}

// limitScale is the unit of LimitMatch.Period in a second.
const limitScale = 10000

var limitUnits = []struct {
	name   string
	period uint64
}{{"day", 86400 * limitScale}, {"hour", 3600 * limitScale}, {"min", 60 * limitScale}, {"sec", limitScale}}

var limitModule = module{name: "limit", family: Both, make: func() Extension { return &LimitMatch{Period: 3600 * limitScale / 3, Burst: 5} }, options: []option{
	{"limit", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*LimitMatch).Period = rp.rate(a[0]) }},
	{"limit-burst", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		v, err := parseNumber(a[0].text, 10000)
		if err != nil || v == 0 {
			rp.fail(a[0].col, a[0].text, "a burst from 1 to 10000", "")
		}
		m.(*LimitMatch).Burst = uint32(v)
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	if m := l.m.(*LimitMatch); m.credits(m.Burst) < m.credits(1) {
		rp.fail(l.col, "-m limit", "a smaller burst, or a higher rate", fmt.Sprintf("a burst of %d at this rate is more than Linux can count, and it refuses the rule", m.Burst))
	}
}}

// credits is user2credits of net/netfilter/xt_limit.c, of so many periods, as 32 bits hold them: 32 or 128 credits a jiffy,
// of which there are 1000 or 250 a second.
func (m *LimitMatch) credits(n uint32) uint32 {
	const second = 32000
	v := uint32(m.Period) * n
	if v > math.MaxUint32/second {
		return v / limitScale * second
	}
	return v * second / limitScale
}

// rate reads "number" or "number/unit" and returns the period of one in ten-thousandths of a second.
func (rp *ruleParser) rate(a token) uint64 {
	number, unit, has := strings.Cut(a.text, "/")
	mult := uint64(limitScale)
	if has {
		u := strings.ToLower(unit)
		switch {
		case u != "" && strings.HasPrefix("second", u):
		case u != "" && strings.HasPrefix("minute", u):
			mult *= 60
		case u != "" && strings.HasPrefix("hour", u):
			mult *= 3600
		case u != "" && strings.HasPrefix("day", u):
			mult *= 86400
		default:
			rp.fail(a.col+len(number)+1, unit, "second, minute, hour or day", "")
			return 1
		}
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 || mult/n == 0 {
		rp.fail(a.col, a.text, "a rate up to 10000/second", "")
		return 1
	}
	return mult / n
}

// Name returns "limit".
func (m *LimitMatch) Name() string { return "limit" }

// AppendSave implements Extension.
func (m *LimitMatch) AppendSave(b []byte) []byte {
	b = append(b, " --limit "...)
	u := 1
	for ; u < len(limitUnits); u++ { // the largest unit but day that gives a whole number, as libxt_limit prints it
		p := limitUnits[u].period
		if m.Period > p || p/m.Period < p%m.Period {
			break
		}
	}
	b = strconv.AppendUint(b, limitUnits[u-1].period/m.Period, 10)
	b = append(append(b, '/'), limitUnits[u-1].name...)
	if m.Burst != 5 {
		b = strconv.AppendUint(append(b, " --limit-burst "...), uint64(m.Burst), 10)
	}
	return b
}

func (m *LimitMatch) compile(c *compiler) {
	c.rs.needs |= NeedNow
	c.ask(pred{op: opLimit, a: uint32(len(c.cur.buckets))})
	b := liveOf(c, m, func(g *program) ([]*bucket, []RuleID) { return g.buckets, g.bucketRules })
	if b == nil {
		b = share(c, m, func() *bucket { return newBucket(m) })
	}
	c.cur.buckets = append(c.cur.buckets, b)
}

// bucket is the state of a limit: the time at which it would be full again, in nanoseconds of Context.Now. That one
// number is a token bucket (the generic cell rate algorithm of ITU-T I.371): a packet takes a token by moving the time
// on by a period, and may if the time is not further ahead than the burst allows.
type bucket struct {
	full   atomic.Int64
	period int64
	slack  int64 // period times (burst - 1)
	_      [40]byte
}

// take takes a token if there is one.
func (b *bucket) take(now int64) bool {
	for {
		full := b.full.Load()
		at := max(full, now)
		if ahead := at - now; ahead > b.slack+b.period {
			at = now // the clock has wrapped, or began again
		} else if ahead > b.slack {
			return false
		}
		if b.full.CompareAndSwap(full, at+b.period) {
			return true
		}
	}
}

// has says whether take would find a token.
func (b *bucket) has(now int64) bool {
	ahead := max(b.full.Load(), now) - now
	return ahead > b.slack+b.period || ahead <= b.slack
}

func newBucket(m *LimitMatch) *bucket {
	b := &bucket{period: int64(m.Period) * (1e9 / limitScale)}
	b.slack = b.period * int64(m.Burst-1)
	b.full.Store(math.MinInt64 / 2)
	return b
}
