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
//	a byte order mark at the beginning of a file              left out: some editors write it
//	table filter, chain FORWARD and user chains it leads to   judged
//	table filter, INPUT and OUTPUT, and chains only they use   ignored with a warning: no packet is for the wire itself
//	table nat                                                 ignored with a warning: nothing is translated
//	table raw, chain PREROUTING and user chains it leads to   judged before tracking, see Matcher.Raw; OUTPUT is ignored
//	  -j CT --notrack, --zone, --helper, --timeout, NOTRACK   carried out; --ctevents, --expevents and helpers that there are none of ignored with a warning
//	  -j CT --zone-orig, --zone-reply, --zone mark            refused: a connection is in one zone, and has no mark yet
//	  -o, -m state, -m conntrack, -m connmark, REJECT         refused: nothing of these is known before tracking
//	table mangle, PREROUTING, FORWARD, POSTROUTING            judged behind tracking; INPUT and OUTPUT are ignored
//	table security, FORWARD                                   judged behind filter's FORWARD; INPUT and OUTPUT are ignored
//	-m hashlimit, -m recent, -m connlimit                      one memory for all workers, kept over a reload; see below
//	a match, option or target that is not known               an error with file, line, column, and the nearest name
//	a target that needs what a wire does not have             an error with the reason
//	-i and -o with a name that is neither port                a warning; the rule matches as if the packet used another interface
//	-f                                                        never matches: datagrams are judged whole
//
// Every match and target that there is:
//
//	matches carried out   addrtype ah bpf cluster comment connbytes connlabel connlimit connmark conntrack dccp dscp dst ecn esp
//	                      eui64 frag hashlimit hbh helper hl icmp icmp6 ipcomp iprange ipv6header length limit mac mark mh
//	                      multiport physdev pkttype policy quota recent rt sctp set srh state statistic string tcp tcpmss time
//	                      tos ttl u32 udp vlan
//	matches answered      cgroup ipvs nfacct owner realm socket, the same for every packet, as the kernel would on a bridge, with a
//	                      warning (AbsentMatch, AccountMatch); nfacct in rules without a target
//	matches refused       cpu devgroup l2tp osf rateest rpfilter, each with its reason (otherMatches)
//	targets carried out   ACCEPT CONNMARK CT DROP DSCP ECN HL HMARK LOG MARK NFLOG NOTRACK REJECT RETURN SET TCPMSS TCPOPTSTRIP TOS
//	                      TTL
//	targets that count    AUDIT CHECKSUM CONNSECMARK IDLETIMER LED RATEEST SECMARK TEE TRACE ULOG, with a warning
//	targets refused       CLASSIFY CLUSTERIP DNAT DNPT MASQUERADE NETMAP NFQUEUE QUEUE REDIRECT SNAT SNPT SYNPROXY TPROXY, each
//	                      with its reason (otherTargets)
//
// Options of these that iptables knows and that are refused: --object-pinned of bpf, --zone-orig and --zone-reply of CT, and
// names of connection labels, realms and device groups, which files of the machine define.
//
// A packet's mark begins at 0. Another mark of a connection, from a rule or an operator, forgets the connection's cached
// verdicts. A rule that changes the packet makes its verdict one that is not cached. Of a datagram that came as fragments,
// a changed TTL, hop limit, TOS or traffic class is written into every fragment, and what is changed of its TCP header into
// those that carry it. Differences to Linux: --clamp-mss-to-pmtu takes the lesser MTU of the two ports,
// for there are no routes; -j TCPMSS keeps the checksum right also where the option stands at an odd offset; it adds no
// option to a segment that came as fragments, which leave as they were cut; and -m string --algo bm finds as kmp does a text that
// two fragments share, which Linux misses, so that whoever cuts datagrams slips by.
//
// # Order and counting
//
// As in ip_tables (net/ipv4/netfilter/ip_tables.c): rules in order; RETURN and the end of a user chain go on behind
// the call, in the base chain to the policy; a goto leaves no place to return to; a rule counts every packet that all
// of its conditions hold for, whatever its target; the policy counts those that reach it. A match that needs a
// transport header which the packet does not have drops it on the spot, uncounted by any rule.
//
// # Finding the rule
//
// A chain of any length is not walked. Its rules are boxes over source, destination, ports and protocol; each chain has
// one to four trees whose nodes cut by a window of bits of one of these words, and whose leaves are short runs of
// entries in order of rank, 16 bytes each (80 for IPv6), which are compared without branches. What the rules of
// a set have in common, prefix lengths, ranges, protocol, states and verb, stands once in shapes of 16 bytes that their entries
// name. State and interfaces are bits there. What an entry cannot hold (flags, negations, masks of IPv4 that are no prefix, …) is
// tested when it agrees. A leaf is a word: it names the entries that lie behind one another, and where there are others a second
// word that other leaves end with as well, see run.go.
//
//	header ─► tree 0 ─► node ─► node ─► entries ┐
//	       ─► tree 1 ─► node ─► entries         ├─► lowest rank ─► its other conditions ─► verb
//	       ─► tree 2 ─► entries                 ┘    next lowest, when these fail or the verb goes on
//
// Why cuts, and why these:
//   - iptables goes on behind a rule that only counts, and behind a chain that returns: the structure must give all
//     agreeing rules in order, not only the first. A leaf does; hash tables of tuples (TupleMerge, PSTSS) would have
//     to be asked again, and a lookup there costs a probe for each of ten to thirty tables. Bit vectors give the
//     order too, but take memory by the square of the rules. Learned indexes (NuevoMatch) need a second structure
//     for what does not fit, and retraining for a change.
//   - Windows of any bits instead of prefixes (HiCuts, HyperSplit) spread rules that share their first bits, and give
//     wide nodes: few steps down, each a cache miss.
//   - A cut copies the rules that do not ask for its bits into every child. So rules are first parted by which of
//     their addresses are narrow for so many rules (as EffiCuts and CutSplit do), each part a tree; a rule that still gets too many
//     copies moves to the next tree; a cut must earn its copies; and a copy takes a part of a word of eight bytes, not an entry.
//   - Whatever is behind a final rule that every header at a node agrees with is left out there.
//
// A worker has bursts. What the trees cut by is known before the packets are tracked, and those that no connection is known
// of will nearly all begin one: Prepare looks up their first rules together, a level of all trees and then an entry of all runs
// at a time, and MatchPrepared takes what was found where packet and state are as was thought. So the cache misses of a burst
// overlap, and none of its loops ends where one packet's do, see ahead.go. On amd64 these loops are in assembly: ahead_amd64.s compares
// an entry, its shape and a header in a few instructions as vectors of eight words; burst_amd64.s takes eight packets a step, where
// the processor has AVX-512 as since Ice Lake and Zen 4, and leaves to the former those that have little company left.
//
// A packet whose transport header is short has no ports to cut by: it takes the whole subtree of the first node that
// cuts by port. Rules that need the header drop it.
//
// # One-rule changes
//
// Insert, Delete and Replace make a new Ruleset of one in force and one rule, which ParseRule reads; Edit does what iptables'
// commands do. A RuleID is a handle: a rule keeps it while it lives, whatever comes and goes before it, and where a rule stands
// is told by its chain's list alone. So counters, traces and what rules remember need no renumbering, and the Matchers that
// workers have go on with the new Ruleset (Ruleset.Follows, Matcher.Follow) at once, without allocating. The trees of the chain
// stay: the new rule goes into an overlay, one more small tree, and so does a mark of a rule that goes, see patch.go. Ranks are left
// free for rules to come, see rank.go. So most changes go through no list of rules or of entries, however many there are (bench,
// BenchmarkChange). Some do: all entries are looked at when a final rule goes that rules behind it were left out for; a list without
// room is copied whole, and so is all that is appended to when a rule set is changed that is not the newest; and to delete a rule by
// its words its chain is looked through. patch.go has the whole list.
//
// Compiled anew is everything
//
//   - when a jump or goto leads to a chain that packets did not come to before, or is put into such a chain, and when calls would be
//     nested more than 8 deeper than when the rules were compiled;
//   - when a rule with a memory of addresses, with sets or with CT comes or goes;
//   - for policies, for chains that come, go or are flushed, and for more than 16 rules at a time;
//   - when a change would make an overlay too large (128 entries), and after 512 changes, so that lookups stay as fast as after
//     compiling;
//   - when ranks do not fit: where a place has no rank left and no room can be made, and by every change where a program has too many
//     rules and chains for ranks between them, with 500,000 rules from about 16,200 chains on.
//
// Filled says how near overlays and the number of changes are to their limits, and Recompile lets the caller compile before, at a time
// of its own, with Replay for what changed meanwhile, as package dataplane does: then only a burst of changes faster than compiling
// comes to these limits. The Mapping that a change returns says then which RuleID became which.
//
// # What rules remember
//
//	match      of what                    kept over a reload                      room                         differences from Linux
//	limit      the rule                   with the rule                           a word                       bucket
//	statistic  the rule                   with the rule                           a word                       none
//	hashlimit  addresses, by table name   name and properties are the same        --hashlimit-htable-max       hashTable
//	recent     addresses, by list name    name and mask are, times are enough     ip_list_tot, then the oldest recentList
//	connlimit  addresses and zone         with the rule                           the most connections         connCounts
//
// The types named last say in their comments what differs and why. An address may come in on any worker's queue, so each of
// these is one for all workers, bounded and made by Compile: a packet takes no lock and allocates nothing, see store. What
// finds no room is dropped, as xtables' hotdrop, and counted as "no room". An address of hashlimit takes 64 bytes with IPv4
// and 80 with IPv6, one of connlimit 32 and 48, one of recent 64 and 8 for each time; to each come 8 to 16 of the hash table.
//
// A connlimit rule counts a connection with a Ticket, which the caller keeps with the connection and hands back.
//
// # Concurrency
//
// File and Ruleset do not change once made and may be shared; rule sets may be made of one Ruleset at the same time. A Matcher
// is one goroutine's.
package rules
