package rules

import (
	"fmt"
	"slices"

	"corewire/internal/packet"
)

// memory is what the rules of a set remember of addresses, in stores that all its matchers share: the tables of -m
// hashlimit, the lists of -m recent, the counts of -m connlimit. What a rule set has in common with the one before it
// takes over, see Adopt: the stores are then both sets'.
type memory struct {
	tables []*hashTable
	lists  []*recentList
	counts []*connCounts // by id
	lastID uint32        // highest id ever given, in this set and those that it has adopted from
}

// recentRule is a rule's part of a list.
type recentRule struct {
	list      *recentList
	rule      *RecentMatch
	forwarded bool // it stands behind a hook that knows the way out
}

// Bounds of what a rule set may remember.
const (
	// DefaultRecentList is how many addresses a list of -m recent holds (ip_list_tot in net/netfilter/xt_recent.c).
	DefaultRecentList = 100
	// MaxRecentList bounds the same setting, and maxRecentStamps the times of all addresses of one list: 512 MiB.
	MaxRecentList   = 1 << 20
	MaxRecentTimes  = 1 << 16 // of ip_pkt_list_tot
	maxRecentStamps = 1 << 26
	// maxMemory bounds what the rules of a set may remember in all, in bytes of address space: of memory only what is used
	// is taken. Without a bound a file with a table on every line would take all that there is.
	maxMemory = 2 << 30
	// maxCounted bounds for how many connections the connlimit rules of a set have room together, in address space: an address
	// takes memory while it has connections. maxConnections is the most for one rule.
	maxCounted     = 1 << 30
	maxConnections = 1 << 26
	// defaultConnections is for how many connections a connlimit rule has room, if Options do not say.
	defaultConnections = 1 << 18
)

// table returns the hashlimit table of a rule.
func (c *compiler) table(m *HashlimitMatch) *hashTable {
	want := m.configOf(c.cur.v6)
	for _, t := range c.rs.memory.tables {
		if t.name != m.Table || t.v6 != c.cur.v6 {
			continue
		}
		switch {
		case t.bytes != want.bytes || t.rateMatch != want.rateMatch:
			c.fail(m.pos, "--hashlimit-name "+m.Table, "rules of one table that all have a rate of packets, or all of bytes, and all or none --hashlimit-rate-match", "give it a name of its own")
		case t.hashConfig != want:
			c.warn(m.pos, fmt.Sprintf("hashlimit table %s is as its first rule says: of this one's rate, burst, mode and sizes nothing is used", m.Table))
		}
		return t
	}
	if !c.fits(m.pos, int(want.max)*8*(cellHeader+maxKeyWords+hashWords)) {
		want.max = 1
	}
	t := newHashTable(m.Table, want)
	if !want.bytes && !want.rateMatch && t.slack/t.cost < int64(want.times) {
		c.warn(m.pos, fmt.Sprintf("the burst is %d packets, as in Linux, whose credits have no room for more of so low a rate", t.slack/t.cost))
	}
	c.rs.memory.tables = append(c.rs.memory.tables, t)
	return t
}

// remembers says that a match uses a store that rules have in common, or that connections have tickets of.
func remembers(m Match) bool {
	switch m.(type) {
	case *HashlimitMatch, *RecentMatch, *ConnlimitMatch, *SetMatch:
		return true
	}
	return false
}

// warn adds a warning, once however many programs the rule is in.
func (c *compiler) warn(pos Pos, text string) {
	if w := (Warning{pos, text}); !slices.Contains(c.rs.warnings, w) {
		c.rs.warnings = append(c.rs.warnings, w)
	}
}

