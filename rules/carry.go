package rules

import "encoding/binary"

// NoRule is the RuleID of no rule.
const NoRule = ^RuleID(0)

// Mapping says what became of the counters of a rule set in another: by RuleID of the former, policies included, the
// RuleID of the latter, or NoRule.
type Mapping []RuleID

// Unchanged finds the rules of a set that another one has too. A rule is the same when table, chain, IP versions and text
// as iptables-save prints it are; of several alike, the first is the first of the others, and so on: where in the chain
// they stand, in which file and on which line says nothing. A policy is the same when its verdict is.
func Unchanged(from, to *Ruleset) Mapping {
	// The text of a rule is made once for each set; alike rules of the new set are a list, by the next of each.
	first := make(map[string]RuleID, len(to.rules))
	next := make([]RuleID, len(to.rules))
	var key []byte
	for id := len(to.rules) - 1; id >= 0; id-- {
		key = to.rules[id].appendIdentity(key[:0])
		after, ok := first[string(key)]
		if !ok {
			after = NoRule
		}
		next[id] = after
		first[string(key)] = RuleID(id)
	}
	m := make(Mapping, from.Counters())
	for id := range from.rules {
		key = from.rules[id].appendIdentity(key[:0])
		same, ok := first[string(key)]
		if !ok || same == NoRule {
			m[id] = NoRule
			continue
		}
		m[id] = same
		first[string(key)] = next[same]
	}
	from.mapExtra(to, m)
	return m
}

// mapExtra maps what stands behind the rules: the policies that are the same, and the count of short headers.
func (rs *Ruleset) mapExtra(to *Ruleset, m Mapping) {
	for k := range idExtra {
		m[len(rs.rules)+k] = RuleID(len(to.rules) + k)
	}
	for place := range rs.prog {
		if rs.prog[place].policy != to.prog[place].policy {
			m[rs.policyID(place)] = NoRule
		}
	}
}

// appendIdentity appends what makes a rule the same one in another rule set.
func (i *Info) appendIdentity(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(i.Family))
	b = append(append(b, i.Table...), 0)
	return i.Rule.AppendSave(b, i.Chain)
}

// Apply returns the counters of the former rule set as those of the latter, which has n of them. What has gone counts
// nowhere.
func (m Mapping) Apply(counters []Counter, n int) []Counter {
	out := make([]Counter, n)
	for id, to := range m {
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
		if id == NoRule { // its rule went by a change that left the list as it was
			continue
		}
		if now := m[id]; now != NoRule {
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
	for id := range rs.rules {
		counters[id], has[id] = rs.rules[id].Counter, rs.rules[id].Rule.Counted
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
