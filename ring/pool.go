package ring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"corewire/internal/packet"

	"golang.org/x/sys/unix"
)

// Headroom is the number of bytes before the frame in every chunk: XDP_PACKET_HEADROOM (include/uapi/linux/bpf.h).
// The kernel puts received frames there; Alloc does the same.
const Headroom = 256

// Limits and defaults of a pool.
const (
	MinChunkSize     = 2048 // smallest chunk that the kernel takes: XDP_UMEM_MIN_CHUNK_SIZE (include/net/xdp_sock.h)
	MaxChunkSize     = 4096 // largest one, in aligned mode: a page
	DefaultChunkSize = 2048 // holds frames up to 1792 bytes, so any with a standard MTU and VLAN tags; 4096 costs twice the memory and cache reach
	DefaultChunks    = 16384
	maxWorkers       = 1024
	maxChunks        = 1 << 22 // per worker; a chunk number of the whole pool fits 32 bits
	stageSize        = 64      // foreign chunks collected before they are sent home: one burst
)

// PoolConfig describes a frame pool. Zero values mean defaults.
type PoolConfig struct {
	Workers   int // number of homes, 1 to 1024; default 1
	Chunks    int // chunks per worker, 1 to 4 Mi; default 16384 (32 MiB)
	ChunkSize int // bytes per chunk, 2048 or 4096; default 2048
}

func (c *PoolConfig) fill() error {
	if c.Workers == 0 {
		c.Workers = 1
	}
	if c.Chunks == 0 {
		c.Chunks = DefaultChunks
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = DefaultChunkSize
	}
	switch {
	case c.Workers < 1 || c.Workers > maxWorkers:
		return fmt.Errorf("make frame pool: %d workers (1 to %d are possible)", c.Workers, maxWorkers)
	case c.Chunks < 1 || c.Chunks > maxChunks:
		return fmt.Errorf("make frame pool: %d chunks per worker (1 to %d are possible)", c.Chunks, maxChunks)
	case c.ChunkSize != MinChunkSize && c.ChunkSize != MaxChunkSize:
		return fmt.Errorf("make frame pool: chunk size %d (2048 or 4096)", c.ChunkSize)
	}
	return nil
}

// Pool is the memory of all frames of all workers and both ports: chunks of equal size in one mapping, which AF_XDP
// drivers register as UMEM. Because there is only one, a frame that arrived at one port and one worker is transmitted
// at the other port and by another worker without a copy.
//
// Chunk number c has its home with worker c / Chunks, for good. Only that worker hands it out; wherever it ends up, it
// goes back there. So a free list has one user and needs no lock, and no worker can drain another one's memory.
//
//	worker 0's home              worker 1's home
//	┌────┬────┬────┬───┐         ┌────┬────┬────┬───┐
//	│ 0  │ 1  │ 2  │ … │         │ n  │n+1 │n+2 │ … │
//	└────┴────┴────┴───┘         └────┴────┴────┴───┘
//	free list 0 ◄── return ring ── worker 1 (completed or released chunk 2)
//
// A return ring has room for every chunk of its home, so it is never full and giving a chunk back cannot fail.
//
// The pool lives until the last of the wires over it is closed.
type Pool struct {
	area    []byte // the mapping, whole chunks
	mapping []byte // what to unmap
	shift   uint   // log2 of the chunk size; &63 where it is used spares the compiler a check
	mask    uint64 // chunk size - 1
	each    uint32 // chunks per worker
	total   uint32 // chunks
	homes   []home
	refs    atomic.Int32 // wires over this pool
	owners  owners       // who owns each chunk; empty without the build tag cwdebug
}

// home is one worker's part of the pool's bookkeeping. Only that worker touches it, but for the consumer side's
// counterpart of back, where the other workers push.
type home struct {
	pool   *Pool
	id     uint32
	low    uint32          // first chunk at home here
	free   []uint32        // chunk numbers, last in first out: the chunk freed last is still in the cache
	back   []*SPSC[uint32] // by sending worker: chunks coming home; nil at id
	stage  [][]uint32      // by home: foreign chunks collected to be sent there; nil at id
	staged int             // chunks in stage
	given  uint64          // frames given to the caller by this worker's wire
	taken  uint64          // frames taken back from the caller by this worker's wire
	_      [line]byte
}

