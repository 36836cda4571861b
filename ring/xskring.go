package ring

import "sync/atomic"

// desc is struct xdp_desc (include/uapi/linux/if_xdp.h): one frame in an RX or TX ring.
type desc struct {
	addr    uint64 // offset of the first byte in the UMEM
	len     uint32 // bytes
	options uint32 // XDP_PKT_CONTD, XDP_TX_METADATA; always 0 here
}

// needWakeup is XDP_RING_NEED_WAKEUP: the driver sleeps and must be woken to look at a fill or TX ring.
const needWakeup = 1 << 0

// xskRing is one of the four rings that user space and kernel share: fill and completion with T = uint64 (a chunk's
// address), RX and TX with T = desc. Indices run freely modulo 2³² and are masked for access.
//
//	kernel or user space writes   producer ──►  slots[producer & mask]
//	the other one reads           consumer ──►  slots[consumer & mask]
//
// The producer stores its index after the slots (release), the consumer loads it before them (acquire), and the same
// the other way round for the consumer's index; sync/atomic is at least that strong. We keep our own index in next
// and store it once a batch; the other side's index is cached in seen and reloaded only when it looks too short.
type xskRing[T uint64 | desc] struct {
	slots    []T            // shared
	mask     uint32         // len(slots) - 1
	next     uint32         // our index: the next slot to write or read
	seen     uint32         // the other side's index when we last looked
	producer *atomic.Uint32 // shared
	consumer *atomic.Uint32 // shared
	flags    *atomic.Uint32 // shared; written by the kernel
	_        [line - 24 - 4*3 - 4 - 8*3]byte
}

// room returns how many slots of a ring that we produce are free, up to want, which is at most len(slots).
func (r *xskRing[T]) room(want uint32) uint32 {
	size := uint32(len(r.slots))
	used := r.next - r.seen
	if size-used < want {
		r.seen = r.consumer.Load()
		used = r.next - r.seen
		if used > size { // nonsense in the shared index: take the ring for full
			r.seen = r.next - size
			return 0
		}
	}
	return min(size-used, want)
}

// put writes v into the i-th free slot. It becomes visible with produce.
func (r *xskRing[T]) put(i uint32, v T) { r.slots[(r.next+i)&r.mask] = v }

// produce hands the next n slots, which were written, to the kernel.
func (r *xskRing[T]) produce(n uint32) {
	r.next += n
	r.producer.Store(r.next)
}

// ready returns how many slots of a ring that we consume are filled, up to want, which is at most len(slots).
func (r *xskRing[T]) ready(want uint32) uint32 {
	have := r.seen - r.next
	if have < want {
		r.seen = r.producer.Load()
		have = r.seen - r.next
		if have > uint32(len(r.slots)) { // nonsense in the shared index: take the ring for empty
			r.seen = r.next
			return 0
		}
	}
	return min(have, want)
}

// get returns the i-th filled slot.
func (r *xskRing[T]) get(i uint32) T { return r.slots[(r.next+i)&r.mask] }

// consume gives the next n slots back to the kernel.
func (r *xskRing[T]) consume(n uint32) {
	r.next += n
	r.consumer.Store(r.next)
}

// waiting returns the number of slots of a ring that we produce that the kernel has not consumed yet, as far as it has
// told: in copy mode it publishes its index late.
func (r *xskRing[T]) waiting() uint32 { return min(r.next-r.consumer.Load(), uint32(len(r.slots))) }

// filled returns the number of slots of a ring that we consume that are ready.
func (r *xskRing[T]) filled() uint32 { return min(r.producer.Load()-r.next, uint32(len(r.slots))) }

// sleepy reports whether the kernel asks to be woken for this ring.
func (r *xskRing[T]) sleepy() bool { return r.flags.Load()&needWakeup != 0 }
