package rules

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Compile-time assertion: a word is eight bytes, as newWords counts them.
var _ [8]byte = [unsafe.Sizeof(atomic.Uint64{})]byte{}

// mapFrom is from how many words on memory comes from the system instead of the heap.
const mapFrom = 1 << 15

// newWords returns n words of zero for owner, without whom they must not be used: many of them are not on the heap, so that
// room which is not used takes address space only, neither memory nor the collector's attention, and they are given back when
// owner is collected.
func newWords[T any](owner *T, n int) []atomic.Uint64 {
	if n < mapFrom {
		return make([]atomic.Uint64, n)
	}
	mem, err := unix.Mmap(-1, 0, 8*n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return make([]atomic.Uint64, n) // a limit on address space: the heap's own may still do
	}
	runtime.AddCleanup(owner, func(mem []byte) {
		_ = unix.Munmap(mem) // fails only for what is not a mapping
	}, mem)
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&mem[0])), n)
}