// NewPool maps the memory and puts every chunk into its home's free list. The pages are populated, so that no page
// fault happens later, and huge where the system allows it. The caller makes wires over it, or calls close.
func NewPool(c PoolConfig) (*Pool, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	return newPool(c, mapMemory)
}

// newPool makes a pool over memory from mmap, for any chunk size that is a power of two above Headroom.
func newPool(c PoolConfig, mmap func(size int) ([]byte, error)) (*Pool, error) {
	p := &Pool{each: uint32(c.Chunks), total: uint32(c.Chunks * c.Workers)}
	for 1<<p.shift < c.ChunkSize {
		p.shift++
	}
	p.mask = 1<<p.shift - 1
	size := int(p.total) << p.shift
	m, err := mmap(size)
	if err != nil {
		return nil, fmt.Errorf("map frame pool of %d MiB: %w (fewer chunks per worker need less)", size>>20, err)
	}
	p.mapping, p.area = m, m[:size:size]
	p.owners.init(int(p.total))
	p.homes = make([]home, c.Workers)
	for i := range p.homes {
		h := &p.homes[i]
		h.pool, h.id, h.low = p, uint32(i), uint32(i)*p.each
		h.free = make([]uint32, p.each)
		for j := range h.free {
			h.free[j] = h.low + p.each - 1 - uint32(j) // lowest chunk on top
		}
		h.back = make([]*SPSC[uint32], c.Workers)
		h.stage = make([][]uint32, c.Workers)
		for j := range h.back {
			if j != i {
				h.back[j] = NewSPSC[uint32](c.Chunks)
				h.stage[j] = make([]uint32, 0, stageSize)
			}
		}
	}
	return p, nil
}

// hugePage is the size of a huge page on the architectures at hand (amd64, arm64 with 4 KiB pages). Where it differs,
// MAP_HUGETLB fails and ordinary pages are used.
const hugePage = 2 << 20

// mapMemory maps size bytes or a little more, populated: from the reserved huge pages if there are enough of them, else
// transparent huge pages where they are allowed, else ordinary ones.
func mapMemory(size int) ([]byte, error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if huge := (size + hugePage - 1) &^ (hugePage - 1); size >= hugePage {
		if m, err := unix.Mmap(-1, 0, huge, prot, flags|unix.MAP_HUGETLB|unix.MAP_POPULATE); err == nil {
			return m, nil
		}
	}
	m, err := unix.Mmap(-1, 0, size, prot, flags)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE) // a hint: a kernel without transparent huge pages says EINVAL
	if unix.Madvise(m, unix.MADV_POPULATE_WRITE) != nil {
		for i := 0; i < len(m); i += os.Getpagesize() { // kernels before 5.14
			m[i] = 0
		}
	}
	return m, nil
}

// mapLazily maps size bytes of which only the pages that are used take memory.
func mapLazily(size int) ([]byte, error) {
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return m, nil
}

// Room returns the number of bytes that a frame of Alloc can hold, and the longest frame that can be received.
func (p *Pool) Room() int { return 1<<p.shift - Headroom }

// Workers returns the number of homes.
func (p *Pool) Workers() int { return len(p.homes) }

// Chunks returns the number of chunks of all workers together.
func (p *Pool) Chunks() int { return int(p.total) }

// ChunkSize returns the size of a chunk in bytes.
func (p *Pool) ChunkSize() int { return 1 << p.shift }

// retain counts one more wire over the pool.
func (p *Pool) retain() { p.refs.Add(1) }

// release counts one wire less; the last one unmaps the memory.
func (p *Pool) release() error {
	if p.refs.Add(-1) > 0 {
		return nil
	}
	return p.close()
}

