package conntrack

// Verdict returns the cached verdict of c's direction; 0 if there is none, or no entry. It means what the caller of
// SetVerdict meant, and is gone with the entry.
func (t *Table) Verdict(c *Conn) uint32 { return t.hot.items[c.Ref].verdict[c.Dir&1] }

// SetVerdict caches a verdict for c's direction. Without an entry it does nothing.
func (t *Table) SetVerdict(c *Conn, v uint32) {
	if c.Ref != 0 {
		t.hot.items[c.Ref].verdict[c.Dir&1] = v
	}
}

// Mark returns the connection's mark; 0 without an entry.
func (t *Table) Mark(c *Conn) uint32 { return t.hot.items[c.Ref].mark }

// SetMark sets the connection's mark. Another mark clears the cached verdicts, which rules may have made depend on it.
// Without an entry it does nothing.
func (t *Table) SetMark(c *Conn, mark uint32) {
	if c.Ref == 0 {
		return
	}
	e := &t.hot.items[c.Ref]
	changed := e.mark != mark
	e.mark = mark
	if changed {
		e.verdict = [2]uint32{}
	}
	if changed && t.events != nil && uint32(e.status)&StatusConfirmed != 0 {
		t.emit(EventUpdate, ChangedMark, uint32(c.Ref), t.sweep.last)
	}
	t.tellMark(e, uint32(c.Ref))
}

// Counts returns the packets and bytes (of the IP datagrams) of each direction; false when the connection is not counted.
func (t *Table) Counts(c *Conn) (packets, bytes [2]uint64, counted bool) {
	if c.Ref == 0 || t.hot.items[c.Ref].flags&entryAcct == 0 {
		return packets, bytes, false
	}
	a := &t.acct.items[c.Ref]
	return a.packets, a.bytes, true
}

// Status returns the connection's Status… bits; 0 without an entry. One that its packet has ended is still confirmed, as in
// Linux.
func (t *Table) Status(c *Conn) uint32 {
	s := uint32(t.hot.items[c.Ref].status)
	if s&StatusDying != 0 {
		s |= StatusConfirmed
	}
	return s
}
