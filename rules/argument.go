package rules

import (
	"fmt"
	"strconv"
	"strings"
)

// parseNumber reads a number as iptables does (strtoull with base 0): decimal, octal with a leading 0, or hexadecimal
// with 0x; at most limit.
func parseNumber(s string, limit uint64) (uint64, error) {
	if strings.Contains(s, "_") || s == "" || s[0] < '0' || s[0] > '9' {
		return 0, strconv.ErrSyntax
	}
	v, err := strconv.ParseUint(s, 0, 64)
	if err == nil && (strings.HasPrefix(s, "0b") || strings.HasPrefix(s, "0o") || strings.HasPrefix(s, "0B") || strings.HasPrefix(s, "0O")) {
		return 0, strconv.ErrSyntax
	}
	if err == nil && v > limit {
		err = strconv.ErrRange
	}
	return v, err
}

// number reads a number up to limit.
func (rp *ruleParser) number(a token, limit uint64) uint64 {
	v, err := parseNumber(a.text, limit)
	if err != nil {
		rp.fail(a.col, a.text, "a number up to "+strconv.FormatUint(limit, 10), "")
	}
	return v
}

// oneOf returns the index of a word.
func (rp *ruleParser) oneOf(a token, words []string) uint8 {
	for k, w := range words {
		if w == a.text {
			return uint8(k)
		}
	}
	rp.fail(a.col, a.text, "one of "+strings.Join(words, ", "), rp.didYouMean(a.text, words))
	return 0
}

// span reads "number", "low:high", "low:", ":high" or ":".
func (rp *ruleParser) span(a token, limit uint64, expected string) (lo, hi uint64, ok bool) {
	l, h, isRange := strings.Cut(a.text, ":")
	hi = limit
	var err error
	if l != "" || !isRange {
		lo, err = parseNumber(l, limit)
		if !isRange {
			hi = lo
		}
	}
	if h != "" && err == nil {
		hi, err = parseNumber(h, limit)
	}
	if err != nil || lo > hi {
		rp.fail(a.col, a.text, expected, "")
		return 0, 0, false
	}
	return lo, hi, true
}

// appendSpan prints one number, or two with a colon.
func appendSpan(b []byte, lo, hi uint64) []byte {
	b = strconv.AppendUint(b, lo, 10)
	if lo != hi {
		b = strconv.AppendUint(append(b, ':'), hi, 10)
	}
	return b
}

// masked reads "value" or "value/mask".
func (rp *ruleParser) masked(a token, limit uint64) (value, mask uint64, ok bool) {
	v, m, has := strings.Cut(a.text, "/")
	value, err := parseNumber(v, limit)
	mask = limit
	if err == nil && has {
		mask, err = parseNumber(m, limit)
	}
	if err != nil {
		rp.fail(a.col, a.text, fmt.Sprintf("a number up to %#x, with or without a mask", limit), "")
		return 0, 0, false
	}
	return value, mask, true
}
