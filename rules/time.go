package rules

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	secondsPerDay = 86400
	allWeekdays   = 0xfe       // bits 1 (Monday) to 7
	allMonthdays  = 0xfffffffe // bits 1 to 31
	lastSecond    = 1<<31 - 1  // --datestop without the option, which iptables takes from an int
)

// TimeMatch is -m time: the wall clock when the packet is judged, in UTC. --kerneltz asks for the kernel's time zone, which
// is UTC too unless somebody set another one (hwclock --systz), as few do since clocks run in UTC; here it is UTC always.
type TimeMatch struct {
	From, To   uint32 // seconds since 1970-01-01T00:00:00Z, both included
	Start      uint32 // second of the day
	Stop       uint32 // second of the day; before Start it is over midnight
	Weekdays   uint8  // bits 1 (Monday) to 7 (Sunday)
	Monthdays  uint32 // bits 1 to 31
	KernelTZ   bool
	Contiguous bool // what is behind midnight belongs to the day before
}

// Name returns "time".
func (m *TimeMatch) Name() string { return "time" }

var weekdayNames = [8]string{"", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

// AppendSave implements Extension. The last date is printed always, as iptables 1.8.9 does.
func (m *TimeMatch) AppendSave(b []byte) []byte {
	if m.Start != 0 || m.Stop != secondsPerDay-1 {
		for _, x := range []struct {
			opt string
			v   uint32
		}{{"start", m.Start}, {"stop", m.Stop}} {
			b = fmt.Appendf(b, " --time%s %02d:%02d:%02d", x.opt, x.v/3600, x.v/60%60, x.v%60)
		}
	}
	list := func(n int, set func(int) bool, name func(int) string) {
		sep := ""
		b = append(b, ' ')
		for k := 1; k <= n; k++ {
			if set(k) {
				b = append(append(b, sep...), name(k)...)
				sep = ","
			}
		}
	}
	if m.Monthdays != allMonthdays {
		b = append(b, " --monthdays"...)
		list(31, func(k int) bool { return m.Monthdays>>k&1 != 0 }, strconv.Itoa)
	}
	if m.Weekdays != allWeekdays {
		b = append(b, " --weekdays"...)
		list(7, func(k int) bool { return m.Weekdays>>k&1 != 0 }, func(k int) string { return weekdayNames[k] })
	}
	if m.From != 0 {
		b = append(append(b, " --datestart "...), time.Unix(int64(m.From), 0).UTC().Format("2006-01-02T15:04:05")...)
	}
	b = append(append(b, " --datestop "...), time.Unix(int64(m.To), 0).UTC().Format("2006-01-02T15:04:05")...)
	if m.KernelTZ {
		b = append(b, " --kerneltz"...)
	}
	if m.Contiguous {
		b = append(b, " --contiguous"...)
	}
	return b
}

func (m *TimeMatch) compile(c *compiler) {
	c.rs.needs |= NeedWall
	c.ask(pred{op: opTime, a: keep(&c.cur.times, *m)})
}

var timeModule = module{name: "time", family: Both, make: func() Extension {
	return &TimeMatch{To: lastSecond, Stop: secondsPerDay - 1, Weekdays: allWeekdays, Monthdays: allMonthdays}
}, options: []option{
	{"datestart", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*TimeMatch).From = rp.date(a[0]) }},
	{"datestop", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*TimeMatch).To = rp.date(a[0]) }},
	{"timestart", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*TimeMatch).Start = rp.daytime(a[0]) }},
	{"timestop", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*TimeMatch).Stop = rp.daytime(a[0]) }},
	{"weekdays", 5, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		bits := rp.days(a[0], 7, "a day from Mon to Sun, or from 1 to 7", func(s string) int {
			for k, n := range weekdayNames {
				if k > 0 && len(s) >= 2 && strings.EqualFold(n, s) {
					return k
				}
			}
			return 0
		})
		if not {
			bits ^= allWeekdays
		}
		m.(*TimeMatch).Weekdays = uint8(bits)
	}},
	{"monthdays", 6, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		bits := rp.days(a[0], 31, "a day of the month from 1 to 31", func(string) int { return 0 })
		if not {
			bits ^= allMonthdays
		}
		m.(*TimeMatch).Monthdays = bits
	}},
	{"kerneltz", 7, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*TimeMatch).KernelTZ = true }},
	{"localtz", 7, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*TimeMatch).KernelTZ = true }},
	{"utc", 7, 0, false, func(_ *ruleParser, _ Extension, _ bool, _ []token) {}},
	{"contiguous", 8, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*TimeMatch).Contiguous = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	if m := l.m.(*TimeMatch); m.Contiguous && m.Start < m.Stop {
		rp.fail(l.col, "--contiguous", "--timestop before --timestart with --contiguous", "")
	}
}}

