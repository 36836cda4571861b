package control

import (
	"net/netip"
	"strconv"
	"strings"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/rules"
)

// ChainCounters is a chain of the rules in force, with what it has counted since they are.
type ChainCounters struct {
	Table   string         `json:"table"`
	Chain   string         `json:"chain"`
	Family  string         `json:"family"`           // IPv4, IPv6, or IPv4 and IPv6
	Policy  string         `json:"policy,omitempty"` // ACCEPT or DROP; "" for a user chain
	Packets uint64         `json:"packets"`          // that reached the policy
	Bytes   uint64         `json:"bytes"`            // of IP datagrams
	Rules   []RuleCounters `json:"rules"`
}

// RuleCounters is one rule, in the parts that `iptables -L -v -n` shows and as iptables-save writes it.
type RuleCounters struct {
	Number  int    `json:"number"` // place in its chain, from 1
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"` // of IP datagrams
	Target  string `json:"target"`
	Proto   string `json:"proto"`
	In      string `json:"in"`
	Out     string `json:"out"`
	Src     string `json:"source"`
	Dst     string `json:"destination"`
	Options string `json:"options"` // the matches, as iptables-save writes them
	Family  string `json:"family"`
	Place   string `json:"place"` // file and line
	Save    string `json:"save"`  // "-A FORWARD …"
}

// listRules joins a rule set with its counters, which have rs.Counters elements.
func listRules(rs *rules.Ruleset, counters []rules.Counter) []ChainCounters {
	infos := rs.Rules()
	out := []ChainCounters{}
	for _, chain := range rs.Chains() {
		c := ChainCounters{Table: chain.Table, Chain: chain.Name, Family: chain.Family.String(), Rules: []RuleCounters{}}
		if chain.Policy != rules.PolicyNone {
			c.Policy = chain.Policy.String()
			for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
				if id := rs.ChainPolicyID(chain.Table, chain.Name, f); chain.Family&f != 0 && int(id) < len(counters) {
					c.Packets += counters[id].Packets
					c.Bytes += counters[id].Bytes
				}
			}
		}
		for _, id := range chain.Rules {
			info := &infos[id]
			c.Rules = append(c.Rules, newRuleCounters(info, counters[id]))
		}
		out = append(out, c)
	}
	return out
}

func newRuleCounters(info *rules.Info, counter rules.Counter) RuleCounters {
	r := info.Rule
	var options []byte
	for _, m := range r.Matches {
		options = m.AppendSave(options)
	}
	return RuleCounters{
		Number: info.Number, Packets: counter.Packets, Bytes: counter.Bytes,
		Target: r.Target.Name(), Proto: protocol(r.Proto), In: device(r.In), Out: device(r.Out),
		Src: address(r.Src, info.Family), Dst: address(r.Dst, info.Family),
		Options: strings.TrimSpace(string(options)), Family: info.Family.String(),
		Place: r.Pos.File + ":" + strconv.Itoa(r.Pos.Line), Save: string(r.AppendSave(nil, info.Chain)),
	}
}

func not(is bool, s string) string {
	if is {
		return "!" + s
	}
	return s
}

func protocol(p rules.ProtoMatch) string {
	if p.Num == 0 {
		return not(p.Not, "all")
	}
	name := conntrack.ProtoName(p.Num)
	if name == "unknown" {
		name = strconv.Itoa(int(p.Num))
	}
	return not(p.Not, name)
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
			return "0.0.0.0/0"
		case rules.IPv6:
			return "::/0"
		}
		return "anywhere"
	}
	ip := a.Addr.Netip()
	if length, ok := prefixLength(a.Mask, ip); ok {
		return not(a.Not, netip.PrefixFrom(ip, length).String())
	}
	return not(a.Not, ip.String()+"/"+a.Mask.Netip().String())
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
