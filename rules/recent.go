package rules

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"

	"corewire/internal/packet"
)

// RecentMatch is -m recent: a list of addresses with the times at which packets of each were seen.
type RecentMatch struct {
	List    string // its name
	Do      RecentOp
	Not     bool
	Dst     bool        // the packet's destination instead of its source
	Mask    packet.Addr // of IPv4 in the first four bytes, with ones behind
	Seconds uint32      // times further back do not count; 0: all count
	Hits    uint32      // so many times are needed; 0: one
	Reap    bool        // forget the list's oldest address if it is further back than Seconds
	TTL     bool        // the TTL must be that of the last packet remembered

	family Family // of the rule
	pos    Pos
}

// RecentOp is what a rule does with the list.
type RecentOp uint8

const (
	RecentSet    RecentOp = iota + 1 // remember the packet; matches always
	RecentCheck                      // --rcheck: is the address in the list?
	RecentUpdate                     // the same, and remember the packet if so
	RecentRemove                     // forget the address; matches if it was there
)

var recentOps = [...]string{RecentSet: "set", RecentCheck: "rcheck", RecentUpdate: "update", RecentRemove: "remove"}

// recentMaxHits is the highest --hitcount (XT_RECENT_MAX_NSTAMPS - 1).
const recentMaxHits = 65535

var allOnes = packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0)}

var recentModule = module{name: "recent", family: Both, make: func() Extension {
	return &RecentMatch{List: "DEFAULT", Mask: allOnes}
}, options: []option{
	recentOption(RecentSet), recentOption(RecentCheck), recentOption(RecentUpdate), recentOption(RecentRemove),
	{"seconds", 2, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*RecentMatch).Seconds = rp.number32(a[0], 1) }},
	{"reap", 3, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*RecentMatch).Reap = true }},
	{"hitcount", 4, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		v, err := parseNumber(a[0].text, recentMaxHits)
		if err != nil {
			rp.fail(a[0].col, a[0].text, fmt.Sprintf("a number up to %d", recentMaxHits), "")
		}
		m.(*RecentMatch).Hits = uint32(v)
	}},
	{"rttl", 5, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*RecentMatch).TTL = true }},
	{"name", 6, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*RecentMatch).List = rp.memoryName(a[0], 199) }},
	{"rsource", 7, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*RecentMatch).Dst = false }},
	{"rdest", 8, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*RecentMatch).Dst = true }},
	{"mask", 9, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*RecentMatch).Mask = rp.recentMask(a[0]) }},
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*RecentMatch)
	m.pos = rp.p.pos(l.col)
	switch m.Do {
	case 0:
		rp.fail(l.col, "-m recent", "--set, --rcheck, --update or --remove", "")
	case RecentSet, RecentRemove:
		if m.Seconds != 0 || m.Hits != 0 || m.Reap || m.TTL {
			rp.fail(l.col, "--"+recentOps[m.Do], "--"+recentOps[m.Do]+" without --seconds, --hitcount, --reap and --rttl", "")
		}
	}
	if m.Reap && m.Seconds == 0 {
		rp.fail(l.col, "--reap", "--seconds with --reap", "")
	}
}}

func recentOption(do RecentOp) option {
	return option{recentOps[do], 1, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) {
		m.(*RecentMatch).Do, m.(*RecentMatch).Not = do, not
	}}
}

// recentMask reads a mask, which need not be one of a prefix.
func (rp *ruleParser) recentMask(a token) packet.Addr {
	ip, err := netip.ParseAddr(a.text)
	if err != nil || ip.Zone() != "" {
		rp.fail(a.col, a.text, "a mask such as 255.255.255.0 or ffff:ffff::", "")
		return allOnes
	}
	if ip.Is4() {
		rp.restrict(IPv4, a.col, "the mask "+a.text)
		return packet.Addr{Hi: packet.AddrFrom(ip).Lo<<32 | math.MaxUint32, Lo: ^uint64(0)}
	}
	rp.restrict(IPv6, a.col, "the mask "+a.text)
	return packet.AddrFrom(ip)
}

// forFamily sets the IP versions of the rule, which say how the mask prints.
func (m *RecentMatch) forFamily(f Family) { m.family = f }

// Name returns "recent".
func (m *RecentMatch) Name() string { return "recent" }

