package conntrack

import "math/bits"

// bucketSlots is the number of references of a bucket: what fits into a cache line with a tag each.
const bucketSlots = 12

// bucketLoad is the mean number of references per bucket at which the table begins to double: 10 of 12, that is 6.4
// bytes an entry. A power of two of entries runs at 8: 8 bytes an entry. More than 10 would send more entries to their
// second bucket (some percent at 10, one at 8), where a packet costs one cache miss more.
const bucketLoad = 10

// bucket is one cache line of the hash table: twelve slots of a one-byte tag and a reference each. A tag of 0 is an
// empty slot. Tags are compared eight at a time, so that a lookup seldom touches an entry that is not the wanted one.
type bucket struct {
	tags0 uint64 // tags of slots 0 to 7, slot 0 in the lowest byte
	tags1 uint32 // tags of slots 8 to 11
	_     uint32
	ref   [bucketSlots]uint32 // entry of each slot; 0 where the tag is 0
}

// Each byte's lowest and highest bit, and the factor that gathers the highest bits of eight bytes into one byte.
const (
	byteLow  = 0x0101010101010101
	byteHigh = 0x8080808080808080
	gather   = 0x0102040810204080
)

// match returns one bit for every slot that has the tag.
func (b *bucket) match(tag uint8) uint32 {
	x := b.tags0 ^ byteLow*uint64(tag)
	y := uint64(b.tags1) ^ 0x01010101*uint64(tag) | 0xffffffff<<32
	// Exact: a byte's highest bit becomes set unless the byte is zero; no carry leaves a byte.
	x = ^((x&^byteHigh + ^uint64(byteHigh)) | x) & byteHigh
	y = ^((y&^byteHigh + ^uint64(byteHigh)) | y) & byteHigh
	return uint32(x>>7*gather>>56) | uint32(y>>7*gather>>56)<<8
}

// free returns one bit for every empty slot.
func (b *bucket) free() uint32 { return b.match(0) }

// put enters a reference into a slot; tag 0 with reference 0 empties it.
func (b *bucket) put(slot int, tag uint8, ref uint32) {
	if slot < 8 {
		b.tags0 = b.tags0&^(0xff<<(8*slot)) | uint64(tag)<<(8*slot)
	} else {
		b.tags1 = b.tags1&^(0xff<<(8*(slot-8))) | uint32(tag)<<(8*(slot-8))
	}
	b.ref[slot] = ref
}

// tag returns the tag in a slot.
func (b *bucket) tag(slot int) uint8 {
	if slot < 8 {
		return uint8(b.tags0 >> (8 * slot))
	}
	return uint8(b.tags1 >> (8 * (slot - 8)))
}

// slotOf returns the slot that holds ref under tag, or -1.
func (b *bucket) slotOf(tag uint8, ref uint32) int {
	for m := b.match(tag); m != 0; m &= m - 1 {
		if i := bits.TrailingZeros32(m); b.ref[i] == ref {
			return i
		}
	}
	return -1
}

// index is the set of buckets: a linear hash table (Litwin, "Linear hashing", VLDB 1980), which grows and shrinks by
// one bucket at a time, with two choices for every entry. An entry is in its first bucket unless that was full when it
// came; then it is in its second. Two choices, instead of a chain or the next bucket, because then a split or a merge
// concerns only the entries of one bucket.
type index struct {
	arena arena[bucket]
	mask  uint64 // the level: buckets 0 … mask exist at least; mask+1 is a power of two
	split uint64 // buckets below have been split to the next level
}

// minBuckets is the number of buckets of an empty table: 4 KiB.
const minBuckets = 64

// count returns the number of buckets.
func (x *index) count() int { return int(x.mask + 1 + x.split) }

// at returns the bucket that the low bits of h choose.
func (x *index) at(h uint64) uint64 {
	b := h & x.mask
	if b < x.split {
		b = h & (x.mask<<1 | 1)
	}
	return b
}

// first, second and tagOf take different bits of the hash: the low ones, those from 32 on, those from 24 on. (Beyond
// 2²⁴ buckets tag and first bucket share bits, and tags tell a little less.)
func (x *index) first(h uint64) uint64  { return x.at(h) }
func (x *index) second(h uint64) uint64 { return x.at(bits.RotateLeft64(h, 32)) }

// tagOf returns 1 … 255.
func tagOf(h uint64) uint8 {
	v := uint32(uint8(h >> 24))
	return uint8((v<<8-v)>>8) + 1
}
