package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes and offsets of what ip_tables and ip6_tables give through getsockopt: struct ipt_getinfo, ipt_get_entries and
// ipt_entry (include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h) and xt_entry_target (x_tables.h).
const (
	xtNameLength = 32                  // XT_TABLE_MAXNAMELEN
	xtInfoSize   = xtNameLength + 13*4 // valid_hooks, 5 hook_entry, 5 underflow, num_entries, size
	xtHooks      = 5                   // NF_INET_NUMHOOKS
	xtEntriesAt  = xtNameLength + 8    // name, size, padding
	xtTargetSize = 32                  // of struct xt_entry_target: size, name and revision

	_ = uint(xtInfoSize - unsafe.Sizeof(xtInfo{}))
	_ = uint(unsafe.Sizeof(xtInfo{}) - xtInfoSize)
)

// xtInfo is struct ipt_getinfo.
type xtInfo struct {
	name       [xtNameLength]byte
	validHooks uint32
	hookEntry  [xtHooks]uint32
	underflow  [xtHooks]uint32
	numEntries uint32
	size       uint32
}

// getsockopt fills b, whose beginning says what is asked for.
func getsockopt(fd, level, option int, b []byte) error {
	size := uint32(len(b))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// infoBytes returns the memory of i.
func infoBytes(i *xtInfo) []byte { return (*[xtInfoSize]byte)(unsafe.Pointer(i))[:] }