// AppendSave implements Extension.
func (m *RecentMatch) AppendSave(b []byte) []byte {
	b = append(append(appendNot(b, m.Not), " --"...), recentOps[m.Do]...)
	if m.Seconds != 0 {
		b = strconv.AppendUint(append(b, " --seconds "...), uint64(m.Seconds), 10)
	}
	if m.Reap {
		b = append(b, " --reap"...)
	}
	if m.Hits != 0 {
		b = strconv.AppendUint(append(b, " --hitcount "...), uint64(m.Hits), 10)
	}
	if m.TTL {
		b = append(b, " --rttl"...)
	}
	b = append(append(b, " --name "...), m.List...)
	if mask := m.maskText(m.family); mask != "" {
		b = append(append(b, " --mask "...), mask...)
	}
	if m.Dst {
		return append(b, " --rdest"...)
	}
	return append(b, " --rsource"...)
}

func (m *RecentMatch) compile(c *compiler) {
	c.rs.needs |= NeedNow
	c.ask(pred{op: opRecent, a: uint32(len(c.cur.recents))})
	c.cur.recents = append(c.cur.recents, recentRule{c.recent(m), m, !baseTable[c.place/2].noOut})
}

// maskText returns the mask as addresses of an IP version are written; a rule for both versions has none.
func (m *RecentMatch) maskText(f Family) string {
	switch f {
	case IPv4:
		return (packet.Addr{Lo: 0xffff<<32 | m.Mask.Hi>>32}).Netip().String()
	case IPv6:
		return m.Mask.Netip6().String()
	}
	return ""
}

// recentList is one list, shared by all workers and both IP versions (struct recent_table in
// net/netfilter/xt_recent.c).
//
// An entry's state is one word: where its next time goes, how many it has, the TTL; and its cell's generation, so that
// who writes it writes to the address that it means. The times are a ring beside it, each with the generation as well: one
// that was written late, to an address that had gone, does not count. Which address is the oldest is the recency's.
//
// What differs from Linux: times are in milliseconds instead of jiffies. While several workers change an address at the same
// time, one may see it with the time of the other not yet there; which address is the oldest may be off by as many as there
// are workers.
type recentList struct {
	*store
	name   string
	mask   packet.Addr
	times  uint32 // a power of two
	stamps []atomic.Uint64
	order  *recency
}

// Parts of an entry's word. stamp: a bit that there is one, 15 bits of the generation, 48 bits of ms.
const (
	recentIndexBits = 17 // 0 to 65536
	recentIndexMask = 1<<recentIndexBits - 1
	recentGenBits   = 22
	stampSet        = 1 << 63
	stampGenMask    = 1<<15 - 1
	stampMS         = 1<<48 - 1
)

type recentHead struct {
	index, times uint32
	ttl          uint8
}

func (r recentHead) word(gen uint32) uint64 {
	return uint64(r.index) | uint64(r.times)<<recentIndexBits | uint64(r.ttl)<<(2*recentIndexBits) | uint64(gen)<<(64-recentGenBits)
}

func recentHeadOf(w uint64, gen uint32) (recentHead, bool) {
	return recentHead{uint32(w) & recentIndexMask, uint32(w>>recentIndexBits) & recentIndexMask, uint8(w >> (2 * recentIndexBits))},
		w>>(64-recentGenBits) == uint64(gen)&(1<<recentGenBits-1)
}

// recentTimes returns how many times an address of a list has room for, that a rule with so many hits and the setting
// ip_pkt_list_tot ask for (recent_mt_check).
func recentTimes(hits, setting uint32) uint32 {
	up := func(n uint32) uint32 { return 1 << bits.Len32(n-1) }
	switch {
	case setting != 0 && hits < setting:
		return up(setting)
	case hits != 0:
		return up(hits)
	}
	return 32
}

// newRecentList makes a list for so many addresses.
func newRecentList(name string, mask packet.Addr, entries int, times uint32) *recentList {
	l := &recentList{name: name, mask: mask, times: times, store: newStore(entries, 3, 1), order: newRecency(entries + 1)}
	l.stamps = newWords(l, (entries+1)*int(times))
	return l
}