// recent returns the list of a recent rule. It has room for the times that the rule with the highest hit count asks for;
// its mask is that of its first rule.
func (c *compiler) recent(m *RecentMatch) *recentList {
	times := recentTimes(m.Hits, c.opt.RecentTimes)
	size := int(c.opt.RecentList)
	if size == 0 {
		size = DefaultRecentList
	}
	for k, l := range c.rs.memory.lists {
		if l.name != m.List {
			continue
		}
		if l.mask != m.Mask {
			c.warn(m.pos, fmt.Sprintf("list %s has the mask of its first rule: this one's is not used", m.List))
		}
		if l.times < times && c.room(m, size, times) {
			n := newRecentList(l.name, l.mask, size, times)
			c.rs.memory.lists[k] = n
			for p := range c.rs.prog {
				for i := range c.rs.prog[p].recents {
					if x := &c.rs.prog[p].recents[i]; x.list == l {
						x.list = n
					}
				}
			}
			return n
		}
		return l
	}
	if !c.room(m, size, times) {
		return newRecentList(m.List, m.Mask, 1, 1)
	}
	l := newRecentList(m.List, m.Mask, size, times)
	c.rs.memory.lists = append(c.rs.memory.lists, l)
	return l
}

// fits says whether so many bytes are left to what the rules remember; if not, that is an error.
func (c *compiler) fits(pos Pos, bytes int) bool {
	if c.remembered += bytes; c.remembered <= maxMemory {
		return true
	}
	c.fail(pos, "", fmt.Sprintf("rules that remember at most %d MiB in all", maxMemory>>20), "smaller tables (--hashlimit-htable-max), or fewer")
	return false
}

// room says whether a list may have so many times; if not, that is an error.
func (c *compiler) room(m *RecentMatch, size int, times uint32) bool {
	if size*int(times) <= maxRecentStamps {
		return c.fits(m.pos, 8*size*(int(times)+cellHeader+5))
	}
	c.fail(m.pos, "--hitcount", fmt.Sprintf("a list of at most %d times: %d addresses with %d each are more", maxRecentStamps, size, times), "lower the setting for the length of lists")
	return false
}

// conns returns the counts of a connlimit rule.
func (c *compiler) conns(m *ConnlimitMatch) *connCounts {
	if c.live != nil {
		k := slices.Index(c.live.connRules, c.liveRule) + c.liveConns
		c.liveConns++
		return c.live.conns[k]
	}
	return share(c, m, func() *connCounts {
		most := c.opt.Connections
		if most == 0 {
			most = defaultConnections
		}
		most = min(most, maxConnections)
		if c.counted += most; c.counted > maxCounted {
			c.fail(m.pos, "-m connlimit", fmt.Sprintf("connlimit rules for at most %d connections in all: so many times as there are such rules they have room for %d", maxCounted, most),
				"fewer of these rules, or a lower maximum of connections")
			most = 1
		}
		c.rs.memory.lastID++
		t := newConnCounts(m, c.rs.memory.lastID, most, c.cur.v6)
		c.rs.memory.counts = append(c.rs.memory.counts, t)
		return t
	})
}

// adoptMemory takes over the stores of another rule set: those of the same name and the same properties, and the counts of
// connlimit rules that are the same. (Linux keeps a table of hashlimit with the properties that it had as long as its name
// is in use, so that a changed rate does nothing; here a changed table begins empty.)
func (rs *Ruleset) adoptMemory(from *Ruleset, m Mapping) {
	tables, lists, counts := make(map[*hashTable]*hashTable), make(map[*recentList]*recentList), make(map[*connCounts]*connCounts)
	for _, t := range rs.memory.tables {
		for _, old := range from.memory.tables {
			if old.name == t.name && old.hashConfig == t.hashConfig {
				tables[t] = old
			}
		}
	}
	for _, l := range rs.memory.lists {
		for _, old := range from.memory.lists {
			if old.name == l.name && old.mask == l.mask && old.times >= l.times && old.limit == l.limit {
				lists[l] = old
			}
		}
	}
	for v := range 2 {
		for f := v; f < programs; f += 2 {
			old, g := &from.prog[f], &rs.prog[f]
			adopt(g.conns, g.connRules, old.conns, old.connRules, m, counts)
		}
	}
	// A set that was patched shares its lists with the one before, which workers may be reading: copies are changed.
	own := &rs.memory
	own.tables, own.lists, own.counts = slices.Clone(own.tables), slices.Clone(own.lists), slices.Clone(own.counts)
	replace(own.tables, tables)
	replace(own.lists, lists)
	replace(own.counts, counts)
	for f := range rs.prog {
		g := &rs.prog[f]
		g.hashes, g.recents, g.conns = slices.Clone(g.hashes), slices.Clone(g.recents), slices.Clone(g.conns)
		replace(g.hashes, tables)
		replace(g.conns, counts)
		for k := range g.recents {
			if l := lists[g.recents[k].list]; l != nil {
				g.recents[k].list = l
			}
		}
	}
	// Numbers of counts that have gone are not given again: connections may still have their tickets.
	last := max(rs.memory.lastID, from.memory.lastID)
	adopted := make(map[*connCounts]bool, len(counts))
	for _, t := range counts {
		adopted[t] = true
	}
	for _, t := range rs.memory.counts {
		if !adopted[t] {
			last++
			t.id = last
		}
	}
	rs.memory.lastID = last
	slices.SortFunc(rs.memory.counts, func(a, b *connCounts) int { return int(a.id) - int(b.id) })
}