// days reads a list of days up to n, by number or by name.
func (rp *ruleParser) days(a token, n int, expected string, name func(string) int) (bits uint32) {
	col := a.col
	for s := range strings.SplitSeq(a.text, ",") {
		k := name(s)
		if v, err := strconv.Atoi(s); err == nil {
			k = v
		}
		if s != "" && (k < 1 || k > n) {
			rp.fail(col, s, expected, "")
			return 0
		}
		if s != "" {
			bits |= 1 << k
		}
		col += len(s) + 1
	}
	return bits
}

// daytime reads hh:mm or hh:mm:ss.
func (rp *ruleParser) daytime(a token) uint32 {
	parts := strings.Split(a.text, ":")
	v, limit := uint32(0), uint64(23)
	ok := len(parts) == 2 || len(parts) == 3
	for _, s := range parts {
		n, err := strconv.ParseUint(s, 10, 8)
		ok = ok && err == nil && n <= limit
		v, limit = v*60+uint32(n), 59
	}
	if !ok {
		rp.fail(a.col, a.text, "a time of the day: hh:mm or hh:mm:ss", "")
		return 0
	}
	if len(parts) == 2 {
		v *= 60
	}
	return v
}

// date reads YYYY[-MM[-DD[Thh[:mm[:ss]]]]]. A day that a month does not have is one of the next, as mktime(3) has it.
func (rp *ruleParser) date(a token) uint32 {
	day, clock, hasClock := strings.Cut(a.text, "T")
	v := [6]int{0, 1, 1, 0, 0, 0}
	limits := [6][2]int{{1970, 2038}, {1, 12}, {1, 31}, {0, 23}, {0, 59}, {0, 59}}
	k, ok := 0, true
	take := func(s, sep string, n int) {
		for part := range strings.SplitSeq(s, sep) {
			if k >= n || part == "" {
				ok = false
				return
			}
			x, err := strconv.ParseUint(part, 10, 16)
			ok = ok && err == nil && int(x) >= limits[k][0] && int(x) <= limits[k][1]
			v[k] = int(x)
			k++
		}
	}
	take(day, "-", 3)
	if hasClock {
		ok = ok && k == 3
		k = 3
		take(clock, ":", 6)
	}
	if !ok {
		rp.fail(a.col, a.text, "a date from 1970 to 2038: YYYY[-MM[-DD[Thh[:mm[:ss]]]]]", "")
		return 0
	}
	return uint32(time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], 0, time.UTC).Unix())
}

// test follows net/netfilter/xt_time.c. now is in seconds since 1970-01-01T00:00:00Z.
func (m *TimeMatch) test(now int64) bool {
	if now < int64(m.From) || now > int64(m.To) {
		return false
	}
	second := uint32(now % secondsPerDay)
	if m.Start < m.Stop {
		if second < m.Start || second > m.Stop {
			return false
		}
	} else {
		if second < m.Start && second > m.Stop {
			return false
		}
		if m.Contiguous && second <= m.Stop {
			now -= secondsPerDay
		}
	}
	day := now / secondsPerDay
	if m.Weekdays>>((3+day)%7+1)&1 == 0 { // 1970-01-01 was a Thursday, 4
		return false
	}
	return m.Monthdays == allMonthdays || m.Monthdays>>time.Unix(now, 0).UTC().Day()&1 != 0
}