// size returns the bytes that the list takes when it is full.
func (l *recentList) size() int {
	return l.store.size() + 8*len(l.stamps) + 8*len(l.order.levels[0])*recencyFan/(recencyFan-1)
}

// key makes the key of an address, IPv4's in the first four bytes, under the list's mask.
func (l *recentList) key(a packet.Addr, v6, masked bool) storeKey {
	if !v6 {
		a = packet.Addr{Hi: a.Lo << 32}
	}
	k := storeKey{a.Hi, a.Lo, 4}
	if masked {
		k[0], k[1] = a.Hi&l.mask.Hi, a.Lo&l.mask.Lo
	}
	if v6 {
		k[2] = 6
	}
	return k
}

// stampOf returns the word of a time.
func stampOf(gen uint32, ms int64) uint64 {
	return stampSet | uint64(gen&stampGenMask)<<48 | uint64(ms)&stampMS
}

// stamp returns the time in a place of an entry; false when there is none of this generation.
func (l *recentList) stamp(h held, i uint32) (int64, bool) {
	w := l.stamps[h.cell*l.times+i].Load()
	if w>>48 != stampOf(h.gen, 0)>>48 {
		return 0, false
	}
	return int64(w<<16) >> 16, true
}

// match carries out a rule for a packet (recent_mt). forwarded says that the packet is in FORWARD, where Linux takes its TTL
// for one less than it was. ms is the time. peek says what would be the answer, and changes nothing.
func (l *recentList) match(m *RecentMatch, p *packet.Packet, ms int64, forwarded, peek bool) outcome {
	a, v6 := p.Src, p.Family == 6
	if m.Dst {
		a = p.Dst
	}
	ttl := p.TTL
	if forwarded {
		ttl++
	}
	k := l.key(a, v6, true)
	h, _, _ := l.find(&k)
	var head recentHead
	ok := h.cell != 0
	if ok {
		head, ok = recentHeadOf(l.state(h, 0).Load(), h.gen)
	}
	if ok && m.TTL && ttl != 0 && head.ttl != 0 && head.ttl != ttl {
		ok = false
	}
	switch {
	case !ok && m.Do != RecentSet:
		return answer(m.Not)
	case peek && m.Do != RecentCheck && m.Do != RecentUpdate:
		return answer(!m.Not)
	case m.Do == RecentSet:
		if !l.add(&k, ttl, ms) {
			return full
		}
		return answer(!m.Not)
	case m.Do == RecentRemove:
		l.forget(h)
		return answer(!m.Not)
	}
	ret := m.Not
	since := int64(math.MinInt64)
	if m.Seconds != 0 {
		since = ms - int64(m.Seconds)*1000
	}
	hits := uint32(0)
	for i := range head.times {
		if at, ok := l.stamp(h, i); !ok || at < since {
			continue
		}
		if hits++; hits >= m.Hits {
			ret = !ret
			break
		}
	}
	update := m.Do == RecentUpdate && ret
	if !peek {
		if m.Reap {
			l.reap(since, h, update)
		}
		if update {
			l.update(h, ttl, ms)
		}
	}
	return answer(ret)
}

// add enters an address, or a time of it if it is there. It reports false when there is no room, which others must have
// taken as fast as it was made.
func (l *recentList) add(k *storeKey, ttl uint8, ms int64) bool {
	for range 64 {
		h, _, _ := l.find(k)
		if h.cell == 0 {
			if l.enter(k, ttl, ms) {
				return true
			}
			l.evict()
			continue
		}
		if l.update(h, ttl, ms) {
			return true
		}
	}
	return false
}

// enter makes an entry with one time (recent_entry_init); false without room, or if it is there meanwhile.
func (l *recentList) enter(k *storeKey, ttl uint8, ms int64) bool {
	// The generation is that of the cell, which is not known before it is taken: the entry is one without times until the
	// next line, and no worker finds times in it.
	h, fresh, ok := l.get(k, 0)
	if !ok || !fresh {
		return false
	}
	l.stamps[h.cell*l.times].Store(stampOf(h.gen, ms))
	l.state(h, 0).Store(recentHead{1, 1, ttl}.word(h.gen))
	l.used(h)
	return true
}

// used makes an entry the one used most recently.
func (l *recentList) used(h held) {
	if n := l.order.use(int(h.cell)); !l.valid(h) {
		l.order.drop(int(h.cell), n) // it has gone meanwhile
	}
}

