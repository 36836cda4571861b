package rules

import (
	"fmt"
	"strconv"
)

// versionSaver is a target that iptables-save and ip6tables-save print otherwise.
type versionSaver interface {
	// appendSaveOf is AppendSave for a rule of one IP version, or Both.
	appendSaveOf(b []byte, f Family) []byte
}

// AppendSave appends the rule as iptables-save prints it, without counters: "-A CHAIN -s … -m … -j …".
func (r *Rule) AppendSave(b []byte, chain string) []byte {
	b = append(b, "-A "...)
	b = appendQuotedName(b, chain)
	if r.Src.Set || r.Src.Not {
		b = append(appendNot(b, r.Src.Not), " -s "...)
		b = appendAddr(b, r.Src, true)
	}
	if r.Dst.Set || r.Dst.Not {
		b = append(appendNot(b, r.Dst.Not), " -d "...)
		b = appendAddr(b, r.Dst, true)
	}
	b = r.In.appendSave(b, " -i ")
	b = r.Out.appendSave(b, " -o ")
	if r.Proto.Num != 0 {
		b = append(appendNot(b, r.Proto.Not), " -p "...)
		b = appendProtocol(b, r.Proto.Num)
	}
	switch r.Fragment {
	case FragmentYes:
		b = append(b, " -f"...)
	case FragmentNo:
		b = append(b, " ! -f"...)
	}
	for _, m := range r.Matches {
		b = append(b, " -m "...)
		b = append(b, m.Name()...)
		b = m.AppendSave(b)
	}
	if t := r.Target.Effect; t != nil {
		b = append(append(b, " -j "...), t.Name()...)
		if v, ok := t.(versionSaver); ok {
			b = v.appendSaveOf(b, r.Family)
		} else {
			b = t.AppendSave(b)
		}
	}
	if t := r.Target.CT; t != nil {
		b = t.AppendSave(append(append(b, " -j "...), t.target...))
	}
	switch r.Target.Verb {
	case VerbAccept:
		b = append(b, " -j ACCEPT"...)
	case VerbDrop:
		b = append(b, " -j DROP"...)
	case VerbReturn:
		b = append(b, " -j RETURN"...)
	case VerbJump:
		b = append(b, " -j "...)
		b = appendQuotedName(b, r.Target.Chain)
	case VerbGoto:
		b = append(b, " -g "...)
		b = appendQuotedName(b, r.Target.Chain)
	case VerbReject:
		f := r.Family
		if f == Both {
			f = IPv4
		}
		b = append(append(b, " -j REJECT --reject-with "...), r.Target.Reject.name(f)...)
		if r.Family == Both && r.Target.Reject == RejectPortUnreachable {
			b = b[:len(b)-len(" --reject-with icmp-port-unreachable")] // the default, which has a name for each version
		}
	case VerbLog:
		b = append(append(b, " -j "...), r.Target.Log.Name()...)
		b = r.Target.Log.AppendSave(b)
	}
	return b
}

// appendSave prints -i or -o. "+" alone stands for every interface and is printed with "!" only.
func (m InterfaceMatch) appendSave(b []byte, opt string) []byte {
	if m.Name == "" || m.Name == "+" && !m.Not {
		return b
	}
	b = append(appendNot(b, m.Not), opt...)
	return append(b, m.Name...)
}

// appendQuotedName prints a chain's name, in quotes only where it must be.
func appendQuotedName(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == '"' || c == '\\' {
			return appendQuoted(b, s)
		}
	}
	return append(b, s...)
}

func appendProtocol(b []byte, num uint8) []byte {
	if n := protocolName(num); n != "" {
		return append(b, n...)
	}
	return strconv.AppendUint(b, uint64(num), 10)
}

// AppendSave appends the rule set of one IP version as iptables-save -c prints it. counters are those of all matchers
// together, by RuleID; with none, those of the files are printed.
func (rs *Ruleset) AppendSave(b []byte, f Family, counters []Counter) []byte {
	for _, table := range []string{"raw", "mangle", "filter", "security"} {
		if rs.HasTable(table, f) {
			b = rs.appendTable(b, table, f, counters)
		}
	}
	return b
}

func (rs *Ruleset) appendTable(b []byte, table string, f Family, counters []Counter) []byte {
	of := func(id RuleID, n Counter) Counter {
		if counters == nil {
			return n
		}
		return counters[id]
	}
	b = fmt.Appendf(b, "*%s\n", table)
	seen := make(map[string]bool)
	for _, k := range basesOf(table) {
		name := baseTable[k].chain
		head := Counter{}
		verdict := PolicyAccept
		for i := range rs.chains {
			if c := &rs.chains[i]; c.Table == table && c.Family&f != 0 && c.Name == name {
				head, verdict = c.Chain.Counter, c.Policy // of several files the last
			}
		}
		head = of(rs.ChainPolicyID(table, name, f), head)
		b = fmt.Appendf(b, ":%s %s [%d:%d]\n", name, verdict, head.Packets, head.Bytes)
	}
	for i := range rs.chains {
		if c := &rs.chains[i]; c.Table == table && c.Family&f != 0 && c.Policy == PolicyNone && !seen[c.Name] {
			seen[c.Name] = true
			b = fmt.Appendf(b, ":%s - [0:0]\n", c.Name)
		}
	}
	for i := range rs.chains {
		if rs.chains[i].Table != table {
			continue
		}
		for id := range rs.lists[i].All() {
			r := rs.info(id)
			if r.Family&f == 0 {
				continue
			}
			n := of(id, r.Counter)
			b = fmt.Appendf(b, "[%d:%d] ", n.Packets, n.Bytes)
			b = append(r.Rule.AppendSave(b, r.Chain), '\n')
		}
	}
	return append(b, "COMMIT\n"...)
}
