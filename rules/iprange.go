package rules

import (
	"net/netip"
	"strings"

	"corewire/internal/packet"
)

// AddrRange is a range of addresses, both ends included.
type AddrRange struct {
	Lo, Hi packet.Addr
	Set    bool
	Not    bool
}

// IPRangeMatch is -m iprange.
type IPRangeMatch struct{ Src, Dst AddrRange }

var iprangeModule = module{name: "iprange", family: Both, make: func() Extension { return &IPRangeMatch{} }, options: []option{
	{"src-range", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.addrRange(&m.(*IPRangeMatch).Src, not, a[0])
	}},
	{"dst-range", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.addrRange(&m.(*IPRangeMatch).Dst, not, a[0])
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	if l.seen == 0 {
		rp.fail(l.col, "-m iprange", "--src-range or --dst-range after -m iprange", "")
	}
}}

// Name returns "iprange".
func (m *IPRangeMatch) Name() string { return "iprange" }

// AppendSave implements Extension.
func (m *IPRangeMatch) AppendSave(b []byte) []byte {
	b = m.Src.appendSave(b, " --src-range ")
	return m.Dst.appendSave(b, " --dst-range ")
}

func (m *IPRangeMatch) compile(c *compiler) {
	for k, r := range []AddrRange{m.Src, m.Dst} {
		if r.Set {
			c.cur.addrs = append(c.cur.addrs, prefix{r.Lo, r.Hi})
			c.ask(pred{op: opRange, not: r.Not, lo: uint16(k), a: uint32(len(c.cur.addrs) - 1)})
		}
	}
}

func (r *AddrRange) appendSave(b []byte, opt string) []byte {
	if !r.Set {
		return b
	}
	b = append(appendNot(b, r.Not), opt...)
	b = r.Lo.Netip().AppendTo(b)
	return r.Hi.Netip().AppendTo(append(b, '-'))
}

func lessAddr(a, b packet.Addr) bool { return a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo }

func (rp *ruleParser) addrRange(r *AddrRange, not bool, a token) {
	lo, hi, isRange := strings.Cut(a.text, "-")
	x, err := netip.ParseAddr(lo)
	y := x
	if err == nil && isRange {
		y, err = netip.ParseAddr(hi)
	}
	if err != nil || x.Is4() != y.Is4() || x.Zone() != "" || y.Zone() != "" {
		rp.fail(a.col, a.text, "a range of addresses, low-high", "")
		return
	}
	f := IPv6
	if x.Is4() {
		f = IPv4
	}
	rp.restrict(f, a.col, a.text)
	*r = AddrRange{packet.AddrFrom(x), packet.AddrFrom(y), true, not}
	if lessAddr(r.Hi, r.Lo) {
		rp.p.warn(rp.p.pos(a.col), "range "+clip(a.text)+" falls: no address is in it")
	}
}
