package rules

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"corewire/internal/packet"
)

// linear is the slow twin of Matcher: it walks the parsed rules with its own reading of iptables' meaning.
type linear struct {
	opt  Options
	fam  Family
	tab  map[string]*linearChain
	base []string // base chains in order, as "table chain"
	path []*Rule  // rules that count the packet
	// policies that count it, and which rule or policy decided
	policies []string
	decided  any
	nth      map[*StatisticMatch]uint32
	memory   linearMemory
	quota    map[*QuotaMatch]uint64
	sets     map[string]*linearSet
	// asked is how often a packet was looked up in a set, members how often it was in it.
	asked, members int
}

type linearChain struct {
	policy Policy
	rules  []*Rule
}

func newLinear(files []*File, fam Family, opt Options) *linear {
	l := &linear{opt: opt, fam: fam, tab: map[string]*linearChain{"filter FORWARD": {policy: PolicyAccept}}}
	tables := map[string]bool{"filter": true}
	for _, f := range files {
		if f.Family&fam == 0 {
			continue
		}
		for _, t := range f.Tables {
			for _, c := range t.Chains {
				if c.Ignored {
					continue
				}
				tables[t.Name] = true
				lc := l.tab[t.Name+" "+c.Name]
				if lc == nil {
					lc = &linearChain{}
					l.tab[t.Name+" "+c.Name] = lc
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
	for _, b := range []string{"mangle PREROUTING", "mangle FORWARD", "filter FORWARD", "security FORWARD", "mangle POSTROUTING"} {
		if table, _, _ := strings.Cut(b, " "); tables[table] {
			l.base = append(l.base, b)
			if l.tab[b] == nil {
				l.tab[b] = &linearChain{policy: PolicyAccept}
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

// judge returns the verdict and leaves the path in l.path and l.policies, and in l.decided the *Rule, the base chain whose
// policy it was, or nil that a header was missing. What rules change is changed in p and c.
func (l *linear) judge(p *packet.Packet, c *Context) Verdict {
	l.path, l.policies, l.decided = l.path[:0], l.policies[:0], nil
	var accepted any
	for _, b := range l.base {
		table, name, _ := strings.Cut(b, " ")
		l.decided = nil
		switch l.chain(table, name, name, p, c) {
		case dropped, hot:
			return Drop
		case fell:
			l.policies = append(l.policies, b)
			l.decided = b
			if l.tab[b].policy == PolicyDrop {
				return Drop
			}
		}
		if b == "filter FORWARD" {
			accepted = l.decided
		}
	}
	l.decided = accepted
	return Accept
}

func (l *linear) chain(table, base, name string, p *packet.Packet, c *Context) int {
	for _, r := range l.tab[table+" "+name].rules {
		hotdrop := false
		if !l.rule(base, r, p, c, &hotdrop) {
			if hotdrop {
				l.decided = nil
				return hot
			}
			continue
		}
		l.path = append(l.path, r)
		l.decided = r
		if hotdrop && r.Target.Verb != VerbDrop && r.Target.Verb != VerbReject {
			if r.Target.Verb == VerbEffect && !l.effect(r.Target.Effect, base, p, c) {
				return dropped
			}
			l.decided = nil
			return hot
		}
		switch r.Target.Verb {
		case VerbAccept:
			return accepted
		case VerbDrop, VerbReject:
			return dropped
		case VerbReturn:
			return fell
		case VerbJump:
			if e := l.chain(table, base, r.Target.Chain, p, c); e != fell {
				return e
			}
		case VerbGoto:
			return l.chain(table, base, r.Target.Chain, p, c)
		case VerbEffect:
			if !l.effect(r.Target.Effect, base, p, c) {
				return dropped
			}
		}
		l.decided = nil
	}
	return fell
}

// effect carries a target out; false drops the packet.
func (l *linear) effect(t Effect, base string, p *packet.Packet, c *Context) bool {
	tracked := c.State != Invalid && c.State != Untracked
	switch t := t.(type) {
	case *MarkTarget:
		c.Mark = (c.Mark & ^t.Mask) ^ t.Value
	case *ConnMarkTarget:
		shift := func(v uint32) uint32 {
			for range t.Shift {
				if t.Right {
					v /= 2
				} else {
					v *= 2
				}
			}
			return v
		}
		if !tracked {
			break
		}
		switch t.Mode {
		case ConnMarkSet:
			c.ConnMark = shift((c.ConnMark & ^t.CtMask) ^ t.Value)
		case ConnMarkSave:
			c.ConnMark = (c.ConnMark & ^t.CtMask) ^ shift(c.Mark&t.NfMask)
		case ConnMarkRestore:
			c.Mark = (c.Mark & ^t.NfMask) ^ shift(c.ConnMark&t.CtMask)
		}
	case *IgnoredTarget:
	case *HashMarkTarget:
		l.hashMark(t, p, c)
	case *TTLTarget:
		h := p.Frame[p.L3:]
		at, v := 8, int(p.TTL)
		if p.Family == 6 {
			at = 7
		}
		v = min(max([]int{int(t.Value), v + int(t.Value), v - int(t.Value)}[t.Mode], 0), 255)
		p.TTL = uint8(v)
		rewrite(h, p.Family == 4, 10, func() { h[at] = uint8(v) })
	case *ECNTarget: // the tests use --ecn-tcp-remove
		h := p.Frame[p.L4:p.End]
		if len(h) < 20 {
			return false
		}
		rewrite(h, true, 16, func() { h[13] &= 0x3f })
		p.TCPFlags = h[13]
	case *MSSTarget:
		return options(p, func(h []byte, o, n int) bool { return o+4 <= len(h) && h[o] == 2 && h[o+1] == 4 }, func(o []byte, _ int) bool {
			if binary.BigEndian.Uint16(o[2:]) > t.MSS {
				binary.BigEndian.PutUint16(o[2:], t.MSS)
			}
			return false
		})
	case *StripTarget:
		return options(p, func(h []byte, o, n int) bool {
			return o+1 < len(h) && o+n <= len(h) && t.Kinds[h[o]/32]>>(h[o]%32)&1 == 1
		}, func(o []byte, n int) bool {
			for i := range n {
				o[i] = 1
			}
			return true
		})
	case *SetTarget:
		l.setTarget(t, base, p, c)
	case *TOSTarget:
		p.TOS = p.TOS & ^t.Mask ^ t.Value
		h := p.Frame[p.L3:]
		if p.Family == 6 {
			binary.BigEndian.PutUint16(h, 6<<12|uint16(p.TOS)<<4|binary.BigEndian.Uint16(h)&0xf)
			break
		}
		h[1] = p.TOS
		h[10], h[11] = 0, 0
		sum := uint32(0)
		for i := 0; i < int(h[0]&15)*4; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(h[i:]))
		}
		binary.BigEndian.PutUint16(h[10:], ^uint16(sum%0xffff))
	default:
		panic(t.Name())
	}
	return true
}

// rewrite changes bytes that a checksum covers, if there is one, and adds to it what their sum has become more.
func rewrite(h []byte, covered bool, at int, change func()) {
	total := func() (v int) {
		for i := range h {
			if i&^1 != at {
				v += int(h[i]) << (8 - i%2*8)
			}
		}
		return v
	}
	before := total()
	change()
	if after := total(); covered && after != before {
		v := (0xffff-int(binary.BigEndian.Uint16(h[at:]))+after-before)%0xffff + 0xffff
		binary.BigEndian.PutUint16(h[at:], ^uint16(v%0xffff))
	}
}

// options walks over the TCP options, with the length of each as Linux steps over it, and changes those that are wanted
// until change says false; false when the header is not whole.
func options(p *packet.Packet, wanted func(h []byte, o, n int) bool, change func(o []byte, n int) bool) bool {
	h := p.Frame[p.L4:p.End]
	if len(h) < 20 || h[12]>>4 < 5 || int(h[12]>>4)*4 > len(h) {
		return false
	}
	h = h[:h[12]>>4*4]
	for o := 20; o < len(h); {
		n := 1
		if h[o] > 1 && o+1 < len(h) && h[o+1] > 0 {
			n = int(h[o+1])
		}
		if wanted(h, o, n) {
			more := true
			rewrite(h, true, 16, func() { more = change(h[o:], n) })
			if !more {
				break
			}
		}
		o += n
	}
	return true
}

func (l *linear) rule(base string, r *Rule, p *packet.Packet, c *Context, hotdrop *bool) bool {
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
	nowhere := func(m InterfaceMatch) bool { return m.Pos.Line == 0 || (m.Name == "+") != m.Not }
	if base == "POSTROUTING" && !nowhere(r.In) || base != "POSTROUTING" && !iface(r.In, p.In) ||
		base == "PREROUTING" && !nowhere(r.Out) || base != "PREROUTING" && !iface(r.Out, p.In.Other()) {
		return false
	}
	if r.Proto.Num != 0 && (r.Proto.Num == p.Proto) == r.Proto.Not {
		return false
	}
	if r.Fragment == FragmentYes {
		return false
	}
	th := p.Frame[p.L4:p.End]
	any := th // what is read by who does not ask for fragments
	if p.Flags&packet.LaterFragment != 0 {
		any = p.Frame[p.L3:p.End]
	}
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
		case *SetMatch:
			if !l.setMatch(m, base, p, c) {
				return false
			}
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
			if !l.dccp(&m.DCCP, th, hotdrop) {
				return false
			}
			if x := m.Chunks; x != nil {
				found, other, broken := map[uint8]bool{}, false, false
				for at := 12; at == 12 || at < len(th); {
					if broken = at+4 > len(th) || th[at+2]|th[at+3] == 0; broken {
						*hotdrop = true
						break
					}
					kind, good := th[at], x.Types[th[at]/32]>>(th[at]%32)&1 == 1
					for k := len(x.Flags) - 1; good && k >= 0; k-- {
						if f := x.Flags[k]; f.Type == kind && th[at+1]&f.Mask != f.Want {
							good = false
						}
					}
					if good {
						found[kind] = true
						if x.Mode == chunkAny {
							break
						}
					} else {
						other = true
						if x.Mode == chunkOnly {
							break
						}
					}
					at += (int(binary.BigEndian.Uint16(th[at+2:])) + 3) / 4 * 4
				}
				every := true
				for k := range 256 {
					every = every && (x.Types[k/32]>>(k%32)&1 == 0 || found[uint8(k)])
				}
				if !broken && []bool{every, len(found) > 0, !other}[x.Mode] == x.Not || broken && !x.Not {
					return false
				}
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
				case a.Is4() && (a == netip.IPv4Unspecified() || a == netip.MustParseAddr("255.255.255.255")) || a == netip.MustParseAddr("127.255.255.255") && !m.LimitIn && !m.LimitOut:
					return TypeBroadcast
				case a.Is4In6():
					return 0
				case a.IsMulticast():
					return TypeMulticast
				case a.IsUnspecified():
					return TypeUnspec
				case a.IsLoopback() && !m.LimitIn && !m.LimitOut:
					t = TypeLocal
				}
				if t != 0 && a.Is4() {
					return t
				}
				return t | TypeUnicast
			}
			addr := func(a packet.Addr) netip.Addr {
				if l.fam == IPv4 {
					return a.Netip()
				}
				return a.Netip6()
			}
			has := func(a netip.Addr, asked AddrTypes) bool {
				k := kind(a)
				if l.fam == IPv4 {
					return k&asked != 0
				}
				for _, t := range []AddrTypes{TypeUnspec, TypeUnicast, TypeMulticast} { // these tell themselves, and must all hold
					if asked&t != 0 && k&t == 0 {
						return false
					}
				}
				return asked&(TypeLocal|TypeAnycast) == 0 || asked&TypeLocal != 0 && k&TypeLocal != 0
			}
			if m.srcAsked && has(addr(p.Src), m.Src) == m.SrcNot || m.dstAsked && has(addr(p.Dst), m.Dst) == m.DstNot {
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
			if (m.CWR || m.ECE) && len(any) < 20 {
				return false
			}
			if m.CWR && any[13]>>7 == 1 == m.NotCWR || m.ECE && any[13]>>6&1 == 1 == m.NotECE {
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
			out := base != "PREROUTING"
			if m.IsIn && m.IsInNot || m.IsOut && out == m.IsOutNot || m.IsBridged && out == m.BridgeNot ||
				!iface(m.In, p.In) || out && !iface(m.Out, p.In.Other()) {
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
			if len(any) < 20 || any[12]>>4 < 5 || int(any[12]>>4)*4 > len(any) {
				*hotdrop = true
				return false
			}
			hit := false
			for o := any[20 : any[12]>>4*4]; len(o) > 0; {
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
		case *SPIMatch:
			var h []byte
			at := 4
			switch {
			case m.module == "esp":
				if !has(8) {
					return false
				}
				h, at = th, 0
			case l.fam == IPv4:
				if !has(12) {
					return false
				}
				h = th
			default:
				var ok bool
				if h, ok = l.header(p, 51, hotdrop); !ok {
					return false
				}
				if len(h) < 12 || len(h) < 4*(int(h[1])+2) {
					*hotdrop = true
					return false
				}
				if m.Len != 0 && (uint32(4*(int(h[1])+2)) == m.Len) == m.LenNot || m.Zero && (h[2] != 0 || h[3] != 0) {
					return false
				}
			}
			if v := binary.BigEndian.Uint32(h[at:]); (v >= m.Lo && v <= m.Hi) == m.Not {
				return false
			}
		case *MobilityMatch:
			if !has(6) {
				return false
			}
			if th[0] != 59 {
				*hotdrop = true
				return false
			}
			if (th[2] >= m.Lo && th[2] <= m.Hi) == m.Not {
				return false
			}
		case *FragMatch:
			h, ok := l.header(p, 44, hotdrop)
			if !ok {
				return false
			}
			if len(h) < 8 {
				*hotdrop = true
				return false
			}
			id, off, more := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint16(h[2:])>>3, h[3]&1 == 1
			if (id >= m.Lo && id <= m.Hi) == m.Not || m.Zero && (h[1] != 0 || h[3]&6 != 0) || m.First && off != 0 || m.More && !more || m.Last && more {
				return false
			}
		case *HeadersMatch:
			set := map[uint8]bool{}
			next, rest := p.Frame[p.L3+6], p.Frame[p.L3+40:p.End]
			bit := map[uint8]uint8{0: hasHopByHop, 60: hasDestination, 43: hasRouting, 44: hasFragment, 51: hasAH, 50: hasESP, 59: hasNone}
			for bit[next] != 0 && next != 59 && next != 50 && rest != nil {
				if len(rest) < 2 {
					return false
				}
				set[bit[next]] = true
				n := 8 * (int(rest[1]) + 1)
				switch next {
				case 51:
					n = 4 * (int(rest[1]) + 2)
				case 44:
					n = 8
				}
				next = rest[0]
				if n > len(rest) {
					rest = nil
				} else {
					rest = rest[n:]
				}
			}
			if next == 50 && len(rest) < 2 {
				return false
			}
			if bit[next] != 0 {
				set[bit[next]] = true
			} else {
				set[hasProto] = true
			}
			hit := true
			for b := 1; b < 256; b *= 2 {
				asked := m.Headers&uint8(b) != 0
				switch {
				case m.Soft && asked:
					hit = hit && set[uint8(b)] != m.Not
				case !m.Soft:
					hit = hit && set[uint8(b)] == asked
				}
			}
			if hit == (m.Not && !m.Soft) {
				return false
			}
		case *OptionsMatch:
			kind := uint8(0)
			if m.module == "dst" {
				kind = 60
			}
			h, ok := l.header(p, kind, hotdrop)
			if !ok {
				return false
			}
			n := 8 * (int(h[1]) + 1)
			if n > len(h) {
				*hotdrop = true
				return false
			}
			if m.HasLen && (uint32(n) == m.Len) == m.LenNot {
				return false
			}
			h = h[2:n]
			for _, o := range m.Options {
				if len(h) == 0 || h[0] != uint8(o>>8) {
					return false
				}
				if h[0] == 0 {
					h = h[1:]
					continue
				}
				if len(h) < 2 || o&255 != 255 && h[1] != uint8(o) {
					return false
				}
				h = h[min(len(h), 2+int(h[1])):]
			}
		case *U32Match:
			if l.u32(m, p.Frame[p.L3:p.End]) == m.Not {
				return false
			}
		case *TimeMatch:
			at := time.Unix(c.Wall, 0).UTC()
			if c.Wall < int64(m.From) || c.Wall > int64(m.To) {
				return false
			}
			s := uint32(at.Hour()*3600 + at.Minute()*60 + at.Second())
			over := m.Start >= m.Stop
			if !over && (s < m.Start || s > m.Stop) || over && s < m.Start && s > m.Stop {
				return false
			}
			if over && m.Contiguous && s <= m.Stop {
				at = at.AddDate(0, 0, -1)
			}
			if m.Weekdays>>((int(at.Weekday())+6)%7+1)&1 == 0 || m.Monthdays>>at.Day()&1 == 0 {
				return false
			}
		case *QuotaMatch:
			if l.quota == nil {
				l.quota = make(map[*QuotaMatch]uint64)
			}
			left, seen := l.quota[m]
			if !seen {
				left = m.Bytes
			}
			n := uint64(p.End - p.L3)
			hit := left >= n
			if hit {
				left -= n
			} else {
				left = 0
			}
			l.quota[m] = left
			if hit == m.Not {
				return false
			}
		case *ByteMatch:
			if c.State == Invalid || c.State == Untracked || !c.Counted {
				return false
			}
			pk, by := []uint64{c.Packets[0], c.Packets[1], c.Packets[0] + c.Packets[1]}[m.Dir], []uint64{c.Bytes[0], c.Bytes[1], c.Bytes[0] + c.Bytes[1]}[m.Dir]
			v := []uint64{pk, by, by / max(pk, 1)}[m.Mode]
			if (v >= m.Lo && v <= m.Hi) == m.Not {
				return false
			}
		case *HelperMatch:
			named := c.State != Invalid && c.State != Untracked && c.Helper != ""
			if (named && (m.Helper == "" || strings.HasPrefix(m.Helper, c.Helper))) == m.Not {
				return false
			}
		case *LabelMatch:
			set := false
			if c.State != Invalid && c.State != Untracked {
				if m.Set {
					c.Labels[m.Label/64] |= 1 << (m.Label % 64)
				}
				set = c.Labels[m.Label/64]>>(m.Label%64)&1 == 1
			}
			if set == m.Not {
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
			hit, known := l.rare(m, th, p, c, hotdrop)
			if !known {
				hit = l.memory.match(m, base, p, c, hotdrop)
			}
			if !hit {
				return false
			}
		}
	}
	return true
}

// header returns an IPv6 extension header and what is behind it.
func (l *linear) header(p *packet.Packet, kind uint8, hotdrop *bool) ([]byte, bool) {
	next, rest := p.Frame[p.L3+6], p.Frame[p.L3+40:p.End]
	for next == 0 || next == 43 || next == 60 || next == 51 || next == 44 {
		if len(rest) < 2 || (next == 43 || next == 44) && len(rest) < 4 {
			*hotdrop = true
			return nil, false
		}
		later := next == 44 && binary.BigEndian.Uint16(rest[2:])>>3 != 0
		if next == kind {
			return rest, true
		}
		if later {
			return nil, false
		}
		n := 8 * (int(rest[1]) + 1)
		if next == 51 {
			n = 4 * (int(rest[1]) + 2)
		}
		if next == 44 {
			n = 8
		}
		next, rest = rest[0], rest[min(n, len(rest)):]
	}
	return nil, false
}

// u32 says whether all tests hold.
func (l *linear) u32(m *U32Match, d []byte) bool {
	word := func(at uint64) (uint64, bool) {
		if at+4 > uint64(len(d)) {
			return 0, false
		}
		return uint64(binary.BigEndian.Uint32(d[at:])), true
	}
	for _, t := range m.Tests {
		base := uint64(0)
		v, ok := word(uint64(t.At[0].Number))
		for _, s := range t.At[1:] {
			if !ok {
				return false
			}
			switch n := uint64(s.Number); s.Op {
			case '&':
				v &= n
			case '<':
				v = v << n & 0xffffffff
			case '>':
				v >>= n
			case '@':
				base += v
				v, ok = word(base + n)
			}
		}
		hit := false
		for _, r := range t.Values {
			hit = hit || v >= uint64(r[0]) && v <= uint64(r[1])
		}
		if !ok || !hit {
			return false
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
