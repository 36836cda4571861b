package control

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"corewire/internal/packet"
	"corewire/rules"
)

// ChainCounters is a chain of the rules in force, with what it has counted since they are.
type ChainCounters struct {
	Table      string         `json:"table"`
	Chain      string         `json:"chain"`
	Family     string         `json:"family"`           // IPv4, IPv6, or IPv4 and IPv6
	Policy     string         `json:"policy,omitempty"` // ACCEPT or DROP; "" for a user chain
	Packets    uint64         `json:"packets"`          // that reached the policy
	Bytes      uint64         `json:"bytes"`            // of IP datagrams
	References int            `json:"references"`       // rules that lead to a user chain
	Rules      []RuleCounters `json:"rules"`
}

// RuleCounters is one rule, in the parts that `iptables -L -v -n` shows and as iptables-save writes it.
type RuleCounters struct {
	Number  int      `json:"number"` // place in its chain, from 1, as the verbs that change rules count
	Packets uint64   `json:"packets"`
	Bytes   uint64   `json:"bytes"` // of IP datagrams
	Target  string   `json:"target"`
	Proto   string   `json:"proto"` // with "!" before it where it is inverted, as In, Out, Src and Dst
	Opt     string   `json:"opt"`   // --, or -f or !f for fragments
	In      string   `json:"in"`
	Out     string   `json:"out"`
	Src     string   `json:"source"`
	Dst     string   `json:"destination"`
	Options string   `json:"options"` // matches and the target's options, as iptables -L prints them
	Family  string   `json:"family"`
	Place   string   `json:"place"`              // file and line, or the change that it came with
	Save    string   `json:"save"`               // "-A FORWARD …"
	NoCache []string `json:"no_cache,omitempty"` // why verdicts of packets that come here are not cached
}

// listRules joins a rule set with its counters, which have rs.Counters elements. Of Both, rules of files for both versions
// are listed as they are there; where the versions have files of their own, IPv4's come first, and then IPv6's.
func listRules(rs *rules.Ruleset, counters []rules.Counter, view rules.Family) []ChainCounters {
	if view == rules.Both {
		for _, c := range rs.Chains() {
			if c.Family != rules.Both {
				return append(listRules(rs, counters, rules.IPv4), listRules(rs, counters, rules.IPv6)...)
			}
		}
	}
	out := []ChainCounters{}
	at := map[[2]string]int{} // in out, by table and chain: several files may have parts of one
	for i, chain := range rs.Chains() {
		if chain.Family&view == 0 {
			continue
		}
		key := [2]string{chain.Table, chain.Name}
		n, known := at[key]
		if !known {
			n = len(out)
			at[key] = n
			out = append(out, ChainCounters{Table: chain.Table, Chain: chain.Name, Family: view.String(), Rules: []RuleCounters{}})
		}
		c := &out[n]
		if chain.Policy != rules.PolicyNone {
			c.Policy = chain.Policy.String()
			c.Packets, c.Bytes = 0, 0 // of several files it is one policy
			for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
				if id := rs.ChainPolicyID(chain.Table, chain.Name, f); view&f != 0 && int(id) < len(counters) {
					c.Packets += counters[id].Packets
					c.Bytes += counters[id].Bytes
				}
			}
		}
		list := rs.List(i)
		c.Rules = slices.Grow(c.Rules, list.Len())
		for id := range list.All() {
			if info, _ := rs.Rule(id); info.Family&view != 0 {
				r := newRuleCounters(rs, id, &info, counters[id], view)
				r.Number = len(c.Rules) + 1
				c.Rules = append(c.Rules, r)
			}
		}
	}
	for i := range out {
		for _, r := range out[i].Rules {
			if n, ok := at[[2]string{out[i].Table, r.Target}]; ok {
				out[n].References++
			}
		}
	}
	slices.SortStableFunc(out, func(a, b ChainCounters) int { return tableOrder(a.Table) - tableOrder(b.Table) })
	return out
}

