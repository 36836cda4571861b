package rules

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"corewire/internal/packet"
)

// linear is the slow twin of Matcher: it walks the parsed rules with its own reading of iptables' meaning.
type linear struct {
	opt  Options
	fam  Family
	tab  map[string]*linearChain
	path []*Rule // rules that count the packet
	nth  map[*StatisticMatch]uint32
}

type linearChain struct {
	policy Policy
	rules  []*Rule
}

func newLinear(files []*File, fam Family, opt Options) *linear {
	l := &linear{opt: opt, fam: fam, tab: map[string]*linearChain{"FORWARD": {policy: PolicyAccept}}}
	for _, f := range files {
		if f.Family&fam == 0 {
			continue
		}
		for _, t := range f.Tables {
			for _, c := range t.Chains {
				if c.Ignored {
					continue
				}
				lc := l.tab[c.Name]
				if lc == nil {
					lc = &linearChain{}
					l.tab[c.Name] = lc
				}
				lc.policy = c.Policy
				for _, r := range c.Rules {
					if r.Family&fam != 0 {
						lc.rules = append(lc.rules, r)
					}
				}
			}
		}
	}
	return l
}

// how a chain ended
const (
	fell = iota // reached its end, or RETURN
	accepted
	dropped
	hot
)

// judge returns the verdict and leaves the path in l.path; policy says that the policy decided, tiny that a header was missing.
func (l *linear) judge(p *packet.Packet, c *Context) (v Verdict, policy, tiny bool) {
	l.path = l.path[:0]
	switch l.chain("FORWARD", p, c) {
	case accepted:
		return Accept, false, false
	case dropped:
		return Drop, false, false
	case hot:
		return Drop, false, true
	}
	if l.tab["FORWARD"].policy == PolicyDrop {
		return Drop, true, false
	}
	return Accept, true, false
}

func (l *linear) chain(name string, p *packet.Packet, c *Context) int {
	for _, r := range l.tab[name].rules {
		hotdrop := false
		if !l.rule(r, p, c, &hotdrop) {
			if hotdrop {
				return hot
			}
			continue
		}
		l.path = append(l.path, r)
		switch r.Target.Verb {
		case VerbAccept:
			return accepted
		case VerbDrop, VerbReject:
			return dropped
		case VerbReturn:
			return fell
		case VerbJump:
			if e := l.chain(r.Target.Chain, p, c); e != fell {
				return e
			}
		case VerbGoto:
			return l.chain(r.Target.Chain, p, c)
		}
	}
	return fell
}

