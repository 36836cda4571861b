package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"corewire/internal/ipset"
	"corewire/internal/packet"
)

// linearSet is the slow twin of a set: a plain list of elements, all of which are looked at for each packet.
type linearSet struct {
	kind     string
	parts    []string // of an element: ip, net, port, mac, mark, iface, set
	version  uint8    // 4, 6 or 0
	netmask  int      // 0: none
	most     int
	timed    bool
	timeout  int64 // seconds
	counters bool
	info     bool
	elems    []*linearElement
}

type linearElement struct {
	values         []string
	nomatch        bool
	wildcard       bool
	expires        int64 // ms; 0: never
	packets, bytes uint64
	mark, mask     uint32
}

func (e *linearElement) late(now int64) bool { return e.expires != 0 && now > e.expires }

// linearSets reads what ipset restore takes, each line anew changing what is there.
func linearSets(text string) map[string]*linearSet {
	sets := map[string]*linearSet{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		opt := map[string]string{}
		for i, w := range f {
			opt[w] = ""
			if i+1 < len(f) {
				opt[w] = f[i+1]
			}
		}
		number := func(name string) int64 { n, _ := strconv.ParseInt(opt[name], 0, 64); return n }
		if f[0] == "create" {
			_, parts, _ := strings.Cut(f[2], ":")
			s := &linearSet{kind: f[2], parts: strings.Split(parts, ","), version: 4, netmask: int(number("netmask")), most: 65536}
			switch {
			case f[2] == "bitmap:port" || f[2] == "hash:mac" || f[2] == "list:set":
				s.version = 0
			case opt["family"] == "inet6":
				s.version = 6
			}
			if _, ok := opt["maxelem"]; ok {
				s.most = int(number("maxelem"))
			}
			_, s.timed = opt["timeout"]
			s.timeout = number("timeout")
			_, s.counters = opt["counters"]
			_, s.info = opt["skbinfo"]
			sets[f[1]] = s
			continue
		}
		s := sets[f[1]]
		e := &linearElement{}
		for i, v := range strings.Split(f[2], ",") {
			switch s.parts[i] {
			case "ip":
				v = s.masked(netip.MustParseAddr(v))
			case "port":
				v = linearPort(v)
			}
			e.values = append(e.values, v)
		}
		_, e.nomatch = opt["nomatch"]
		_, e.wildcard = opt["wildcard"]
		timeout := s.timeout
		if _, ok := opt["timeout"]; ok {
			timeout = number("timeout")
		}
		if s.timed && timeout != 0 {
			e.expires = 1000 * timeout
		}
		e.packets, e.bytes = uint64(number("packets")), uint64(number("bytes"))
		if m, ok := opt["skbmark"]; ok {
			a, b, both := strings.Cut(m, "/")
			x, _ := strconv.ParseUint(a, 0, 32)
			e.mark, e.mask = uint32(x), ^uint32(0)
			if both {
				x, _ = strconv.ParseUint(b, 0, 32)
				e.mask = uint32(x)
			}
		}
		at := slices.IndexFunc(s.elems, func(x *linearElement) bool { return s.same(x.values, e.values) && x.wildcard == e.wildcard })
		_, before := opt["before"]
		ref := slices.IndexFunc(s.elems, func(x *linearElement) bool { return x.values[0] == opt["before"]+opt["after"] })
		switch {
		case at >= 0:
			if s.kind == "bitmap:ip,mac" && len(e.values) == 1 {
				e.values = s.elems[at].values
			}
			s.elems[at] = e
		case ref < 0:
			s.elems = append(s.elems, e)
		case before:
			s.elems = slices.Insert(s.elems, ref, e)
		default:
			s.elems = slices.Insert(s.elems, ref+1, e)
		}
	}
	return sets
}

// same says that values are one element's: of bitmap:ip,mac the address alone tells.
func (s *linearSet) same(a, b []string) bool {
	if s.kind == "bitmap:ip,mac" {
		return a[0] == b[0]
	}
	return slices.Equal(a, b)
}

