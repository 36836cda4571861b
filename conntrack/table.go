package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"corewire/internal/packet"
)

// Config says how large a Table is and what it shares with the other shards.
type Config struct {
	// Capacity is the maximum that all shards share; nil makes one of the default size for this Table alone.
	Capacity *Capacity
	// Expectations is the store that all shards share; nil makes one for this Table alone.
	Expectations *Expectations
	// Settings are the timeouts and switches to begin with; nil means Linux' defaults.
	Settings *Settings
	// Secret keys the hash, so that nobody outside can choose flows that collide. It must come from a random source;
	// zero lets New draw one.
	Secret [packet.HasherSecret]uint64
	// Buckets is the least number of buckets (of 12 slots) to keep; 0 lets the table begin small and grow as it fills.
	Buckets int
	// Reserve is the most entries this shard can ever hold, whatever the Capacity says: address space is reserved for
	// them, memory is not. 0 means DefaultReserve.
	Reserve int
}

// DefaultReserve is the address space that a Table takes if not told otherwise, in entries: 16 Mi, 2 GiB of addresses.
const DefaultReserve = 1 << 24

// populateAtStart is for how many entries New makes memory present at most, 32 MiB; less where the shard's even share of
// the maximum is less. More would make the start slow where the maximum is large.
const populateAtStart = 1 << 18

// Table is one shard of the connection table. One goroutine uses it; the methods that say so may be called from others.
type Table struct {
	hot     arena[entry]
	cold    arena[cold]
	due     arena[Tick] // per entry a time not after its deadline; what the sweep reads
	index   index
	slots   *slots
	hasher  packet.Hasher
	fold    uint64 // from the secret as well
	set     *Settings
	cap     *Capacity
	credit  int64 // credits in hand, not used by an entry
	live    int   // entries in the table
	reserve int

	pending     uint32 // index of the Fresh entry, which has its credit, that waits for Confirm or Discard; 0 if none
	pendingHash uint64
	why         Reason // of the last packet that was INVALID

	minBuckets uint64
	entered    int           // entries made since the last Expire: so many buckets may be split by the next
	acct       arena[acct]   // side array; reserved when accounting is first switched on
	stamp      arena[uint64] // side array: when a connection began, extended ticks in ms
	aids       arena[aid]    // side array: helpers and masters; reserved when first needed

	labels arena[Labels] // side array; reserved when a label is first set

	policies policies
	tickets  tickets
	template *Template // of the packets being tracked; nil: none

	events     EventSink // nil: nobody listens
	event      [1]Event  // room for the one that is being pushed
	eventsLost uint64

	expect *Expectations
	own    *Expectations // to be closed with the table
	shard  uint32        // the store's number for this table
	buried uint32        // keys of the store's that this shard has removed

	sweep sweep
	stats Counters
	sink  uint64 // keeps the touching loads of Hash and Touch alive
}