func (l *linear) rule(r *Rule, p *packet.Packet, c *Context, hotdrop *bool) bool {
	in := func(a packet.Addr, m AddrMatch) bool {
		if m.Pos.Line == 0 {
			return true
		}
		x, y, z := bytesOf(a), bytesOf(m.Addr), bytesOf(m.Mask)
		for i := range x {
			if (x[i]^y[i])&z[i] != 0 {
				return m.Not
			}
		}
		return !m.Not
	}
	if !in(p.Src, r.Src) || !in(p.Dst, r.Dst) {
		return false
	}
	iface := func(m InterfaceMatch, port packet.Port) bool {
		if m.Pos.Line == 0 {
			return true
		}
		hit := false
		for _, name := range []string{port.String(), [2]string{l.opt.InsideName, l.opt.OutsideName}[port]} {
			if name == "" {
				continue
			}
			if strings.HasSuffix(m.Name, "+") {
				hit = hit || strings.HasPrefix(name, m.Name[:len(m.Name)-1])
			} else {
				hit = hit || name == m.Name
			}
		}
		return hit != m.Not
	}
	if p.Flags&packet.BrokenChain != 0 && r.Proto.Num != 0 {
		*hotdrop = true
		return false
	}
	if !iface(r.In, p.In) || !iface(r.Out, p.In.Other()) {
		return false
	}
	if r.Proto.Num != 0 && (r.Proto.Num == p.Proto) == r.Proto.Not {
		return false
	}
	if r.Fragment == FragmentYes {
		return false
	}
	th := p.Frame[p.L4:p.End]
	has := func(n int) bool {
		if p.Flags&packet.LaterFragment != 0 {
			return false
		}
		*hotdrop = *hotdrop || len(th) < n
		return len(th) >= n
	}
	within := func(v uint16, q PortRange) bool { return (q.Lo <= v && v <= q.Hi) != q.Not }
	for _, m := range r.Matches {
		switch m := m.(type) {
		case *CommentMatch:
		case *TCPMatch:
			if !has(20) {
				return false
			}
			if !within(binary.BigEndian.Uint16(th), m.Src) || !within(binary.BigEndian.Uint16(th[2:]), m.Dst) {
				return false
			}
			if m.Flags.Set && (th[13]&m.Flags.Mask == m.Flags.Want) == m.Flags.Not {
				return false
			}
			if m.Option.Kind != 0 {
				n := int(th[12]>>4) * 4
				if n < 20 || n > len(th) {
					*hotdrop = true
					return false
				}
				found := false
				for o := th[20:n]; len(o) > 0; {
					if o[0] == m.Option.Kind {
						found = true
						break
					}
					step := 1
					if o[0] >= 2 && len(o) > 1 && o[1] != 0 {
						step = int(o[1])
					}
					o = o[min(step, len(o)):]
				}
				if found == m.Option.Not {
					return false
				}
			}
		case *UDPMatch:
			if !has(8) {
				return false
			}
			if !within(binary.BigEndian.Uint16(th), m.Src) || !within(binary.BigEndian.Uint16(th[2:]), m.Dst) {
				return false
			}
		case *ICMPMatch:
			if !has(8) {
				return false
			}
			hit := th[0] == m.Type && th[1] >= m.MinCode && th[1] <= m.MaxCode
			if l.fam == IPv4 && m.Type == 255 {
				hit = true
			}
			if hit == m.Not {
				return false
			}
		case *MultiportMatch:
			if !has(4) {
				return false
			}
			s, d, hit := binary.BigEndian.Uint16(th), binary.BigEndian.Uint16(th[2:]), false
			for _, q := range m.Ports {
				hit = hit || m.Side != PortDestination && within(s, q) || m.Side != PortSource && within(d, q)
			}
			if hit == m.Not {
				return false
			}
		case *ConntrackMatch:
			if !l.conntrack(m, p, c, in, within) {
				return false
			}
		case *PortsMatch:
			if !has(12) {
				return false
			}
			if !within(binary.BigEndian.Uint16(th), m.Src) || !within(binary.BigEndian.Uint16(th[2:]), m.Dst) {
				return false
			}
		case *IPRangeMatch:
			for k, q := range []AddrRange{m.Src, m.Dst} {
				a := []packet.Addr{p.Src, p.Dst}[k].Netip6()
				if q.Set && (a.Compare(q.Lo.Netip6()) >= 0 && a.Compare(q.Hi.Netip6()) <= 0) == q.Not {
					return false
				}
			}
		case *AddrTypeMatch:
			kind := func(a netip.Addr) (t AddrTypes) {
				switch {
				case a.Is4() && (a.As4()[0] == 0 || a == netip.MustParseAddr("255.255.255.255")):
					return TypeBroadcast
				case a.IsMulticast():
					return TypeMulticast
				case a.Is6() && a.IsLoopback():
					return TypeLocal | TypeUnicast
				case a.IsLoopback():
					return TypeLocal
				case a.IsUnspecified():
					return TypeUnspec
				}
				return TypeUnicast
			}
			addr := func(a packet.Addr) netip.Addr {
				if l.fam == IPv4 {
					return a.Netip()
				}
				return a.Netip6()
			}
			if m.srcAsked && (kind(addr(p.Src))&m.Src != 0) == m.SrcNot || m.dstAsked && (kind(addr(p.Dst))&m.Dst != 0) == m.DstNot {
				return false
			}
		case *LengthMatch:
			if n := len(p.Frame[p.L3:p.End]); (n >= int(m.Lo) && n <= int(m.Hi)) == m.Not {
				return false
			}
		case *TTLMatch:
			if !map[Compare]bool{Equal: p.TTL == m.Value, NotEqual: p.TTL != m.Value, Less: p.TTL < m.Value, Greater: p.TTL > m.Value}[m.Compare] {
				return false
			}
		case *TOSMatch:
			if (p.TOS&m.Mask == m.Value) == m.Not {
				return false
			}
		case *ECNMatch:
			if m.ECT && (p.TOS&3 == m.Codepoint) == m.NotECT {
				return false
			}
			if (m.CWR || m.ECE) && len(th) < 20 {
				return false
			}
			if m.CWR && th[13]>>7 == 1 == m.NotCWR || m.ECE && th[13]>>6&1 == 1 == m.NotECE {
				return false
			}
		case *MarkMatch:
			v := c.Mark
			if m.module == "connmark" {
				v = c.ConnMark
				if c.State == Invalid || c.State == Untracked {
					return false
				}
			}
			if (v&m.Mask == m.Value) == m.Not {
				return false
			}
		case *MACMatch:
			if (string(p.Frame[6:12]) == string(m.Addr[:])) == m.Not {
				return false
			}
		case *PacketTypeMatch:
			t := LinkUnicast
			if p.Frame[0]&1 != 0 {
				t = LinkMulticast
				if string(p.Frame[:6]) == "\xff\xff\xff\xff\xff\xff" {
					t = LinkBroadcast
				}
			}
			if (t == m.Type) == m.Not {
				return false
			}
		case *PhysdevMatch:
			if m.never() || !iface(m.In, p.In) || !iface(m.Out, p.In.Other()) {
				return false
			}
		case *RoutingMatch:
			h := p.Frame[p.L3+40 : p.L4]
			next := p.Frame[p.L3+6]
			for len(h) >= 8 && next != 43 && (next == 0 || next == 60 || next == 44 || next == 51) {
				n := 8 * (int(h[1]) + 1)
				switch next {
				case 44:
					n = 8
				case 51:
					n = 4 * (int(h[1]) + 2)
				}
				next, h = h[0], h[min(n, len(h)):]
			}
			if len(h) < 8 || next != 43 {
				return false
			}
			left := uint32(h[3])
			if (left >= m.SegsLo && left <= m.SegsHi) == m.SegsNot || m.HasType && (h[2] == m.Type) == m.TypeNot ||
				m.HasLen && (8*(uint32(h[1])+1) == m.Len) == m.LenNot || m.Reserved && binary.BigEndian.Uint32(h[4:]) != 0 {
				return false
			}
		case *StringMatch:
			hit := false
			d := p.Frame[p.L3:p.End]
			for i := int(m.From); i+len(m.Text) <= min(len(d), int(m.To)); i++ {
				same := true
				for k := range len(m.Text) {
					x, y := d[i+k], m.Text[k]
					same = same && (x == y || m.IgnCase && upper(x) == upper(y))
				}
				hit = hit || same
			}
			if hit == m.Not {
				return false
			}
		case *MSSMatch:
			if !has(20) {
				return false
			}
			n := int(th[12]>>4) * 4
			if n < 20 || n > len(th) {
				*hotdrop = true
				return false
			}
			hit := false
			for o := th[20:n]; len(o) > 0; {
				if len(o) >= 4 && o[0] == 2 && o[1] == 4 {
					hit = within(binary.BigEndian.Uint16(o[2:]), PortRange{Lo: m.Lo, Hi: m.Hi})
					break
				}
				step := 1
				if o[0] >= 2 && len(o) > 1 && o[1] != 0 {
					step = int(o[1])
				}
				o = o[min(step, len(o)):]
			}
			if hit == m.Not {
				return false
			}
		case *VLANMatch:
			tci := uint16(0)
			if typ := binary.BigEndian.Uint16(p.Frame[12:]); typ == 0x8100 || typ == 0x88a8 {
				tci = binary.BigEndian.Uint16(p.Frame[14:])
			}
			if m.ID && !within(tci&0xfff, PortRange{m.IDLo, m.IDHi, m.IDNot}) || m.PCP && !within(tci>>13, PortRange{m.PCPLo, m.PCPHi, m.PCPNot}) {
				return false
			}
		case *StatisticMatch: // the tests use --every 2, and a state of their own
			if l.nth == nil {
				l.nth = make(map[*StatisticMatch]uint32)
			}
			n, seen := l.nth[m]
			if !seen {
				n = m.Packet
			}
			l.nth[m] = (n + m.Every - 1) % m.Every
			if (n == 0) == m.Not {
				return false
			}
		default:
			panic(m.Name())
		}
	}
	return true
}