func (s *linearSet) masked(a netip.Addr) string {
	if s.netmask != 0 {
		a = netip.PrefixFrom(a, s.netmask).Masked().Addr()
	}
	return a.String()
}

// linearPort writes protocol and port in numbers; a port alone stays one.
func linearPort(v string) string {
	proto, port, ok := strings.Cut(v, ":")
	if !ok {
		return v
	}
	if typ, code, ok := strings.Cut(port, "/"); ok {
		t, _ := strconv.Atoi(typ)
		c, _ := strconv.Atoi(code)
		port = fmt.Sprint(t<<8 | c)
	}
	return fmt.Sprintf("%d:%s", map[string]int{"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "icmp": 1, "icmpv6": 58, "gre": 47, "esp": 50}[proto], port)
}

// setLook is one question of a rule.
type setLook struct {
	src     []bool
	m       *SetMatch // how counters go; nil: they count, as for a target
	base    string
	names   [2][2]string // of the ports
	now     int64        // ms
	mark    uint32
	info    *linearElement // the last one accepted of a set with skbinfo, for --map-set
	keep    bool           // counters stay
	compare bool           // they are compared
}

// values returns what a packet has of a set's parts; "" for a network, whose address is in addrs. false: it has not all.
func (s *linearSet) values(p *packet.Packet, q *setLook) (values []string, addrs []netip.Addr, ok bool) {
	if len(q.src) < len(s.parts) || s.version != 0 && s.version != p.Family {
		return nil, nil, false
	}
	for i, part := range s.parts {
		src := q.src[i]
		end, own := p.Dst, 0
		if src {
			end, own = p.Src, 6
		}
		a := end.Netip6()
		if p.Family == 4 {
			a = end.Netip()
		}
		switch part {
		case "ip":
			v := s.masked(a)
			if netip.MustParseAddr(v).IsUnspecified() && (s.kind == "hash:ip" || s.kind == "hash:ip,port") {
				return nil, nil, false
			}
			values, addrs = append(values, v), append(addrs, a)
		case "net":
			values, addrs = append(values, ""), append(addrs, a)
		case "mac":
			if string(p.Frame[own:own+6]) == "\x00\x00\x00\x00\x00\x00" {
				return nil, nil, false
			}
			values, addrs = append(values, fmt.Sprintf("% x", p.Frame[own:own+6])), append(addrs, a)
			values[i] = strings.ReplaceAll(values[i], " ", ":")
		case "mark":
			values, addrs = append(values, fmt.Sprintf("0x%x", q.mark)), append(addrs, a)
		case "iface":
			values, addrs = append(values, ""), append(addrs, a)
		case "port":
			var th []byte
			if p.Flags&packet.LaterFragment == 0 {
				th = p.Frame[p.L4:p.End]
			}
			need, at := map[uint8]int{6: 20, 17: 8, 136: 8, 132: 12, 1: 8, 58: 8}[p.Proto], 2
			if p.Proto == 0 || p.Family == 6 && (p.Proto == 59 || p.Flags&(packet.BrokenChain|packet.LaterFragment) != 0) || need > len(th) {
				return nil, nil, false
			}
			if src || p.Proto == 1 || p.Proto == 58 {
				at = 0
			}
			port := uint16(0)
			if need > 0 {
				port = binary.BigEndian.Uint16(th[at:])
			}
			v := fmt.Sprintf("%d:%d", p.Proto, port)
			if s.kind == "bitmap:port" {
				if v = fmt.Sprint(port); p.Proto != 6 && p.Proto != 17 {
					return nil, nil, false
				}
			}
			values, addrs = append(values, v), append(addrs, a)
		}
	}
	return values, addrs, true
}

// find returns the element that has the packet, and whether it is an exception. Of several networks the longest is asked
// first; one that is not accepted lets the next be asked.
func (l *linear) find(s *linearSet, p *packet.Packet, q *setLook) (*linearElement, bool) {
	values, addrs, ok := s.values(p, q)
	if !ok {
		return nil, false
	}
	type candidate struct {
		e    *linearElement
		lens [2]int
		off  bool // the interface is another one
	}
	var list []candidate
	for _, e := range s.elems {
		c := candidate{e: e}
		hit, n := true, 0
		for i, v := range e.values {
			switch s.parts[i] {
			case "net":
				x := netip.MustParsePrefix(v)
				hit = hit && x.Contains(addrs[i])
				c.lens[n] = x.Bits()
				n++
			case "iface":
				port := p.In
				if !q.src[i] {
					port = port.Other()
				}
				names := q.names[port]
				if q.src[i] && q.base == "POSTROUTING" || !q.src[i] && q.base == "PREROUTING" {
					names = [2]string{}
				}
				is := false
				for _, name := range names {
					is = is || name != "" && (name == v || e.wildcard && strings.HasPrefix(name, v))
				}
				c.off = !is
			default:
				hit = hit && v == values[i]
			}
		}
		if hit && !e.late(q.now) {
			list = append(list, c)
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return slices.Compare(b.lens[:], a.lens[:]) })
	hidden := false // a network without the interface hides shorter ones
	for i, c := range list {
		if i > 0 && c.lens != list[i-1].lens && hidden {
			return nil, false
		}
		if c.off {
			hidden = true
			continue
		}
		if len(c.e.values) < len(s.parts) { // the packet tells its MAC address, and the element begins anew
			c.e.values = values
			if s.counters {
				c.e.packets, c.e.bytes = 1, uint64(p.End-p.L3)
			}
			c.e.mark, c.e.mask = 0, 0
			return &linearElement{}, false
		}
		if !c.e.accepts(s, p, q) {
			hidden = false
			continue
		}
		return c.e, c.e.nomatch
	}
	return nil, false
}

func (e *linearElement) accepts(s *linearSet, p *packet.Packet, q *setLook) bool {
	if e.late(q.now) {
		return false
	}
	if s.counters && !q.keep {
		e.packets++
		e.bytes += uint64(p.End - p.L3)
	}
	ok := true
	if s.counters && q.compare {
		for _, x := range []struct {
			n SetCounter
			v uint64
		}{{q.m.Packets, e.packets}, {q.m.Bytes, e.bytes}} {
			ok = ok && map[ipset.Compare]bool{ipset.Any: true, ipset.Equal: x.v == x.n.Value, ipset.NotEqual: x.v != x.n.Value,
				ipset.LessThan: x.v < x.n.Value, ipset.MoreThan: x.v > x.n.Value}[x.n.Is]
		}
	}
	if ok && s.info && q.info != nil {
		*q.info = *e
	}
	return ok
}

// member returns the element by which a packet is in a set, nil for none.
func (l *linear) member(name string, p *packet.Packet, q *setLook) *linearElement {
	s := l.sets[name]
	if s.kind == "list:set" {
		if len(q.src) == 0 {
			return nil
		}
		sub := *q
		sub.compare = false
		sub.keep = q.keep || q.m != nil && q.m.KeepSub
		for _, m := range s.elems {
			if e := l.member(m.values[0], p, &sub); e != nil && m.accepts(s, p, q) {
				return m
			}
		}
		return nil
	}
	e, except := l.find(s, p, q)
	if e == nil || except != (q.m != nil && q.m.ReturnNoMatch && slices.Contains(s.parts, "net")) {
		return nil
	}
	return e
}

func (l *linear) look(base string, p *packet.Packet, c *Context, name *SetName) *setLook {
	return &setLook{src: name.Src, base: base, now: c.Now / 1e6, mark: c.Mark,
		names: [2][2]string{{"inside", l.opt.InsideName}, {"outside", l.opt.OutsideName}}}
}

func (l *linear) setMatch(m *SetMatch, base string, p *packet.Packet, c *Context) bool {
	q := l.look(base, p, c, &m.SetName)
	q.m, q.keep, q.compare = m, m.Keep, m.Packets.Is|m.Bytes.Is != ipset.Any
	l.asked++
	if l.member(m.SetName.Name, p, q) != nil {
		l.members++
		return !m.Not
	}
	return m.Not
}

func (l *linear) setTarget(t *SetTarget, base string, p *packet.Packet, c *Context) {
	if t.Add != nil {
		l.setAdd(t.Add.Name, t, p, l.look(base, p, c, t.Add))
	}
	if t.Del != nil {
		l.setDel(t.Del.Name, p, l.look(base, p, c, t.Del))
	}
	if t.Map != nil {
		q := l.look(base, p, c, t.Map)
		q.info = &linearElement{}
		if l.member(t.Map.Name, p, q) != nil {
			c.Mark = c.Mark & ^q.info.mask ^ q.info.mark
		}
	}
}

// element returns what a packet adds or deletes: a network is as long as the longest of the set.
func (s *linearSet) element(p *packet.Packet, q *setLook) ([]string, bool) {
	values, addrs, ok := s.values(p, q)
	if !ok {
		return nil, false
	}
	for i, part := range s.parts {
		if part == "net" {
			n := -1
			for _, e := range s.elems {
				n = max(n, netip.MustParsePrefix(e.values[i]).Bits())
			}
			if n < 0 {
				n = addrs[i].BitLen()
			}
			values[i] = netip.PrefixFrom(addrs[i], n).Masked().String()
		}
		if strings.HasPrefix(s.kind, "bitmap:ip") && i == 0 && !netip.MustParsePrefix("10.0.0.0/16").Contains(addrs[0]) {
			return nil, false
		}
		if n, _ := strconv.Atoi(values[i]); s.kind == "bitmap:port" && n > 60000 {
			return nil, false
		}
	}
	return values, true
}

func (l *linear) setAdd(name string, t *SetTarget, p *packet.Packet, q *setLook) bool {
	s := l.sets[name]
	if s.kind == "list:set" {
		return len(q.src) > 0 && slices.ContainsFunc(s.elems, func(m *linearElement) bool { return !m.late(q.now) && l.setAdd(m.values[0], t, p, q) })
	}
	values, ok := s.element(p, q)
	if !ok {
		return false
	}
	fresh := &linearElement{values: values, packets: 1, bytes: uint64(p.End - p.L3)}
	timeout := s.timeout
	if t.Timeout != ipset.Default {
		timeout = int64(t.Timeout)
	}
	if s.timed && timeout != 0 {
		fresh.expires = q.now + 1000*timeout
	}
	s.elems = slices.DeleteFunc(s.elems, func(e *linearElement) bool { return e.late(q.now) })
	at := slices.IndexFunc(s.elems, func(e *linearElement) bool { return s.same(e.values, values) })
	switch {
	case at >= 0 && len(s.elems[at].values) < len(values): // waits for its MAC address
		s.elems[at] = fresh
	case at >= 0 && !t.Exist:
		return false
	case at >= 0:
		s.elems[at] = fresh
	case len(s.elems) >= s.most:
		return false
	default:
		s.elems = append(s.elems, fresh)
	}
	return true
}

func (l *linear) setDel(name string, p *packet.Packet, q *setLook) bool {
	s := l.sets[name]
	if s.kind == "list:set" {
		return len(q.src) > 0 && slices.ContainsFunc(s.elems, func(m *linearElement) bool { return !m.late(q.now) && l.setDel(m.values[0], p, q) })
	}
	values, ok := s.element(p, q)
	if !ok {
		return false
	}
	at := slices.IndexFunc(s.elems, func(e *linearElement) bool { return s.same(e.values, values) && !e.late(q.now) })
	if at < 0 {
		return false
	}
	s.elems = slices.Delete(s.elems, at, at+1)
	return true
}
