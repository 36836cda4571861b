package conntrack

import (
	"math/bits"

	"corewire/internal/packet"
)

// walk calls take with entries from cursor on, and with how many it has taken before, until it has taken room of them. It
// returns how many these are and the cursor to go on with, 0 when there is nothing more.
func (t *Table) walk(cursor uint64, room int, now Tick, take func(ref uint32, at int) bool) (n int, next uint64) {
	t.sweep.listed, t.sweep.dumped = true, now
	words := room/8 + 1
	w := uint32(cursor >> 6)
	skip := cursor & 63
	end := (t.slots.top + 63) / 64
	for ; w < end; w++ {
		if words--; words < 0 {
			return n, uint64(w)<<6 | skip
		}
		m := t.slots.word(w) >> skip << skip
		skip = 0
		for ; m != 0; m &= m - 1 {
			ref := w<<6 + uint32(bits.TrailingZeros64(m))
			if n == room {
				return n, uint64(ref)
			}
			if take(ref, n) {
				n++
			}
		}
	}
	return n, 0
}

// Info copies the entry of a Conn, expired or not; false if it has none.
func (t *Table) Info(c *Conn, out *Info, now Tick) bool {
	return c.Ref != 0 && t.info(uint32(c.Ref), out, now, t.sweep.extend(now))
}

// info copies an entry; false if it has expired.
func (t *Table) info(ref uint32, out *Info, now Tick, ext uint64) bool {
	if t.hot.items[ref].expired(now) {
		return false
	}
	t.fill(ref, out, now, ext)
	return true
}

// fill copies an entry, expired or not.
func (t *Table) fill(ref uint32, out *Info, now Tick, ext uint64) {
	e := &t.hot.items[ref]
	*out = Info{}
	t.outline(e, out, now)
	if e.flags&entryAcct != 0 {
		out.setCounters(&t.acct.items[ref])
	}
	switch e.key.Proto {
	case packet.ProtoGRE:
		out.setGRE(t.cold.items[ref].gre())
	case packet.ProtoSCTP:
		out.Tags = t.cold.items[ref].sctp().tag
	}
	if uint32(e.status)&(StatusHelper|StatusExpected) != 0 && t.aids.items != nil {
		out.setAid(&t.aids.items[ref])
	}
	if e.flags&entryStamp != 0 {
		out.setAge(ext, t.stamp.items[ref])
	}
	if e.flags&entryLabel != 0 {
		out.Labels = t.labels.items[ref]
	}
}

// outline writes what an entry itself has.
func (t *Table) outline(e *entry, out *Info, now Tick) {
	out.Key, out.Flipped, out.In = e.key, e.flags&entryFlipped != 0, packet.Port(e.flags>>7)
	out.State, out.Status, out.Mark = e.state, uint32(e.status), e.mark
	out.Left, out.ID = uint32(max(0, int32(e.deadline-now))), t.id(&e.key)
}

func (i *Info) setCounters(a *acct) { i.HasCounters, i.Packets, i.Bytes = true, a.packets, a.bytes }

func (i *Info) setGRE(g *greState) { i.Timeout, i.StreamTimeout = g.timeout, g.stream }

func (i *Info) setAid(a *aid) {
	i.Helper, i.Master, i.MasterFlipped = a.helper, a.master, a.masterFlipped != 0
}

func (i *Info) setAge(ext, began uint64) { i.HasAge, i.Age = true, ext-min(ext, began) }

// id returns the number by which listings name a connection. Unlike nf_ct_get_id's it follows from the tuple alone, and
// from the table's secret, of which it tells nothing.
func (t *Table) id(k *packet.Key) uint32 {
	hi, lo := bits.Mul64(t.hashOf(k)^t.fold, foldFactor)
	return uint32(hi) ^ uint32(lo>>32)
}

// Flush removes every entry and returns how many they were. It clears the buckets without looking at the entries: about
// a millisecond for a million. So their events are lost; Delete tells them.
func (t *Table) Flush() int {
	t.settle()
	n := t.live
	if t.events != nil {
		t.eventsLost += uint64(n)
	}
	t.expect.forgetShard(t.shard)
	t.handBackAll()
	clear(t.index.arena.items[:t.index.count()])
	t.slots.clear()
	t.cap.release(t.credit + int64(n))
	t.credit, t.live = 0, 0
	t.stats.Delete += uint64(n)
	return n
}

// Delete removes the entries that match (all, if match is nil), examining a bounded part of the table: about
// budget entries. It returns how many it removed and the cursor to go on with; 0 when it has seen everything. The Info
// that match gets is valid during the call only.
func (t *Table) Delete(cursor uint64, budget int, match func(*Info) bool, now Tick) (n int, next uint64) {
	return t.visit(cursor, budget, match, now, func(ref uint32) {
		t.remove(ref, t.hashOf(&t.hot.items[ref].key))
	})
}

// SetMarks sets the bits of mask in the marks of the entries that match (all, if match is nil) to those of mark. It is
// cut into slices like Delete, and forgets the entries' cached verdicts, which may depend on the mark.
func (t *Table) SetMarks(cursor uint64, budget int, match func(*Info) bool, mark, mask uint32, now Tick) (n int, next uint64) {
	return t.visit(cursor, budget, match, now, func(ref uint32) {
		e := &t.hot.items[ref]
		old := e.mark
		e.mark = e.mark&^mask | mark&mask
		e.verdict = [2]uint32{}
		t.tellMark(e, ref)
		if t.events != nil && e.mark != old {
			t.emit(EventUpdate, ChangedMark|ChangedState, ref, now) // ctnetlink_change_conntrack tells the state as well
		}
	})
}

// visit calls f for the entries that match.
func (t *Table) visit(cursor uint64, budget int, match func(*Info) bool, now Tick, f func(ref uint32)) (n int, next uint64) {
	ext := t.sweep.extend(now)
	words := budget/8 + 1
	end := (t.slots.top + 63) / 64
	var info Info
	for w := uint32(cursor >> 6); w < end; w++ {
		if budget <= 0 || words <= 0 {
			return n, uint64(w) << 6
		}
		m := t.slots.word(w)
		words--
		budget -= bits.OnesCount64(m)
		for ; m != 0; m &= m - 1 {
			ref := w<<6 + uint32(bits.TrailingZeros64(m))
			if match == nil || t.info(ref, &info, now, ext) && match(&info) {
				f(ref)
				n++
			}
		}
	}
	return n, 0
}
