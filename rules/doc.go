// Package rules reads rule sets as iptables-save and ip6tables-save write them, compiles them, and judges packets by
// them with iptables' meaning.
//
// Parse makes a File of text. Compile makes an immutable Ruleset of one or more Files. A worker makes a Matcher of the
// Ruleset, calls Match for a packet whose verdict it does not have, and Count for every packet:
//
//	f, err := rules.Parse("rules.v4", src, rules.IPv4)
//	rs, err := rules.Compile([]*rules.File{f}, rules.Options{InsideName: "eth1", OutsideName: "eth2"})
//	m := rs.NewMatcher()            // one per worker
//	r := m.Match(&p, &ctx)          // no allocation
//	m.Count(r.Trace, int(p.End-p.L3))
//
// # What becomes of what stands in a file
//
//	table filter, chain FORWARD and user chains it leads to   judged
//	table filter, INPUT and OUTPUT, and chains only they use   ignored with a warning: no packet is for the wire itself
//	table nat                                                 ignored with a warning: nothing is translated
//	tables raw, mangle, security                              ignored with a warning
//	a match, option or target that is not known               an error with file, line, column, and the nearest name
//	a target that needs what a wire does not have             an error with the reason
//	-i and -o with a name that is neither port                a warning; the rule matches as if the packet used another interface
//	-f                                                        never matches: datagrams are judged whole
//
// # Order and counting
//
// As in ip_tables (net/ipv4/netfilter/ip_tables.c): rules in order; RETURN and the end of a user chain go on behind
// the call, in the base chain to the policy; a goto leaves no place to return to; a rule counts every packet that all
// of its conditions hold for, whatever its target; the policy counts those that reach it. A match that needs a
// transport header which the packet does not have drops it on the spot, uncounted by any rule.
//
// # Concurrency
//
// File and Ruleset do not change once made and may be shared. A Matcher is one goroutine's.
package rules
