package rules

import (
	"fmt"
	"math"
	"slices"

	"corewire/internal/packet"
)

// ConnlimitMatch is -m connlimit: how many connections an address, or a network, has at the same time.
type ConnlimitMatch struct {
	Above bool // match when there are more than Limit; else when there are not
	Limit uint32
	Mask  int16 // prefix length; -1: the whole address
	Dst   bool  // by the packet's destination instead of its source

	family Family // of the rule
	pos    Pos
}

var connlimitModule = module{name: "connlimit", family: Both, make: func() Extension { return &ConnlimitMatch{Mask: -1} }, options: []option{
	{"connlimit-upto", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*ConnlimitMatch).Limit, m.(*ConnlimitMatch).Above = rp.number32(a[0], 0), not
	}},
	{"connlimit-above", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*ConnlimitMatch).Limit, m.(*ConnlimitMatch).Above = rp.number32(a[0], 0), !not
	}},
	{"connlimit-mask", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*ConnlimitMatch).Mask = rp.prefixLength(a[0]) }},
	{"connlimit-saddr", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*ConnlimitMatch).Dst = false }},
	{"connlimit-daddr", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*ConnlimitMatch).Dst = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	l.m.(*ConnlimitMatch).pos = rp.p.pos(l.col)
	if l.seen&(1<<1) == 0 {
		rp.fail(l.col, "-m connlimit", "--connlimit-upto or --connlimit-above", "")
	}
}}

// forFamily sets the IP versions of the rule, which say how the mask prints.
func (m *ConnlimitMatch) forFamily(f Family) { m.family = f }

// Name returns "connlimit".
func (m *ConnlimitMatch) Name() string { return "connlimit" }

// AppendSave implements Extension.
func (m *ConnlimitMatch) AppendSave(b []byte) []byte {
	if m.Above {
		b = fmt.Appendf(b, " --connlimit-above %d", m.Limit)
	} else {
		b = fmt.Appendf(b, " --connlimit-upto %d", m.Limit)
	}
	switch {
	case m.Mask >= 0:
		b = fmt.Appendf(b, " --connlimit-mask %d", m.Mask)
	case m.family == IPv4:
		b = append(b, " --connlimit-mask 32"...)
	case m.family == IPv6:
		b = append(b, " --connlimit-mask 128"...)
	}
	if m.Dst {
		return append(b, " --connlimit-daddr"...)
	}
	return append(b, " --connlimit-saddr"...)
}

func (m *ConnlimitMatch) compile(c *compiler) {
	c.rs.needs |= NeedTickets | NeedStatus
	c.ask(pred{op: opConnlimit, not: !m.Above, a: uint32(len(c.cur.conns)), b: m.Limit})
	c.cur.conns = append(c.cur.conns, c.conns(m))
}

// Ticket says that a connection is counted in a place of a connlimit rule: the rule's number above 32 bits of the place. Who
// gave the matcher its packet keeps it with the connection, and hands it back to Ruleset.Release when the connection goes
// or has closed. 0 is none.
type Ticket = uint64

func ticketOf(id, cell uint32) Ticket { return Ticket(id)<<32 | Ticket(cell) }

// MaxTickets is by how many connlimit rules one connection can be counted. A packet that would be counted by more is
// dropped, as by Linux when it has no memory. Nobody's rules come near; and each costs some bytes.
const MaxTickets = 16

// connCounts is the connections of one rule by address and zone, shared by all workers: net/netfilter/nf_conncount.c.
//
// An address's entry is there as long as it has connections. Its one word is their number; who takes the last one away writes
// that the entry is dead, and removes it: a worker that finds it dead enters the address again.
//
// # What differs from Linux
//
//   - A connection no longer counts from the moment that it closes or goes. Linux finds that out at the next packet that
//     asks for the same address, but not in the same jiffy.
//   - A packet of a connection that has closed and is not counted any more counts itself, as in Linux before 6.18.
//     Linux from then on drops it where no other connection of the address is left: the last ACK of a connection too, if it
//     did not come within the jiffy of the packet before it. Why, and why it is not so here, says tools/oracle/known.go.
//   - A packet that is not counted and has no connection counts for this once. Linux counts it until it next looks through the
//     address's connections, and one that runs against a connection that is not ASSURED as another connection, as long as
//     that is there.
//   - A connection whose time is over counts until the table has removed it, up to a second.
type connCounts struct {
	*store
	id  uint32 // in Ticket; unique in the rule set and those that it has adopted from
	v6  bool
	dst bool
	of  packet.Addr // mask
}

// connDead is the number of an entry that nobody may count in any more.
const connDead = math.MaxUint64

func newConnCounts(m *ConnlimitMatch, id uint32, most int, v6 bool) *connCounts {
	keys := 1
	if v6 {
		keys = 3
	}
	return &connCounts{store: newStore(most, keys, 1), id: id, v6: v6, dst: m.Dst, of: maskOf(m.Mask, v6)}
}

// key returns what the packet's connection is counted under.
func (t *connCounts) key(p *packet.Packet) storeKey {
	a := p.Src
	if t.dst {
		a = p.Dst
	}
	a = packet.Addr{Hi: a.Hi & t.of.Hi, Lo: a.Lo & t.of.Lo}
	if t.v6 {
		return storeKey{a.Hi, a.Lo, uint64(p.Key.Zone)}
	}
	return storeKey{a.Lo<<32 | uint64(p.Key.Zone)}
}

// count returns how many connections the packet's address has, its own included, which is entered if it was not counted
// yet: then its ticket is appended to c.Taken (__nf_conncount_add). It returns 0 when there is no room for it.
func (t *connCounts) count(p *packet.Packet, c *Context, peek bool) uint64 {
	k := t.key(p)
	for {
		h, _, _ := t.find(&k)
		if h.cell != 0 {
			n := t.state(h, 0).Load()
			if n == connDead {
				t.remove(h)
				continue
			}
			mine := ticketOf(t.id, h.cell)
			if slices.Contains(c.Held, mine) {
				return n
			}
			// A packet that begins a connection counts it each time that it comes to the rule: Linux does not look through the
			// list again within a jiffy.
			if c.Status&StatusConfirmed != 0 && slices.Contains(c.Taken, mine) {
				return n
			}
			// An assured connection is counted already, or began before the rule did: Linux does not look.
			if c.Status&StatusAssured != 0 {
				return n
			}
			if peek {
				return n + 1
			}
		} else if peek {
			return 1
		}
		if len(c.Taken) == cap(c.Taken) {
			return 0
		}
		h, fresh, ok := t.get(&k, 1)
		if !ok {
			return 0
		}
		n := uint64(1)
		if !fresh {
			n = t.state(h, 0).Load()
			if n == connDead || !t.state(h, 0).CompareAndSwap(n, n+1) {
				continue
			}
			n++
		}
		c.Taken = append(c.Taken, ticketOf(t.id, h.cell))
		return n
	}
}

// release takes one connection away. The entry has at least that one, so that the cell is still the entry's.
func (t *connCounts) release(cell uint32) {
	h, _ := t.at(cell)
	w := t.state(h, 0)
	for {
		n := w.Load()
		next := n - 1
		if n == 1 {
			next = connDead
		}
		if n == connDead || n == 0 || !t.valid(h) {
			return // a ticket handed back twice
		}
		if w.CompareAndSwap(n, next) {
			if next == connDead {
				t.remove(h)
			}
			return
		}
	}
}
