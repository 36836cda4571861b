package conntrack

import "corewire/internal/packet"

// Looked is what Look finds: the connection, and a table's own answer about it.
type Looked struct {
	Record   Record
	Verdicts [2]uint32 // cached, by direction
	Helper   Helper    // of the connection that announced it
	Tickets  []uint64  // tied to it
}

// Look copies the connection with a key, of a packet that is not there; false if there is none. It changes nothing.
func (t *Table) Look(k *packet.Key, now Tick, out *Looked) bool {
	ref := t.peek(k, t.hashOf(k))
	if ref == 0 || t.hot.items[ref].expired(now) {
		return false
	}
	t.export(ref, &out.Record, now, t.sweep.extend(now))
	out.Verdicts = t.hot.items[ref].verdict
	conn := Conn{Ref: Ref(ref)}
	out.Helper, out.Tickets = t.MasterHelper(&conn), t.Tickets(&conn, nil)
	return true
}

// Expected says whether a helper expects the connection that a packet would begin, and what it would get from the one that
// announced it: the mark, and whose helper that is. The expectation stays; expired ones in its place go, as with any look.
func (t *Table) Expected(p *packet.Packet, now Tick) (mark uint32, by Helper, ok bool) {
	if !expectable(p.Key.Proto) || t.expect.count.Load() == 0 {
		return 0, HelperNone, false
	}
	tuple := tupleOf(&p.Key, p.Flags)
	return t.expect.peek(&tuple, now)
}

// Settings returns the settings in force.
func (t *Table) Settings() *Settings { return t.set }

// Find returns the connection with a key as Track would, without a packet: Ref is 0 if there is none, and nothing else in it
// is valid.
func (t *Table) Find(k *packet.Key) Conn { return Conn{Ref: Ref(t.peek(k, t.hashOf(k)))} }
