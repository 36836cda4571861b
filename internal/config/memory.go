package config

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// TableSize returns Linux's default for nf_conntrack_buckets and nf_conntrack_max on a machine with the given bytes of
// memory (nf_conntrack_init_start, net/netfilter/nf_conntrack_core.c): a 16,384th of the memory in pointers; 65,536
// above 1 GiB, 262,144 above 4 GiB, at least 1,024. Since 5.15 the maximum is one entry per bucket.
func TableSize(memory uint64) int {
	const pointer = 8
	n := memory / 16384 / pointer
	switch {
	case memory > 4<<30:
		n = 262144
	case memory > 1<<30:
		n = 65536
	}
	return int(max(n, 1024))
}

// Memory returns the machine's memory in bytes, as the kernel counts it (totalram).
func Memory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read memory size: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}

// Limits returns the maximum and the number of buckets to run with: the settings, or TableSize(memory) where they are 0.
func (c *Config) Limits(memory uint64) (most, buckets int) {
	most, buckets = c.Max, c.Buckets
	if buckets == 0 {
		buckets = TableSize(memory)
	}
	if most == 0 {
		most = buckets
	}
	return most, buckets
}
