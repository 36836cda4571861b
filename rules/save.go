package rules

import "strconv"

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
