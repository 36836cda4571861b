package ring

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options and structures of AF_XDP that x/sys/unix has no wrapper for. Sources: include/uapi/linux/if_xdp.h.

// xdpMaxTXBudget is XDP_MAX_TX_SKB_BUDGET (Linux 6.17): frames that one sendto may transmit in copy mode.
const xdpMaxTXBudget = 9

// The sizes and offsets that the kernel's ABI fixes. A difference does not compile.
const (
	_ = -(unsafe.Sizeof(desc{}) ^ 16)
	_ = -unsafe.Offsetof(desc{}.addr)
	_ = -(unsafe.Offsetof(desc{}.len) ^ 8)
	_ = -(unsafe.Offsetof(desc{}.options) ^ 12)
	_ = -(unsafe.Sizeof(unix.XDPUmemReg{}) ^ 32)
	_ = -(unsafe.Sizeof(unix.XDPMmapOffsets{}) ^ 128)
	_ = -(unsafe.Sizeof(unix.XDPRingOffset{}) ^ 32)
	_ = -(unsafe.Sizeof(unix.XDPStatistics{}) ^ 48)
	_ = -(unsafe.Sizeof(atomic.Uint32{}) ^ 4)
	_ = -(unsafe.Sizeof(xskRing[desc]{}) ^ line)
	_ = -(unsafe.Sizeof(xskRing[uint64]{}) ^ line)
)

// setUMEM registers area, which is page-aligned, as the socket's UMEM (XDP_UMEM_REG).
func setUMEM(fd int, area []byte, chunkSize int) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(area)))),
		Len:  uint64(len(area)),
		Size: uint32(chunkSize),
	}
	return setXDP(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg))
}

// mmapOffsets returns where in the mappings the rings' parts are.
func mmapOffsets(fd int) (unix.XDPMmapOffsets, error) {
	var off unix.XDPMmapOffsets
	err := getXDP(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&off), unsafe.Sizeof(off))
	return off, err
}

// xdpStatistics returns the kernel's counters of the socket (XDP_STATISTICS).
func xdpStatistics(fd int) (unix.XDPStatistics, error) {
	var s unix.XDPStatistics
	err := getXDP(fd, unix.XDP_STATISTICS, unsafe.Pointer(&s), unsafe.Sizeof(s))
	return s, err
}

// xdpOptions returns the flags of XDP_OPTIONS.
func xdpOptions(fd int) (uint32, error) {
	var flags uint32
	err := getXDP(fd, unix.XDP_OPTIONS, unsafe.Pointer(&flags), unsafe.Sizeof(flags))
	return flags, err
}

func setXDP(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// getXDP reads an option of exactly size bytes; a kernel that knows a shorter structure is too old.
func getXDP(fd, option int, value unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	if uintptr(n) != size {
		return fmt.Errorf("getsockopt: %d bytes instead of %d (kernel too old?)", n, size)
	}
	return nil
}

// ringOver returns the ring of size slots whose indices, flags and slots are at off in mem. It is empty, and begins where
// the consumer's index is. mem must be as long as ringBytes says and aligned to 8 bytes.
func ringOver[T uint64 | desc](mem []byte, off unix.XDPRingOffset, size uint32) (xskRing[T], error) {
	need, err := ringBytes[T](off, size)
	if err != nil {
		return xskRing[T]{}, err
	}
	if len(mem) < need || uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%8 != 0 {
		return xskRing[T]{}, fmt.Errorf("map ring: %d bytes at the wrong place instead of %d", len(mem), need)
	}
	r := xskRing[T]{
		slots:    unsafe.Slice((*T)(unsafe.Pointer(&mem[off.Desc])), size),
		mask:     size - 1,
		producer: (*atomic.Uint32)(unsafe.Pointer(&mem[off.Producer])),
		consumer: (*atomic.Uint32)(unsafe.Pointer(&mem[off.Consumer])),
		flags:    (*atomic.Uint32)(unsafe.Pointer(&mem[off.Flags])),
	}
	r.next = r.consumer.Load()
	r.seen = r.next
	return r, nil
}

// ringBytes returns how long the mapping of a ring must be. Offsets that make no sense are an error.
func ringBytes[T uint64 | desc](off unix.XDPRingOffset, size uint32) (int, error) {
	var slot T
	const most = 1 << 20 // the kernel's offsets are a few cache lines
	for _, o := range [...]uint64{off.Producer, off.Consumer, off.Flags, off.Desc} {
		if o > most || o%4 != 0 {
			return 0, fmt.Errorf("map ring: offsets %+v make no sense", off)
		}
	}
	if off.Desc%8 != 0 || off.Producer == off.Consumer {
		return 0, fmt.Errorf("map ring: offsets %+v make no sense", off)
	}
	end := off.Desc + uint64(size)*uint64(unsafe.Sizeof(slot))
	return int(max(end, off.Producer+4, off.Consumer+4, off.Flags+4)), nil
}
