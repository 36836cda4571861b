package rules

import (
	"strconv"
	"strings"
)

// PortRange is a range of ports, both ends included.
type PortRange struct {
	Lo, Hi uint16
	Not    bool
}

var anyPort = PortRange{0, 65535, false}

// full says that every port matches.
func (r PortRange) full() bool { return r.Lo == 0 && r.Hi == 65535 && !r.Not }

func (r PortRange) appendSave(b []byte, opt string) []byte {
	if r.full() {
		return b
	}
	b = appendNot(b, r.Not)
	b = append(b, ' ', '-', '-')
	b = append(b, opt...)
	b = append(b, ' ')
	return r.append(b)
}

func (r PortRange) append(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(r.Lo), 10)
	if r.Lo != r.Hi {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(r.Hi), 10)
	}
	return b
}

// port reads one port by number or name.
func (rp *ruleParser) port(a token) (uint16, bool) {
	if v, err := parseNumber(a.text, 65535); err == nil {
		return uint16(v), true
	}
	if v, ok := services[a.text]; ok {
		return v, true
	}
	hint := "write the port's number"
	if len(a.text) > 0 && a.text[0] > '9' {
		names := make([]string, 0, len(services))
		for n := range services {
			names = append(names, n)
		}
		if n := nearestSorted(a.text, names); n != "" && rp.p.hints < maxHints {
			rp.p.hints++
			hint = "did you mean " + n + "?"
		}
	}
	rp.fail(a.col, a.text, "a port from 0 to 65535 or a service's name", hint)
	return 0, false
}

// ports reads "port", "low:high", "low:" or ":high".
func (rp *ruleParser) ports(r *PortRange, not bool, a token) {
	lo, hi, isRange := strings.Cut(a.text, ":")
	r.Lo, r.Hi, r.Not = 0, 65535, not
	if lo != "" || !isRange {
		v, ok := rp.port(token{text: lo, col: a.col})
		if !ok {
			return
		}
		r.Lo = v
		if !isRange {
			r.Hi = v
		}
	}
	if hi != "" {
		v, ok := rp.port(token{text: hi, col: a.col + len(lo) + 1})
		if !ok {
			return
		}
		r.Hi = v
	}
	if r.Lo > r.Hi {
		rp.fail(a.col, a.text, "a range of ports that rises", "")
	}
}
