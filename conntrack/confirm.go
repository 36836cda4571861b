package conntrack

import (
	"math/bits"

	"corewire/internal/packet"
)

// Outcome is what became of a Fresh connection.
type Outcome uint8

const (
	// Confirmed: the connection is in the table (or, for a clash that Linux would resolve, was already).
	Confirmed Outcome = iota
	// Full: Track has found no room (Conn.Full); the packet must be dropped.
	Full
	// Clash: another connection with this key was entered meanwhile; the packet must be dropped.
	Clash
	// TooLong: both buckets are full, and nothing in them can move (insert); the packet must be dropped.
	TooLong
	// Stale: c is not the Fresh connection of the last Track; a mistake of the caller's.
	Stale
)

// String names the outcome as drop reports do.
func (o Outcome) String() string {
	switch o {
	case Confirmed:
		return "confirmed"
	case Full:
		return "table full"
	case Clash:
		return "clash"
	case TooLong:
		return "chain too long"
	}
	return "stale"
}

// evictionRange is how many buckets early drop looks at (NF_CT_EVICTION_RANGE).
const evictionRange = 8

// Confirm enters a Fresh connection into the table, because the rules accepted its first packet
// (__nf_conntrack_confirm). Its timeout begins now. Afterwards c is no longer Fresh.
func (t *Table) Confirm(c *Conn, now Tick) Outcome {
	if c.Fresh && c.Ref == 0 {
		c.Fresh = false
		return Full // counted by Track
	}
	ref := uint32(c.Ref)
	if !c.Fresh || ref != t.pending {
		return Stale
	}
	c.Fresh = false
	t.pending = 0 // its credit is the entry's
	e := &t.hot.items[ref]
	h := t.pendingHash
	if old := t.find(&e.key, h, now); old != 0 {
		t.giveCredit()
		return t.clash(c, e, old)
	}
	if !t.insert(ref, h) {
		t.giveCredit()
		t.stats.ChainTooLong++
		t.stats.InsertFailed++
		t.abandon(e, ref)
		return TooLong
	}
	e.deadline += now
	e.status |= uint16(StatusConfirmed)
	t.due.items[ref] = e.deadline
	if t.set.timestamp != 0 {
		e.flags |= entryStamp
		t.stamp.items[ref] = t.sweep.extend(now)
	}
	t.slots.add(ref)
	t.live++
	t.stats.Insert++
	if t.events != nil {
		t.emit(EventNew, ChangedState, ref, now)
	}
	if t.entered++; t.entered > touchBurst {
		t.resize(2) // a long burst: Expire's share alone would come too late
	}
	return Confirmed
}

// Discard forgets a Fresh connection, because its first packet was dropped.
func (t *Table) Discard(c *Conn) {
	if c.Fresh && c.Ref != 0 && uint32(c.Ref) == t.pending {
		t.forgo()
		t.abandon(&t.hot.items[c.Ref], uint32(c.Ref))
	}
	c.Fresh = false
}

// forgo gives up the Fresh connection's right to an entry.
func (t *Table) forgo() {
	t.pending = 0
	t.giveCredit()
}

// room makes room for an entry whose key has hash h: a credit, or the place of an entry that is evicted for it. Like
// __nf_conntrack_alloc it is asked for a connection's first packet before the tracker and the rules have seen it: a packet
// that they drop has evicted an entry all the same, and one for which there is no room never reaches them.
func (t *Table) room(h uint64, now Tick) bool {
	if t.takeCredit() || t.earlyDrop(h, now) {
		return true
	}
	t.stats.Drop++
	t.stats.Full++
	t.requestCollection()
	return false
}

// abandon removes what the helper of a Fresh connection has made of its first packet.
func (t *Table) abandon(e *entry, ref uint32) {
	if uint32(e.status)&StatusHelper != 0 {
		t.disown(e, ref)
	}
}

// clash resolves that a connection with the same key was entered since Track. Without address translation both are the
// same connection, and where the protocol allows it the packet joins the one that is there (nf_ct_resolve_clash).
func (t *Table) clash(c *Conn, e *entry, old uint32) Outcome {
	switch e.key.Proto {
	case packet.ProtoTCP, packet.ProtoICMP, packet.ProtoICMPv6, packet.ProtoSCTP:
		t.stats.Drop++
		t.stats.InsertFailed++
		return Clash
	}
	o := &t.hot.items[old]
	dir := Dir((o.flags ^ e.flags) & entryFlipped)
	if o.flags&e.flags&entryAcct != 0 {
		a, b := &t.acct.items[old], &t.acct.items[c.Ref]
		a.packets[dir] += b.packets[Original]
		a.bytes[dir] += b.bytes[Original]
	}
	c.Ref, c.Dir = Ref(old), dir
	t.stats.ClashResolve++
	return Confirmed
}

// giveCredit takes back the right to an entry: into this shard's hand, or where credits are scarce to all.
func (t *Table) giveCredit() {
	t.credit++
	switch n := t.cap.batch(); {
	case n == 1:
		t.cap.release(t.credit)
		t.credit = 0
	case t.credit >= 2*n:
		t.cap.release(t.credit - n)
		t.credit = n
	}
}

// takeCredit takes the right to one more entry; false at the maximum.
func (t *Table) takeCredit() bool {
	if t.credit == 0 {
		t.credit = t.cap.acquire()
	}
	if t.credit == 0 {
		return false
	}
	t.credit--
	return true
}

// earlyDrop makes room for one entry: it evicts one that is not ASSURED from the bucket of the new one, or one of the
// next seven (early_drop). The hash is keyed, so the place is random. Linux empties the first chain that has such an
// entry; its chains have two entries, a bucket nine, and one is all that is needed. One that has expired is room as well,
// and does not count as evicted: Linux removes those that it meets, and goes on looking.
func (t *Table) earlyDrop(h uint64, now Tick) bool {
	b, n := t.index.first(h), uint64(t.index.count())
	for range evictionRange {
		x := &t.index.arena.items[b]
		for m := ^x.free() & (1<<bucketSlots - 1); m != 0; m &= m - 1 {
			ref := x.ref[bits.TrailingZeros32(m)]
			e := &t.hot.items[ref]
			old := e.expired(now)
			if !old && uint32(e.status)&StatusAssured != 0 {
				continue
			}
			t.unlink(ref, t.hashOf(&e.key))
			if old {
				t.stats.Expired++
			} else {
				t.stats.EarlyDrop++
			}
			return true
		}
		if b++; b == n {
			b = 0
		}
	}
	return false
}