// Release hands back a connection's ticket: the connection counts no longer. A ticket of a rule that the set does not have,
// because a reload has removed it, is nothing. It may be called by all workers.
func (rs *Ruleset) Release(t Ticket) {
	id := uint32(t >> 32)
	k, ok := slices.BinarySearchFunc(rs.memory.counts, id, func(t *connCounts, id uint32) int { return int(t.id) - int(id) })
	if ok {
		rs.memory.counts[k].release(uint32(t))
	}
}

// Tend removes what has expired from the rules' memory, a bounded part at a time. Every worker calls it between bursts, with
// Context.Now.
func (rs *Ruleset) Tend(now int64) {
	for _, t := range rs.memory.tables {
		t.sweep(now / 1e6)
	}
}

// MemorySize returns the bytes that the rules' memory takes when it is full. What is not used yet takes address space only.
func (rs *Ruleset) MemorySize() int {
	n := 0
	for _, t := range rs.memory.tables {
		n += t.size()
	}
	for _, l := range rs.memory.lists {
		n += l.size()
	}
	for _, t := range rs.memory.counts {
		n += t.size()
	}
	return n
}

// RecentLists returns the names of the lists of -m recent, in the order of the rules.
func (rs *Ruleset) RecentLists() []string {
	var out []string
	for _, l := range rs.memory.lists {
		out = append(out, l.name)
	}
	return out
}

// RecentEntries calls f with each address of a list, the one least recently used first; false if there is no such list. It
// may be called while workers use it.
func (rs *Ruleset) RecentEntries(list string, f func(RecentEntry)) bool {
	l := rs.recentList(list)
	if l != nil {
		l.entries(f)
	}
	return l != nil
}

func (rs *Ruleset) recentList(name string) *recentList {
	for _, l := range rs.memory.lists {
		if l.name == name {
			return l
		}
	}
	return nil
}

// RecentAdd enters an address into a list, or a time of it if it is there, as writing "+address" to the list's file in
// /proc/net/xt_recent does: the mask is not applied. ok is false if there is no such list. now is Context.Now.
func (rs *Ruleset) RecentAdd(list string, a packet.Addr, v6 bool, now int64) (ok bool) {
	l := rs.recentList(list)
	if l == nil {
		return false
	}
	k := l.key(a, v6, false)
	if h, _, _ := l.find(&k); h.cell != 0 {
		head, _ := recentHeadOf(l.state(h, 0).Load(), h.gen)
		l.update(h, head.ttl, now/1e6)
	} else {
		l.add(&k, 0, now/1e6)
	}
	return true
}

// RecentRemove removes an address from a list, as writing "-address"; removed tells whether it was there.
func (rs *Ruleset) RecentRemove(list string, a packet.Addr, v6 bool) (removed, ok bool) {
	l := rs.recentList(list)
	if l == nil {
		return false, false
	}
	k := l.key(a, v6, false)
	h, _, _ := l.find(&k)
	return h.cell != 0 && l.forget(h), true
}

// RecentFlush empties a list, as writing "/", and returns how many addresses it removed.
func (rs *Ruleset) RecentFlush(list string) (n int, ok bool) {
	l := rs.recentList(list)
	if l == nil {
		return 0, false
	}
	for cell := range l.store.used.Load() {
		if h, ok := l.at(cell + 1); ok && l.forget(h) {
			n++
		}
	}
	return n, true
}
