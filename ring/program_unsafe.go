package ring

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A heartbeat is struct beat of bpf/wire.c: one cache line, the time in its first eight bytes.
const beatSize = 64

var (
	_ [beatSize - unsafe.Sizeof(programBeat{})]byte
	_ [unsafe.Sizeof(programBeat{}) - beatSize]byte
	_ [0 - unsafe.Offsetof(programBeat{}.At)]byte
)

// mapBeats maps the heartbeat array (BPF_F_MMAPABLE) into this process.
func (p *program) mapBeats(queues int) error {
	page := os.Getpagesize()
	size := (queues*beatSize + page - 1) &^ (page - 1)
	m, err := unix.Mmap(p.beats.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map heartbeat array: %w", err)
	}
	p.beat = m
	return nil
}

func (p *program) unmapBeats() error {
	m := p.beat
	if m == nil {
		return nil
	}
	p.beat = nil
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("unmap heartbeat array: %w", err)
	}
	return nil
}

// setBeat stores the heartbeat of a queue: one store to a line that only this worker writes. now is in ns of
// CLOCK_MONOTONIC; 0 means that the worker is not there.
func (p *program) setBeat(queue int, now int64) {
	b := p.beat[queue*beatSize : queue*beatSize+beatSize]
	atomic.StoreInt64((*int64)(unsafe.Pointer(unsafe.SliceData(b))), now)
}
