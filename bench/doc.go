// Package bench holds the measurements behind every figure that the README quotes, as commands that anyone can run.
//
//	go test -run '^$' -bench Path -benchmem ./bench     the whole in-memory path, ns per packet
//	go run ./bench/inline                               the wire beside its peers, on real traffic (root)
//
// Absolute times depend on the machine and on what else runs on it; compare ratios of interleaved runs
// (benchstat, -count). What can be counted is counted: allocations per packet, bytes per entry.
package bench