// update adds a time to an entry (recent_entry_update); false when the entry has gone.
func (l *recentList) update(h held, ttl uint8, ms int64) bool {
	w := l.state(h, 0)
	for {
		old := w.Load()
		head, ok := recentHeadOf(old, h.gen)
		if !ok {
			if !l.valid(h) {
				return false
			}
			// It is being entered. Another time would have come just behind it: it counts as one of the same.
			return true
		}
		head.index &= l.times - 1
		slot := &l.stamps[h.cell*l.times+head.index]
		before := slot.Load()
		head.index++
		head.times, head.ttl = max(head.times, head.index), ttl
		if w.CompareAndSwap(old, head.word(h.gen)) {
			slot.CompareAndSwap(before, stampOf(h.gen, ms))
			l.used(h)
			return true
		}
	}
}

// forget removes an entry.
func (l *recentList) forget(h held) bool {
	n := l.order.last(int(h.cell))
	ok := l.remove(h)
	if ok {
		l.order.drop(int(h.cell), n)
	}
	return ok
}

// evict removes the oldest entry.
func (l *recentList) evict() {
	cell, number, ok := l.order.oldest()
	if !ok {
		return
	}
	if h, ok := l.at(uint32(cell)); !ok || !l.forget(h) {
		l.order.drop(cell, number) // somebody else has removed it and not come to this yet
	}
}

// reap removes the list's oldest entry if its last time is before since, and it is not the one that is about to be updated
// (recent_entry_reap).
func (l *recentList) reap(since int64, working held, update bool) {
	cell, _, ok := l.order.oldest()
	if !ok {
		return
	}
	h, ok := l.at(uint32(cell))
	if !ok || h == working && update {
		return
	}
	head, ok := recentHeadOf(l.state(h, 0).Load(), h.gen)
	if !ok || head.index == 0 {
		return
	}
	if at, ok := l.stamp(h, head.index-1); ok && at < since {
		l.forget(h)
	}
}

// RecentEntry is an address in a list.
type RecentEntry struct {
	Addr  netip.Addr
	TTL   uint8
	Index uint32  // where the next time goes
	Times []int64 // ms of the rule set's clock, in the order of the ring
}

// Last returns the last time.
func (e *RecentEntry) Last() int64 {
	if n := uint32(len(e.Times)); n > 0 {
		return e.Times[(e.Index+n-1)%n]
	}
	return 0
}

// AppendLine appends the entry as a line of /proc/net/xt_recent, with milliseconds of the firewall's clock for jiffies.
func (e *RecentEntry) AppendLine(b []byte) []byte {
	addr := e.Addr.String()
	if e.Addr.Is6() {
		addr = e.Addr.StringExpanded()
	}
	b = fmt.Appendf(b, "src=%s ttl: %d last_seen: %d oldest_pkt: %d", addr, e.TTL, e.Last(), e.Index)
	for i, at := range e.Times {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, " %d", at)
	}
	return b
}

// entries calls f with each entry, the one least recently used first, as far as nobody changes them meanwhile.
func (l *recentList) entries(f func(RecentEntry)) {
	type use struct{ cell, number uint64 }
	var uses []use
	for cell := range l.order.levels[0] {
		if n := l.order.levels[0][cell].Load(); n != unused {
			uses = append(uses, use{uint64(cell), n})
		}
	}
	slices.SortFunc(uses, func(a, b use) int { return cmp.Compare(a.number, b.number) })
	for _, u := range uses {
		h, ok := l.at(uint32(u.cell))
		if !ok {
			continue
		}
		k, _ := l.keyOf(h)
		head, ok := recentHeadOf(l.state(h, 0).Load(), h.gen)
		if !ok {
			continue
		}
		e := RecentEntry{Addr: (packet.Addr{Hi: k[0], Lo: k[1]}).Netip6(), TTL: head.ttl, Index: head.index}
		if k[2] == 4 {
			e.Addr = (packet.Addr{Lo: 0xffff<<32 | k[0]>>32}).Netip()
		}
		for i := range head.times {
			at, _ := l.stamp(h, i)
			e.Times = append(e.Times, at)
		}
		f(e)
	}
}
