// Package bench holds the measurements behind every figure that the README quotes, as commands that anyone can run.
//
//	go test -run '^$' -bench 'Path$' -benchmem ./bench  the whole in-memory path, ns per packet
//	go test -run '^$' -bench Sizes ./bench              IPv4 and IPv6, frames of 64 to 1514 bytes, what checksums cost
//	go test -run '^$' -bench Flows ./bench              connections made and expired, bytes an entry, chosen tuples
//	go test -run '^$' -bench Pause ./bench              the longest turn while the table grows and shrinks
//	go test -run '^$' -bench Listing ./bench            what a listing of a million connections costs forwarding
//	go run ./bench/classify                             finding a packet's rule, beside DPDK's classifier
//	go run ./bench/inline                               the wire beside its peers, on real traffic (root)
//
// Absolute times depend on the machine and on what else runs on it; compare ratios of interleaved runs. Path is for
// benchstat (-count, two binaries in turn); the others interleave by themselves what they compare, in time of the thread
// itself, and report the median of the ratios with the lowest and the highest. What can be counted is counted:
// allocations per packet, bytes per entry.
package bench
