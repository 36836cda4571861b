package config

import (
	"fmt"

	"golang.org/x/sys/unix"

	"corewire/conntrack"
)

// Memory returns the machine's memory in bytes, as the kernel counts it (totalram).
func Memory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read memory size: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}

// Limit returns the maximum of connections to run with on a machine with the given bytes of memory. As in Linux it is
// nf_conntrack_max, or where that is 0 one for each of nf_conntrack_buckets, which are conntrack.DefaultBuckets where
// that is 0 too.
func (c *Config) Limit(memory uint64) int {
	switch {
	case c.Max != 0:
		return c.Max
	case c.Buckets != 0:
		return c.Buckets
	}
	return conntrack.DefaultBuckets(memory)
}
