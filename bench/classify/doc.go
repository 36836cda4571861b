// Command classify measures what finding a packet's rule costs: corewire's compiled rules beside DPDK's classifier
// (rte_acl, by its own program dpdk-test-acl), the same rules, the same headers, on this machine.
//
//	make bench-classify                        or: go run ./bench/classify
//	go run ./bench/classify --sets acl1_10k,fw1_10k --rounds 9
//
// # Rule sets
//
// The ClassBench sets of --data, where they are; for others, and always for those called flat_… and deep_…, sets made here:
//
//	flat_N   hosts and networks with exact ports, as access lists have them
//	deep_N   ranges and wildcards in every field, as firewalls have them
//
// # Headers
//
// For each set 65,536 headers, the same at each run, written into one file that both sides get. As ClassBench's trace
// generator does it: a rule at random, one of its corners at random (per field the lowest or the highest value, or for a
// wildcard protocol a usual one), repeated so often as a Pareto distribution says (--pareto, scale b of shape 1; 0.1 is the
// generator's usual one, where a header in ten is repeated; 0 repeats none, which is the hardest for caches). Unlike there a value
// in the midst of the range is taken half of the time.
//
// # What is measured
//
// Ours is what a worker does with a burst of 64 packets that begin connections: Matcher.Prepare for the burst, then
// Matcher.MatchPrepared for each, on parsed packets. A worker has them; here they are made by copying headers from the trace,
// which is no part of finding a rule: after each pass the same function copies all headers alone, and what that takes is
// taken off. Both are printed, ours without and ours with the copies. Alone, the copies find the packets in the nearest cache,
// which a lookup in between takes part of: rather too little is taken off. On the other hand the reading of the trace is off
// too, whereas the peer's time has it: it reads headers where they lie, one behind the other, as the processor fetches ahead.
// The peer classifies --step headers a call.
//
// Both run on processor 0, in turn, in rounds, by the wall clock; a round builds the peer's structure anew. Only ratios
// within a round are compared; what is printed is their median with the lowest and the highest, and the ratio of the lowest
// times of each side, which is what to look at when other programs use the machine: then the times themselves mean little.
//
// Before that both answer all headers once, and must name the same rule for each.
//
// Memory is that of the run-time structure: Ruleset.Size of ours, the footprint that rte_acl logs. Build time of ours is that of
// rules.Compile (and, apart, parsing the text); the peer's is from its last start-up line to its log of the structure done, which
// has reading the rules in it.
//
// The counts a lookup are free of noise: trees, nodes visited, entries compared, distinct cache lines of 64 bytes read, over the
// first 16,384 headers, as Ruleset.Work counts them.
//
// Exit status: 0 after a complete measurement (a set or a peer that is missing on this machine is named), 1 on an error or when
// the two sides name different rules, 2 for a wrong command line.
package main
