package rules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// addresses reads an address, an address and mask, or a list of them.
func (rp *ruleParser) addresses(a token, not bool) []AddrMatch {
	out := []AddrMatch{}
	col := a.col
	rest, more := a.text, true
	for more && len(rp.rule.bad) < 10 {
		var one string
		one, rest, more = strings.Cut(rest, ",")
		if m, f, ok := rp.address(token{text: one, col: col}); ok {
			rp.restrict(f, col, one)
			m.Not = not
			out = append(out, m)
		}
		col += len(one) + 1
	}
	if not && len(out) > 1 {
		rp.fail(a.col, a.text, "one address after !", "iptables takes a list only without !")
	}
	return out
}

// address reads one address with an optional mask.
func (rp *ruleParser) address(a token) (m AddrMatch, f Family, ok bool) {
	host, mask, hasMask := strings.Cut(a.text, "/")
	v6 := strings.Contains(host, ":")
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		if v6 {
			rp.fail(a.col, a.text, "an IPv6 address, with or without /length", "")
			return m, 0, false
		}
		if addr, ok = shortIPv4(host); !ok {
			hint := ""
			if host != "" && (host[0] >= 'a' && host[0] <= 'z' || host[0] >= 'A' && host[0] <= 'Z') {
				hint = "host names are not looked up: a rule set must not depend on a name server"
			}
			rp.fail(a.col, a.text, "an IP address, with or without a mask", hint)
			return m, 0, false
		}
	}
	bits, f := 32, IPv4
	if v6 {
		bits, f = 128, IPv6
	}
	mk := prefixMask(bits, bits)
	if hasMask {
		col := a.col + len(host) + 1
		if n, err := parseNumber(mask, uint64(bits)); err == nil {
			mk = prefixMask(int(n), bits)
		} else if ma, err := netip.ParseAddr(mask); err == nil && ma.Zone() == "" && strings.Contains(mask, ":") == v6 {
			mk = packet.AddrFrom(ma)
			if !v6 {
				mk.Hi, mk.Lo = ^uint64(0), mk.Lo|0xffffffff<<32
			}
		} else {
			rp.fail(col, mask, fmt.Sprintf("a prefix length up to %d or a mask", bits), "")
			return m, 0, false
		}
	}
	v := packet.AddrFrom(addr)
	m = AddrMatch{Pos: rp.p.pos(a.col), Addr: packet.Addr{Hi: v.Hi & mk.Hi, Lo: v.Lo & mk.Lo}, Mask: mk}
	m.Set = mk != prefixMask(0, bits)
	return m, f, true
}

// hostMask reads an address with the length of a prefix, of which iptables keeps and prints the bits behind the prefix as well.
// Of other masks it makes something else, so that they are refused.
func (rp *ruleParser) hostMask(a token) (m AddrMatch, f Family, ok bool) {
	if m, f, ok = rp.address(a); !ok {
		return m, f, false
	}
	bits, n := 128, maskLen(m.Mask)
	if f == IPv4 {
		bits, n = 32, n-96
	}
	if want := prefixMask(n, bits); want.Lo != m.Mask.Lo || f == IPv6 && want.Hi != m.Mask.Hi {
		rp.fail(a.col, a.text, "an address with the length of a prefix", "")
		return m, f, false
	}
	host, _, _ := strings.Cut(a.text, "/")
	if ip, err := netip.ParseAddr(host); err == nil {
		m.Addr = packet.AddrFrom(ip)
	}
	return m, f, true
}

// shortIPv4 reads IPv4 addresses of fewer than four numbers as iptables does (libxtables/xtables.c): the missing ones
// are zeros at the end, so that 10.1/16 is 10.1.0.0/16.
func shortIPv4(s string) (netip.Addr, bool) {
	var b [4]byte
	for k := 0; ; k++ {
		part, rest, more := strings.Cut(s, ".")
		v, err := strconv.ParseUint(part, 10, 8)
		if err != nil || k > 3 {
			return netip.Addr{}, false
		}
		b[k] = byte(v)
		if !more {
			return netip.AddrFrom4(b), true
		}
		s = rest
	}
}

// prefixMask returns the mask of a prefix of n bits; bits is 32 or 128.
func prefixMask(n, bits int) packet.Addr {
	if bits == 32 {
		n += 96
	}
	if n <= 64 {
		return packet.Addr{Hi: ^uint64(0) << (64 - n)}
	}
	return packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0) << (128 - n)}
}
