package conntrack

import "sync/atomic"

// Capacity is the one maximum of entries that all shards share, however uneven their traffic is: a count of credits.
// A shard needs one for every entry. It takes and returns them in small batches, so that the shared cache line is not
// touched for every connection; the batch shrinks to one where the maximum is small, and while the table is nearly
// full shards keep none in hand, so that the maximum is exact when it matters. Used never exceeds Max except after
// SetMax has lowered it below. All methods may be called from any goroutine.
type Capacity struct {
	max    atomic.Int64
	used   atomic.Int64  // credits that shards hold, those in hand included
	gc     atomic.Uint32 // counts requests for the collection at 95 %
	shards int64
}

// capacityBatch is the most credits that move at once. Larger batches would save little (an atomic addition per 64
// connections is under a nanosecond each) and leave more in idle shards' hands.
const capacityBatch = 64

// NewCapacity returns a budget of at most max entries for the given number of shards. A max of 0 sets no bound, as
// nf_conntrack_max = 0 does; each Table's own Config.Reserve still holds.
func NewCapacity(max, shards int) *Capacity {
	c := &Capacity{shards: int64(shards)}
	c.max.Store(int64(max))
	return c
}

// Max returns the maximum.
func (c *Capacity) Max() int { return int(c.max.Load()) }

// SetMax changes the maximum. Entries above a lowered one stay until they expire or are evicted, as in Linux.
func (c *Capacity) SetMax(max int) { c.max.Store(int64(max)) }

// Used returns the number of credits given out: the entries of all shards and up to capacityBatch for each shard.
func (c *Capacity) Used() int { return int(c.used.Load()) }

// batch returns how many credits a shard may take or keep at once: so few that all shards together can hold back no
// more than a sixteenth of what is left.
func (c *Capacity) batch() int64 {
	m := c.max.Load()
	if m == 0 {
		return capacityBatch
	}
	return min(capacityBatch, max(1, (m-c.used.Load())/(16*c.shards)))
}

// acquire returns the number of credits granted: 1 to capacityBatch, or 0 at the maximum.
func (c *Capacity) acquire() int64 {
	for {
		m, u, n := c.max.Load(), c.used.Load(), c.batch()
		if m != 0 && u >= m {
			return 0
		}
		if c.used.CompareAndSwap(u, u+n) {
			return n
		}
	}
}

// Reserve takes n credits at once, or none, and reports whether it did: for connections that are imported.
func (c *Capacity) Reserve(n int) bool {
	for {
		m, u := c.max.Load(), c.used.Load()
		if m != 0 && u+int64(n) > m {
			return false
		}
		if c.used.CompareAndSwap(u, u+int64(n)) {
			return true
		}
	}
}

// Return gives n credits back that Reserve took and that were not needed.
func (c *Capacity) Return(n int) { c.release(int64(n)) }

// release returns n credits.
func (c *Capacity) release(n int64) { c.used.Add(-n) }

// crowded reports whether at least 95 % of the maximum are in use (nf_conntrack_max95 in gc_worker).
func (c *Capacity) crowded() bool {
	m := c.max.Load()
	return m >= 100 && c.used.Load() >= m/100*95
}

// DefaultBuckets returns Linux' default for nf_conntrack_buckets on a machine with that many bytes of memory
// (nf_conntrack_init_start in net/netfilter/nf_conntrack_core.c, on 64 bits): a 16384th of memory in pointers of eight
// bytes, 65536 above 1 GiB, 262144 above 4 GiB, at least 1024. It is Linux' default for nf_conntrack_max as well.
func DefaultBuckets(memory uint64) int {
	switch {
	case memory > 4<<30:
		return 262144
	case memory > 1<<30:
		return 65536
	}
	return max(1024, int(memory/16384/8))
}
