package ring

import (
	"fmt"
	"sync/atomic"
)

// line is the distance in bytes kept between data of different writers: two cache lines, because Intel's adjacent-line
// prefetcher fetches them in pairs.
const line = 128

// SPSC is a bounded queue between two goroutines: one pushes, the other pops. Both sides work in batches with one
// atomic store each, and look at the other side's index only when the cached one says that it must.
//
// Elements are copied. A popped slot keeps its old value until it is overwritten, so a T with pointers into the heap
// keeps up to Cap old values alive.
type SPSC[T any] struct {
	slots []T    // written by the producer; power of two
	mask  uint64 // len(slots) - 1
	_     [line]byte

	tail     atomic.Uint64 // next slot to write; stored by the producer only
	headSeen uint64        // the producer's last look at head
	_        [line - 16]byte

	head     atomic.Uint64 // next slot to read; stored by the consumer only
	tailSeen uint64        // the consumer's last look at tail
	_        [line - 16]byte
}

// NewSPSC makes a queue for at least capacity elements (rounded up to a power of two, 1 to 1<<30). It panics on a
// capacity outside that range.
func NewSPSC[T any](capacity int) *SPSC[T] {
	if capacity < 1 || capacity > 1<<30 {
		panic(fmt.Sprintf("ring: SPSC capacity %d is not between 1 and 1<<30", capacity))
	}
	n := ceilPow2(capacity)
	return &SPSC[T]{slots: make([]T, n), mask: uint64(n - 1)}
}

// ceilPow2 returns the smallest power of two that is at least n, for n ≥ 1.
func ceilPow2(n int) int {
	p := 1
	for p < n {
		p <<= 1
	}
	return p
}

// Push appends as many elements of batch as there is room for, in order, and returns how many. Producer only.
func (r *SPSC[T]) Push(batch []T) int {
	n := min(r.room(len(batch)), len(batch))
	r.put(batch[:n])
	return n
}

// PushAll appends all elements of batch or none, and reports whether it did. They become visible to the consumer
// together. Producer only.
func (r *SPSC[T]) PushAll(batch []T) bool {
	if r.room(len(batch)) < len(batch) {
		return false
	}
	r.put(batch)
	return true
}

// room returns the number of free slots, exact only as far as it is needed to answer whether want fit.
func (r *SPSC[T]) room(want int) int {
	tail := r.tail.Load()
	room := len(r.slots) - int(tail-r.headSeen)
	if room < want {
		r.headSeen = r.head.Load()
		room = len(r.slots) - int(tail-r.headSeen)
	}
	return room
}

// put writes batch, for which there is room, and publishes it.
func (r *SPSC[T]) put(batch []T) {
	if len(batch) == 0 {
		return
	}
	tail := r.tail.Load()
	at := int(tail & r.mask)
	n := copy(r.slots[at:], batch)
	copy(r.slots, batch[n:])
	r.tail.Store(tail + uint64(len(batch)))
}

// Pop moves up to len(batch) elements into batch, oldest first, and returns how many. Consumer only.
func (r *SPSC[T]) Pop(batch []T) int {
	head := r.head.Load()
	have := int(r.tailSeen - head)
	if have < len(batch) {
		r.tailSeen = r.tail.Load()
		have = int(r.tailSeen - head)
	}
	n := min(have, len(batch))
	if n == 0 {
		return 0
	}
	at := int(head & r.mask)
	first := copy(batch[:n], r.slots[at:])
	copy(batch[first:n], r.slots)
	r.head.Store(head + uint64(n))
	return n
}

// Len returns the number of elements queued. Any goroutine; exact when both sides are quiet.
func (r *SPSC[T]) Len() int {
	head := r.head.Load() // first: tail only grows, so the difference cannot be negative
	n := int(r.tail.Load() - head)
	return min(n, len(r.slots))
}

// Cap returns the number of elements that fit.
func (r *SPSC[T]) Cap() int { return len(r.slots) }