// conntrack follows conntrack_mt. The packets of the tests begin their connections themselves or answer: the original
// tuple is the packet's own, or turned.
func (l *linear) conntrack(m *ConntrackMatch, p *packet.Packet, c *Context, in func(packet.Addr, AddrMatch) bool, within func(uint16, PortRange) bool) bool {
	if m.HasState && (m.States>>c.State&1 != 0) == m.StatesNot {
		return false
	}
	if c.State == Invalid || c.State == Untracked {
		return m.HasState
	}
	if m.HasDir && m.Dir != c.Dir {
		return false
	}
	var src, dst packet.Addr
	var sp, dp uint16
	switch {
	case p.Flags&packet.ICMPError != 0:
		// The key is that of the packet quoted, which ran against the error.
		q := packet.Packet{In: p.In}
		if !p.Quoted(&q) {
			panic("an error without a quotation")
		}
		src, dst, sp, dp = q.Src, q.Dst, q.SrcPort, q.DstPort
		if c.Dir == Original {
			src, dst, sp, dp = dst, src, dp, sp
		}
	default:
		src, dst, sp, dp = p.Src, p.Dst, p.SrcPort, p.DstPort
		if p.Flags&packet.PortsValid == 0 || !keyed(p.Proto) {
			sp, dp = p.Key.APort, p.Key.BPort
		}
		if c.Dir == Reply {
			src, dst, sp, dp = dst, src, dp, sp
		}
	}
	proto := p.Proto
	if p.Flags&packet.ICMPError != 0 {
		proto = p.Key.Proto
	}
	rsp, rdp := dp, sp
	if proto == 1 || proto == 58 {
		sp, dp = p.Key.APort, p.Key.BPort
		rsp, rdp = sp, map[uint16]uint16{8: 0, 13: 14, 15: 16, 17: 18, 128: 129, 139: 140}[dp>>8]<<8|dp&255
	}
	return in(src, m.OrigSrc) && in(dst, m.OrigDst) && in(dst, m.ReplSrc) && in(src, m.ReplDst) &&
		(!m.HasProto || (m.Proto == proto) != m.ProtoNot) &&
		(m.portSet&1 == 0 || within(sp, m.OrigSrcPort)) && (m.portSet&2 == 0 || within(dp, m.OrigDstPort)) &&
		(m.portSet&4 == 0 || within(rsp, m.ReplSrcPort)) && (m.portSet&8 == 0 || within(rdp, m.ReplDstPort)) &&
		(!m.HasStatus || (c.Status&m.Status != 0) != m.StatusNot) &&
		(!m.HasExpire || (c.Expires >= m.ExpireLo && c.Expires <= m.ExpireHi) != m.ExpireNot)
}

func bytesOf(a packet.Addr) (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return b
}