// tableOrder is the order in which packets pass the tables, filter being the first that one asks for.
func tableOrder(table string) int {
	return slices.Index([]string{"raw", "mangle", "filter", "security"}, table)
}

func newRuleCounters(rs *rules.Ruleset, id rules.RuleID, info *rules.Info, counter rules.Counter, view rules.Family) RuleCounters {
	r := info.Rule
	family := info.Family
	if view != rules.Both {
		family = view
	}
	save := *r
	save.Family = family
	return RuleCounters{
		Packets: counter.Packets, Bytes: counter.Bytes,
		Target: r.Target.Name(), Proto: protocol(r.Proto), Opt: fragment(r.Fragment, family), In: device(r.In), Out: device(r.Out),
		Src: address(r.Src, family), Dst: address(r.Dst, family),
		Options: strings.TrimPrefix(string(r.AppendList(nil, family)), " "), Family: info.Family.String(),
		Place: r.Pos.File + ":" + strconv.Itoa(r.Pos.Line), Save: string(save.AppendSave(nil, info.Chain)), NoCache: rs.Volatile(id),
	}
}

func not(is bool, s string) string {
	if is {
		return "!" + s
	}
	return s
}

// listedProtocols are the names that iptables knows without asking the system (xtables_chain_protos in libxtables), which is what
// -n leaves it.
var listedProtocols = map[uint8]string{6: "tcp", 132: "sctp", 17: "udp", 136: "udplite", 1: "icmp", 58: "ipv6-icmp", 50: "esp", 51: "ah", 135: "ipv6-mh", 0: "all"}

func protocol(p rules.ProtoMatch) string {
	name, ok := listedProtocols[p.Num]
	if !ok {
		name = strconv.Itoa(int(p.Num))
	}
	return not(p.Not, name)
}

// fragment is the column opt: IPv6 has nothing there.
func fragment(f rules.FragmentMatch, family rules.Family) string {
	switch {
	case f == rules.FragmentYes:
		return "-f"
	case f == rules.FragmentNo:
		return "!f"
	case family == rules.IPv6:
		return ""
	}
	return "--"
}

func device(m rules.InterfaceMatch) string {
	switch m.Name {
	case "":
		return "*"
	case "+":
		return not(m.Not, "*")
	}
	return not(m.Not, m.Name)
}

func address(a rules.AddrMatch, family rules.Family) string {
	if !a.Set {
		switch family {
		case rules.IPv4:
			return not(a.Not, "0.0.0.0/0")
		case rules.IPv6:
			return not(a.Not, "::/0")
		}
		return not(a.Not, "anywhere")
	}
	ip := a.Addr.Netip()
	if family == rules.IPv6 {
		ip = a.Addr.Netip6()
	}
	length, ok := prefixLength(a.Mask, ip)
	switch {
	case ok && length == ip.BitLen():
		return not(a.Not, ip.String())
	case ok:
		return not(a.Not, netip.PrefixFrom(ip, length).String())
	}
	mask := a.Mask.Netip6()
	if ip.Is4() {
		mask = packet.Addr{Hi: 0, Lo: 0xffff<<32 | a.Mask.Lo&(1<<32-1)}.Netip()
	}
	return not(a.Not, ip.String()+"/"+mask.String())
}

// prefixLength returns the length of a mask that is a run of ones, counted as ip's family does.
func prefixLength(m packet.Addr, ip netip.Addr) (int, bool) {
	ones := 0
	for _, w := range [...]uint64{m.Hi, m.Lo} {
		for i := 63; i >= 0 && w>>i&1 == 1; i-- {
			ones++
		}
		if ones%64 != 0 {
			break
		}
	}
	full := packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0)}
	switch {
	case ones < 64:
		full = packet.Addr{Hi: ^(^uint64(0) >> ones)}
	case ones < 128:
		full.Lo = ^(^uint64(0) >> (ones - 64))
	}
	if full != m {
		return 0, false
	}
	if ip.Is4() {
		ones -= 96
	}
	return ones, ones >= 0
}
