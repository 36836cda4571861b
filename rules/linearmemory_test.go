package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"corewire/internal/packet"
)

// linearMemory is what the linear twin remembers: by the names in the rules, in maps and slices.
type linearMemory struct {
	clock  int64 // ns; time goes by whole jiffies
	rates  map[string]*hashlimitTwin
	lists  map[string]*recentTwin
	hashed int // how many answers were given of each kind
	listed int
	counts int
	again  map[*ConnlimitMatch]uint32 // how often the packet has counted its connection
}

// pass lets some time pass for a packet's context, and gives it room for tickets.
func (m *linearMemory) pass(c *Context) {
	m.clock += 40e6
	c.Now, c.Taken, m.again = m.clock, make([]Ticket, 0, MaxTickets), map[*ConnlimitMatch]uint32{}
}

// match answers for a match with memory. The tests' connections have no packets but the one: it is counted alone.
func (m *linearMemory) match(x Match, base string, p *packet.Packet, c *Context, hotdrop *bool) bool {
	switch x := x.(type) {
	case *HashlimitMatch:
		m.hashed++
		if m.rates == nil {
			m.rates = map[string]*hashlimitTwin{}
		}
		t := m.rates[x.Table]
		if t == nil {
			t = &hashlimitTwin{x.configOf(p.Family == 6), map[string]*hashlimitTwinEntry{}}
			m.rates[x.Table] = t
		}
		masked := func(a packet.Addr, length int16) string {
			ip := a.Netip6()
			if p.Family == 4 {
				ip = a.Netip()
			}
			if length < 0 {
				length = int16(ip.BitLen())
			}
			return netip.PrefixFrom(ip, int(length)).Masked().String()
		}
		key := ""
		if t.cfg.mode&HashSrcIP != 0 {
			key += " from " + masked(p.Src, x.SrcMask)
		}
		if t.cfg.mode&HashDstIP != 0 {
			key += " to " + masked(p.Dst, x.DstMask)
		}
		th, ports := p.Frame[p.L4:p.End], t.cfg.mode&(HashSrcPort|HashDstPort) != 0
		if p.Family == 6 && ports {
			next, rest := p.Frame[p.L3+6], p.Frame[p.L3+40:p.End]
			for next == 0 || next == 43 || next == 44 || next == 51 || next == 59 || next == 60 {
				if next == 59 || len(rest) < 2 || next == 44 && len(rest) < 4 {
					*hotdrop = true
					return false
				}
				n := 8 * (int(rest[1]) + 1)
				switch next {
				case 44:
					if n = 8; binary.BigEndian.Uint16(rest[2:])>>3 != 0 {
						ports, next = false, 255
						continue
					}
				case 51:
					n = 4 * (int(rest[1]) + 2)
				}
				next, rest = rest[0], rest[min(n, len(rest)):]
			}
		}
		for i, bit := range []uint8{HashSrcPort, HashDstPort} {
			switch p.Proto {
			case 6, 17, 33, 50, 132, 136:
			default:
				continue
			}
			if t.cfg.mode&bit == 0 || !ports {
				continue
			}
			if len(th) < 4 {
				*hotdrop = true
				return false
			}
			key += fmt.Sprint(" port ", i, binary.BigEndian.Uint16(th[2*i:]))
		}
		ok, _ := t.take(key, uint64(p.End-p.L3), c.Now/4e6)
		return ok != x.Above
	case *RecentMatch:
		m.listed++
		if m.lists == nil {
			m.lists = map[string]*recentTwin{}
		}
		l := m.lists[x.List]
		if l == nil {
			l = &recentTwin{size: DefaultRecentList, times: 32}
			m.lists[x.List] = l
		}
		a, ttl := p.Src, p.TTL
		if x.Dst {
			a = p.Dst
		}
		if base != "PREROUTING" {
			ttl++
		}
		return l.match(x, a.Netip6().String(), ttl, c.Now/1e6)
	case *ConnlimitMatch:
		m.counts++
		if m.again[x] == 0 || c.Status&(StatusConfirmed|StatusAssured) == 0 {
			m.again[x]++
		}
		return m.again[x] > x.Limit == x.Above
	}
	panic(x.Name())
}
