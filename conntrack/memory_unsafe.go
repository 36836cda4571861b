package conntrack

import (
	"fmt"
	"unsafe"

	"corewire/internal/packet"

	"golang.org/x/sys/unix"
)

// Sizes that the layout in doc.go promises; each pair of constants compiles only when they are equal.
const (
	_ = uint(64 - unsafe.Sizeof(entry{}))
	_ = uint(unsafe.Sizeof(entry{}) - 64)
	_ = uint(64 - unsafe.Sizeof(bucket{}))
	_ = uint(unsafe.Sizeof(bucket{}) - 64)
	_ = uint(coldSize - unsafe.Sizeof(cold{}))
	_ = uint(unsafe.Sizeof(cold{}) - coldSize)
	_ = uint(40 - unsafe.Sizeof(packet.Key{}))
	_ = uint(unsafe.Sizeof(packet.Key{}) - 40)
	_ = uint(coldSize - unsafe.Sizeof(tcpState{}))
	_ = uint(coldSize - unsafe.Sizeof(sctpState{}))
	_ = uint(coldSize - unsafe.Sizeof(greState{}))
	_ = uint(4 - unsafe.Alignof(tcpState{}))
	_ = uint(4 - unsafe.Alignof(sctpState{}))
	_ = uint(4 - unsafe.Alignof(greState{}))
)

// entryFixed is what an entry takes without its share of the buckets, in bytes; bucketSize what a bucket does.
const (
	entryFixed = int(unsafe.Sizeof(entry{}) + unsafe.Sizeof(cold{}) + unsafe.Sizeof(Tick(0)))
	bucketSize = int(unsafe.Sizeof(bucket{}))
)

// arena is an array of T in memory of its own, outside the Go heap: address space for its largest size, of which
// physical memory is taken page by page where it is first written.
type arena[T any] struct {
	mem   []byte // the mapping
	items []T    // the same memory; T has no pointers
}

// hugePage is the page size that large arenas ask for, in bytes.
const hugePage = 2 << 20

// hugeArena is the size from which an arena asks for huge pages. A smaller one would waste most of its first.
const hugeArena = 16 * hugePage

// newArena reserves address space for n items. Alignment to a huge page costs up to 2 MiB of address space, no memory.
func newArena[T any](n int) (arena[T], error) {
	var t T
	size := n * int(unsafe.Sizeof(t))
	size = (size + hugePage - 1) &^ (hugePage - 1)
	mem, err := unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return arena[T]{}, fmt.Errorf("reserve %d MiB of address space for the connection table: %w (is RLIMIT_AS or vm.overcommit_memory=2 set?)", size>>20, err)
	}
	skip := int(-uintptr(unsafe.Pointer(&mem[0])) & (hugePage - 1))
	a := arena[T]{mem: mem, items: unsafe.Slice((*T)(unsafe.Pointer(&mem[skip])), n)}
	if size >= hugeArena {
		// Without huge pages the table works, with more TLB misses: the error says only that this kernel has none.
		_ = unix.Madvise(mem[skip:skip+size], unix.MADV_HUGEPAGE)
	}
	return a, nil
}

// scattered says that few items will be used: no huge pages.
func (a *arena[T]) scattered() {
	// An error says only that this kernel has none.
	_ = unix.Madvise(a.mem, unix.MADV_NOHUGEPAGE)
}

// span returns the memory of items [from, to), cut inwards to whole multiples of align bytes.
func (a *arena[T]) span(from, to, align int) []byte {
	var t T
	base := int(uintptr(unsafe.Pointer(unsafe.SliceData(a.items))) - uintptr(unsafe.Pointer(unsafe.SliceData(a.mem))))
	lo := from * int(unsafe.Sizeof(t))
	hi := to * int(unsafe.Sizeof(t))
	lo = (lo + align - 1) &^ (align - 1)
	hi &^= align - 1
	if lo >= hi {
		return nil
	}
	return a.mem[base+lo : base+hi]
}

// populate makes the memory of items [from, to) present, so that the first write to it costs no page fault. It may run
// beside a goroutine that uses the arena: contents do not change.
func (a *arena[T]) populate(from, to int) {
	if b := a.span(from, to, 4096); b != nil {
		// MADV_POPULATE_WRITE is Linux 5.14; before, the first writes fault, which costs time and nothing else.
		_ = unix.Madvise(b, unix.MADV_POPULATE_WRITE)
	}
}

// release gives the physical memory of items [from, to) back, as far as it covers whole huge pages. They read as zero
// afterwards. Only the arena's user may call it.
func (a *arena[T]) release(from, to int) {
	if b := a.span(from, to, hugePage); b != nil {
		_ = unix.Madvise(b, unix.MADV_DONTNEED)
	}
}

// close gives the mapping back. The arena must not be used afterwards.
func (a *arena[T]) close() error {
	if a.mem == nil {
		return nil
	}
	mem := a.mem
	a.mem, a.items = nil, nil
	return unix.Munmap(mem)
}

// sameKey is a == b in five comparisons without a call.
func sameKey(a, b *packet.Key) bool {
	x := (*[5]uint64)(unsafe.Pointer(a))
	y := (*[5]uint64)(unsafe.Pointer(b))
	return (x[4]^y[4])|(x[3]^y[3])|(x[1]^y[1])|(x[2]^y[2])|(x[0]^y[0]) == 0
}

// tcp, sctp and gre return the room as the state of the protocol's tracker.
func (c *cold) tcp() *tcpState   { return (*tcpState)(unsafe.Pointer(c)) }
func (c *cold) sctp() *sctpState { return (*sctpState)(unsafe.Pointer(c)) }
func (c *cold) gre() *greState   { return (*greState)(unsafe.Pointer(c)) }
