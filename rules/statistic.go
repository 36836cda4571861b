package rules

import (
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
)

// StatisticMatch is -m statistic: every n-th packet, or some at random.
type StatisticMatch struct {
	Random        bool
	Probability   uint32 // of 1<<31, as the kernel keeps it
	Every, Packet uint32 // Every packets, the one with the number Packet, from 0
	Not           bool
	mode          bool
}

var statisticModule = module{name: "statistic", family: Both, make: func() Extension { return &StatisticMatch{} }, options: []option{
	{"mode", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		x := m.(*StatisticMatch)
		x.mode = true
		switch a[0].text {
		case "random":
			x.Random = true
		case "nth":
		default:
			rp.fail(a[0].col, a[0].text, "random or nth", "")
		}
	}},
	{"probability", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		v, err := strconv.ParseFloat(a[0].text, 64)
		if err != nil || !(v >= 0 && v <= 1) {
			rp.fail(a[0].col, a[0].text, "a probability from 0 to 1", "")
			return
		}
		m.(*StatisticMatch).Probability, m.(*StatisticMatch).Not = uint32(math.RoundToEven(v*(1<<31))), not
	}},
	{"every", 3, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		v, err := parseNumber(a[0].text, 1<<32-1)
		if err != nil || v == 0 {
			rp.fail(a[0].col, a[0].text, "a number from 1", "")
		}
		m.(*StatisticMatch).Every, m.(*StatisticMatch).Not = uint32(v), not
	}},
	{"packet", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		v, err := parseNumber(a[0].text, 1<<32-1)
		if err != nil {
			rp.fail(a[0].col, a[0].text, "a number", "")
		}
		m.(*StatisticMatch).Packet = uint32(v)
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*StatisticMatch)
	has := func(id int) bool { return l.seen&(1<<id) != 0 }
	switch {
	case !m.mode:
		rp.fail(l.col, "-m statistic", "--mode random or --mode nth", "")
	case m.Random && (!has(2) || has(3) || has(4)):
		rp.fail(l.col, "--mode random", "--probability, and neither --every nor --packet", "")
	case !m.Random && (has(2) || !has(3) || !has(4)):
		rp.fail(l.col, "--mode nth", "--every and --packet, and not --probability", "")
	case !m.Random && m.Packet >= m.Every:
		rp.fail(l.col, "--packet "+strconv.Itoa(int(m.Packet)), "--packet below --every", "")
	}
}}

// Name returns "statistic".
func (m *StatisticMatch) Name() string { return "statistic" }

// AppendSave implements Extension.
func (m *StatisticMatch) AppendSave(b []byte) []byte {
	if m.Random {
		return fmt.Appendf(appendNot(append(b, " --mode random"...), m.Not), " --probability %.11f", float64(m.Probability)/(1<<31))
	}
	return fmt.Appendf(appendNot(append(b, " --mode nth"...), m.Not), " --every %d --packet %d", m.Every, m.Packet)
}

func (m *StatisticMatch) compile(c *compiler) {
	if m.Random {
		c.ask(pred{op: opRandom, not: m.Not, a: m.Probability})
		return
	}
	k := liveOf(c, m, func(g *program) ([]*counter, []RuleID) { return g.counters, g.counterRules })
	if k == nil {
		k = share(c, m, func() *counter {
			k := &counter{every: m.Every}
			k.n.Store(m.Every - 1 - m.Packet)
			return k
		})
	}
	c.ask(pred{op: opNth, not: m.Not, a: uint32(len(c.cur.counters))})
	c.cur.counters = append(c.cur.counters, k)
}

// counter is the state of --mode nth, shared by all workers.
type counter struct {
	n     atomic.Uint32
	every uint32
	_     [56]byte
}

// next counts a packet and says whether it is the one.
func (c *counter) next() bool {
	for {
		n := c.n.Load()
		v := n + 1
		if n == c.every-1 {
			v = 0
		}
		if c.n.CompareAndSwap(n, v) {
			return v == 0
		}
	}
}
