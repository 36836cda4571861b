package rules

import (
	"encoding/binary"
	"maps"
)

// NoRule is the RuleID of no rule.
const NoRule = ^RuleID(0)

// Mapping says which RuleID of a rule set is which of another, policies included. The zero Mapping is that of changes of one
// rule: each RuleID is what it was.
type Mapping struct {
	list []RuleID          // by the former RuleID, NoRule for what has gone; nil: each is what it was,
	but  map[RuleID]RuleID // except these
}

// New returns what a RuleID of the former rule set is in the latter, NoRule when it has gone.
func (m Mapping) New(id RuleID) RuleID {
	if m.list != nil {
		return m.list[id]
	}
	if now, ok := m.but[id]; ok {
		return now
	}
	return id
}

// newMapping returns a mapping from a rule set in which everything has gone.
func newMapping(from *Ruleset) Mapping {
	list := make([]RuleID, from.Counters())
	for id := range list {
		list[id] = NoRule
	}
	return Mapping{list: list}
}

// without returns the mapping for a further change of one rule: the rule that is id now has gone, or has become another.
func (m Mapping) without(id, now RuleID) Mapping {
	but := maps.Clone(m.but)
	if but == nil {
		but = make(map[RuleID]RuleID)
	}
	for was, is := range but {
		if is == id {
			but[was] = now
		}
	}
	but[id] = now
	return Mapping{but: but}
}

// move moves counters in place, where each RuleID is what it was but for a few; those of what has gone become zero.
func (m Mapping) move(counters []Counter) {
	for id, now := range m.but {
		n := counters[id]
		counters[id] = Counter{}
		if now != NoRule {
			counters[now].Packets += n.Packets
			counters[now].Bytes += n.Bytes
		}
	}
}

// Unchanged finds the rules of a set that another one has too. A rule is the same when table, chain, IP versions and text
// as iptables-save prints it are; of several alike, the first is the first of the others, and so on: where in the chain
// they stand, in which file and on which line says nothing. A policy is the same when its verdict is.
func Unchanged(from, to *Ruleset) Mapping {
	// The text of a rule is made once for each set; alike rules of the new set are a list, by the next of each.
	type twins struct{ first, last RuleID }
	found := make(map[string]twins, to.Len())
	next := make([]RuleID, to.Counters())
	var key []byte
	for id, info := range to.Rules() {
		key = info.appendIdentity(key[:0])
		next[id] = NoRule
		same, ok := found[string(key)]
		if ok {
			next[same.last] = id
		} else {
			same.first = id
		}
		same.last = id
		found[string(key)] = same
	}
	m := newMapping(from)
	for id, info := range from.Rules() {
		key = info.appendIdentity(key[:0])
		if same, ok := found[string(key)]; ok && same.first != NoRule {
			m.list[id] = same.first
			same.first = next[same.first]
			found[string(key)] = same
		}
	}
	from.mapExtra(to, m)
	return m
}

// mapExtra maps what stands behind the rules: the policies that are the same, and the count of short headers.
func (rs *Ruleset) mapExtra(to *Ruleset, m Mapping) {
	for k := range idExtra {
		m.list[rs.extra(k)] = to.extra(k)
	}
	for place := range rs.prog {
		if rs.prog[place].policy != to.prog[place].policy {
			m.list[rs.policyID(place)] = NoRule
		}
	}
}

// appendIdentity appends what makes a rule the same one in another rule set.
func (i *Info) appendIdentity(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(i.Family))
	b = append(append(b, i.Table...), 0)
	return i.Rule.AppendSave(b, i.Chain)
}

// Apply returns the counters of the former rule set as those of the latter, which has n of them, perhaps in the same place.
// What has gone counts nowhere.
func (m Mapping) Apply(counters []Counter, n int) []Counter {
	if m.list == nil {
		if len(counters) > 0 {
			m.move(counters)
		}
		return counters
	}
	out := make([]Counter, n)
	for id, to := range m.list {
		if to != NoRule && id < len(counters) {
			out[to].Packets += counters[id].Packets
			out[to].Bytes += counters[id].Bytes
		}
	}
	return out
}

// Adopt lets the rules that stay go on with what those of another rule set remember: the tokens of -m limit, the turn of
// -m statistic --mode nth, what is left of -m quota, and the stores of -m hashlimit, recent and connlimit. m must be a mapping
// from that set to rs. It is called before rs is used by anybody; the other one may be in use, and both may be for a while.
func (rs *Ruleset) Adopt(from *Ruleset, m Mapping) {
	// A rule below several base chains has one state in all their programs.
	for v := range 2 {
		buckets, counters, quotas := make(map[*bucket]*bucket), make(map[*counter]*counter), make(map[*quota]*quota)
		for f := v; f < programs; f += 2 {
			old, g := &from.prog[f], &rs.prog[f]
			adopt(g.buckets, g.bucketRules, old.buckets, old.bucketRules, m, buckets)
			adopt(g.counters, g.counterRules, old.counters, old.counterRules, m, counters)
			adopt(g.quotas, g.quotaRules, old.quotas, old.quotaRules, m, quotas)
		}
		for f := v; f < programs; f += 2 {
			replace(rs.prog[f].buckets, buckets)
			replace(rs.prog[f].counters, counters)
			replace(rs.prog[f].quotas, quotas)
		}
	}
	rs.adoptMemory(from, m)
}

// replace puts others in the places of elements.
func replace[T any](list []*T, by map[*T]*T) {
	for k, x := range list {
		if y := by[x]; y != nil && y != x { // a change of one rule may leave the list in common with the other rule set
			list[k] = y
		}
	}
}

// adopt finds for the elements of to those of from whose rule is the same; of a rule with several, in order.
func adopt[T any](to []*T, toRules []RuleID, from []*T, fromRules []RuleID, m Mapping, by map[*T]*T) {
	if len(to) == 0 || len(from) == 0 {
		return
	}
	at := make(map[RuleID][]*T, len(from))
	for k, id := range fromRules {
		if now := m.New(id); now != NoRule {
			at[now] = append(at[now], from[k])
		}
	}
	for k, id := range toRules {
		if old := at[id]; len(old) > 0 {
			by[to[k]], at[id] = old[0], old[1:]
		}
	}
}

// FileCounters returns the counters that stand in the files, by RuleID as Matcher.Counters has them, and which of the rules
// have any: what iptables-restore -c restores. Policies always have.
func (rs *Ruleset) FileCounters() (counters []Counter, has []bool) {
	counters, has = make([]Counter, rs.Counters()), make([]bool, rs.Counters())
	for id, info := range rs.Rules() {
		counters[id], has[id] = info.Counter, info.Rule.Counted
	}
	for i := range rs.chains {
		c := &rs.chains[i]
		if c.Policy == PolicyNone {
			continue
		}
		// A chain for both versions has one number: it is IPv4's, so that their sum is right.
		f := IPv4
		if c.Family == IPv6 {
			f = IPv6
		}
		id := rs.ChainPolicyID(c.Table, c.Name, f)
		counters[id], has[id] = c.Chain.Counter, true
	}
	return counters, has
}

// Take moves the counters that which names, by RuleID, to dst: it adds them there and sets them to zero here. nil names all.
func (m *Matcher) Take(dst []Counter, which []RuleID) {
	if which == nil {
		m.Counters(dst)
		clear(m.counters)
		return
	}
	for _, id := range which {
		dst[id].Packets += m.counters[id].Packets
		dst[id].Bytes += m.counters[id].Bytes
		m.counters[id] = Counter{}
	}
}
