package conntrack

import "corewire/internal/packet"

// Looked is what Look finds: the connection, and a table's own answer about it.
type Looked struct {
	Record   Record
	Verdicts [2]uint32 // cached, by direction
}

// Look copies the connection with a key, of a packet that is not there; false if there is none. It changes nothing.
func (t *Table) Look(k *packet.Key, now Tick, out *Looked) bool {
	ref := t.peek(k, t.hashOf(k))
	if ref == 0 || t.hot.items[ref].expired(now) {
		return false
	}
	t.export(ref, &out.Record, now, t.sweep.extend(now))
	out.Verdicts = t.hot.items[ref].verdict
	return true
}

// Settings returns the settings in force.
func (t *Table) Settings() *Settings { return t.set }

// Find returns the connection with a key as Track would, without a packet: Ref is 0 if there is none, and nothing else in it
// is valid.
func (t *Table) Find(k *packet.Key) Conn { return Conn{Ref: Ref(t.peek(k, t.hashOf(k)))} }