// New makes an empty Table. The caller must Close it.
func New(c Config) (*Table, error) {
	if c.Capacity == nil {
		c.Capacity = NewCapacity(DefaultBuckets(8<<30), 1)
	}
	if c.Settings == nil {
		c.Settings = DefaultSettings()
	}
	if c.Reserve == 0 {
		c.Reserve = max(DefaultReserve, c.Capacity.Max()+1)
	}
	if c.Reserve < 1 || c.Reserve > 1<<30 {
		return nil, fmt.Errorf("create connection table: reserve of %d entries is out of range (1 to %d)", c.Reserve, 1<<30)
	}
	if c.Buckets < 0 || c.Buckets > 1<<30/bucketLoad {
		return nil, fmt.Errorf("create connection table: %d buckets are out of range (0 to %d)", c.Buckets, 1<<30/bucketLoad)
	}
	for c.Secret == [packet.HasherSecret]uint64{} {
		var b [8 * packet.HasherSecret]byte
		rand.Read(b[:]) // never fails
		for i := range c.Secret {
			c.Secret[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
	}
	t := &Table{hasher: packet.NewHasher(c.Secret), set: c.Settings, cap: c.Capacity}
	t.fold = t.hasher.Sum(&packet.Key{Proto: 255})
	// One more, because index 0 means no entry, and one for a Fresh connection; whole words for the slots.
	n := (c.Reserve + 2 + 63) &^ 63
	t.reserve = n
	var err error
	if t.hot, err = newArena[entry](n); err == nil {
		if t.cold, err = newArena[cold](n); err == nil {
			if t.due, err = newArena[Tick](n); err == nil {
				t.index.arena, err = newArena[bucket](max(2*minBuckets, c.Buckets, n/(bucketLoad/2)))
			}
		}
	}
	if err == nil {
		t.slots, err = newSlots(n)
	}
	if err == nil {
		err = t.sideArrays()
	}
	if t.expect = c.Expectations; err == nil && t.expect == nil {
		t.own, err = NewExpectations(int(c.Settings.expectMax))
		t.expect = t.own
	}
	if err == nil {
		t.shard = t.expect.join()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create connection table: %w", err), t.Close())
	}
	t.index.mask = minBuckets - 1
	t.SetBuckets(c.Buckets)
	t.resize(int(t.minBuckets))
	share := populateAtStart
	if m := c.Capacity.Max(); m != 0 {
		share = min(share, m/int(c.Capacity.shards))
	}
	t.Populate(share)
	return t, nil
}

// Close returns the memory and the credits. The Table must not be used afterwards.
func (t *Table) Close() error {
	t.settle()
	t.cap.release(t.credit + int64(t.live))
	t.credit, t.live = 0, 0
	errs := []error{t.hot.close(), t.cold.close(), t.due.close(), t.index.arena.close(), t.acct.close(), t.stamp.close(), t.aids.close(), t.labels.close(), t.policies.of.close(), t.tickets.head.close(), t.tickets.nodes.close()}
	if t.slots != nil {
		errs = append(errs, t.slots.close())
	}
	if t.own != nil {
		errs = append(errs, t.own.Close())
		t.own = nil
	}
	return errors.Join(errs...)
}

// settle ends the Fresh connection of a caller that neither confirmed nor discarded it.
func (t *Table) settle() {
	if t.pending != 0 {
		t.forgo()
	}
}

// SetSettings exchanges the settings, between two bursts. Connections keep their deadlines until their next packet, and
// begin to be counted (nf_conntrack_acct, nf_conntrack_timestamp) only if they are made afterwards, as in Linux.
func (t *Table) SetSettings(s *Settings) error {
	old := t.set
	t.set = s
	if err := t.sideArrays(); err != nil {
		t.set = old
		return fmt.Errorf("change settings: %w", err)
	}
	t.follow()
	if s.expectMax != old.expectMax {
		t.expect.SetMax(int(s.expectMax))
	}
	return nil
}

// sideArrays reserves the side arrays that the settings ask for.
func (t *Table) sideArrays() (err error) {
	if t.set.acct != 0 && t.acct.items == nil {
		if t.acct, err = newArena[acct](t.reserve); err != nil {
			return err
		}
	}
	if t.set.timestamp != 0 && t.stamp.items == nil {
		t.stamp, err = newArena[uint64](t.reserve)
	}
	return err
}

// SetBuckets sets the least number of buckets to keep. More are split off as the table fills, one at a time, and
// Expire takes them back as it empties: neither ever stalls the caller.
func (t *Table) SetBuckets(n int) {
	t.minBuckets = min(uint64(max(n, minBuckets)), uint64(len(t.index.arena.items)))
}

// Buckets returns the number of buckets now.
func (t *Table) Buckets() int { return t.index.count() }

// Len returns the number of entries, expired ones that were not swept yet included, as nf_conntrack_count does.
func (t *Table) Len() int { return t.live }

// Populate makes the memory ready that n entries in all will need, so that the table grows without page faults in its
// owner's bursts (a fault on a huge page takes some hundred microseconds). New has done so for the first 2¹⁸. It may be
// called from any goroutine while the table is in use.
func (t *Table) Populate(n int) {
	// The lowest indices are used first, so those that were never used are the ones not present.
	n = min(n+1, t.reserve)
	t.hot.populate(0, n)
	t.cold.populate(0, n)
	t.due.populate(0, n)
	t.index.arena.populate(0, min(max(n/(bucketLoad/2), minBuckets), len(t.index.arena.items)))
}

// PopulateBuckets makes the memory of n buckets ready, ahead of SetBuckets: the first use of a huge page may take
// milliseconds. It may be called from any goroutine while the table is in use.
func (t *Table) PopulateBuckets(n int) {
	t.index.arena.populate(0, min(max(n, minBuckets), len(t.index.arena.items)))
}

// hashOf returns the hash that places a key. The sum is universal and keyed, so that no two flows collide more often than
// random ones; but it is linear, and a range of consecutive addresses or ports would fill the buckets as unevenly as a
// rotation by a random angle does, now and then badly. The high half of a multiplication folded on the low one ends that.
func (t *Table) hashOf(k *packet.Key) uint64 {
	hi, lo := bits.Mul64(t.hasher.Sum(k)^t.fold, foldFactor)
	return hi ^ lo
}

// foldFactor is any odd number without pattern: the fraction of the golden ratio.
const foldFactor = 0x9e3779b97f4a7c15

// Hash fills Hash of every packet and begins to load the bucket that each will need: the first of the two cache misses
// of a lookup, shared by the burst. Loading has a loop of its own, short enough that the processor has a dozen misses
// under way at once; Go has no prefetch instruction, so they are plain loads whose sum nobody needs.
func (t *Table) Hash(pkts []packet.Packet) {
	if t.expect.calls.Load() != 0 {
		t.mapCalls(pkts)
	}
	for i := range pkts {
		p := &pkts[i]
		p.Hash, p.Hint = t.hashOf(&p.Key), 0
	}
	var x uint64
	for i := range pkts {
		x += t.index.arena.items[t.index.first(pkts[i].Hash)].tags0
	}
	t.sink += x
}

// touchBurst is how many packets Touch works on together: any number that keeps its notes in the first-level cache.
const touchBurst = 64

// Touch begins to load the entry that each packet will probably find, or its second bucket: the second cache miss.
// Call it after Hash and before Track. What it found is a hint for Track, which need not look into the bucket again if
// it was right: until the burst is tracked, nothing but Track, Confirm, Discard and what asks about a Conn may be called.
func (t *Table) Touch(pkts []packet.Packet) {
	var refs [touchBurst]uint32
	var late [touchBurst]uint8 // packets that are not in their first bucket, one in twenty-five or new
	var x uint64
	for len(pkts) > 0 {
		burst := pkts[:min(len(pkts), touchBurst)]
		pkts = pkts[len(burst):]
		n := 0
		for i := range burst {
			h := burst[i].Hash
			b := &t.index.arena.items[t.index.first(h)]
			m := b.match(tagOf(h))
			if m == 0 {
				x += t.index.arena.items[t.index.second(h)].tags0
				refs[i] = 0
				late[n&(touchBurst-1)] = uint8(i)
				n++
				continue
			}
			refs[i] = b.ref[bits.TrailingZeros32(m)]
		}
		for i := range burst {
			ref := refs[i]
			burst[i].Hint = uint64(ref)
			x += t.hot.items[ref].key.A.Hi
			if burst[i].Proto == packet.ProtoTCP {
				c := &t.cold.items[ref] // may lie across two lines
				x += uint64(c[0]) + uint64(c[len(c)-1])
			}
		}
		for _, i := range late[:n] {
			h := burst[i].Hash
			b := &t.index.arena.items[t.index.second(h)]
			if m := b.match(tagOf(h)); m != 0 {
				x += t.hot.items[b.ref[bits.TrailingZeros32(m)]].key.A.Hi
			}
		}
	}
	t.sink += x
}

// find returns the entry of a key with that hash, or 0. An entry that has expired is removed on the way and does not
// count, as in ____nf_conntrack_find.
func (t *Table) find(k *packet.Key, h uint64, now Tick) uint32 {
	tag := tagOf(h)
	b := t.index.first(h)
	for {
		x := &t.index.arena.items[b]
		for m := x.match(tag); m != 0; m &= m - 1 {
			ref := x.ref[bits.TrailingZeros32(m)]
			e := &t.hot.items[ref]
			if !sameKey(&e.key, k) {
				continue
			}
			if e.expired(now) {
				t.remove(ref, h)
				t.stats.Expired++
				return 0
			}
			return ref
		}
		s := t.index.second(h)
		if b == s {
			return 0
		}
		b = s
	}
}

// peek is find without the clock: an entry that has expired counts, and nothing changes.
func (t *Table) peek(k *packet.Key, h uint64) uint32 {
	for _, b := range [2]uint64{t.index.first(h), t.index.second(h)} {
		x := &t.index.arena.items[b]
		for m := x.match(tagOf(h)); m != 0; m &= m - 1 {
			if ref := x.ref[bits.TrailingZeros32(m)]; sameKey(&t.hot.items[ref].key, k) {
				return ref
			}
		}
	}
	return 0
}

// remove takes an entry with that hash out of the table and returns its credit. Its memory stays readable until the
// next Track.
func (t *Table) remove(ref uint32, h uint64) {
	t.unlink(ref, h)
	t.giveCredit()
}

// unlink is remove without the credit, which passes to the entry that comes in its place.
func (t *Table) unlink(ref uint32, h uint64) {
	tag := tagOf(h)
	x := &t.index.arena.items[t.index.first(h)]
	i := x.slotOf(tag, ref)
	if i < 0 {
		x = &t.index.arena.items[t.index.second(h)]
		i = x.slotOf(tag, ref)
	}
	x.put(i, 0, 0)
	if t.events != nil {
		t.emit(EventDestroy, 0, ref, t.sweep.last)
	}
	e := &t.hot.items[ref]
	if uint32(e.status)&StatusHelper != 0 {
		t.disown(e, ref)
	}
	if e.flags&entryTicket != 0 {
		t.handBack(e, ref)
	}
	e.status = e.status&^uint16(StatusConfirmed) | uint16(StatusDying)
	t.slots.remove(ref)
	t.live--
	t.stats.Delete++
}

// insertMoves is how many entries at most are moved for one that comes. A small table that a burst fills to eleven of twelve slots,
// before it may grow, has both buckets of many a key full; with two moves there are up to 288 others to choose from.
const insertMoves = 2

// insert enters ref, whose key has hash h, into its first bucket, or its second, or into the place of an entry that moves to
// its own other bucket. It reports false if there is none.
func (t *Table) insert(ref uint32, h uint64) bool {
	first, second := t.index.first(h), t.index.second(h)
	for moves := range insertMoves + 1 {
		for _, b := range [2]uint64{first, second} {
			if i := t.slotIn(b, moves); i >= 0 {
				t.index.arena.items[b].put(i, tagOf(h), ref)
				return true
			}
		}
	}
	return false
}

// slotIn returns an empty slot of a bucket, after so many moves; -1 if there is none. A bucket on the way is never entered again: all
// before the last one are full, and the last one is only looked at.
func (t *Table) slotIn(b uint64, moves int) int {
	x := &t.index.arena.items[b]
	if f := x.free(); f != 0 {
		return bits.TrailingZeros32(f)
	}
	if moves == 0 {
		return -1
	}
	for i, r := range x.ref {
		g := t.hashOf(&t.hot.items[r].key)
		other := t.index.first(g)
		if other == b {
			other = t.index.second(g)
		}
		if other == b {
			continue
		}
		if j := t.slotIn(other, moves-1); j >= 0 {
			t.index.arena.items[other].put(j, tagOf(g), r)
			x.put(i, 0, 0)
			return i
		}
	}
	return -1
}

// growBatch is how many buckets grow splits together: enough that the cache misses on their entries overlap.
const growBatch = 8

// grow splits up to n buckets: the entries that the longer hash sends to the new bucket move there, and those that are
// here as their second choice go home if they can. It returns how many it split: less than n after growBatch, at the
// end of a level, and at the end of the reserved address space.
func (t *Table) grow(n int) int {
	x := &t.index
	n = min(n, growBatch, int(x.mask+1-x.split), len(x.arena.items)-x.count())
	if n <= 0 {
		return 0
	}
	var hash [growBatch][bucketSlots]uint64
	var refs [growBatch][bucketSlots]uint32
	var touch uint64
	for i := range n {
		refs[i] = x.arena.items[x.split+uint64(i)].ref
		for _, r := range refs[i] {
			touch += t.hot.items[r].key.A.Hi
		}
	}
	t.sink += touch
	for i := range n {
		for j, r := range refs[i] {
			hash[i][j] = t.hashOf(&t.hot.items[r].key)
		}
	}
	for i := range n {
		mask, old := x.mask, x.split
		from, to := &x.arena.items[old], &x.arena.items[x.count()]
		if x.split++; x.split > x.mask {
			x.mask, x.split = x.mask<<1|1, 0
		}
		for j, r := range from.ref {
			if r == 0 {
				continue
			}
			h := hash[i][j]
			if r != refs[i][j] {
				h = t.hashOf(&t.hot.items[r].key) // it came home a moment ago
			}
			if h&mask != old {
				home := &x.arena.items[x.first(h)]
				if f := home.free(); f != 0 {
					home.put(bits.TrailingZeros32(f), from.tag(j), r)
					from.put(j, 0, 0)
					continue
				}
				h = bits.RotateLeft64(h, 32)
			}
			if h&(mask+1) != 0 {
				to.put(j, from.tag(j), r)
				from.put(j, 0, 0)
			}
		}
	}
	return n
}

// shrink merges the last bucket into the one that it was split from. It reports false where there is no room.
func (t *Table) shrink() bool {
	x := &t.index
	n := uint64(x.count())
	if n <= t.minBuckets {
		return false
	}
	mask, split := x.mask, x.split
	if split == 0 {
		mask >>= 1
		split = mask + 1
	}
	split--
	last, into := &x.arena.items[n-1], &x.arena.items[split]
	// Those too many go to their other bucket.
	excess := bucketSlots - bits.OnesCount32(last.free()) - bits.OnesCount32(into.free())
	for i, r := range last.ref {
		if excess <= 0 {
			break
		}
		if r == 0 {
			continue
		}
		h := t.hashOf(&t.hot.items[r].key)
		other := x.first(h)
		if other == n-1 {
			other = x.second(h)
		}
		y := &x.arena.items[other]
		if f := y.free(); f != 0 && y != into && y != last {
			y.put(bits.TrailingZeros32(f), last.tag(i), r)
			last.put(i, 0, 0)
			excess--
		}
	}
	if excess > 0 {
		return false
	}
	for i, r := range last.ref {
		if r != 0 {
			into.put(bits.TrailingZeros32(into.free()), last.tag(i), r)
			last.put(i, 0, 0)
		}
	}
	x.mask, x.split = mask, split
	return true
}

// resize splits or merges up to n buckets, if the table is too full or too empty. A level that was begun is finished
// soon, because while it lasts the buckets that were not split carry twice the load of the others.
func (t *Table) resize(n int) {
	for n > 0 {
		count := t.index.count()
		if t.live > count*bucketLoad || t.index.split != 0 && t.live > count*(bucketLoad/2-1) || count < int(t.minBuckets) {
			done := t.grow(n)
			if done == 0 {
				return
			}
			n -= done
			continue
		}
		if t.live >= count*(bucketLoad/3) || !t.shrink() {
			return
		}
		n--
	}
}