// close unmaps the memory. No frame of the pool may be touched afterwards.
func (p *Pool) close() error {
	if p.mapping == nil {
		return errors.New("close frame pool: closed already")
	}
	m := p.mapping
	p.area, p.mapping = nil, nil
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("unmap frame pool: %w", err)
	}
	return nil
}

// frame returns the frame of n bytes at addr. It reports false if that is not within one chunk of the pool, which only
// a corrupt descriptor can ask for.
func (p *Pool) frame(addr uint64, n uint32) (packet.Frame, bool) {
	if addr >= uint64(len(p.area)) {
		return packet.Frame{}, false
	}
	end := (addr | p.mask) + 1
	if uint64(n) > end-addr {
		return packet.Frame{}, false
	}
	return packet.Frame{Data: p.area[addr : addr+uint64(n) : end], Addr: addr}, true
}

// chunk returns the number of the chunk that addr is in. Only for an addr that was range-checked or comes from Frame.
func (p *Pool) chunk(addr uint64) uint32 { return uint32(addr >> (p.shift & 63)) }

// base returns the address of chunk c.
func (p *Pool) base(c uint32) uint64 { return uint64(c) << (p.shift & 63) }

// give returns chunk c to its home; from says who owned it. h is the worker that has it in hand.
func (h *home) give(c uint32, from owner) {
	if c-h.low < h.pool.each {
		h.pool.owners.move(c, from, ownerFree)
		h.free = append(h.free, c) // never grows: the list has room for every chunk at home here
		return
	}
	h.pool.owners.move(c, from, ownerReturn)
	to := c / h.pool.each
	s := append(h.stage[to], c)
	h.stage[to] = s
	h.staged++
	if len(s) == stageSize {
		h.send(int(to))
	}
}

// send pushes the chunks staged for worker to into its return ring.
func (h *home) send(to int) {
	s := h.stage[to]
	h.pool.homes[to].back[h.id].Push(s) // takes all: the ring has room for every chunk of that home
	h.staged -= len(s)
	h.stage[to] = s[:0]
}

// settle sends the staged foreign chunks home and collects the own ones that came back.
func (h *home) settle() {
	if h.staged > 0 {
		for i := range h.stage {
			if len(h.stage[i]) > 0 {
				h.send(i)
			}
		}
	}
	for i, r := range h.back {
		if i == int(h.id) {
			continue
		}
		n := r.Pop(h.free[len(h.free):cap(h.free)])
		if n > 0 {
			got := h.free[len(h.free) : len(h.free)+n]
			h.pool.owners.moveAll(got, ownerReturn, ownerFree)
			h.free = h.free[:len(h.free)+n]
		}
	}
}

// pop takes one chunk from the free list, which must not be empty, for the owner to.
func (h *home) pop(to owner) uint32 {
	n := len(h.free) - 1
	c := h.free[n]
	h.free = h.free[:n]
	h.pool.owners.move(c, ownerFree, to)
	return c
}

// alloc is Wire.Alloc.
func (h *home) alloc(f []packet.Frame) int {
	if len(h.free) < len(f) {
		h.settle()
	}
	n := min(len(f), len(h.free))
	for i := range f[:n] {
		c := h.pop(ownerCaller)
		f[i], _ = h.pool.frame(h.pool.base(c)+Headroom, uint32(h.pool.Room()))
	}
	h.given += uint64(n)
	return n
}

// put is Wire.Release.
func (h *home) put(f []packet.Frame) {
	for i := range f {
		h.pool.owners.check(h.pool, &f[i])
		h.give(h.pool.chunk(f[i].Addr), ownerCaller)
	}
	h.taken += uint64(len(f))
}

// account fills in the places that the pool knows.
func (h *home) account(a *Account) {
	*a = Account{Total: int(h.pool.each), Free: len(h.free), Returning: h.staged, Caller: int(h.given - h.taken)}
	for i, r := range h.back {
		if i != int(h.id) {
			a.Returning += r.Len()
		}
	}
}
