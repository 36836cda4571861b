package rules

// The base chains that packets go through. Each has a program for IPv4 and behind it one for IPv6, so that the place of
// a program is twice the base chain's, and one more for IPv6. Tables with several of them are compiled once for each:
// a user chain that two of them lead to is in both programs, with the same RuleIDs.
const (
	baseFilter = iota
	baseRaw
	baseMangleIn
	baseMangle
	baseMangleOut
	baseSecurity
	bases

	programs = 2 * bases

	filterPlace = 2 * baseFilter
	rawPlace    = 2 * baseRaw
)

// base describes a base chain.
type base struct {
	table, chain string
	noIn, noOut  bool // the packet has no interface there that it came from, or that it goes to
}

// baseTable follows the hooks of a bridge with br_netfilter (net/bridge/br_netfilter_hooks.c): POSTROUTING is called
// without the interface that the packet came from, PREROUTING without the one that it goes to.
var baseTable = [bases]base{
	baseFilter:    {"filter", "FORWARD", false, false},
	baseRaw:       {"raw", "PREROUTING", false, true},
	baseMangleIn:  {"mangle", "PREROUTING", false, true},
	baseMangle:    {"mangle", "FORWARD", false, false},
	baseMangleOut: {"mangle", "POSTROUTING", true, false},
	baseSecurity:  {"security", "FORWARD", false, false},
}

// behindTracking is the order of the base chains behind tracking: that of the hooks, and within FORWARD that of the
// priorities (enum nf_ip_hook_priorities in include/uapi/linux/netfilter_ipv4.h).
var behindTracking = [...]uint8{baseMangleIn, baseMangle, baseFilter, baseSecurity, baseMangleOut}

// maxWay is how many base chains a packet passes behind tracking.
const maxWay = len(behindTracking)

// way is the places of the programs that a packet of one IP version passes behind tracking, in order.
type way struct {
	n     int
	place [maxWay]uint8
}

// basesOf returns the base chains of a table.
func basesOf(table string) []int {
	var out []int
	for k := range baseTable {
		if baseTable[k].table == table {
			out = append(out, k)
		}
	}
	return out
}

// ways writes the ways of the packets. A table that no file of an IP version has is not passed, as a table that is not
// loaded has no hooks; filter always is.
func (rs *Ruleset) ways() {
	for f := range rs.way {
		w := &rs.way[f]
		for _, k := range behindTracking {
			if k == baseFilter || rs.has[2*int(k)+f] {
				w.place[w.n] = 2*k + uint8(f)
				w.n++
			}
		}
		rs.long = rs.long || w.n > 1 || len(rs.prog[f].effects) > 0
	}
}

// HasTable says whether a file for the IP version has the table.
func (rs *Ruleset) HasTable(table string, f Family) bool {
	for _, k := range basesOf(table) {
		for _, v := range families(f) {
			if rs.has[2*k+v] || k == baseFilter {
				return true
			}
		}
	}
	return false
}

// policyID returns the RuleID of a program's policy.
func (rs *Ruleset) policyID(place int) RuleID { return rs.extra(place) }

// ChainPolicyID returns the RuleID of the policy of a base chain that packets pass, for one IP version; with another
// chain that of filter's FORWARD.
func (rs *Ruleset) ChainPolicyID(table, chain string, f Family) RuleID {
	v := 0
	if f == IPv6 {
		v = 1
	}
	for k := range baseTable {
		if baseTable[k].table == table && baseTable[k].chain == chain {
			return rs.policyID(2*k + v)
		}
	}
	return rs.policyID(filterPlace + v)
}
